"""The mount API on the running kernel, in private mount namespaces; statmount and mountinfo must agree."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lamina.errors import KernelError
from lamina.linux import constants as c
from lamina.linux.fd import Fd
from lamina.linux.files import statfs, statx
from lamina.linux.mount import (
    fsconfig,
    fsmessages,
    fsmount,
    fsopen,
    fspick,
    listmount,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
    pivot_root,
    statmount,
    umount2,
)
from lamina.linux.mountinfo import mount_of, read_mountinfo
from lamina.linux.probe import probe
from support.namespaces import in_mount_namespace, in_user_namespace

needs_statmount = pytest.mark.skipif(not probe().statmount, reason=f"{probe().statmount}")


def attach(fd: int, place: Path) -> None:
    move_mount(fd, "", c.AT_FDCWD, place, c.MOVE_MOUNT_F_EMPTY_PATH)


def new_tmpfs(attr_flags: int = 0, **options: str) -> Fd:
    with fsopen("tmpfs") as context:
        for key, text in options.items():
            fsconfig(context, c.FSCONFIG_SET_STRING, key, text)
        fsconfig(context, c.FSCONFIG_CMD_CREATE, None, None)
        return fsmount(context, attr_flags=attr_flags)


@pytest.mark.root
def test_a_mount_is_made_detached_and_attached(door: str, tmp_path: Path) -> None:
    def stage() -> None:
        with new_tmpfs(c.MOUNT_ATTR_NOSUID, mode="0751", size="1M") as made:
            assert not os.get_inheritable(made)
            assert (os.stat(made).st_mode & 0o777) == 0o751
            attach(made, tmp_path)
        assert statfs(tmp_path).type == c.TMPFS_MAGIC
        (tmp_path / "file").write_text("x")
        umount2(tmp_path)
        assert not (tmp_path / "file").exists()

    in_mount_namespace(stage)


@pytest.mark.root
def test_an_overlay_of_directories_with_odd_names(door: str, tmp_path: Path) -> None:
    def stage() -> None:
        base = os.fsencode(tmp_path)
        names = [b"a:b,c", b"\xff", b"back\\slash", b"two words"]
        for name in names:
            os.mkdir(os.path.join(base, name))
            with open(os.path.join(base, name, b"in " + name), "wb"):
                pass
        with fsopen("overlay") as context:
            for name in names:
                fsconfig(context, c.FSCONFIG_SET_STRING, "lowerdir+", os.path.join(base, name))
            fsconfig(context, c.FSCONFIG_CMD_CREATE, None, None)
            with fsmount(context) as merged:
                found = os.listdir(b"/proc/self/fd/%d" % merged)
                assert sorted(found) == sorted(b"in " + n for n in names)

    if not probe().overlay_lowerdir_plus:
        pytest.skip(str(probe().overlay_lowerdir_plus))
    in_mount_namespace(stage)


@pytest.mark.root
def test_the_kernel_says_why(door: str, tmp_path: Path) -> None:
    def stage() -> None:
        with fsopen("tmpfs") as context:
            assert fsmessages(context) == []
            with pytest.raises(KernelError, match="fsconfig frobnicate") as caught:
                fsconfig(context, c.FSCONFIG_SET_STRING, "frobnicate", "1")
            assert caught.value.errno == errno.EINVAL
            said = fsmessages(context)
            assert any(line.startswith("e ") and "frobnicate" in line for line in said)
            assert fsmessages(context) == []
        said_no = pytest.raises(KernelError, match="fsconfig FSCONFIG_CMD_CREATE: Invalid argument")
        with fsopen("overlay") as context, said_no:
            fsconfig(context, c.FSCONFIG_CMD_CREATE, None, None)

    in_mount_namespace(stage)


@pytest.mark.root
def test_longest_string(door: str) -> None:
    def stage() -> None:
        with fsopen("overlay") as context, pytest.raises(KernelError) as caught:
            fsconfig(context, c.FSCONFIG_SET_STRING, "lowerdir+", "/" + "x" * 255)
        assert caught.value.errno == errno.EINVAL

    in_mount_namespace(stage)


@pytest.mark.root
def test_bind_by_open_tree_and_attributes(door: str, tmp_path: Path) -> None:
    def stage() -> None:
        source, target = tmp_path / "source", tmp_path / "target"
        (source / "sub").mkdir(parents=True)
        target.mkdir()
        mount("tmpfs", source / "sub", "tmpfs")
        flags = c.OPEN_TREE_CLONE | c.AT_RECURSIVE
        with open_tree(c.AT_FDCWD, source, flags) as tree:
            mount_setattr(tree, "", c.AT_EMPTY_PATH | c.AT_RECURSIVE, attr_set=c.MOUNT_ATTR_RDONLY)
            attach(tree, target)
        for place in (target, target / "sub"):
            with pytest.raises(OSError) as caught:
                (place / "file").touch()
            assert caught.value.errno == errno.EROFS
        (source / "sub" / "file").touch()
        mount_setattr(c.AT_FDCWD, target, 0, attr_clr=c.MOUNT_ATTR_RDONLY, propagation=c.MS_PRIVATE)
        (target / "file").touch()

    in_mount_namespace(stage)


@pytest.mark.root
def test_reconfigure_a_mounted_file_system(door: str, tmp_path: Path) -> None:
    def stage() -> None:
        mount("tmpfs", tmp_path, "tmpfs", 0, "size=1M")
        with fspick(c.AT_FDCWD, tmp_path) as context:
            fsconfig(context, c.FSCONFIG_SET_STRING, "size", "2M")
            fsconfig(context, c.FSCONFIG_CMD_RECONFIGURE, None, None)
        assert os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize == 2 << 20

    in_mount_namespace(stage)


@pytest.mark.root
def test_old_mount_with_flags_and_data(door: str, tmp_path: Path) -> None:
    def stage() -> None:
        mount(b"none", os.fsencode(tmp_path), b"tmpfs", c.MS_NODEV | c.MS_NOEXEC, b"mode=0700")
        mount(None, tmp_path, None, c.MS_REMOUNT | c.MS_BIND | c.MS_RDONLY)
        found = mount_of(os.fsencode(tmp_path), read_mountinfo())
        assert found is not None
        assert found.read_only
        assert found.source == b"none"
        mount(tmp_path, tmp_path, None, c.MS_BIND)
        umount2(tmp_path, c.MNT_DETACH | c.UMOUNT_NOFOLLOW)
        umount2(tmp_path)
        with pytest.raises(KernelError, match="umount2") as caught:
            umount2(tmp_path)
        assert caught.value.errno == errno.EINVAL

    in_mount_namespace(stage)


@pytest.mark.root
def test_pivot_root(door: str, tmp_path: Path) -> None:
    def stage() -> list[str]:
        mount("tmpfs", tmp_path, "tmpfs")
        (tmp_path / "here").touch()
        os.chdir(tmp_path)
        pivot_root(".", ".")
        umount2(".", c.MNT_DETACH)
        os.chdir("/")
        return os.listdir("/")

    assert in_mount_namespace(stage) == ["here"]


@pytest.mark.userns
def test_everything_without_root(door: str, tmp_path: Path) -> None:
    def stage() -> None:
        with new_tmpfs() as made:
            attach(made, tmp_path)
        (tmp_path / "lower").mkdir()
        (tmp_path / "other").mkdir()
        (tmp_path / "lower" / "file").touch()
        with fsopen("overlay") as context:
            for name in ("lower", "other"):
                fsconfig(context, c.FSCONFIG_SET_STRING, "lowerdir+", tmp_path / name)
            fsconfig(context, c.FSCONFIG_SET_FLAG, "userxattr", None)
            fsconfig(context, c.FSCONFIG_CMD_CREATE, None, None)
            with fsmount(context) as merged:
                assert os.listdir(f"/proc/self/fd/{int(merged)}") == ["file"]

    for answer in (probe().overlay_lowerdir_plus, probe().overlay_in_user_namespace):
        if not answer:
            pytest.skip(str(answer))
    in_user_namespace(stage)


def test_refusals_without_privilege(door: str) -> None:
    with pytest.raises(KernelError) as caught:
        fsopen("no-such-file-system")
    assert caught.value.errno in (errno.ENODEV, errno.EPERM)
    with pytest.raises(KernelError, match="open_tree /no/where") as caught:
        open_tree(c.AT_FDCWD, b"/no/where", 0)
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(KernelError) as caught:
        move_mount(-1, "", -1, "", 0xF000)
    assert caught.value.errno in (errno.EINVAL, errno.EPERM)


@needs_statmount
def test_statmount_and_mountinfo_agree(door: str) -> None:
    def stage() -> None:
        by_old_id = {m.id: m for m in read_mountinfo()}
        everything = statmount(statx(c.AT_FDCWD, "/", mask=c.STATX_MNT_ID_UNIQUE).mnt_id, 0x7FFF)
        compared = 0
        for identity in listmount():
            status = statmount(identity, everything.mask | c.STATMOUNT_FS_SUBTYPE)
            line = by_old_id.get(status.mnt_id_old)
            if line is None:
                continue
            compared += 1
            assert status.mnt_id == identity
            assert (status.mnt_point, status.mnt_root) == (line.mount_point, line.root)
            assert status.fs_type + (b"." + status.fs_subtype if status.fs_subtype else b"") == line.fstype
            assert status.sb_dev == line.device
            assert status.mnt_parent_id_old == line.parent
            assert bool(status.mnt_attr & c.MOUNT_ATTR_RDONLY) == (b"ro" in line.options)
            assert bool(status.mnt_attr & c.MOUNT_ATTR_NOSUID) == (b"nosuid" in line.options)
            assert bool(status.mnt_propagation & c.MS_SHARED) == any(
                p.startswith(b"shared:") for p in line.propagation
            )
            if status.mask & c.STATMOUNT_SB_SOURCE:
                assert status.sb_source == line.source
            if status.mask & c.STATMOUNT_OPT_ARRAY:
                assert set(status.opt_array) <= set(line.super_options)
        assert compared >= len(by_old_id) - 1  # the root of all is shown by one of them only

    if os.geteuid() == 0:
        in_mount_namespace(stage)  # where nobody else mounts meanwhile
    else:
        stage()


@needs_statmount
@pytest.mark.root
def test_statmount_makes_room_for_long_answers(door: str, tmp_path: Path) -> None:
    def stage() -> None:
        deep = tmp_path
        for _ in range(15):
            deep = deep / ("d" * 250)
        deep.mkdir(parents=True)
        os.chdir(deep)
        with new_tmpfs() as made:
            attach(made, Path("."))
        found = [statmount(i) for i in listmount()]
        assert os.fsencode(deep) in [m.mnt_point for m in found]

    in_mount_namespace(stage)


@needs_statmount
def test_listmount_in_pages(door: str) -> None:
    def stage() -> None:
        everything = listmount()
        assert len(everything) > 2
        pages: list[int] = []
        while page := listmount(c.LSMT_ROOT, pages[-1] if pages else 0, 2):
            pages += page
        assert pages == everything
        with pytest.raises(KernelError) as caught:
            statmount(0x7FFFFFFFFFFF)
        assert caught.value.errno == errno.ENOENT

    if os.geteuid() == 0:
        in_mount_namespace(stage)
    else:
        stage()
