"""The one process in a guest's network namespace: it keeps the namespace and makes sockets there for who asks.

A program of its own (`python -I -S clerk.py DESCRIPTOR`), since a socket belongs for ever to the namespace of the
process that made it. It ends with the connection it was given, and the namespace with all in it ends with the last of
its sockets. It imports nothing of ours, to be there at once.
"""

import array
import fcntl
import json
import os
import socket
import struct
import sys

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_REQUEST_BYTES = 4096
_BACKLOG = 128

# What the kernel would otherwise do by itself: see the kernel's networking/ip-sysctl.rst.
_SETTINGS = {
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "1",
    "ipv4/conf/default/rp_filter": "1",
    "ipv4/conf/all/arp_ignore": "1",  # the guest learns of no other address of ours
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
}


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        for name, value in _SETTINGS.items():
            _set(name, value)
        connection.send(b"{}")
        while request := connection.recv(_REQUEST_BYTES):
            _answer(connection, json.loads(request))


def _set(name: str, value: str) -> None:
    path = f"/proc/sys/net/{name}"
    if os.path.exists(path):  # noqa: PTH110 a kernel without IPv6 has nothing to be switched off; pathlib is slow to load
        with open(path, "w", encoding="ascii") as file:  # noqa: PTH123
            file.write(value)


def _answer(connection: socket.socket, request: dict[str, str]) -> None:
    try:
        made = _tap(request["name"]) if request["make"] == "tap" else _socket(request)
    except OSError as error:
        connection.send(json.dumps({"error": error.strerror, "errno": error.errno}).encode())
        return
    try:
        connection.sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [made]))])
    finally:
        os.close(made)


def _tap(name: str) -> int:
    """The guest's network card; the interface is there as long as somebody has it open."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode("ascii"), flags))
    except BaseException:
        os.close(device)
        raise
    return device


def _socket(request: dict[str, str]) -> int:
    kind = socket.SOCK_DGRAM if request["make"] == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as made:
        if "device" in request:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, request["device"].encode("ascii"))
        if request["make"] == "udp":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if "address" in request:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((request["address"], int(request["port"])))
        if request["make"] == "listen":
            made.listen(_BACKLOG)
        return made.detach()


if __name__ == "__main__":
    main()
