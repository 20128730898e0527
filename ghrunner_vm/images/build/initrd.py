"""A small initrd: it loads the few modules that a virtual machine needs, mounts its root, and hands over."""

from importlib.resources import files

from ghrunner_vm.images.build import cpio, modules


def make(busybox: bytes, find: modules.Find) -> bytes:
    """The archive, from a busybox that needs no libraries, and the kernel's modules."""
    loaded = modules.in_order(find, (*modules.WANTED, *modules.LAYERED))
    always = modules.in_order(find)
    init = files("ghrunner_vm.images.build").joinpath("init").read_bytes()
    return cpio.archive(
        [
            *(cpio.directory(path) for path in ("bin", "dev", "root", "base", "top", "modules")),
            cpio.program("bin/busybox", busybox),
            cpio.program("init", init),
            cpio.Member("modules/order", "\n".join(always).encode()),
            cpio.Member("modules/layered", "\n".join(name for name in loaded if name not in always).encode()),
            *(cpio.Member(f"modules/{module}.ko", content) for module, content in loaded.items()),
        ]
    )
