"""Firecracker opens its network card by name, so a device that is open here must outlive that, for one user to open."""

import fcntl
import os

_TUNSETPERSIST, _TUNSETOWNER = 0x400454CB, 0x400454CC  # linux/if_tun.h


def hand_over(device: int, owner: int) -> None:
    """The open device stays in its namespace, for the user `owner` to open; `device` leads to nothing afterwards.

    A device has one user at a time. The descriptor remains the caller's to close.
    """
    fcntl.ioctl(device, _TUNSETOWNER, owner)
    fcntl.ioctl(device, _TUNSETPERSIST, 1)
    nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.dup2(nothing, device, inheritable=False)
    finally:
        os.close(nothing)
