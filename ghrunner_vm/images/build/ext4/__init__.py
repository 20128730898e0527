"""Writes ext4 file systems in one pass, without mounting, without root, and always the same bytes for the same files.

Written after the kernel's description of the format (Documentation/filesystems/ext4 in Linux 6.1). What is written is
the plainest form that kernels read: 4 KiB blocks, extents, no journal (the disk is thrown away), no checksums.
Nothing else makes such a disk from a tar everywhere: mke2fs reads one only since 1.47.1, and an unpacked tree needs
root, or user namespaces that distributions forbid to ordinary users.
"""
