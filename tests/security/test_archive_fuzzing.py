"""Archives put together at random and damaged at random: whatever comes, nothing gets out, hangs or takes the memory.

Runs in a child that may not have more than some hundred megabytes of addresses, beside a directory that must not
change. LAMINA_EXAMPLES says how many archives.
"""

from __future__ import annotations

import gzip
import io
import os
import resource
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamina.errors import LaminaError
from lamina.image.compression import OF_ARCHIVES, reader
from lamina.image.tar import Limits
from lamina.linux.mount import mount
from support.archives import (
    archive,
    block,
    device,
    directory,
    file,
    hard_link,
    long_name,
    pax,
    read,
    symlink,
    unpack,
)  # fmt: skip
from support.namespaces import in_mount_namespace
from support.snapshots import snapshot

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

LIMITS = Limits(size=50 << 20, entries=500, free=20 << 20)
ROOM = 1 << 30
HANGS = 100_000  # milliseconds; what does not hang takes a few

PARTS = (
    b"a",
    b"b",
    b"c",
    b"..",
    b".",
    b"",
    b".wh.a",
    b".wh..wh..opq",
    b".wh..wh.plnk",
    b".wh.",
    b"n" * 20,
    b"\xff\n",
)
names = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map(b"/".join)
targets = st.one_of(
    names,
    names.map(lambda name: b"/" + name),
    st.sampled_from((b"../../outside", b"/outside", b"../outside/secret")),
)
contents = st.sampled_from((b"", b"x", b"y" * 600))
numbers = st.one_of(
    st.integers(0, 0o7777),
    st.binary(min_size=1, max_size=8),
    st.sampled_from((b"\x80" + b"\xff" * 7, b"\xff" * 8, b"77777777", b"-1")),
)
KEYS = (
    b"path", b"linkpath", b"size", b"uid", b"mtime", b"GNU.sparse.map", b"GNU.sparse.size", b"GNU.sparse.major",
    b"GNU.sparse.minor", b"GNU.sparse.realsize", b"GNU.sparse.name", b"SCHILY.xattr.user.a", b"SCHILY.devmajor",
    b"SCHILY.xattr.trusted.overlay.opaque", b"SCHILY.xattr.system.posix_acl_default", b"LIBARCHIVE.xattr.user.b", b"x",
)  # fmt: skip
values = st.one_of(
    names,
    st.sampled_from((b"0", b"1", b"512", b"0,1,2,3", b"-1", b"99999999999999999999", b"1.5", b"")),
    st.binary(max_size=30),
)
records = st.lists(st.tuples(st.sampled_from(KEYS), values), max_size=4)


def entries() -> st.SearchStrategy[bytes]:
    return st.one_of(
        st.builds(file, names, contents),
        st.builds(directory, names, st.sampled_from((0o755, 0o2777, 0))),
        st.builds(symlink, names, targets),
        st.builds(hard_link, names, targets),
        st.builds(device, names, st.sampled_from(("char", "block")), st.integers(0, 1), st.integers(0, 3)),
        st.builds(lambda pairs, flag: pax(*pairs, flag=flag), records, st.sampled_from((b"x", b"g"))),
        st.builds(long_name, names, st.sampled_from((b"L", b"K"))),
        st.builds(
            lambda name, flag, uid, size, mtime, magic: block(name, flag, uid=uid, size=size, mtime=mtime, magic=magic),
            names,
            st.sampled_from([bytes([c]) for c in b"\x00012345678xgLKSDVMX"]),
            numbers, numbers, numbers, st.sampled_from((b"ustar\x0000", b"ustar  \0", bytes(8))),
        ),
    )  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(archive(*draw(st.lists(entries(), min_size=1, max_size=12))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data) - 1))
        if draw(st.booleans()):
            data[at : at + draw(st.integers(1, 12))] = draw(st.binary(min_size=1, max_size=12))
        else:
            del data[at : at + draw(st.integers(1, 600))]
        if not data:
            break
    if draw(st.booleans()):  # make the checksums right again, so that the damage is read
        for at in range(0, len(data) - 511, 512):
            if data[at + 257 : at + 262] == b"ustar":
                data[at + 148 : at + 156] = b" " * 8
                data[at + 148 : at + 156] = b"%06o\0 " % (sum(data[at : at + 512]))
    return bytes(data)


def in_a_small_room(place: Path, test: object) -> None:
    """Run *test* in a child with little memory, on a file system with little room, beside a directory to keep."""

    def run() -> None:
        mount(b"none", os.fsencode(place), b"tmpfs", 0, b"size=100m,nr_inodes=5000")
        outside = place / "outside"
        outside.mkdir()
        (outside / "secret").write_bytes(b"secret")
        before = snapshot(os.fsencode(outside))
        # beside what the tests before have left this process with: it may be more than that by itself
        with open("/proc/self/statm") as file:
            most = int(file.read().split()[0]) * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        test(place, lambda: snapshot(os.fsencode(outside)) == before)  # type: ignore[operator]

    in_mount_namespace(run, timeout=500)


def test_layers_at_random(tmp_path: Path) -> None:
    def test(place: Path, untouched: object) -> None:
        @settings(deadline=HANGS, suppress_health_check=list(HealthCheck))
        @given(damaged(), st.sampled_from((1 << 20, 512, 333)))
        def anything(data: bytes, size: int) -> None:
            layer = place / "layer"
            try:
                unpack(data, layer, limits=LIMITS, size=size)
            except LaminaError:
                pass
            assert untouched()  # type: ignore[operator]
            assert sorted(os.listdir(place)) == ["layer", "outside"]
            shutil.rmtree(layer)

        anything()

    in_a_small_room(tmp_path, test)


def test_readers_at_random(tmp_path: Path) -> None:
    """Whatever is read means the same, whatever the chunks it comes in."""

    def outcome(data: bytes, size: int) -> object:
        try:
            return [
                (e.name, e.kind, e.size, e.target, e.mtime_ns, e.xattrs, e.sparse, content)
                for e, content in read(data, LIMITS, size)
            ]
        except LaminaError as error:
            return type(error)

    def test(place: Path, untouched: object) -> None:
        @settings(deadline=HANGS, suppress_health_check=list(HealthCheck))
        @given(st.one_of(damaged(), st.binary(max_size=3000)))
        def anything(data: bytes) -> None:
            assert outcome(data, 1 << 20) == outcome(data, 100)

        anything()

    in_a_small_room(tmp_path, test)


def test_compressed_streams_at_random(tmp_path: Path) -> None:
    from lamina.image.compression import writer

    made = writer("zstd")
    seeds = [
        gzip.compress(b"some text " * 1000),
        made.compress(b"some text " * 1000) + made.flush(),
        b"BZh91AY&SY",
        b"\xfd7zXZ\0",
    ]

    def test(place: Path, untouched: object) -> None:
        @settings(deadline=HANGS, suppress_health_check=list(HealthCheck))
        @given(
            st.sampled_from(seeds),
            st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=4)), max_size=4),
            st.binary(max_size=50),
        )
        def anything(seed: bytes, changes: list[tuple[int, bytes]], end: bytes) -> None:
            data = bytearray(seed)
            for at, what in changes:
                data[at % len(data) : at % len(data) + len(what)] = what
            try:
                stream = reader(io.BytesIO(bytes(data) + end).read, LIMITS, OF_ARCHIVES)
                while stream.next_chunk():
                    pass
            except LaminaError:
                pass

        anything()

    in_a_small_room(tmp_path, test)
