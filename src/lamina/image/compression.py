"""Compressed streams, read without believing them and written the same every time.

What a stream is compressed with is told by its first bytes, not by what somebody says of it. gzip of several members
(pigz, eStargz) and zstd of several frames with skippable ones (zstd:chunked) are plain gzip and zstd here. Everything
is done in large pieces, which the libraries do without the interpreter's lock. Sources: RFC 1952, RFC 8878.
"""

from __future__ import annotations

import importlib
import zlib

from lamina.errors import Corrupt, InvalidInput
from lamina.image.tar.limits import Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, Protocol

    Kind = Literal["none", "gzip", "zstd", "bzip2", "xz"]

    class Decompressor(Protocol):
        """What bz2, lzma, compression.zstd and isal have: one member or frame."""

        eof: bool
        needs_input: bool
        unused_data: bytes

        def decompress(self, data: bytes, max_length: int) -> bytes:
            """At most *max_length* bytes of what *data* and what was kept of earlier data decompress to."""

    class Compressor(Protocol):
        """What zlib's and others have."""

        def compress(self, data: bytes | memoryview, /) -> bytes: ...
        def flush(self) -> bytes: ...


# what layers may be compressed with (OCI image-spec, "Image Layer Filesystem Changeset"), and what `load` takes besides
OF_LAYERS: tuple[Kind, ...] = ("none", "gzip", "zstd")
OF_ARCHIVES: tuple[Kind, ...] = ("none", "gzip", "zstd", "bzip2", "xz")
LONGEST_MAGIC = 6
_IN, _OUT = 256 << 10, 1 << 20  # bytes read, and decompressed, at once
# Members (of zstd: frames) with next to nothing in them cost time, and count for no other limit. Programs that write
# one for each file, and for what is between (eStargz, zstd:chunked), have hundreds of bytes in them.
_FREE_MEMBERS, _LEAST_OF_MEMBER = 1000, 64


def kind_of(first: bytes) -> Kind:
    """What a stream that begins with *first* (at least six bytes if it has as many) is compressed with."""
    if first[:2] == b"\x1f\x8b":
        return "gzip"
    if first[:4] == b"\x28\xb5\x2f\xfd" or (first[1:4] == b"\x2a\x4d\x18" and first[0] & 0xF0 == 0x50):
        return "zstd"
    if first[:3] == b"BZh":
        return "bzip2"
    return "xz" if first[:6] == b"\xfd7zXZ\0" else "none"


def reader(
    read: Callable[[int], bytes], limits: Limits | None = None, allowed: tuple[Kind, ...] = OF_LAYERS
) -> Decompressed:
    """The decompressed stream of what *read* gives: at most as many bytes as asked for, b"" at the end.

    Raises InvalidInput for a compression that is not *allowed*; what `read` raises.
    """
    first = b""
    while len(first) < LONGEST_MAGIC and (more := read(_IN)):
        first += more
    kind = kind_of(first)
    if kind not in allowed:
        raise InvalidInput(f"decompress: {kind} is not among {', '.join(allowed)}")
    return Decompressed(kind, first, read, limits or Limits())


class Decompressed:
    """A stream being decompressed. `kind` is what it is compressed with, `taken` and `given` are bytes so far."""

    def __init__(self, kind: Kind, first: bytes, read: Callable[[int], bytes], limits: Limits) -> None:
        self.kind: Kind = kind
        self.taken = self.given = 0
        self._first, self._read, self._limits = first, read, limits
        self._make, self._errors = _decompressor(kind, limits)
        self._member: Decompressor | None = None
        self._members = 0
        self._rest = b""  # read, and not yet given to a decompressor
        self._ended = False

    def next_chunk(self) -> bytes:
        """The next bytes, at most a mebibyte if it is compressed at all; b"" at the end.

        Raises Corrupt for damaged or cut off data, InvalidInput for more data than the limits allow.
        """
        if self.kind == "none":
            chunk = self._input()
        else:
            chunk = b""
            while not chunk and not self._ended:
                chunk = self._decompress()
        self.given += len(chunk)
        limits = self._limits
        if self.given > limits.size:
            limits.exceeded("size", f"it decompresses to {self.given} bytes or more")
        if self.given > max(limits.free, limits.ratio * self.taken) and self.kind != "none":
            limits.exceeded("ratio", f"{self.taken} bytes decompress to {self.given} or more")
        return chunk

    def _input(self) -> bytes:
        data, self._first = self._first or self._read(_IN), b""
        self.taken += len(data)
        return data

    def _decompress(self) -> bytes:
        if self._member is None:
            if not self._next_member():
                self._ended = True
                return b""
            self._members += 1
            if self._members > _FREE_MEMBERS + self.given // _LEAST_OF_MEMBER:
                raise InvalidInput(
                    f"decompress: the first {self._members} parts of the {self.kind} data hold {self.given} bytes:"
                    " it is made to cost time"
                )
            self._member = self._make()
        member = self._member
        data = b""
        if member.needs_input:
            data = self._rest or self._input()
            self._rest = b""
            if not data:
                raise Corrupt(f"decompress: the {self.kind} data end after {self.taken} bytes, in the middle")
        try:
            chunk = member.decompress(data, _OUT)
        except self._errors as error:
            if (
                "memory" in str(error).lower()
            ):  # liblzma: "Memory usage limit exceeded"; libzstd: "too much memory"
                self._limits.exceeded("window", f"the {self.kind} data want more memory to be decompressed")
            raise Corrupt(f"decompress: the {self.kind} data are damaged: {error}") from error
        if member.eof:
            self._rest = member.unused_data
            self._member = None
        return chunk

    def _next_member(self) -> bool:
        """Whether anything but padding follows."""
        rest = self._rest
        if self.kind in ("gzip", "xz") and self.taken > len(rest):
            rest = rest.lstrip(b"\0")  # to the end of a block of a tape, and between streams of xz
            while not rest and (rest := self._input()):
                rest = rest.lstrip(b"\0")
        elif not rest:
            rest = self._input()
        self._rest = rest
        return bool(rest)


def _decompressor(
    kind: Kind, limits: Limits
) -> tuple[Callable[[], Decompressor], tuple[type[Exception], ...]]:
    """How to make one for a member, and what it raises."""
    make: Any
    if kind == "gzip":
        return _gzip_decompressor()
    if kind == "zstd":
        zstd = _zstd()
        options = {
            zstd.DecompressionParameter.window_log_max: min(31, max(10, limits.window.bit_length() - 1))
        }
        return lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError,)
    if kind == "bzip2":
        import bz2

        make = bz2.BZ2Decompressor
        return make, (OSError, EOFError)
    if kind == "xz":
        import lzma

        make = lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limits.window)  # noqa: E731
        return make, (lzma.LZMAError, EOFError)
    make = _Zlib
    return make, ()


def _gzip_decompressor() -> tuple[Callable[[], Decompressor], tuple[type[Exception], ...]]:
    made: Any
    try:
        from isal import igzip_lib, isal_zlib  # three times as fast
    except ImportError:
        made = _Zlib
        return made, (zlib.error,)
    made = lambda: igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)  # noqa: E731
    errors: Any = (isal_zlib.IsalError, EOFError)
    return made, errors


def _zstd() -> Any:
    try:
        return importlib.import_module("compression.zstd")  # Python 3.14
    except ImportError:
        return importlib.import_module("backports.zstd")


class _Zlib:
    """zlib's decompressor of one gzip member, as the others are."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(31)
        self._kept = b""

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        """Whether all that was given is used up."""
        return not self._kept and not self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        """What follows the member."""
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most *max_length* bytes."""
        found = self._zlib.decompress(self._kept + data, max_length)
        self._kept = self._zlib.unconsumed_tail
        return found


GZIP_LEVEL, ISAL_LEVEL, ZSTD_LEVEL = 4, 3, 3  # zlib's 6 takes twice as long as its 4, for a fiftieth less


def writer(kind: Kind, level: int | None = None) -> Compressor:
    """A compressor: `compress(data)`, at last `flush()`. Headers hold neither a time nor a name.

    The same content, in pieces of whatever sizes, gives the same bytes with the same version of the library (isal,
    zlib, libzstd) on the same kind of processor. *level* is the library's own, zlib's of gzip; None: isal's 3 where
    it is installed and zlib's 4 elsewhere (decision 0033), 3 of zstd. Raises InvalidInput for a kind that layers are
    not written in.
    """
    if kind == "gzip":
        return _gzip_writer() if level is None else zlib.compressobj(level, zlib.DEFLATED, 31)
    if kind == "zstd":
        found: Compressor = _zstd().ZstdCompressor(level=ZSTD_LEVEL if level is None else level)
        return found
    if kind == "none":
        return _Plain()
    raise InvalidInput(f"compress: layers are not written as {kind}")


def _gzip_writer() -> Compressor:
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
    return _InBlocks(isal_zlib.compressobj(ISAL_LEVEL, isal_zlib.DEFLATED, 31))


class _InBlocks:
    """Gives a compressor, whose output depends on how its input is cut, always the same pieces."""

    def __init__(self, compressor: Compressor) -> None:
        self._compressor = compressor
        self._waiting = bytearray()

    def compress(self, data: bytes | memoryview, /) -> bytes:
        view, waiting = memoryview(data), self._waiting
        made = []
        if waiting:
            missing = _IN - len(waiting)
            waiting += view[:missing]
            if len(waiting) < _IN:
                return b""
            made.append(self._compressor.compress(bytes(waiting)))
            waiting.clear()
            view = view[missing:]
        while len(view) >= _IN:
            made.append(self._compressor.compress(view[:_IN]))
            view = view[_IN:]
        waiting += view
        return b"".join(made)

    def flush(self) -> bytes:
        made = self._compressor.compress(bytes(self._waiting)) if self._waiting else b""
        self._waiting.clear()
        return made + self._compressor.flush()


class _Plain:
    def compress(self, data: bytes | memoryview, /) -> bytes:
        return bytes(data)

    def flush(self) -> bytes:
        return b""
