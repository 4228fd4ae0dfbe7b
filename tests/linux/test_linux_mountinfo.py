"""mountinfo: the documented format, odd names, and which mount a path lies on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import KernelError
from lamina.linux import constants as c
from lamina.linux.mount import mount
from lamina.linux.mountinfo import (
    Mount,
    MountTable,
    covers,
    mount_of,
    parse_mountinfo,
    prefixes,
    read_mount,
    read_mount_ids,
    read_mountinfo,
    unescape,
)
from support.namespaces import in_mount_namespace

MANUAL = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"


def entry(id: int, parent: int, point: bytes, options: bytes = b"rw") -> Mount:
    line = b"%d %d 0:%d / %s %s - tmpfs tmpfs rw" % (id, parent, id, point, options)
    return parse_mountinfo(line)[0]


def test_the_manuals_example() -> None:
    (found,) = parse_mountinfo(MANUAL)
    assert found == Mount(
        id=36, parent=35, major=98, minor=0, root=b"/mnt1", mount_point=b"/mnt2", options=(b"rw", b"noatime"),
        propagation=(b"master:1",), fstype=b"ext3", source=b"/dev/root",
        super_options=(b"rw", b"errors=continue"),
    )  # fmt: skip
    assert found.device == os.makedev(98, 0)
    assert not found.read_only


@pytest.mark.parametrize(
    ("line", "propagation", "source", "super_options"),
    [
        (b"1 2 0:5 / / ro - tmpfs tmpfs rw", (), b"tmpfs", (b"rw",)),
        (b"1 2 0:5 / / rw shared:7 master:2 propagate_from:1 unbindable - x y ro",
         (b"shared:7", b"master:2", b"propagate_from:1", b"unbindable"), b"y", (b"ro",)),
        (b"1 2 0:5 / / ro - fuse.a\\040b  rw", (), b"", (b"rw",)),  # a source may be empty
        (b"1 2 0:5 / / ro - 9p none rw,a=b c,d", (), b"none", (b"rw", b"a=b c", b"d")),  # unescaped by the kernel
    ],
)  # fmt: skip
def test_lines(line: bytes, propagation: object, source: bytes, super_options: object) -> None:
    (found,) = parse_mountinfo(line)
    assert (found.propagation, found.source, found.super_options) == (propagation, source, super_options)
    assert found.read_only


@pytest.mark.parametrize("line", [b"garbage", b"1 2 0:5 / / rw shared:1 ext4", b"x 2 0:5 / / rw - a b c"])
def test_what_is_no_line(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_mountinfo(line)


@given(st.binary().filter(lambda name: b"\0" not in name))
def test_escapes_are_undone(name: bytes) -> None:
    special = b" \t\n\\#"
    escaped = b"".join(b"\\%03o" % byte if byte in special else bytes((byte,)) for byte in name)
    assert unescape(escaped) == name


def test_what_is_no_escape_stays() -> None:
    assert unescape(rb"a\9b\04") == rb"a\9b\04"
    assert unescape(b"\\") == b"\\"
    assert unescape(rb"\777\180\12x") == rb"\777\180\12x"


def where_nobody_mounts(stage: Callable[[], None]) -> None:
    """Meanwhile; as far as we may."""
    if os.geteuid() == 0:
        in_mount_namespace(stage)
    else:
        stage()


def test_this_process() -> None:
    def stage() -> None:
        mounts = read_mountinfo()
        assert mounts == read_mountinfo(os.getpid())
        proc = mount_of(b"/proc/self", mounts)
        assert proc is not None
        assert proc.fstype == b"proc"
        assert proc.device == os.stat("/proc").st_dev

    where_nobody_mounts(stage)


def test_a_process_that_is_gone() -> None:
    with pytest.raises(KernelError, match="/proc/4194305/mountinfo") as caught:
        read_mountinfo(4194305)  # above the largest pid there can be
    assert caught.value.errno == errno.ENOENT


def test_which_mount_a_path_lies_on() -> None:
    root, home, deep, over = (
        entry(1, 0, b"/"), entry(2, 1, b"/home"), entry(3, 2, b"/home/a"), entry(4, 2, b"/home"),
    )  # fmt: skip
    mounts = [home, root, deep]  # a parent may come later
    assert mount_of(b"/", mounts) is root
    assert mount_of(b"/homes", mounts) is root
    assert mount_of(b"/home", mounts) is home
    assert mount_of(b"/home/a/b", mounts) is deep
    assert mount_of(b"/home/ab", mounts) is home
    # a later mount over /home hides what is mounted below it
    assert mount_of(b"/home/a/b", [*mounts, over]) is over
    assert mount_of(b"/x", [home]) is None


def test_covers() -> None:
    assert covers(b"/", b"/a")
    assert covers(b"/a", b"/a")
    assert not covers(b"/a", b"/ab")


def test_one_mount_and_the_ids_of_all() -> None:
    def stage() -> None:
        every = read_mountinfo()
        assert read_mount_ids() == {one.id for one in every}
        for one in every:
            assert read_mount(one.id) == one
        longer = min(one.id for one in every) * 10  # begins with the same digits
        assert read_mount(longer) == next((one for one in every if one.id == longer), None)

    where_nobody_mounts(stage)
    assert read_mount(-1) is None
    for read in (read_mount_ids, lambda pid: read_mount(1, pid)):
        with pytest.raises(KernelError) as caught:
            read(0x7FFFFFFF)
        assert caught.value.errno == errno.ENOENT


@pytest.mark.root
def test_odd_mount_points(tmp_path: Path) -> None:
    names = [b"two words", b"tab\tnew\nline", b"back\\slash", b"\xff\xfe", b"#hash", b"\\040"]

    def stage() -> None:
        for name in names:
            place = os.path.join(os.fsencode(tmp_path), name)
            os.mkdir(place)
            mount(name, place, "tmpfs", c.MS_NOSUID)
        found = {m.mount_point: m for m in read_mountinfo()}
        for name in names:
            here = found[os.path.join(os.fsencode(tmp_path), name)]
            assert here.source == name
            assert b"nosuid" in here.options
            assert here.device == os.stat(here.mount_point).st_dev

    in_mount_namespace(stage)


def naive(path: bytes, mounts: list[Mount]) -> Mount | None:
    """A path walk, as `mount_of` describes it, with a look at every mount at each step."""
    known = {mount.id for mount in mounts}
    here = None
    while True:
        met = [
            mount
            for mount in mounts
            if (mount.parent if mount.parent in known else None) == (here.id if here else None)
            and covers(mount.mount_point, path)
        ]
        if not met:
            return here
        here = min(met, key=lambda mount: len(mount.mount_point))


PLACES = st.lists(st.sampled_from([b"a", b"b", b"ab"]), max_size=4).map(lambda names: b"/" + b"/".join(names))


@given(st.lists(st.tuples(st.integers(0, 9), PLACES), max_size=9), st.lists(PLACES, max_size=5))
def test_a_table_finds_what_a_walk_finds(made: list[tuple[int, bytes]], paths: list[bytes]) -> None:
    lines = [b"1 0 8:1 / / rw - ext4 x rw"]
    for number, (parent, place) in enumerate(made, 2):
        lines.append(b"%d %d 8:1 / %s rw - ext4 x rw" % (number, min(parent, number - 1), place))
    mounts = parse_mountinfo(b"\n".join(lines))
    table = MountTable(mounts)
    for path in paths:
        assert table.mount_of(path) is mount_of(path, mounts) is naive(path, mounts)


def test_the_directories_on_the_way_to_a_path() -> None:
    assert list(prefixes(b"/")) == [b"/"]
    assert list(prefixes(b"/a/bc/d")) == [b"/", b"/a", b"/a/bc", b"/a/bc/d"]
