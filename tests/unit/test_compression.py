"""What is compressed in an image, however that was done."""

import bz2
import gzip
import lzma
from collections.abc import Callable

import pytest
import zstandard

from ghrunner_vm.images.build import compression
from ghrunner_vm.images.build.compression import Damaged, unpacked

CONTENT = bytes(range(256)) * 100
FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstandard.compress,
}


@pytest.mark.parametrize("compress", FORMATS.values(), ids=FORMATS)
def test_what_comes_out(compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    packed = compress(CONTENT)
    assert unpacked(packed) == CONTENT
    with pytest.raises(Damaged):
        unpacked(packed[:-5])
    # Half a gigabyte of it would take its time.
    monkeypatch.setattr(compression, "MAX_BYTES", len(CONTENT) - 1)
    with pytest.raises(Damaged, match="longer than"):
        unpacked(packed)


def test_what_is_not_compressed() -> None:
    assert unpacked(b"\x7fELF") is None
    assert unpacked(b"") is None
