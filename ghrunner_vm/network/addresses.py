"""The network as a guest sees it: the same in all namespaces, and that of QEMU's user network, as images expect it."""

from ipaddress import IPv4Address

from ghrunner_vm.egress import GUEST_NETWORK

PREFIX = GUEST_NETWORK.prefixlen
GATEWAY = IPv4Address("10.0.2.2")
"""Also the host, where it offers something to its guest."""
NAME_SERVER = IPv4Address("10.0.2.3")
GUEST = IPv4Address("10.0.2.15")
MAC = "52:54:00:12:34:56"
"""The guest's. It never leaves its namespace, so all guests have the same, and a saved one finds it again."""
