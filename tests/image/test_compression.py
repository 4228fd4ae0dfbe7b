"""Compressed streams of all kinds: in pieces, with what others put around them, damaged, cut off, and as bombs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import sys
import zlib
from typing import TYPE_CHECKING

import pytest

from lamina.errors import Corrupt, InvalidInput
from lamina.image import compression
from lamina.image.compression import OF_ARCHIVES, kind_of, reader, writer
from lamina.image.tar import Limits

if TYPE_CHECKING:
    from lamina.image.compression import Kind

TEXT = random.Random(5).randbytes(300_000) + b"some text " * 50_000
zstd = compression._zstd()
SKIPPABLE = struct.pack("<II", 0x184D2A5E, 10) + b"0123456789"


def compress(kind: Kind, data: bytes = TEXT) -> bytes:
    if kind == "bzip2":
        return bz2.compress(data)
    if kind == "xz":
        return lzma.compress(data)
    made = writer(kind)
    return made.compress(data) + made.flush()


def decompress(data: bytes, limits: Limits | None = None, *, at_once: int = 1 << 20) -> bytes:
    stream = io.BytesIO(data)
    found = reader(lambda size: stream.read(min(size, at_once)), limits, OF_ARCHIVES)
    out = bytearray()
    while chunk := found.next_chunk():
        assert len(chunk) <= 1 << 20
        out += chunk
    assert found.next_chunk() == b""
    assert (found.taken, found.given) == (len(data), len(out))
    return bytes(out)


@pytest.fixture(params=["isal", "zlib"])
def gzip_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both libraries that gzip is read with."""
    if request.param == "zlib":
        monkeypatch.setattr(compression, "_gzip_decompressor", lambda: (compression._Zlib, (zlib.error,)))
    else:
        pytest.importorskip("isal")


@pytest.mark.parametrize("library", ["isal", "zlib"])
def test_the_same_content_in_any_pieces_is_compressed_to_the_same_bytes(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    else:
        pytest.importorskip("isal")
    content = TEXT + b"more" * 200_000
    whole = compress("gzip", content)
    assert zlib.decompress(whole, 31) == content
    for size in (1, 511, 100_000, 256 << 10, (256 << 10) + 1, 1 << 20):
        made, pieces = writer("gzip"), []
        begin = len(content) - 3000 if size == 1 else 0
        pieces = [made.compress(content[:begin])] if begin else []
        pieces += [made.compress(content[at : at + size]) for at in range(begin, len(content), size)]
        assert b"".join(pieces) + made.flush() == whole, size


@pytest.mark.parametrize("at_once", [1, 1000, 1 << 20])
@pytest.mark.parametrize("kind", OF_ARCHIVES)
def test_each_kind_in_pieces(kind: Kind, at_once: int) -> None:
    data = compress(kind, TEXT[290_000:310_000] if at_once == 1 else TEXT)
    assert kind_of(data) == kind
    assert decompress(data, at_once=at_once) == (TEXT[290_000:310_000] if at_once == 1 else TEXT)
    assert decompress(compress(kind, b"")) == b""


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_several_members_are_one_stream(kind: Kind) -> None:
    assert (
        decompress(compress(kind, b"one ") + compress(kind, b"") + compress(kind, b"two"), at_once=3)
        == b"one two"
    )


@pytest.mark.usefixtures("gzip_library")
def test_members_and_padding_of_gzip() -> None:
    data = gzip.compress(TEXT) + gzip.compress(b"two")
    assert decompress(data, at_once=777) == TEXT + b"two"
    assert decompress(data + bytes(10_000)) == TEXT + b"two"
    named = io.BytesIO()
    with gzip.GzipFile("a name", "wb", fileobj=named, mtime=12345) as file:
        file.write(b"with a name")
    assert decompress(named.getvalue()) == b"with a name"


def test_skippable_frames_of_zstd() -> None:
    data = SKIPPABLE + compress("zstd") + SKIPPABLE + compress("zstd", b"end") + SKIPPABLE
    assert kind_of(data) == "zstd"
    assert decompress(data, at_once=13) == TEXT + b"end"


@pytest.mark.usefixtures("gzip_library")
@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_cut_off_anywhere(kind: Kind) -> None:
    data = compress(kind, TEXT[280_000:320_000])
    for length in [*range(6, 40), len(data) // 2, len(data) - 1, len(data) - 5]:
        with pytest.raises(Corrupt):
            decompress(data[:length])


@pytest.mark.usefixtures("gzip_library")
@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_damaged(kind: Kind) -> None:
    data = bytearray(compress(kind))
    data[len(data) // 3 : len(data) // 3 + 50] = b"\xff" * 50
    if (
        kind == "zstd"
    ):  # without a checksum in the frame only what cannot be is noticed; the digests notice the rest
        data[:12] = data[:4] + b"\xff" * 8
    with pytest.raises(Corrupt):
        decompress(bytes(data))


@pytest.mark.usefixtures("gzip_library")
@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_rubbish_behind(kind: Kind) -> None:
    with pytest.raises(Corrupt):
        decompress(compress(kind) + b"rubbish that is no member")


def test_kinds_that_are_not_allowed() -> None:
    for kind in ("bzip2", "xz"):
        data = compress(kind)
        with pytest.raises(InvalidInput, match=kind):
            reader(io.BytesIO(data).read)


@pytest.mark.parametrize("data", [b"", b"x", b"\x1f", b"BZ", b"\xfd7zXZ", b"\x28\xb5\x2f"])
def test_short_streams_are_what_they_are(data: bytes) -> None:
    assert decompress(data) == data


def test_limits() -> None:
    data = compress("gzip", bytes(10_000_000))
    assert len(decompress(data)) == 10_000_000
    with pytest.raises(InvalidInput, match="ratio=N"):
        decompress(data, Limits(free=1_000_000, ratio=100))
    with pytest.raises(InvalidInput, match="size=N"):
        decompress(data, Limits(size=9_999_999))
    with pytest.raises(InvalidInput, match="size=N"):
        decompress(b"x" * 100, Limits(size=99))
    assert decompress(b"x" * 100, Limits(ratio=0, free=0)) == b"x" * 100


@pytest.mark.usefixtures("gzip_library")
@pytest.mark.parametrize(
    "part",
    [gzip.compress(b"", mtime=0), gzip.compress(b"12345", mtime=0), SKIPPABLE, compress("zstd", b"")],
    ids=["gzip", "gzip of five bytes", "skippable", "zstd"],
)
def test_parts_without_content_cost_time_and_are_limited(part: bytes) -> None:
    decompress(compress("gzip" if part[:1] == b"\x1f" else "zstd") + part * 1000)
    with pytest.raises(InvalidInput, match="made to cost time"):
        decompress(part * 2000)


def test_parts_with_content_are_as_many_as_one_likes() -> None:
    part = compress("zstd", bytes(range(100)))
    assert len(decompress(part * 5000)) == 500_000


def test_a_window_that_is_too_large() -> None:
    made = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 25})
    data = made.compress(TEXT) + made.flush()
    assert decompress(data) == TEXT
    with pytest.raises(InvalidInput, match="more memory"):
        decompress(data, Limits(window=1 << 20))


def test_what_is_written_is_the_same_every_time() -> None:
    for kind in ("none", "gzip", "zstd"):
        assert compress(kind) == compress(kind)
    header = compress("gzip")[:10]
    assert header[3:8] == bytes(5)  # neither a name nor a time
    assert gzip.decompress(compress("gzip")) == TEXT
    for kind in ("bzip2", "xz"):
        with pytest.raises(InvalidInput):
            writer(kind)  # type: ignore[arg-type]


def test_errors_of_who_reads_are_passed_on() -> None:
    def broken(_: int) -> bytes:
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        reader(broken)
