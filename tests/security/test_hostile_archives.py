"""Layers that try to get out of their directory, or to cost more than they may: the second table of security.md.

Every archive is unpacked beside a directory that is watched, by absolute and by relative ways: nothing there changes.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import Corrupt, InvalidInput, LaminaError
from lamina.image.compression import reader, writer
from lamina.image.layer import unpack_blob
from lamina.image.tar import Limits
from lamina.overlay.layer import TRUSTED
from lamina.store import layers
from lamina.store.leases import lease
from lamina.store.root import Store
from support.archives import (
    archive,
    block,
    device,
    directory,
    file,
    hard_link,
    long_name,
    pax,
    symlink,
    unpack,
)  # fmt: skip
from support.snapshots import snapshot

pytestmark = pytest.mark.root


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """What must stay as it is, down to its times."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "secret").write_bytes(b"secret")
    os.chmod(place / "secret", 0o600)
    (place / "directory").mkdir()
    before = snapshot(os.fsencode(place))
    yield place
    assert snapshot(os.fsencode(place)) == before


def attempt(parts: list[bytes], place: Path) -> bool:
    """Whether the layer was unpacked; if not, it was refused in Lamina's own words."""
    try:
        unpack(archive(*parts), place)
    except LaminaError:
        return False
    return True


def inside(place: Path) -> list[str]:
    return sorted(str(found.relative_to(place)) for found in place.rglob("*"))


# -- CVE-2007-4559, 2024-12718, 2025-4138, 2025-4330, 2025-4435, 2025-4517 (tarfile) --------------------------------


@pytest.mark.parametrize(
    "name",
    [
        b"../outside/new",
        b"a/../../outside/new",
        b"..",
        b"a/..",
        b"./../outside/new",
        b"/../outside/new",
        b"a//..//../outside/new",
    ],
)
def test_cve_2007_4559_names_that_go_up(tmp_path: Path, outside: Path, name: bytes) -> None:
    for kind, part in enumerate(
        (file(name), directory(name), symlink(name, b"x"), file(b"d/.wh.x") + file(name))
    ):
        assert not attempt([directory(b"a"), part], tmp_path / f"l{kind}")


def test_cve_2007_4559_absolute_names_are_of_the_layer(tmp_path: Path, outside: Path) -> None:
    place = os.fsencode(outside)
    assert attempt([file(place + b"/secret", b"mine")], tmp_path / "l")
    assert (tmp_path / "l" / str(outside)[1:] / "secret").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "target",
    ["{outside}", "../outside", "../../../../../../../../../..{outside}", "/proc/self/root{outside}"],
)
def test_cve_2025_4517_through_a_link_that_leads_out(tmp_path: Path, outside: Path, target: str) -> None:
    to = os.fsencode(target.format(outside=outside))
    for number, parts in enumerate(
        [
            [symlink(b"out", to), file(b"out/secret", b"mine")],
            [symlink(b"out", to), file(b"out/new", b"mine")],
            [symlink(b"out", to), directory(b"out/directory", 0o777)],
            [symlink(b"out", to), file(b"out/.wh.secret")],
            [symlink(b"out", to), file(b"out/directory/.wh..wh..opq")],
            [symlink(b"out", to), hard_link(b"stolen", b"out/secret")],
            [symlink(b"out", to), hard_link(b"out/planted", b"out/secret")],
            [symlink(b"a", b"out"), symlink(b"out", to), file(b"a/new", b"mine")],
        ]
    ):
        place = tmp_path / f"l{number}"
        attempt(parts, place)
        assert not (place / "stolen").exists() or (place / "stolen").read_bytes() != b"secret"


def test_cve_2025_4330_links_longer_than_a_path_may_be(tmp_path: Path, outside: Path) -> None:
    """Resolving by strings gives up at PATH_MAX and takes the rest as it is."""
    long, steps = b"d" * 247, b"abcdefghijklmnop"
    parts: list[bytes] = []
    path = b""
    for step in steps:
        parts += [pax((b"path", path + long)), directory(b"x")]
        parts += [pax((b"path", path + bytes([step])), (b"linkpath", long)), symlink(b"x", b"x")]
        path += long + b"/"
    chain = b"/".join(bytes([step]) for step in steps) + b"/" + b"l" * 254
    parts += [pax((b"path", chain), (b"linkpath", b"../" * len(steps))), symlink(b"x", b"x")]
    parts += [symlink(b"escape", chain + b"/../../../.." + os.fsencode(outside))]
    for number, last in enumerate((file(b"escape/new", b"mine"), hard_link(b"stolen", b"escape/secret"))):
        attempt([*parts, last], tmp_path / f"l{number}")
        assert (tmp_path / f"l{number}" / os.fsdecode(b"/".join([long] * 15))).is_dir()
        assert not (tmp_path / f"l{number}/stolen").exists()
    assert not attempt([symlink(b"s", b"y" * 5000)], tmp_path / "m")


def test_cve_2025_4138_link_that_is_exchanged_while_it_is_used(tmp_path: Path, outside: Path) -> None:
    out = os.fsencode(outside)
    parts = [directory(b"real"), symlink(b"s", b"real"), file(b"s/one", b"1")]
    parts += [symlink(b"s", out), file(b"s/secret", b"mine"), symlink(b"s", b"real"), file(b"s/two", b"2")]
    parts += [symlink(b"real", out), file(b"s/three", b"3")]
    attempt(parts, tmp_path / "l")
    assert attempt([*parts[:3], symlink(b"s", b"real"), file(b"s/two", b"2")], tmp_path / "m")
    assert inside(tmp_path / "m") == ["real", "real/one", "real/two", "s"]


def test_cve_2025_4435_hard_links_to_what_is_outside(tmp_path: Path, outside: Path) -> None:
    out = os.fsencode(outside)
    for number, target in enumerate(
        (
            out + b"/secret",
            b"../outside/secret",
            b"/proc/self/root" + out + b"/secret",
            b"a/../../outside/secret",
        )
    ):
        assert not attempt([directory(b"a"), hard_link(b"stolen", target)], tmp_path / f"l{number}")


def test_cve_2007_4559_a_pax_path_overrides_a_harmless_name(tmp_path: Path, outside: Path) -> None:
    for number, said in enumerate(
        (
            [pax((b"path", b"../outside/new")), file(b"fine")],
            [long_name(b"../outside/new"), file(b"fine")],
            [pax((b"path", b"../outside/new"), flag=b"g"), file(b"fine")],
            [pax((b"linkpath", b"../outside/secret")), hard_link(b"stolen", b"fine")],
            [
                pax(
                    (b"GNU.sparse.name", b"../outside/new"),
                    (b"GNU.sparse.size", b"0"),
                    (b"GNU.sparse.map", b""),
                ),
                file(b"fine"),
            ],
            [block(b"new", prefix=b"../outside")],
        )
    ):
        assert not attempt(said, tmp_path / f"l{number}")


def test_cve_2007_4559_entries_below_a_file_and_duplicates(tmp_path: Path, outside: Path) -> None:
    out = os.fsencode(outside)
    assert not attempt([file(b"f"), file(b"f/x")], tmp_path / "a")
    assert not attempt([directory(b"d"), file(b"d/x"), file(b"d"), file(b"d/y")], tmp_path / "b")
    # a file that becomes a link between two entries of its name: neither is written through it
    assert attempt([file(b"f", b"1"), symlink(b"f", out + b"/secret"), file(b"f", b"2")], tmp_path / "c")
    assert (tmp_path / "c/f").read_bytes() == b"2" and not (tmp_path / "c/f").is_symlink()


def test_cve_2007_4559_devices(tmp_path: Path, outside: Path) -> None:
    """A device is made as a device and never opened; nothing can be put below one; none can pose as a deletion."""
    assert attempt([device(b"disk", "block", 8, 0), file(b"disk", b"over it")], tmp_path / "a")
    assert (tmp_path / "a/disk").is_file()
    for number, part in enumerate(
        (
            device(b"x", "char", 0, 0),
            device(b"x", "char", 1 << 12, 0),
            device(b"x", "block", 0, 1 << 20),
            block(b"x", b"3", major=b"\xff" * 8),
        )
    ):
        assert not attempt([part], tmp_path / f"l{number}")
    assert not attempt([device(b"x", "char", 1, 3), file(b"x/y")], tmp_path / "below")


# -- others of the table --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b".", b"/", b"./", b"", b"//", b"./."])
def test_cve_2021_29136_an_entry_that_replaces_the_root(tmp_path: Path, outside: Path, name: bytes) -> None:
    out = os.fsencode(outside)
    for number, part in enumerate(
        (symlink(name, out), hard_link(name, b"f"), file(name, b"x"), device(name, "char", 1, 3))
    ):
        place = tmp_path / f"l{number}"
        assert not attempt([file(b"f"), part, file(b"new")], place)
        assert stat.S_ISDIR(place.lstat().st_mode)
    assert not attempt([file(b"f"), hard_link(b"x", name)], tmp_path / "target")


def test_cve_2021_32760_attributes_through_links(tmp_path: Path, outside: Path) -> None:
    """Mode, owner, attributes and times of a link's entry are the link's, or nothing's."""
    out = os.fsencode(outside)
    said = pax((b"mtime", b"5"), (b"SCHILY.xattr.trusted.mine", b"1"))
    for number, part in enumerate(
        (
            symlink(b"s", out + b"/secret", uid=1000, gid=1000),
            symlink(b"s", out + b"/secret") + said + hard_link(b"h", b"s"),
            symlink(b"s", out + b"/directory") + said + directory(b"s", 0o777, uid=1000),
            symlink(b"s", out + b"/secret") + said + file(b"s", mode=0o4777, uid=1000),
            symlink(b"s", out + b"/secret") + said + block(b"s", b"6", mode=0o777),
        )
    ):
        assert attempt([said, part], tmp_path / f"l{number}")


def test_cve_2026_17106_a_layer_does_not_reach_the_store(tmp_path: Path) -> None:
    """Not even the layer's own record, which lies beside its files."""
    store = Store(tmp_path / "store")
    with lease(store) as held:
        for parts in (
            [file(b"../layer.json", b"{}")],
            [symlink(b"up", b".."), file(b"up/layer.json", b"{}")],
            [symlink(b"up", b"../../.."), file(b"up/version", b"9")],
            [symlink(b"up", os.fsencode(tmp_path / "store")), file(b"up/version", b"9")],
        ):
            try:
                layer = unpack_blob(store, io.BytesIO(archive(*parts)), None, held)
            except InvalidInput:
                continue
            assert layers.find(store, layer.id) == layer
        assert (tmp_path / "store/version").read_bytes() != b"9"


def test_cve_2026_95838_opaque_marks_over_and_over(tmp_path: Path) -> None:
    """Each costs one call whatever is in the directory; all are entries that are counted."""
    marks = [file(b"d/.wh..wh..opq"), file(b"d/.wh.x")] * 3000
    applied = unpack(
        archive(directory(b"d"), *[file(b"d/f%d" % n) for n in range(300)], *marks), tmp_path / "a"
    )
    assert os.getxattr(tmp_path / "a/d", TRUSTED.opaque) == b"y" and applied.inodes == 303
    with pytest.raises(InvalidInput, match="entries=N"):
        unpack(archive(*marks), tmp_path / "b", limits=Limits(entries=5000))


def test_overlay_attributes_of_an_archive_are_dropped(tmp_path: Path) -> None:
    forged = [
        (b"SCHILY.xattr.%b.overlay.%b" % (family, mark), text)
        for family in (b"trusted", b"user")
        for mark, text in (
            (b"opaque", b"y"),
            (b"redirect", b"/etc"),
            (b"metacopy", b""),
            (b"whiteout", b"y"),
            (b"origin", b"x"),
        )
    ]
    encoded = [(b"LIBARCHIVE.xattr.trusted%2Eoverlay%2Eredirect", b"L2V0Yw")]
    for number, kind in enumerate((directory(b"x"), file(b"x"))):
        unpack(archive(pax(*forged, *encoded), kind), tmp_path / f"{number}")
        assert os.listxattr(tmp_path / f"{number}/x") == []


def test_setuid_programs_belong_to_who_the_archive_says_or_to_nobody(tmp_path: Path) -> None:
    """At no moment is a file of root's set-user-id that is to be another's: the owner is set first."""
    unpack(
        archive(file(b"s", b"#!", mode=0o6755, uid=1000, gid=1000), file(b"r", b"#!", mode=0o4711)),
        tmp_path / "l",
    )
    assert (tmp_path / "l/s").stat().st_mode == 0o106755 and (tmp_path / "l/s").stat().st_uid == 1000
    assert (tmp_path / "l/r").stat().st_mode == 0o104711


# -- what would cost too much ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_cve_2017_14992_a_gigabyte_of_zeros_in_a_mebibyte(kind: str) -> None:
    made = writer(kind, 9 if kind == "gzip" else 3)  # type: ignore[arg-type]
    zeros = bytes(16 << 20)
    data = b"".join(made.compress(zeros) for _ in range(64)) + made.flush()
    assert len(data) < 1 << 21
    stream = reader(io.BytesIO(data).read)
    with pytest.raises(InvalidInput, match="ratio=N"):
        while stream.next_chunk():
            pass
    assert stream.given < 300 << 20


def test_cve_2017_14992_sizes_that_are_only_said(tmp_path: Path) -> None:
    """Neither memory nor room is set aside for what a header says."""
    for number, part in enumerate(
        (
            block(b"x", size=b"77777777777\0"),
            block(b"x", size=b"\x80\0\0\0" + (1 << 62).to_bytes(8, "big")),
            pax((b"size", b"9" * 19)) + block(b"x"),
            block(b"x", b"x", size=b"77777777777\0"),
            block(b"x", b"L", size=b"77777777777\0"),
            block(b"x", size=b"-0000000512\0"),
            pax((b"size", b"-1")) + block(b"x"),
            block(b"x", size=(-512).to_bytes(12, "big", signed=True)),
        )
    ):
        with pytest.raises((InvalidInput, Corrupt)):
            unpack(archive(part), tmp_path / f"{number}")
    assert sum(found.stat().st_blocks for found in tmp_path.rglob("*") if found.is_file()) < 1000


def test_cve_2017_14992_sparse_bombs(tmp_path: Path) -> None:
    def sparse(size: bytes, numbers: bytes, content: bytes = b"") -> bytes:
        return pax(
            (b"GNU.sparse.size", size), (b"GNU.sparse.map", numbers), (b"GNU.sparse.name", b"s")
        ) + file(b"x", content)

    with pytest.raises(InvalidInput, match="size=N"):
        unpack(archive(sparse(b"%d" % (1 << 60), b"")), tmp_path / "a")
    with pytest.raises(InvalidInput, match="size=N"):
        unpack(archive(*[sparse(b"%d" % (100 << 30), b"")] * 3), tmp_path / "b")
    with pytest.raises(InvalidInput, match="segments=N"):
        unpack(archive(sparse(b"9999999", b",".join([b"0,0"] * 100_001))), tmp_path / "c")
    with pytest.raises(InvalidInput):
        unpack(archive(sparse(b"%d" % (1 << 70), b"")), tmp_path / "d")


def test_cve_2026_53493_depth_names_and_headers(tmp_path: Path) -> None:
    cases = [
        ([pax((b"path", b"d/" * 300 + b"x")), file(b"x")], "depth=N"),
        ([pax((b"path", b"n" * 256)), file(b"x")], "255"),
        ([pax((b"path", b"n/" * 4000)), file(b"x")], "kernel"),
        (
            [pax(*[(b"SCHILY.xattr.user.%d" % n, b"x" * 60_000) for n in range(100)]), file(b"x")],
            "extensions=N",
        ),
    ]
    for number, (parts, words) in enumerate(cases):
        with pytest.raises(InvalidInput, match=words):
            unpack(archive(*parts), tmp_path / f"{number}")


def test_cve_2017_14992_a_stream_of_empty_members() -> None:
    """Many members that hold nothing: no size and no ratio counts them, and each of them costs time."""
    stream = reader(io.BytesIO(gzip.compress(b"") * 20_000).read)
    with pytest.raises(InvalidInput, match="made to cost time"):
        stream.next_chunk()
    assert stream.taken < 300 << 10
