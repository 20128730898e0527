"""The kernel's table of connections: it keeps those of a guest that is gone for days, unless it is told to forget."""

import socket
import struct

_NETLINK_NETFILTER = 12
_DELETE = (1 << 8) | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE of linux/netfilter/nfnetlink_conntrack.h
_REQUEST_ACK = 0x1 | 0x4
_MARK, _MARK_MASK = 8, 21
_SECONDS = 5.0


def forget(mark: int) -> None:
    """Forget all connections of this network namespace with a mark. Raises OSError."""
    attributes = b"".join(struct.pack("=HH", 8, kind) + struct.pack(">I", value) for kind, value in _filter(mark))
    payload = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0) + attributes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as kernel:
        kernel.settimeout(_SECONDS)
        kernel.send(struct.pack("=IHHII", 16 + len(payload), _DELETE, _REQUEST_ACK, 1, 0) + payload)
        (error,) = struct.unpack_from("=i", kernel.recv(4096), 16)
    if error:
        raise OSError(-error, "connections could not be forgotten")


def _filter(mark: int) -> tuple[tuple[int, int], ...]:
    return ((_MARK, mark), (_MARK_MASK, 0xFFFFFFFF))
