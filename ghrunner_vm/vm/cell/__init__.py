"""The program that puts a VMM into namespaces of its own, where it sees nothing of this host, and its parts.

It starts once for each machine, before the VMM and in the same process, so its modules import little.
"""
