"""A layer packed and unpacked again is the same layer; what is packed is the same everywhere, and others read it."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import Conflict, InvalidInput, Unsupported
from lamina.image.apply import IdMap
from lamina.image.pack import Packed, pack_layer, pack_tree
from lamina.image.pack import content as content_module
from lamina.image.tar import Entry
from lamina.image.tar.writer import headers
from lamina.linux.mount import mount
from lamina.overlay.layer import TRUSTED
from lamina.overlay.lookup import look as really
from lamina.overlay.spec import MountSpec
from lamina.overlay.stack import Overlay
from support.archives import read, unpack
from support.namespaces import in_mount_namespace, in_user_namespace
from support.snapshots import Snapshot, snapshot
from support.stacks import ACL, CAPABILITY, Kit, Node, directories, write_layer

PLAIN = Kit(redirects=False, metacopies=False)
PLAIN_USER = Kit(root=False, redirects=False, metacopies=False)


def pack(path: Path | bytes, **words: object) -> tuple[bytes, Packed]:
    out = io.BytesIO()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        packed = pack_layer(fd, out, **words)  # type: ignore[arg-type]
    finally:
        os.close(fd)
    return out.getvalue(), packed


def meaning(found: Snapshot, kit: Kit) -> Snapshot:
    """A layer without what no archive keeps: inodes' own times, sockets, overlayfs' notes that mean nothing."""
    kept: Snapshot = {}
    opaque = {path for path, record in found.items() if path and (kit.format.opaque, b"y") in record[9]}
    for path, (mode, uid, gid, nlink, size, mtime, _, rdev, payload, attributes) in found.items():
        kind = stat.S_IFMT(int(mode, 8))
        # instead of a socket, which no archive holds, there is nothing, also of what it hides
        if (
            kind == stat.S_IFSOCK
            or (kind == stat.S_IFCHR and rdev == 0)
            or kit.format.whiteout in dict(attributes)
        ):
            if path.rpartition(b"/")[0] not in opaque:
                kept[path] = ("whiteout",)
            continue
        shown = [pair for pair in attributes if not pair[0].startswith(("trusted.overlay.", "user.overlay."))]
        if path in opaque:
            shown.append(("opaque", b"y"))
        if kind == stat.S_IFDIR:
            nlink = payload = None
        kept[path] = (mode, uid, gid, nlink, size, mtime, rdev, payload, shown)
    return kept


@pytest.mark.parametrize(
    "kit", [pytest.param(PLAIN, marks=pytest.mark.root), pytest.param(PLAIN_USER, marks=pytest.mark.userns)]
)
def test_what_is_packed_is_what_was_there(tmp_path: Path, kit: Kit) -> None:
    os.chmod(tmp_path, 0o777)

    def test() -> None:
        number = 0

        @settings(deadline=None)
        @given(directories(kit, 2), st.sampled_from((0o755, 0o700, 0o1777)))
        def both_ways(children: tuple[tuple[bytes, Node], ...], mode: int) -> None:
            nonlocal number
            number += 1
            place = os.fsencode(tmp_path) + b"/%d" % number
            os.mkdir(place)
            write_layer(place + b"/one", Node("dir", mode=mode, mtime_ns=5, children=children), kit)
            data, packed = pack(place + b"/one", userxattr=not kit.root)
            unpack(data, place + b"/two", userxattr=not kit.root)
            again, packed_again = pack(place + b"/two", userxattr=not kit.root)
            assert meaning(snapshot(place + b"/two"), kit) == meaning(snapshot(place + b"/one"), kit)
            assert again == data and packed.diff_id == packed_again.diff_id
            shutil.rmtree(place)

        both_ways()

    def on_tmpfs() -> None:
        mount(b"none", os.fsencode(tmp_path), b"tmpfs", 0, None)
        test()

    run = in_mount_namespace if kit.root else in_user_namespace
    if kit.root:
        run(on_tmpfs, timeout=1000)
    else:
        run(test, timeout=1000)


@pytest.mark.root
def test_the_archive_depends_on_nothing_but_the_content(tmp_path: Path) -> None:
    for name, order in (("one", (1, 2, 3)), ("two", (3, 1, 2))):
        (tmp_path / name).mkdir()
        for i in order:
            (tmp_path / name / f"f{i}").write_bytes(b"x" * i)
            os.utime(tmp_path / name / f"f{i}", ns=(i, i))
        os.link(tmp_path / name / "f2", tmp_path / name / "a")
        os.utime(tmp_path / name, ns=(0, 7_500_000_000))
    first, second = (pack(tmp_path / name)[0] for name in ("one", "two"))
    assert first == second
    assert [(entry.name, entry.kind) for entry, _ in read(first)] == [
        (b"./", "directory"), (b"a", "file"), (b"f1", "file"), (b"f2", "link"), (b"f3", "file"),
    ]  # fmt: skip


@pytest.mark.root
def test_marks_come_first_and_as_the_specification_has_them(tmp_path: Path) -> None:
    root = tmp_path / "l"
    (root / "d").mkdir(parents=True)
    (root / "d/a").write_bytes(b"")
    (root / "b").write_bytes(b"")
    fd = os.open(root, os.O_RDONLY)
    TRUSTED.make_whiteout(fd, b"z")
    os.close(fd)
    os.setxattr(root / "d", TRUSTED.opaque, b"y")
    names = [entry.name for entry, _ in read(pack(root)[0])]
    assert names == [b"./", b".wh.z", b"b", b"d/", b"d/.wh..wh..opq", b"d/a"]


@pytest.mark.root
def test_what_no_archive_can_say(tmp_path: Path) -> None:
    for number, (mark, text) in enumerate(((TRUSTED.redirect, b"x"), (TRUSTED.metacopy, b""))):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/f").write_bytes(b"x")
        os.setxattr(tmp_path / f"{number}/f", mark, text)
        with pytest.raises(Unsupported):
            pack(tmp_path / f"{number}")
    (tmp_path / "w").mkdir()
    (tmp_path / "w/.wh.x").write_bytes(b"")
    with pytest.raises(Unsupported, match="rename"):
        pack(tmp_path / "w")


def test_sockets_are_counted_and_hide_what_they_hid(tmp_path: Path) -> None:
    """A program removed a file of the image and listens at its place: in the next container the file is not back."""
    os.mknod(tmp_path / "s", 0o140600)
    data, packed = pack(tmp_path)
    assert packed.sockets == 1
    assert [entry.name for entry, _ in read(data)] == [b"./", b".wh.s"]


def test_ids_of_the_disk_become_the_archives(tmp_path: Path) -> None:
    me = os.geteuid(), os.getegid()
    (tmp_path / "f").write_bytes(b"")
    data, _ = pack(tmp_path, ids=IdMap(((me[0], 70, 1),), ((me[1], 80, 1),)))
    assert {(entry.uid, entry.gid) for entry, _ in read(data)} == {(70, 80)}


# -- forms


def entry_of(**fields: object) -> Entry:
    entry = Entry(b"name", "file")
    for name, content in fields.items():
        setattr(entry, name, content)
    return entry


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"name": b"x" * 100}, {"name": b"x" * 101}, {"name": b"d/" * 50 + b"f"}, {"name": b"d/" * 2000 + b"f"},
        {"name": b"p" * 155 + b"/" + b"n" * 100}, {"name": b"p" * 156 + b"/" + b"n"}, {"name": b"\xff\xfe\n="},
        {"name": b"/".join([b"n" * 255] * 3)}, {"uid": 0o7777777, "gid": 0o7777777},
        {"uid": 0o10000000, "gid": 4_000_000_000}, {"mtime_ns": 1}, {"mtime_ns": -1}, {"mtime_ns": 5 * 10**9},
        {"mtime_ns": -1_500_000_000}, {"mtime_ns": 10**9 * 8**11}, {"mtime_ns": 1_700_000_000_100_000_000},
        {"kind": "symlink", "target": b"t" * 101}, {"kind": "symlink", "target": b"\xff" * 4000},
        {"kind": "directory", "name": b"x" * 100}, {"kind": "directory", "name": b"d/" * 60 + b"e"},
        {"kind": "char", "device": (4095, 1048575)}, {"kind": "fifo"}, {"mode": 0o7777}, {"size": 3, "stored": 3},
        {"xattrs": {"user.a=%b": b"\0\n=", "security.capability": CAPABILITY, "user.\udcff": b"1"}},
    ],
)  # fmt: skip
def test_what_is_written_is_read(fields: dict[str, object]) -> None:
    entry = entry_of(**fields)
    data = headers(entry)
    [(found, _)] = read(data + bytes(512) * (entry.stored > 0))
    assert len(data) % 512 == 0
    for name in ("kind", "mode", "uid", "gid", "mtime_ns", "size", "target", "device", "xattrs"):
        assert getattr(found, name) == getattr(entry, name), name
    assert found.name.removesuffix(b"/") == entry.name


def test_pax_only_where_it_is_needed() -> None:
    assert (
        len(headers(entry_of(name=b"p" * 155 + b"/" + b"n" * 100, mtime_ns=5 * 10**9, uid=0o7777777))) == 512
    )


def test_large_sizes_are_said() -> None:
    data = headers(entry_of(size=8**11, stored=8**11))
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024)), mode="r:") as found:
        assert found.next().size == 8**11  # type: ignore[union-attr]


# -- zeros


def holed(path: Path, size: int, *data: tuple[int, bytes]) -> None:
    with path.open("wb") as file:
        for offset, text in data:
            file.seek(offset)
            file.write(text)
        file.truncate(size)


@pytest.mark.root
def test_zeros_are_left_out_by_content_not_by_holes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, ns=(0, 0))
    size = 9_000_001
    holed(tmp_path / "one/f", size, (0, b"begin"), (5_000_000, b"middle"))
    (tmp_path / "two/f").write_bytes((tmp_path / "one/f").read_bytes())
    for name in ("one", "two"):
        os.utime(tmp_path / name / "f", ns=(0, 0))
        os.utime(tmp_path / name, ns=(0, 0))
    first, second = (pack(tmp_path / name)[0] for name in ("one", "two"))
    assert first == second and len(first) < 1_000_000
    unpack(first, tmp_path / "three")
    assert (tmp_path / "three/f").read_bytes() == (tmp_path / "one/f").read_bytes()
    assert (tmp_path / "three/f").stat().st_blocks * 512 < 1_000_000


def test_files_with_few_zeros_are_written_as_they_are(tmp_path: Path) -> None:
    holed(tmp_path / "small", 1_000_000, (0, b"x"))
    (tmp_path / "large").write_bytes(b"\1" * 3_000_000 + bytes(600_000))
    assert [entry.sparse for entry, _ in read(pack(tmp_path)[0])] == [None, None, None]
    assert content_module.pieces_of(-1, 10) is None


def test_a_file_of_zeros_alone(tmp_path: Path) -> None:
    holed(tmp_path / "f", 5_000_000)
    [_, (entry, content)] = read(pack(tmp_path)[0])
    assert (entry.size, entry.sparse, content) == (5_000_000, [], b"")


def test_a_file_that_becomes_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100)
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    with pytest.raises(Conflict, match="shorter"):
        pack(tmp_path)


# -- others read it


def rich_tree(root: Path) -> None:
    (root / "d/e").mkdir(parents=True)
    (root / ("n" * 200)).write_bytes(b"long name")
    (root / "d/f").write_bytes(b"x" * 1000)
    os.chmod(root / "d/f", 0o4755)
    os.link(root / "d/f", root / "linked")
    os.symlink("t" * 300, root / "s")
    os.mkfifo(root / "p", 0o640)
    holed(root / "sparse", 6_000_000, (3_000_000, b"data"))
    (root / "\udcff\udcfe\n").write_bytes(b"odd")
    os.utime(root / "d/f", ns=(1, 1_700_000_000_123_456_789))
    os.setxattr(root / "d/f", "user.a", b"\0b")
    os.utime(root / "d", ns=(1, -1_500_000_000))
    if os.geteuid() == 0:
        os.mknod(root / "null", 0o20666, os.makedev(1, 3))
        os.chown(root / "d/e", 3_000_000, 33)
        (root / "acl").write_bytes(b"")
        os.setxattr(root / "acl", "system.posix_acl_access", ACL)
        os.setxattr(root / "acl", "security.capability", CAPABILITY)


def same(one: Path, other: Path, *, but: bytes | None = None) -> None:
    def plain(found: Snapshot) -> dict[bytes, tuple[object, ...]]:
        return {
            path: (*record[:3], *record[4:6], *record[7:]) for path, record in found.items() if path != but
        }

    assert plain(snapshot(os.fsencode(other))) == plain(snapshot(os.fsencode(one)))


@pytest.mark.root
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_gnu_tar_unpacks_the_same(tmp_path: Path, compression: str) -> None:
    root = tmp_path / "one"
    root.mkdir()
    rich_tree(root)
    data, packed = pack(root, compression=compression)
    assert packed.size == len(data)
    (tmp_path / "two").mkdir()
    words = {"none": [], "gzip": ["-z"], "zstd": ["--zstd"]}[compression]
    command = [
        "tar",
        "-x",
        *words,
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
        "-p",
        "-C",
        str(tmp_path / "two"),
    ]
    subprocess.run(command, input=data, check=True)
    same(root, tmp_path / "two")


@pytest.mark.root
@pytest.mark.peer("bsdtar")
def test_bsdtar_unpacks_the_same(tmp_path: Path) -> None:
    root = tmp_path / "one"
    root.mkdir()
    rich_tree(root)
    # it cuts times before 1970 off towards zero, sets no ACL that comes as an attribute, and no time of the root
    os.utime(root / "d", ns=(1, 5))
    (root / "acl").unlink()
    (tmp_path / "two").mkdir()
    command = [
        "bsdtar",
        "-x",
        "--numeric-owner",
        "--xattrs",
        "--acls",
        "-p",
        "-f",
        "-",
        "-C",
        str(tmp_path / "two"),
    ]
    subprocess.run(command, input=pack(root)[0], check=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    same(root, tmp_path / "two", but=b"")


def test_python_reads_the_same(tmp_path: Path) -> None:
    root = tmp_path / "one"
    root.mkdir()
    rich_tree(root)
    with tarfile.open(fileobj=io.BytesIO(pack(root)[0]), mode="r:") as found:
        members = {member.name: member for member in found.getmembers()}
        assert members["linked"].islnk() or members["d/f"].islnk()
        assert members["sparse"].issparse() and members["sparse"].size == 6_000_000
        assert found.extractfile("sparse").read() == (root / "sparse").read_bytes()  # type: ignore[union-attr]
        assert members["s"].linkname == "t" * 300 and "n" * 200 in members


# -- whole trees


@pytest.mark.root
def test_a_merged_tree_in_one_archive(tmp_path: Path) -> None:
    for name in ("upper", "lower"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/d").mkdir()
    (tmp_path / "lower/d/below").write_bytes(b"below")
    (tmp_path / "lower/gone").write_bytes(b"gone")
    (tmp_path / "upper/d").mkdir()
    (tmp_path / "upper/d/above").write_bytes(b"above")
    fd = os.open(tmp_path / "upper", os.O_RDONLY)
    TRUSTED.make_whiteout(fd, b"gone")
    os.close(fd)
    out = io.BytesIO()
    lowers = tuple(os.fsencode(tmp_path / name) for name in ("upper", "lower"))
    with Overlay(MountSpec(lowerdirs=lowers)).open() as tree:
        packed = pack_tree(tree, out)
    assert [(e.name, c) for e, c in read(out.getvalue())] == [
        (b"./", b""), (b"d/", b""), (b"d/above", b"above"), (b"d/below", b"below"),
    ]  # fmt: skip
    assert packed.size == packed.archive == len(out.getvalue())


def test_compressions_that_layers_are_not_written_in(tmp_path: Path) -> None:
    for kind in ("xz", "bzip2", "lzma"):
        with pytest.raises(InvalidInput):
            pack(tmp_path, compression=kind)


def test_of_what_is_written_to_meanwhile_what_goes_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at, and gone or another one before it is read; a link's other name takes its place."""
    top = tmp_path / "top"
    (top / "directory/below").mkdir(parents=True)
    for name in ("becomes a directory", "becomes longer", "goes", "linked"):
        (top / name).write_text("x")
    os.link(top / "linked", top / "other name")
    (top / "symlink").symlink_to("x")

    def look(fd: int, name: bytes) -> object:
        if name == b"goes before":
            os.unlink(name, dir_fd=fd)
        found = really(fd, name)
        if name in (b"goes", b"linked", b"symlink", b"becomes a directory"):
            os.unlink(name, dir_fd=fd)
        if name == b"becomes a directory":
            os.mkdir(name, dir_fd=fd)
        elif name == b"becomes longer":
            (tmp_path / "longer").write_text("longer")
            os.rename(tmp_path / "longer", name, dst_dir_fd=fd)
        elif name == b"directory":
            shutil.rmtree(top / "directory")
        return found

    monkeypatch.setattr("lamina.image.pack.layer.look", look)
    (top / "goes before").touch()
    data, _ = pack(top, living=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {
            one.name: (archive.extractfile(one) or io.BytesIO()).read() for one in archive if one.isfile()
        }
        assert archive.getnames() == [".", "becomes longer", "directory", "other name"]
    assert found == {"becomes longer": b"longer", "other name": b"x"}
    shutil.rmtree(top / "becomes a directory")
    (top / "goes").write_text("x")
    with pytest.raises(
        OSError, match="No such file"
    ):  # of what nobody writes to everything is expected to be there
        pack(top)
