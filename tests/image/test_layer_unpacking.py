"""What each kind of entry becomes, in which order ever the archive has them."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.errors import InvalidInput, KernelError
from lamina.image.apply import IdMap
from lamina.image.apply import extract as extract_module
from lamina.linux import create
from lamina.overlay.layer import TRUSTED, USER, WHITEOUT_DEV
from support.archives import (
    archive,
    block,
    device,
    directory,
    file,
    hard_link,
    pax,
    symlink,
    unpack,
)  # fmt: skip
from support.held import held_descriptors
from support.namespaces import in_user_namespace
from support.stacks import ACL, CAPABILITY

pytestmark = pytest.mark.root


@pytest.fixture(params=["compiled", "python", "one at a time"], autouse=True)
def maker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test three times: with both ways to make files, and with batches of one."""
    if request.param == "python":
        monkeypatch.setattr(create, "_create_files", None)
    elif request.param == "one at a time":
        monkeypatch.setattr(extract_module, "AT_ONCE", 1)


def opaque(path: Path) -> bytes | None:
    try:
        return os.getxattr(path, TRUSTED.opaque)
    except OSError:
        return None


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == WHITEOUT_DEV


def listing(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


def test_everything_is_kept_exactly(tmp_path: Path) -> None:
    root = tmp_path / "l"
    when = (b"mtime", b"1700000000.123456789")
    old = os.umask(0o077)
    try:
        applied = unpack(
            archive(
                pax(when), directory(b"./", 0o1777, uid=5),
                pax(when), directory(b"d", 0o2750, uid=1000, gid=33),
                pax(when), file(b"d/setuid", b"#!", mode=0o6755, uid=1000, gid=33),
                pax(when, (b"SCHILY.xattr.security.capability", CAPABILITY), (b"SCHILY.xattr.user.a", b"\0b")),
                file(b"d/capable", b"x" * 3000, mode=0o751, gid=7),
                pax(when, (b"SCHILY.xattr.system.posix_acl_access", ACL)), file(b"d/acl", b"", mode=0o640),
                pax(when, (b"SCHILY.xattr.system.posix_acl_default", ACL)), directory(b"d/inherits", 0o755),
                file(b"d/inherits/child", b"c"), directory(b"d/inherits/below", 0o700),
                pax(when, (b"SCHILY.xattr.trusted.t", b"1")), symlink(b"d/s", b"/etc/../nowhere", uid=9, gid=8),
                pax(when), device(b"null", "char", 1, 3), pax(when), device(b"sda", "block", 8, 0),
                pax(when), block(b"pipe", b"6", mode=0o620), file(b"none", b"", mode=0),
            ),
            root,
        )  # fmt: skip
    finally:
        os.umask(old)
    at = 1_700_000_000_123_456_789

    def seen(name: str) -> tuple[int, int, int, int]:
        status = (root / name).lstat()
        return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns

    assert seen(".") == (0o041777, 5, 0, at)
    assert seen("d") == (0o042750, 1000, 33, at)
    assert seen("d/setuid") == (0o106755, 1000, 33, at)
    assert seen("d/capable") == (0o100751, 0, 7, at)
    assert os.getxattr(root / "d/capable", "security.capability") == CAPABILITY
    assert os.getxattr(root / "d/capable", "user.a") == b"\0b"
    assert os.getxattr(root / "d/acl", "system.posix_acl_access") == ACL
    assert os.getxattr(root / "d/inherits", "system.posix_acl_default") == ACL
    assert os.listxattr(root / "d/inherits/child") == os.listxattr(root / "d/inherits/below") == []
    assert seen("d/inherits/child") == (0o100644, 0, 0, 0)
    assert seen("d/inherits") == (0o040755, 0, 0, at)
    assert seen("d/s") == (0o120777, 9, 8, at)
    assert os.readlink(root / "d/s") == "/etc/../nowhere"
    assert os.getxattr(root / "d/s", "trusted.t", follow_symlinks=False) == b"1"
    assert seen("null") == (0o020666, 0, 0, at) and (root / "null").lstat().st_rdev == os.makedev(1, 3)
    assert seen("sda") == (0o060666, 0, 0, at)
    assert seen("pipe") == (0o010620, 0, 0, at)
    assert seen("none") == (0o100000, 0, 0, 0)
    assert (applied.size, applied.inodes, applied.skipped) == (3003, 13, ())


def test_directories_that_no_entry_describes(tmp_path: Path) -> None:
    unpack(archive(file(b"/a/./b//c", b"x")), tmp_path / "l")
    for name in ("", "a", "a/b"):
        status = (tmp_path / "l" / name).stat()
        assert (status.st_mode, status.st_uid, status.st_mtime_ns) == (0o040755, 0, 0)
    assert (tmp_path / "l/a/b/c").read_bytes() == b"x"


def test_a_directory_described_after_its_entries_and_again(tmp_path: Path) -> None:
    unpack(
        archive(
            file(b"d/f"),
            directory(b"d", 0o700, mtime=5),
            file(b"d/g"),
            directory(b"d", 0o711, mtime=6),
            file(b"d/h"),
        ),
        tmp_path / "l",
    )
    status = (tmp_path / "l/d").stat()
    assert (status.st_mode, status.st_mtime_ns) == (0o040711, 6 * 10**9)
    assert listing(tmp_path / "l") == ["d", "d/f", "d/g", "d/h"]


def test_times_hold_with_more_directories_than_are_open_at_once(tmp_path: Path) -> None:
    names = [b"d%d" % i for i in range(200)]
    parts = [directory(name, 0o2755, mtime=i + 1) for i, name in enumerate(names)]
    parts += [file(name + b"/f%d" % turn, b"x") for turn in range(3) for name in names]
    unpack(archive(*parts), tmp_path / "l")
    for i, name in enumerate(names):
        status = os.stat(os.fsencode(tmp_path) + b"/l/" + name)
        assert (status.st_mode, status.st_mtime_ns) == (0o042755, (i + 1) * 10**9)
        assert len(os.listdir(os.fsencode(tmp_path) + b"/l/" + name)) == 3


# -- duplicates


def test_the_last_of_a_name_counts(tmp_path: Path) -> None:
    applied = unpack(archive(file(b"f", b"first", mode=0o777), file(b"f", b"second")), tmp_path / "l")
    assert (tmp_path / "l/f").read_bytes() == b"second"
    assert (tmp_path / "l/f").stat().st_mode == 0o100644
    assert (applied.size, applied.inodes) == (6, 2)


def test_a_directory_becomes_a_file_and_back(tmp_path: Path) -> None:
    root = tmp_path / "l"
    applied = unpack(
        archive(
            directory(b"x"), file(b"x/old", b"1"), directory(b"x/deep"),
            file(b"x/deep/er", b"22"), file(b"x", b"now a file"),
            symlink(b"y", b"x"), directory(b"y"), file(b"y/in", b"3"),
            file(b"z", b"z"), directory(b"z"), file(b"z/in", b"4"), file(b"z", b"z"), directory(b"z"),
        ),
        root,
    )  # fmt: skip
    assert listing(root) == ["x", "y", "y/in", "z"]
    assert (root / "x").read_bytes() == b"now a file"
    # unpacked over the layers below, one entry after the other, these would have taken what is there away
    assert opaque(root / "y") == opaque(root / "z") == b"y"
    assert (applied.size, applied.inodes) == (11, 5)


def test_any_kind_replaces_any_other(tmp_path: Path) -> None:
    makers: list[Callable[[bytes], bytes]] = [
        lambda name: file(name, b"1"), lambda name: directory(name), lambda name: symlink(name, b"q"),
        lambda name: device(name, "char", 1, 3), lambda name: block(name, b"6"),
        lambda name: hard_link(name, b"target"),
        lambda name: file(b".wh." + name),
    ]  # fmt: skip
    parts = [file(b"target", b"t")]
    for first, one in enumerate(makers):
        for second, other in enumerate(makers):
            parts += [one(b"n%d%d" % (first, second)), other(b"n%d%d" % (first, second))]
    unpack(archive(*parts), tmp_path / "l")
    kinds = [stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFREG]
    for first in range(7):
        for second in range(6):
            assert stat.S_IFMT((tmp_path / f"l/n{first}{second}").lstat().st_mode) == kinds[second], (
                first,
                second,
            )
        # a whiteout is about the layers below: what the layer itself has stays
        if first < 6:
            assert stat.S_IFMT((tmp_path / f"l/n{first}6").lstat().st_mode) == kinds[first]
    assert is_whiteout(tmp_path / "l/n66")
    assert opaque(tmp_path / "l/n16") == opaque(tmp_path / "l/n61") == b"y"


def test_what_is_below_a_file(tmp_path: Path) -> None:
    cases = [
        [file(b"f"), file(b"f/x")],
        [file(b"f"), directory(b"f/x")],
        [device(b"f", "char", 1, 3), file(b"f/x/y")],
        [symlink(b"f", b"nowhere"), file(b"f/x")],
        [file(b"real"), symlink(b"f", b"real"), file(b"f/x")],
        [directory(b"f"), file(b"f/x"), file(b"f"), file(b"f/y")],
        [directory(b"f/g"), file(b"f/g/x"), file(b"f"), file(b"f/g/y"), file(b"f/g/z")],
    ]
    for number, parts in enumerate(cases):
        with pytest.raises(InvalidInput):
            unpack(archive(*parts), tmp_path / str(number))


# -- links


def test_entries_through_links_stay_inside(tmp_path: Path) -> None:
    root = tmp_path / "l"
    unpack(
        archive(
            directory(b"usr/lib", mtime=7), symlink(b"lib", b"usr/lib"), file(b"lib/one", b"1"),
            file(b"lib/new/two", b"2"),
            symlink(b"abs", b"/usr"), file(b"abs/three", b"3"), symlink(b"up", b"../../../../usr/lib"),
            file(b"up/four", b"4"),
            directory(b"usr/lib", mtime=8),
        ),
        root,
    )  # fmt: skip
    assert listing(root / "usr") == ["lib", "lib/four", "lib/new", "lib/new/two", "lib/one", "three"]
    assert (root / "usr/lib").stat().st_mtime_ns == 8 * 10**9


def test_a_link_that_is_exchanged_leads_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "l"
    unpack(
        archive(
            directory(b"a"), directory(b"b"), symlink(b"s", b"a"), file(b"s/1"), symlink(b"s", b"b"), file(b"s/2"),
            directory(b"s"), file(b"s/3"),
        ),
        root,
    )  # fmt: skip
    assert listing(root) == ["a", "a/1", "b", "b/2", "s", "s/3"]


def test_a_directory_replaces_a_link_to_one(tmp_path: Path) -> None:
    unpack(archive(directory(b"a", 0o700), symlink(b"s", b"a"), directory(b"s", 0o711)), tmp_path / "l")
    assert not (tmp_path / "l/s").is_symlink()
    assert (tmp_path / "l/a").stat().st_mode == 0o040700


def test_hard_links_in_any_order(tmp_path: Path) -> None:
    root = tmp_path / "l"
    applied = unpack(
        archive(
            hard_link(b"early", b"d/f"), hard_link(b"chain", b"early"), file(b"d/f", b"x"), hard_link(b"late", b"/d/f"),
            hard_link(b"late", b"./late"), symlink(b"s", b"d/f"), hard_link(b"of-link", b"s"),
            symlink(b"dir", b"d"), hard_link(b"through", b"dir/f"),
        ),
        root,
    )  # fmt: skip
    names = ["early", "chain", "late", "through", "d/f"]
    assert len({(root / name).lstat().st_ino for name in names}) == 1
    assert (root / "of-link").lstat().st_ino == (root / "s").lstat().st_ino
    assert (applied.size, applied.inodes) == (1, 5)


def test_links_to_links_that_come_later_do_not_take_time_without_end(tmp_path: Path) -> None:
    """Each round through those that wait makes one of these: a hundred thousand of them took hours."""

    def chain(length: int) -> bytes:
        names = [b"%d" % number for number in range(length)]
        links = [hard_link(name, after) for name, after in itertools.pairwise(names)]
        return archive(*links, file(names[-1], b"x"))

    unpack(chain(20), tmp_path / "l")
    assert (tmp_path / "l/0").stat().st_nlink == 20
    with pytest.raises(InvalidInput, match="hard links that come later, and so on, are too many"):
        unpack(chain(2000), tmp_path / "m")


def test_hard_links_that_cannot_be(tmp_path: Path) -> None:
    cases = [
        [hard_link(b"a", b"nowhere")],
        [hard_link(b"a", b"a")],
        [hard_link(b"a", b"b"), hard_link(b"b", b"a")],
        [directory(b"d"), hard_link(b"a", b"d")],
        [hard_link(b"a", b".")],
        [file(b".wh.w"), hard_link(b"a", b"w")],
        [file(b"d/f"), hard_link(b"d", b"d/f")],
    ]
    for number, parts in enumerate(cases):
        with pytest.raises(InvalidInput):
            unpack(archive(*parts), tmp_path / str(number))


# -- marks


def test_whiteouts_before_and_after(tmp_path: Path) -> None:
    root = tmp_path / "l"
    unpack(
        archive(
            file(b"gone/.wh.one"), file(b".wh.d"), directory(b"d"), file(b"d/new"), directory(b"e"), file(b"e/new"),
            file(b".wh.e"), file(b"f", b"f"), file(b".wh.f"), file(b".wh.g"), file(b"g", b"g"), file(b".wh.h"),
            file(b"h/implied"), file(b".wh.twice"), file(b".wh.twice"),
        ),
        root,
    )  # fmt: skip
    assert is_whiteout(root / "gone/one") and is_whiteout(root / "twice")
    assert [opaque(root / name) for name in ("d", "e", "h", "gone")] == [b"y", b"y", b"y", None]
    assert (root / "f").read_bytes() == b"f" and (root / "g").read_bytes() == b"g"


def test_opaque_directories(tmp_path: Path) -> None:
    root = tmp_path / "l"
    unpack(
        archive(
            file(b"a/.wh..wh..opq"), file(b"a/x"), directory(b"b"), file(b"b/x"), file(b"b/.wh..wh..opq")
        ),
        root,
    )
    assert opaque(root / "a") == opaque(root / "b") == b"y"
    assert listing(root) == ["a", "a/x", "b", "b/x"]
    with pytest.raises(InvalidInput):
        unpack(archive(file(b".wh..wh..opq")), tmp_path / "root")


def test_whiteouts_below_what_is_no_directory(tmp_path: Path) -> None:
    """As umoci writes them, where a file took the place of a directory: it hides all of that already."""
    root = tmp_path / "l"
    unpack(
        archive(
            file(b"f", b"f"), file(b"f/.wh.x"), file(b"f/sub/.wh.x"), file(b"f/.wh..wh..opq"), file(b"g/.wh.x"),
            file(b"g", b"g"),
        ),
        root,
    )  # fmt: skip
    assert listing(root) == ["f", "g"]
    assert (root / "f").read_bytes() == b"f" and (root / "g").read_bytes() == b"g"
    with pytest.raises(InvalidInput, match="which is no directory"):
        unpack(archive(file(b"f", b"f"), file(b"f/x")), tmp_path / "other")


def test_files_of_aufs(tmp_path: Path) -> None:
    root = tmp_path / "l"
    applied = unpack(
        archive(
            file(b".wh..wh.aufs"), directory(b".wh..wh.orph"), file(b".wh..wh.orph/x", b"x"),
            directory(b".wh..wh.plnk"),
            file(b".wh..wh.plnk/1.2", b"linked"), hard_link(b"name", b".wh..wh.plnk/1.2"),
            hard_link(b".wh.x", b".wh..wh.aufs"),
        ),
        root,
    )  # fmt: skip
    assert listing(root) == ["name", "x"]
    assert is_whiteout(root / "x") and (root / "name").read_bytes() == b"linked"
    assert (root / "name").stat().st_nlink == 1
    assert (applied.size, applied.inodes) == (6, 3)


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh...", b"a/.wh.", b".wh.x/y"])
def test_whiteouts_of_what_cannot_be_hidden(tmp_path: Path, name: bytes) -> None:
    with pytest.raises(InvalidInput):
        unpack(archive(file(name)), tmp_path / "l")


def test_a_whiteout_is_a_file(tmp_path: Path) -> None:
    for number, part in enumerate(
        (directory(b".wh.x"), symlink(b".wh.x", b"y"), device(b".wh.x", "char", 1, 3))
    ):
        with pytest.raises(InvalidInput):
            unpack(archive(part), tmp_path / str(number))


def test_marks_where_no_device_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form with attributes, of whiteouts and of the directories that hold them."""
    real = os.mknod

    def refused(path: bytes, mode: int, device: int = 0, *, dir_fd: int | None = None) -> None:
        if device == WHITEOUT_DEV and stat.S_ISCHR(mode):
            raise PermissionError(1, "Operation not permitted")
        real(path, mode, device, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mknod", refused)
    root = tmp_path / "l"
    unpack(
        archive(
            file(b"a/.wh.x"), file(b"b/.wh.x"), file(b"b/.wh..wh..opq"), file(b"c/.wh..wh..opq"), file(b"c/.wh.x"),
            file(b"a/.wh.y"), file(b"a/y", b"y"), file(b"a/.wh.z"), directory(b"a/z"), file(b"a/.wh.x"),
        ),
        root,
        userxattr=True,
    )  # fmt: skip
    assert os.getxattr(root / "a/x", USER.whiteout) == b"y"
    assert os.getxattr(root / "a", USER.opaque) == b"x"
    assert os.getxattr(root / "b", USER.opaque) == os.getxattr(root / "c", USER.opaque) == b"y"
    assert listing(root) == ["a", "a/x", "a/y", "a/z", "b", "c"]
    assert os.getxattr(root / "a/z", USER.opaque) == b"y"


# -- attributes


def test_attributes_that_are_not_for_here(tmp_path: Path) -> None:
    root = tmp_path / "l"
    applied = unpack(
        archive(
            pax(
                (b"SCHILY.xattr.trusted.overlay.redirect", b"/etc"), (b"SCHILY.xattr.user.overlay.opaque", b"y"),
                (b"SCHILY.xattr.trusted.overlay.overlay.opaque", b"y"), (b"SCHILY.xattr.security.selinux", b"x"),
                (b"SCHILY.xattr.com.apple.provenance", b"x"), (b"SCHILY.xattr.user.kept", b"1"),
            ),
            directory(b"d"),
        ),
        root,
    )  # fmt: skip
    assert os.listxattr(root / "d") == ["user.kept"]
    assert applied.skipped == (("com.apple.provenance", 1),)


def test_attributes_that_the_kernel_refuses(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        unpack(archive(pax((b"SCHILY.xattr.security.capability", b"no")), file(b"f")), tmp_path / "l")


def test_ids_are_mapped_also_where_attributes_hold_them(tmp_path: Path) -> None:
    ids = IdMap(((0, 5000, 1), (1, 100_000, 65_535)), ((0, 6000, 1), (1, 200_000, 65_535)))
    root = tmp_path / "l"
    unpack(
        archive(
            file(b"f", uid=1, gid=2), symlink(b"s", b"x"), directory(b"d", uid=33),
            pax((b"SCHILY.xattr.security.capability", CAPABILITY)), file(b"c"),
            pax((b"SCHILY.xattr.system.posix_acl_access", ACL)), file(b"a"), file(b".wh.w"),
        ),
        root,
        ids=ids,
    )  # fmt: skip

    def owner(name: str) -> tuple[int, int]:
        return (root / name).lstat().st_uid, (root / name).lstat().st_gid

    assert owner(".") == owner("s") == owner("c") == (5000, 6000)
    assert owner("f") == (100_000, 200_001)
    assert owner("d") == (100_032, 6000)
    value = os.getxattr(root / "c", "security.capability")
    assert value[3] == 3 and value[20:] == (5000).to_bytes(4, "little")
    assert ids.reversed().xattr("security.capability", value) == CAPABILITY
    stored = os.getxattr(root / "a", "system.posix_acl_access")
    assert ids.reversed().xattr("system.posix_acl_access", stored) == ACL
    assert stored != ACL
    with pytest.raises(InvalidInput, match="subordinate"):
        unpack(archive(file(b"f", uid=70_000)), tmp_path / "m", ids=ids)


def test_ids_of_one_container_become_those_of_another() -> None:
    one = IdMap(((0, 1000, 1), (1, 100_000, 999)), ((0, 100_000, 1000),))
    other = IdMap(((0, 300_000, 500), (500, 7, 1), (501, 200_000, 100)), ((0, 200_000, 65536),))
    found = one.towards(other)
    wanted = {
        1000: 300_000, 100_000: 300_001, 100_499: 7, 100_500: 200_000, 100_599: 200_099,
        100_600: 100_600, 0: 0, 999: 999, 1001: 1001, 300_000: 300_000, 0xFFFFFFFE: 0xFFFFFFFE,
    }  # fmt: skip
    assert {number: found.uid(number) for number in wanted} == wanted
    assert [found.gid(number) for number in (99_999, 100_000, 100_999, 101_000)] == [
        99_999,
        200_000,
        200_999,
        101_000,
    ]


@pytest.mark.userns
def test_in_a_user_namespace(tmp_path: Path) -> None:
    """Devices cannot be made there, nor trusted attributes set; whiteouts can."""
    data = archive(
        device(b"null", "char", 1, 3), pax((b"SCHILY.xattr.trusted.t", b"1")), file(b"f", b"f"), file(b".wh.gone"),
        file(b"d/.wh..wh..opq"), block(b"p", b"6"),
    )  # fmt: skip
    os.chmod(tmp_path, 0o777)

    def inside() -> tuple[object, ...]:
        applied = unpack(data, tmp_path / "l", userxattr=True)
        return (
            applied.skipped,
            listing(tmp_path / "l"),
            os.getxattr(tmp_path / "l/d", USER.opaque),
            is_whiteout(tmp_path / "l/gone"),
        )

    skipped, names, mark, whiteout = in_user_namespace(inside)
    assert skipped == (("devices", 1), ("trusted.t", 1))
    assert names == ["d", "f", "gone", "p"] and mark == b"y" and whiteout


# -- content


def test_sparse_files_keep_their_holes(tmp_path: Path) -> None:
    data = archive(
        pax(
            (b"GNU.sparse.size", b"100000000"),
            (b"GNU.sparse.map", b"0,5,50000000,600"),
            (b"GNU.sparse.name", b"s"),
        ),
        file(b"x", b"begin" + b"m" * 600),
    )
    for size in (1 << 20, 100):
        root = tmp_path / str(size)
        applied = unpack(data, root, size=size)
        status = (root / "s").stat()
        assert status.st_size == applied.size == 100_000_000 and status.st_blocks < 1000
        with (root / "s").open("rb") as opened:
            assert opened.read(7) == b"begin\0\0"
            opened.seek(50_000_000)
            assert opened.read(601) == b"m" * 600 + b"\0"


@pytest.mark.parametrize("size", [100, 4096, 1 << 20])
def test_content_in_small_and_large_chunks(tmp_path: Path, size: int) -> None:
    contents = {b"f%d" % n: bytes([n % 251]) * (n * 777) for n in range(40)}
    unpack(archive(*[file(name, content) for name, content in contents.items()]), tmp_path / "l", size=size)
    assert {os.fsencode(p.name): p.read_bytes() for p in (tmp_path / "l").iterdir()} == contents


def test_an_error_says_which_file_and_what_to_do(tmp_path: Path) -> None:
    from lamina.linux.mount import mount
    from support.namespaces import in_mount_namespace

    def full() -> None:
        mount(b"none", os.fsencode(tmp_path), b"tmpfs", 0, b"size=64k")
        unpack(archive(*[file(b"f%d" % n, b"x" * 5000) for n in range(20)]), tmp_path / "l")

    with pytest.raises(KernelError, match=r"make file f\d+: .*free some space"):
        in_mount_namespace(full)


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = held_descriptors()
    unpack(archive(*[file(b"d%d/f" % n, b"x") for n in range(100)]), tmp_path / "a")
    with pytest.raises(InvalidInput):
        unpack(archive(*[file(b"d%d/f" % n, b"x") for n in range(100)], file(b"../x")), tmp_path / "b")
    assert held_descriptors() == before
