"""Mounting: both kernel interfaces, odd and long paths, hundreds of layers, detached mounts, flags and options."""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import E2BIG, EBADF, EBUSY, EINVAL, ENOENT, ENOSYS, EPERM
from pathlib import Path

import pytest

from lamina.errors import InvalidInput, MountError, Unsupported
from lamina.linux.constants import (
    FSCONFIG_SET_FD,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
)
from lamina.linux.mountinfo import Mount, read_mountinfo
from lamina.overlay.mount import attach, create, mount, takes_layers_one_by_one, umount
from lamina.overlay.options import parse_options
from lamina.overlay.spec import MountSpec
from support.apis import both_apis, one_by_one
from support.forbidden import forbid
from support.held import held_descriptors
from support.namespaces import in_mount_namespace, in_user_namespace

pytestmark = pytest.mark.root

ODD = {
    "colon": b"a:b",
    "two colons": b"::a::",
    "comma": b"a,b=c",
    "space": b" a b ",
    "backslash": b"a\\b",
    "backslash at the end": b"a\\",
    "escape-like": b"a\\:b\\,c\\\\d",
    "octal-like": b"\\040",
    "newline": b"a\nb\n",
    "tab and control": b"\t\x01\x7f",
    "not UTF-8": b"\xff\xfe\x80a",
    "UTF-8": "Übergröße".encode(),
    "quotes": b"a\"b'c",
    "option-like": b"upperdir=x,ro",
    "leading dash": b"-o",
    "hash": b"#a",
    "longest name": b"n" * 255,
    "longest name of backslashes": b"\\" * 255,
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A place with the directories A, B, C, work and merged; A/a and B/b say where they are from."""
    for name in ("A", "B", "C", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "A/a").write_text("A")
    (tmp_path / "B/b").write_text("B")
    return tmp_path


def inside(directory: Path, work: Callable[[], None]) -> None:
    """Do *work* in a mount namespace of its own, in *directory*."""

    def there() -> None:
        os.chdir(directory)
        work()

    in_mount_namespace(there)


def mounted(target: bytes | str = b"merged") -> Mount:
    """The overlay on *target* in the mount table."""
    place = os.path.realpath(os.fsencode(target))
    return [row for row in read_mountinfo() if row.mount_point == place and row.fstype == b"overlay"][-1]


def everyday() -> MountSpec:
    return MountSpec(lowerdirs=(b"A", b"B"), upperdir=b"C", workdir=b"work")


@both_apis
def test_mount_write_and_unmount(here: Path, api: str) -> None:
    def work() -> None:
        mount(everyday(), "merged", api=api)
        assert Path("merged/a").read_text() + Path("merged/b").read_text() == "AB"
        Path("merged/new").write_text("C")
        umount("merged")
        assert os.listdir("merged") == []

    inside(here, work)
    assert (here / "C/new").read_text() == "C"
    assert os.listdir(here / "A") == ["a"]


@both_apis
def test_nothing_is_seen_outside(here: Path, api: str) -> None:
    inside(here, lambda: mount(everyday(), "merged", api=api))
    assert os.listdir(here / "merged") == []


@both_apis
@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_odd_paths(here: Path, api: str, name: bytes) -> None:
    base = os.path.join(os.fsencode(here), name)
    for role in (b"lower", b"second", b"upper", b"work", b"merged"):
        os.makedirs(os.path.join(base, role))
    Path(os.fsdecode(base), "lower/file").write_text("lower")
    Path(os.fsdecode(base), "second/other").write_text("second")
    for prefix in (base, name):  # absolute and relative
        spec = MountSpec(
            lowerdirs=(os.path.join(prefix, b"lower"), os.path.join(prefix, b"second")),
            upperdir=os.path.join(prefix, b"upper"),
            workdir=os.path.join(prefix, b"work"),
        )

        def work(spec: MountSpec = spec) -> None:
            target = Path(os.fsdecode(base), "merged")
            mount(spec, target, api=api)
            assert (target / "file").read_text() + (target / "other").read_text() == "lowersecond"
            (target / "new").write_text("new")
            assert Path(os.fsdecode(base), "upper/new").read_text() == "new"
            # the mount table, read as the kernel escapes it, names it all
            with pytest.raises(MountError, match="in use, as the upperdir") as caught:
                mount(spec, target, api=api)
            assert str(caught.value).isprintable()

        inside(here, work)


@both_apis
def test_relative_paths_are_those_of_the_caller(here: Path, api: str) -> None:
    (here / "deep/er").mkdir(parents=True)

    def work() -> None:
        os.chdir("deep/er")
        mount(
            parse_options("lowerdir=../../A:.././../B,upperdir=../../C,workdir=../../work"),
            "../../merged",
            api=api,
        )
        os.chdir(here)
        Path("merged/new").touch()
        shown = dict(option.partition(b"=")[::2] for option in mounted().super_options)
        assert shown[b"upperdir"].startswith(b"/"), "so that others know where it is"

    inside(here, work)
    assert (here / "C/new").exists()


@both_apis
def test_symbolic_links_are_followed(here: Path, api: str) -> None:
    for name in ("A", "C", "work", "merged"):
        (here / f"to-{name}").symlink_to(name)

    def work() -> None:
        spec = parse_options("lowerdir=to-A:B,upperdir=to-C,workdir=to-work")
        mount(spec, "to-merged", api=api)
        assert sorted(os.listdir("merged")) == ["a", "b"]
        umount("to-merged")
        assert os.listdir("merged") == []

    inside(here, work)


def long_layers(here: Path, count: int, length: int) -> MountSpec:
    """*count* layers with paths of at least *length* bytes; file number N is in layer N, `top` in every one."""
    base = here
    while len(os.fsencode(base)) < length:
        base = base / ("x" * 100)
    lowers = []
    for number in range(count):
        layer = base / f"{number:03}"
        layer.mkdir(parents=True)
        (layer / f"file{number:03}").touch()
        (layer / "top").write_text(str(number))
        lowers.append(os.fsencode(layer))
    return MountSpec(lowerdirs=tuple(lowers), upperdir=b"C", workdir=b"work")


@one_by_one
@pytest.mark.parametrize("length", [200, 300])
def test_400_layers_with_long_paths(here: Path, length: int) -> None:
    spec = long_layers(here, 400, length)

    def work() -> None:
        mount(spec, "merged")
        assert sorted(os.listdir("merged")) == [f"file{n:03}" for n in range(400)] + ["top"]
        assert Path("merged/top").read_text() == "0"

    inside(here, work)


@one_by_one
def test_500_layers_and_no_more(here: Path) -> None:
    spec = long_layers(here, 501, 0)

    def work() -> None:
        mount(MountSpec(lowerdirs=spec.lowerdirs[:500]), "merged")
        assert len(os.listdir("merged")) == 501
        with pytest.raises(MountError, match="501 lower layers, the kernel takes 500") as caught:
            mount(spec, "merged")
        assert caught.value.errno == EINVAL

    inside(here, work)


def test_mount2_says_when_its_page_is_full(here: Path) -> None:
    spec = long_layers(here, 30, 200)

    def work() -> None:
        with pytest.raises(MountError, match="carries 4095 bytes of options, these 32 dir") as caught:
            mount(spec, "merged", api="mount2")
        assert caught.value.errno == E2BIG
        assert "6.8" in caught.value.remedy
        os.chdir(os.path.dirname(spec.lowerdirs[0]))  # shorter as relative paths: these fit
        short = MountSpec(lowerdirs=tuple(map(os.path.basename, spec.lowerdirs)))
        mount(short, here / "merged", api="mount2")
        assert len(os.listdir(here / "merged")) == 31

    inside(here, work)


@both_apis
def test_paths_of_255_and_256_bytes(here: Path, api: str) -> None:
    """Where a string parameter of the new interface ends."""
    for length in (254, 255, 256, 257):
        base = os.fsencode(here) + b"/"
        path = base + b"y" * (length - len(base))
        assert len(path) == length
        os.mkdir(path)
        Path(os.fsdecode(path), str(length)).touch()

    def work() -> None:
        layers = [
            b"/".join((os.fsencode(here), name))
            for name in sorted(os.listdir(os.fsencode(here)))
            if name[:1] == b"y"
        ]
        spec = MountSpec(lowerdirs=tuple(layers[:2]), upperdir=layers[2], workdir=layers[3])
        mount(spec, "merged", api=api)
        assert sorted(os.listdir("merged")) == ["254", "255", "256"]

    inside(here, work)


@both_apis
def test_read_only_stack(here: Path, api: str) -> None:
    def work() -> None:
        mount(MountSpec(lowerdirs=(b"A", b"B")), "merged", api=api)
        assert sorted(os.listdir("merged")) == ["a", "b"]
        with pytest.raises(OSError, match="Read-only file system"):
            Path("merged/new").touch()

    inside(here, work)


@pytest.mark.kernel("6.5")
@both_apis
def test_data_only_layers(here: Path, api: str) -> None:
    """A metacopy file in the ordinary layer, its content in the data-only layer, invisible by itself."""
    (here / "B/content").write_text("from below")
    (here / "A/file").write_bytes(b"")
    os.truncate(here / "A/file", 10)
    os.setxattr(here / "A/file", "trusted.overlay.metacopy", b"")
    os.setxattr(here / "A/file", "trusted.overlay.redirect", b"/content")

    def work() -> None:
        mount(parse_options("lowerdir=A::B,metacopy=on"), "merged", api=api)
        assert sorted(os.listdir("merged")) == ["a", "file"]
        assert Path("merged/file").read_text() == "from below"

    inside(here, work)


@pytest.mark.kernel("6.6")  # uuid=null
@both_apis
def test_options_reach_the_kernel(here: Path, api: str) -> None:
    text = "lowerdir=A:B,upperdir=C,workdir=work,volatile,metacopy=on,redirect_dir=on,index=off,uuid=null"

    def work() -> None:
        spec = parse_options(f"{text},default_permissions,sync,dirsync,lazytime")
        mount(spec, "merged", api=api, source="some source")
        row = mounted()
        assert {b"metacopy=on", b"redirect_dir=on", b"uuid=null", b"default_permissions"} <= {
            *row.super_options
        }
        assert {b"volatile", b"fsync=volatile"} & {*row.super_options}  # 7.0 shows it so
        assert {b"sync", b"dirsync", b"lazytime"} <= {*row.super_options, *row.options}
        assert row.source == b"some source"
        umount("merged")

    inside(here, work)


@both_apis
def test_attributes_of_the_mount(here: Path, api: str) -> None:
    plain = (
        MOUNT_ATTR_RDONLY
        | MOUNT_ATTR_NOSUID
        | MOUNT_ATTR_NODEV
        | MOUNT_ATTR_NOEXEC
        | MOUNT_ATTR_NODIRATIME
        | MOUNT_ATTR_NOSYMFOLLOW
    )
    shown = {b"ro", b"nosuid", b"nodev", b"noexec", b"nodiratime", b"nosymfollow"}

    def work() -> None:
        for attributes, words in (
            (0, {b"rw", b"relatime"}),
            (plain | MOUNT_ATTR_NOATIME, shown | {b"noatime"}),
            (MOUNT_ATTR_STRICTATIME, {b"rw"}),
        ):
            mount(everyday(), "merged", attributes=attributes, api=api)
            assert {*mounted().options} == words
            umount("merged")

    inside(here, work)


@one_by_one
def test_a_detached_stack_is_used_by_descriptor_and_ends_with_it(here: Path) -> None:
    def work() -> None:
        before = read_mountinfo()
        with create(everyday()) as tree:
            file = os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=tree)
            os.close(file)
            assert sorted(os.listdir(f"/proc/self/fd/{int(tree)}")) == ["a", "b", "new"]
            assert read_mountinfo() == before
        mount(everyday(), "merged", api="mount2")  # upperdir is free again

    inside(here, work)
    assert (here / "C/new").exists()


@one_by_one
@pytest.mark.parametrize("by", ["path", "descriptor"])
def test_attach(here: Path, by: str) -> None:
    def work() -> None:
        target = os.open("merged", os.O_PATH) if by == "descriptor" else b"merged"
        with create(everyday(), attributes=MOUNT_ATTR_NODEV) as tree:
            attach(tree, target)
        assert sorted(os.listdir("merged")) == ["a", "b"]
        assert b"nodev" in mounted().options

    inside(here, work)


@one_by_one
def test_attach_to_nothing(here: Path) -> None:
    def work() -> None:
        with create(everyday()) as tree:
            with pytest.raises(MountError, match="on nowhere: the mount point does not exist") as caught:
                attach(tree, "nowhere")
            assert (caught.value.errno, caught.value.call) == (ENOENT, "move_mount")
            with pytest.raises(MountError, match="the mount point is not a directory"):
                attach(tree, "A/a")
            with open("A/a") as file, pytest.raises(MountError, match=f"on {here}/A/a: "):
                attach(tree, file.fileno())
            attach(tree, "merged")

    inside(here, work)


def test_unmounting_what_is_not_mounted_or_in_use(here: Path) -> None:
    def work() -> None:
        with pytest.raises(MountError, match="unmount merged: nothing is mounted there") as caught:
            umount("merged")
        assert caught.value.errno == EINVAL
        with pytest.raises(MountError, match="unmount nowhere: there is no such directory"):
            umount("nowhere")
        mount(everyday(), "merged")
        with open("merged/a"):
            with pytest.raises(MountError, match="it is in use") as caught:
                umount("merged")
            assert caught.value.errno == EBUSY
            umount("merged", detach=True)
            assert os.listdir("merged") == []

    inside(here, work)


@pytest.mark.userns
def test_unmounting_what_came_with_a_user_namespace(here: Path) -> None:
    def there() -> None:
        with pytest.raises(MountError, match="merged: it came with this user namespace"):
            umount("merged")

    def work() -> None:
        mount(everyday(), "merged")
        in_user_namespace(there)

    inside(here, work)


@pytest.mark.parametrize("errno", [ENOSYS, EPERM], ids=["old kernel", "seccomp filter of a container"])
def test_without_the_new_interface(here: Path, errno: int) -> None:
    def work() -> None:
        takes_layers_one_by_one.cache_clear()
        forbid("fsopen", errno)
        mount(everyday(), "merged")
        assert sorted(os.listdir("merged")) == ["a", "b"]
        umount("merged")
        if errno == ENOSYS:
            with pytest.raises(Unsupported, match="lowerdir") as caught:
                create(everyday())
            assert "mount2" in caught.value.remedy
            with pytest.raises(Unsupported):
                mount(everyday(), "merged", api="new")

    inside(here, work)


@one_by_one
def test_kernels_whose_overlay_takes_no_descriptors(here: Path) -> None:
    """6.8 to 6.12: relative paths stay as they are, long ones go by way of /proc/self/fd."""
    spec = long_layers(here, 3, 300)

    def work() -> None:
        forbid("fsconfig", EBADF, argument=(1, FSCONFIG_SET_FD))
        mount(spec, "merged", api="new")
        assert sorted(os.listdir("merged")) == ["file000", "file001", "file002", "top"]
        assert b"upperdir=C" in mounted().super_options

    inside(here, work)


def test_an_unknown_interface() -> None:
    with pytest.raises(InvalidInput, match="api is one of auto, new, mount2"):
        mount(everyday(), "merged", api="old")


@pytest.mark.parametrize(
    "spec",
    [
        MountSpec(lowerdirs=(b"", b"B")),
        MountSpec(lowerdirs=(b"A", b"B\0")),
        MountSpec(lowerdirs=(b"A",), upperdir=b"\0", workdir=b"work"),
    ],
)
def test_what_is_no_path(here: Path, spec: MountSpec) -> None:
    for api in ("new", "mount2"):
        with pytest.raises(InvalidInput, match="is not a path"):
            mount(spec, here / "merged", api=api)


@one_by_one
def test_no_descriptor_is_left(here: Path) -> None:
    spec = long_layers(here, 20, 300)

    def work() -> None:
        before = held_descriptors()
        mount(spec, "merged")
        with pytest.raises(MountError):
            mount(MountSpec(lowerdirs=(*spec.lowerdirs, b"nowhere")), "merged")
        assert held_descriptors() == before

    inside(here, work)
