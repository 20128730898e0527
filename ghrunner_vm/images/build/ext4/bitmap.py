"""Which blocks or inodes are in use: one bit each, for the whole disk."""

from ghrunner_vm.images.build.ext4.layout import BLOCK


class Bitmap:
    """Bits in groups of `per_group`; none is set."""

    def __init__(self, groups: int, per_group: int) -> None:
        self._group_bytes = per_group // 8
        self._bits = bytearray(groups * self._group_bytes)

    def mark(self, bits: range) -> None:
        """Set these."""
        first, last = bits.start, bits.stop
        while first < last and first % 8:
            self._bits[first // 8] |= 1 << first % 8
            first += 1
        whole = (last - first) // 8
        self._bits[first // 8 : first // 8 + whole] = b"\xff" * whole
        for bit in range(first + whole * 8, last):
            self._bits[bit // 8] |= 1 << bit % 8

    def free(self, group: int) -> int:
        """How many of a group are not set."""
        part = self._part(group)
        return len(part) * 8 - int.from_bytes(part, "little").bit_count()

    def block(self, group: int) -> bytes:
        """The block that has a group's bits; what it has beyond them is set."""
        return self._part(group).ljust(BLOCK, b"\xff")

    def _part(self, group: int) -> bytes:
        return bytes(self._bits[group * self._group_bytes : (group + 1) * self._group_bytes])
