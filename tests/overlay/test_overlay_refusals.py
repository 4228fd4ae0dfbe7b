"""Every refusal, provoked for real: which directory, why, what to do. And what the kernel would do in silence."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from errno import (
    EACCES,
    EBUSY,
    EINVAL,
    ELOOP,
    EMFILE,
    ENODEV,
    ENOENT,
    ENOSPC,
    ENOTDIR,
    EOPNOTSUPP,
    EPERM,
    EROFS,
    ESTALE,
    errorcode,
)
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import MountError
from lamina.linux.capabilities import capget, capset
from lamina.linux.constants import MOUNT_ATTR_RDONLY, MS_BIND, MS_UNBINDABLE
from lamina.linux.mount import mount as mount_anything
from lamina.linux.mountinfo import read_mountinfo
from lamina.overlay.mount import create, mount, takes_layers_one_by_one, umount
from lamina.overlay.options import parse_options
from lamina.overlay.refusals import explain_refusal
from lamina.overlay.spec import MountSpec
from lamina.values import replace
from support.apis import both_apis, one_by_one
from support.forbidden import forbid
from support.namespaces import in_mount_namespace, in_user_namespace

root = pytest.mark.root
userns = pytest.mark.userns
EVERYDAY = "lowerdir=A:B,upperdir=C,workdir=work"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    for name in ("A/sub", "B", "C/sub", "work/sub", "merged", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    return tmp_path


def refused(options: str | MountSpec, target: str = "merged", api: str = "auto") -> MountError:
    """The error of mounting *options* in the working directory. Nothing may be mounted then."""
    spec = parse_options(options) if isinstance(options, str) else options
    before = read_mountinfo()
    with pytest.raises(MountError) as caught:
        mount(spec, target, api=api)
    assert read_mountinfo() == before
    error = caught.value
    assert str(error).isprintable()
    assert error.filename == target
    assert error.remedy
    return error


def inside(directory: Path, work: Callable[[], None]) -> None:
    def there() -> None:
        os.chdir(directory)
        work()

    in_mount_namespace(there)


# -- by name ---------------------------------------------------------------------------------------------------

BY_NAME = {
    "missing lower": (
        "lowerdir=A:nowhere",
        ENOENT,
        "lowerdir nowhere does not exist (relative to ",
        "create",
    ),
    "missing upper": (
        "lowerdir=A,upperdir=nowhere/u,workdir=work",
        ENOENT,
        "upperdir nowhere/u does not",
        "create",
    ),
    "missing work": (
        "lowerdir=A,upperdir=C,workdir=nowhere",
        ENOENT,
        "workdir nowhere does not exist",
        "create",
    ),
    "missing absolute": ("lowerdir=A:/nowhere/x", ENOENT, "lowerdir /nowhere/x does not exist", "create"),
    "dangling link": (
        "lowerdir=A:dangling",
        ENOENT,
        "dangling is a symbolic link that leads nowhere",
        "link",
    ),
    "below a file": ("lowerdir=A:file/x", ENOTDIR, "lowerdir file/x: Not a directory", "correct"),
    "lower is a file": (
        "lowerdir=A:file",
        EINVAL,
        "lowerdir file is a file, not a directory",
        "give a directory",
    ),
    "upper is a file": ("lowerdir=A,upperdir=file,workdir=work", EINVAL, "upperdir file is a file", "give"),
    "work is a device": ("lowerdir=A,upperdir=C,workdir=/dev/null", EINVAL, "is a character device", "give"),
    "one lower alone": (
        "lowerdir=A",
        EINVAL,
        "needs at least two lower layers, lowerdir A is the only one",
        "bind",
    ),
    "lower twice": (
        "lowerdir=A:B:./A",
        ELOOP,
        "lowerdir A and lowerdir ./A are the same directory",
        "only once",
    ),
    "lower is upper": (
        "lowerdir=A:C,upperdir=C,workdir=work",
        ELOOP,
        "upperdir C and lowerdir C are the same",
        "once",
    ),
    "lower is work": (
        "lowerdir=work,upperdir=C,workdir=work",
        ELOOP,
        "workdir work and lowerdir work are",
        "once",
    ),
    "lower in lower": ("lowerdir=A/sub:A", ELOOP, "lowerdir A/sub lies inside lowerdir A", "outside"),
    "lower in upper": (
        "lowerdir=A:C/sub,upperdir=C,workdir=work",
        ELOOP,
        "C/sub lies inside upperdir C",
        "outside",
    ),
    "lower in work": (
        "lowerdir=work/sub,upperdir=C,workdir=work",
        ELOOP,
        "work/sub lies inside workdir",
        "outside",
    ),
    "work is upper": (
        "lowerdir=A,upperdir=C,workdir=./C",
        EINVAL,
        "upperdir C and workdir ./C are the same",
        "beside",
    ),
    "work in upper": (
        "lowerdir=A,upperdir=C,workdir=C/sub",
        EINVAL,
        "workdir C/sub lies inside upperdir C",
        "beside",
    ),
    "upper in work": (
        "lowerdir=A,upperdir=work/sub,workdir=work",
        EINVAL,
        "work/sub lies inside workdir",
        "beside",
    ),
    "proc as a layer": (
        "lowerdir=A:/proc",
        EINVAL,
        "lowerdir /proc is on proc, which cannot be part",
        "copy",
    ),
    "metacopy without redirect": (
        f"{EVERYDAY},metacopy=on,redirect_dir=off",
        EINVAL,
        "metacopy=on and redir",
        "leave",
    ),
    "nfs_export without index": (
        f"{EVERYDAY},nfs_export=on,index=off",
        EINVAL,
        "nfs_export=on and index=off",
        "leave",
    ),
    "nfs_export with metacopy": (
        f"{EVERYDAY},nfs_export=on,metacopy=on",
        EINVAL,
        "exclude each other",
        "leave",
    ),
    "userxattr with metacopy": (
        f"{EVERYDAY},userxattr,metacopy=on",
        EINVAL,
        "userxattr and metacopy=on",
        "leave",
    ),
    "userxattr with redirect": (
        f"{EVERYDAY},userxattr,redirect_dir=on",
        EINVAL,
        "userxattr and redirect_",
        "leave",
    ),
}


@root
@both_apis
@pytest.mark.parametrize(("options", "errno", "why", "remedy"), BY_NAME.values(), ids=BY_NAME)
def test_refusals_of_directories_and_options(
    here: Path, api: str, options: str, errno: int, why: str, remedy: str
) -> None:
    def work() -> None:
        error = refused(options, api=api)
        assert error.message.startswith("mount overlay on merged: ")
        assert why in error.message
        assert remedy in error.remedy
        assert errorcode[error.errno or 0] == errorcode[errno]

    inside(here, work)


@root
@both_apis
def test_refusals_of_the_mount_point(here: Path, api: str) -> None:
    def work() -> None:
        error = refused(EVERYDAY, "nowhere", api=api)
        assert error.errno == ENOENT
        assert "on nowhere: the mount point does not exist" in error.message
        error = refused(EVERYDAY, "file", api=api)
        assert error.errno in (ENOTDIR, EINVAL)
        assert "on file: the mount point is not a directory" in error.message

    inside(here, work)


@root
def test_an_upper_inside_a_lower_is_fine(here: Path) -> None:
    inside(here, lambda: mount(parse_options("lowerdir=A,upperdir=A/sub,workdir=work"), "merged"))


@root
@one_by_one
def test_specs_that_only_python_can_write(here: Path) -> None:
    def work() -> None:
        assert "there is no lower layer" in refused(MountSpec(lowerdirs=())).message
        assert "an upperdir needs a workdir" in refused(MountSpec(lowerdirs=(b"A",), upperdir=b"C")).message
        two = MountSpec(lowerdirs=(b"A", b"B"))
        error = refused(replace(two, options=(("from_the_future", ""),)))
        assert "this kernel's overlayfs has no option from_the_future" in error.message
        error = refused(replace(two, options=(("xino", "sometimes"),)))
        assert "no such setting of xino" in error.message

    inside(here, work)


# -- file systems ----------------------------------------------------------------------------------------------


def tmpfs(target: str, fstype: str = "tmpfs") -> None:
    mount_anything("none", target, fstype)
    for name in ("upper", "work"):
        Path(target, name).mkdir()


@root
@both_apis
def test_work_on_another_file_system(here: Path, api: str) -> None:
    def work() -> None:
        tmpfs("other")
        error = refused("lowerdir=A,upperdir=C,workdir=other/work", api=api)
        assert "upperdir C and workdir other/work are on different file systems" in error.message
        assert "under the same mount" in error.remedy

    inside(here, work)


@root
@both_apis
def test_work_on_another_mount_of_the_file_system(here: Path, api: str) -> None:
    def work() -> None:
        mount_anything("work", "work", None, MS_BIND)
        error = refused("lowerdir=A,upperdir=C,workdir=work", api=api)
        assert "are on one file system but under two mounts of it" in error.message

    inside(here, work)


@root
@both_apis
def test_upper_on_a_read_only_file_system(here: Path, api: str) -> None:
    def work() -> None:
        tmpfs("other")
        mount_anything("none", "other", None, 0x20 | 1)  # MS_REMOUNT | MS_RDONLY
        error = refused("lowerdir=A,upperdir=other/upper,workdir=other/work", api=api)
        assert "upperdir other/upper is on a read-only file system" in error.message

    inside(here, work)


@root
@both_apis
def test_upper_on_an_overlay(here: Path, api: str) -> None:
    def work() -> None:
        mount(parse_options(EVERYDAY), "other")
        for name in ("upper", "work"):
            Path("other", name).mkdir()
        error = refused("lowerdir=A,upperdir=other/upper,workdir=other/work", api=api)
        assert "upperdir other/upper is on an overlay itself" in error.message

    inside(here, work)


@root
@both_apis
def test_too_deep_a_stack(here: Path, api: str) -> None:
    def work() -> None:
        mount(parse_options("lowerdir=A:B"), "other")
        mount(parse_options("lowerdir=other:C"), "merged")  # one upon another: allowed
        Path("work/merged").mkdir()
        error = refused("lowerdir=merged:work", "work/merged", api=api)
        assert (
            "lowerdir merged is on overlay, and too many file systems would lie upon each other"
            in error.message
        )
        assert "name the layers of that overlay" in error.remedy

    inside(here, work)


@root
@both_apis
def test_upper_without_attributes(here: Path, api: str) -> None:
    """The kernel only warns, and directories that are removed and made again fail with EIO."""

    def work() -> None:
        tmpfs("other", "ramfs")
        error = refused("lowerdir=A,upperdir=other/upper,workdir=other/work", api=api)
        assert "upperdir other/upper is on ramfs that keeps no trusted.* attributes" in error.message
        assert error.errno == EOPNOTSUPP

    inside(here, work)


@root
@both_apis
def test_overlap_through_a_bind_mount(here: Path, api: str) -> None:
    def work() -> None:
        mount_anything("A/sub", "other", None, MS_BIND)
        error = refused("lowerdir=other:A", api=api)
        assert error.errno == ELOOP
        assert "overlap, perhaps through a bind mount" in error.message

    inside(here, work)


@root
@pytest.mark.parametrize(
    ("fstype", "why"),
    [
        ("nfs4", "upperdir C is on nfs4, which lacks what an upperdir needs"),
        ("fuse.sshfs", "upperdir C is on fuse.sshfs, which lacks what an upperdir needs"),
        ("vfat", "upperdir C is on vfat, which cannot be part of an overlay"),
        ("autofs", "upperdir C is on autofs, which cannot be part of an overlay"),
    ],
)
def test_file_systems_this_machine_need_not_have(here: Path, fstype: str, why: str) -> None:
    """The mount table says what such a machine's would say."""

    def work() -> None:
        own = Path(f"/proc/{os.getpid()}/mountinfo")
        lines = [line.split(" - ") for line in own.read_text().splitlines()]
        Path("file").write_text("".join(f"{place} - {fstype} somewhere rw\n" for place, _ in lines))
        mount_anything("file", own, None, MS_BIND)
        assert why in explain_refusal(parse_options(EVERYDAY), "merged", EINVAL, call="fsconfig").message

    inside(here, work)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("case-insensitive capable filesystem on A not supported", "A is on a file system that ignores case"),
        ("filesystem on A not supported", "A is on a file system that overlayfs does not support"),
    ],
)
def test_file_systems_the_kernel_speaks_of(message: str, why: str) -> None:
    error = explain_refusal(
        MountSpec((b"/usr", b"/etc")), "m", EINVAL, [f"e overlay: {message}"], call="fsconfig"
    )
    assert error.message == f"mount overlay on m: {why}"


@root
@both_apis
def test_an_unbindable_layer(here: Path, api: str) -> None:
    def work() -> None:
        mount_anything("A", "A", None, MS_BIND)
        mount_anything("none", "A", None, MS_UNBINDABLE)
        error = refused(EVERYDAY, api=api)
        assert f"lowerdir A is on an unbindable mount, {here}/A" in error.message
        assert f"mount --make-private {here}/A" in error.remedy

    inside(here, work)


@contextlib.contextmanager
def somebody_elses_mount(directory: Path) -> Iterator[Path]:
    """*directory*, on which another mount namespace has a tmpfs, as seen by way of /proc."""
    done_reader, done_writer = os.pipe()
    up_reader, up_writer = os.pipe()

    def there() -> None:
        tmpfs(str(directory))
        os.write(up_writer, b"x")
        os.read(done_reader, 1)

    pid = os.fork()
    if pid == 0:
        os.close(done_writer)
        try:
            in_mount_namespace(there)
        finally:
            os._exit(0)
    try:
        os.read(up_reader, 1)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        yield Path(f"/proc/{children[0]}/root{directory}")
    finally:
        for fd in (done_writer, done_reader, up_reader, up_writer):
            os.close(fd)
        os.waitpid(pid, 0)


@root
@both_apis
def test_a_layer_of_another_mount_namespace(here: Path, api: str) -> None:
    def work() -> None:
        with somebody_elses_mount(here / "other") as seen:
            error = refused(f"lowerdir=A:{seen}", api=api)
        assert "is on a mount of another mount namespace" in error.message

    inside(here, work)


# -- other overlays --------------------------------------------------------------------------------------------


@root
@both_apis
@pytest.mark.parametrize("index", ["", ",index=on"], ids=["found by looking", "refused by the kernel"])
def test_upper_and_work_in_use(here: Path, api: str, index: str) -> None:
    def work() -> None:
        Path("work2").mkdir()
        mount(parse_options(EVERYDAY), "other")
        error = refused(f"lowerdir=A,upperdir=C,workdir=work2{index}", api=api)
        assert error.errno == EBUSY
        assert f"upperdir C is in use, as the upperdir of the overlay on {here}/other" in error.message
        error = refused(f"lowerdir=A,upperdir=B,workdir=./work{index}", api=api)
        assert f"workdir ./work is in use, as the workdir of the overlay on {here}/other" in error.message
        umount("other")
        mount(parse_options(EVERYDAY), "other", api=api)

    inside(here, work)


@root
def test_use_by_two_can_be_insisted_on(here: Path) -> None:
    """`index=off`, explicitly, is the kernel's own way to say so."""

    def work() -> None:
        mount(parse_options(EVERYDAY), "other")
        mount(parse_options(f"{EVERYDAY},index=off"), "merged")

    inside(here, work)


@root
@one_by_one
@both_apis
def test_in_use_by_an_overlay_out_of_sight(here: Path, api: str) -> None:
    def work() -> None:
        with create(parse_options(EVERYDAY)):
            error = refused(f"{EVERYDAY},index=on", api=api)
        assert error.errno == EBUSY
        assert "in use by another overlay, perhaps in another mount namespace" in error.message

    inside(here, work)


@root
@both_apis
def test_what_a_volatile_mount_leaves(here: Path, api: str) -> None:
    def work() -> None:
        mount(parse_options(f"{EVERYDAY},volatile"), "merged", api=api)
        umount("merged")
        error = refused(EVERYDAY, api=api)
        assert error.errno == EINVAL
        assert "workdir work was mounted volatile before" in error.message
        assert "rm -r work/work/incompat/volatile" in error.remedy
        subprocess.run(["rm", "-r", "work/work/incompat/volatile"], check=True)
        mount(parse_options(EVERYDAY), "merged", api=api)

    inside(here, work)


@root
@both_apis
def test_a_workdir_of_a_newer_kernel(here: Path, api: str) -> None:
    def work() -> None:
        Path("work/work/incompat/levitation").mkdir(parents=True)
        error = refused(EVERYDAY, api=api)
        assert "workdir work has been used with a feature unknown to this kernel, levitation" in error.message

    inside(here, work)


@root
@both_apis
def test_an_upper_that_belongs_to_other_layers(here: Path, api: str) -> None:
    def work() -> None:
        mount(parse_options("lowerdir=A,upperdir=C,workdir=work,index=on"), "merged", api=api)
        umount("merged")
        error = refused("lowerdir=B,upperdir=C,workdir=work,index=on", api=api)
        assert error.errno == ESTALE
        assert "was used with other directories before" in error.message
        assert "index=off" in error.remedy

    inside(here, work)


# -- privileges ------------------------------------------------------------------------------------------------


@root
@both_apis
def test_an_ordinary_user_may_not_mount(here: Path, api: str) -> None:
    def work() -> None:
        takes_layers_one_by_one.cache_clear()
        os.chmod(here, 0o755)
        os.setresuid(12345, 12345, 12345)
        error = refused(EVERYDAY, api=api)
        assert error.errno == EPERM
        assert "only root may mount" in error.message
        assert "unshare --user --map-root-user --mount" in error.remedy

    inside(here, work)


@root
def test_root_without_the_capability(here: Path) -> None:
    def work() -> None:
        takes_layers_one_by_one.cache_clear()
        sets, admin = capget(), 1 << 21
        capset(replace(sets, effective=sets.effective & ~admin, permitted=sets.permitted & ~admin))
        error = refused(EVERYDAY)
        assert error.errno == EPERM
        assert "this root has no CAP_SYS_ADMIN" in error.message

    inside(here, work)


@root
def test_directories_out_of_reach(here: Path) -> None:
    spec = MountSpec(lowerdirs=(os.fsencode(here / "A"), os.fsencode(here / "B")))

    def work() -> None:
        error = refused(spec, "/tmp")
        assert error.errno == EACCES
        assert f"lowerdir {here}/A cannot be reached: no permission" in error.message

    os.chmod(here, 0o700)
    in_user_namespace(work, uid=12345)


@userns
@both_apis
def test_a_user_namespace_needs_userxattr(here: Path, api: str) -> None:
    """The kernel only warns, and directories that are removed and made again fail with EIO."""

    def work() -> None:
        os.chdir(here)
        error = refused(EVERYDAY, api=api)
        assert error.errno == EPERM
        assert "in a user namespace overlayfs cannot keep its trusted.overlay.* attributes" in error.message
        assert "add userxattr" in error.remedy
        mount(parse_options("lowerdir=A:B"), "other", api=api)  # nothing is written here
        mount(parse_options(f"{EVERYDAY},userxattr"), "merged", api=api)

    in_user_namespace(work)


@userns
@both_apis
@pytest.mark.parametrize("option", ["metacopy=on", "redirect_dir=on", "verity=on"])
def test_options_for_root_of_the_machine_alone(here: Path, api: str, option: str) -> None:
    def work() -> None:
        os.chdir(here)
        error = refused(f"lowerdir=A:B,{option}", api=api)
        assert error.errno == EPERM
        assert f"{option} is only for root of the machine" in error.message

    in_user_namespace(work)


@root
@userns
@both_apis
def test_mounts_that_a_user_namespace_may_not_lift(here: Path, api: str) -> None:
    def work() -> None:
        os.chdir(here)
        error = refused(f"{EVERYDAY},userxattr", api=api)
        assert error.errno == EINVAL
        assert (
            f"lowerdir A has mounts below it ({here}/A/sub), which this user namespace may not"
            in error.message
        )

    def outside() -> None:
        tmpfs(str(here / "A/sub"))
        in_user_namespace(work)

    in_mount_namespace(outside)


@root
@userns
@both_apis
def test_a_workdir_of_somebody_else(here: Path, api: str) -> None:
    """The kernel only warns, and mounts the stack read-only."""

    def work() -> None:
        os.chdir(here)
        error = refused(f"{EVERYDAY},userxattr", api=api)
        assert error.errno == EROFS
        assert "the kernel could not make its own directory in workdir work" in error.message
        assert "belong to the user who mounts" in error.remedy
        mount(parse_options(f"{EVERYDAY},userxattr"), "merged", attributes=MOUNT_ATTR_RDONLY, api=api)

    os.chown(here / "work", 54321, 54321)
    in_user_namespace(work)


# -- the machine -----------------------------------------------------------------------------------------------


@root
@both_apis
def test_a_kernel_without_overlayfs(here: Path, api: str) -> None:
    def work() -> None:
        Path("file").write_text("nodev\ttmpfs\n\text4\n")
        mount_anything("file", "/proc/filesystems", None, MS_BIND)
        takes_layers_one_by_one.cache_clear()
        forbid("fsopen", ENODEV)
        forbid("mount", ENODEV)
        error = refused(EVERYDAY, api=api)
        assert error.errno == ENODEV
        assert "this kernel has no overlay file system" in error.message
        assert "modprobe overlay" in error.remedy

    inside(here, work)


@root
def test_ubuntu_and_its_apparmor(here: Path) -> None:
    def work() -> None:
        Path("file").write_text("unprivileged_userns (enforce)\n")
        mount_anything("file", "/proc/self/attr/current", None, MS_BIND)
        error = explain_refusal(parse_options(EVERYDAY), "merged", EACCES, call="mount")
        assert "AppArmor takes all privileges from user namespaces" in error.message
        assert "apparmor_restrict_unprivileged_userns=0" in error.remedy

    inside(here, work)


@root
def test_as_many_mounts_as_there_may_be(here: Path) -> None:
    def work() -> None:
        Path("file").write_text("7\n")
        mount_anything("file", "/proc/sys/fs/mount-max", None, MS_BIND)
        error = explain_refusal(parse_options(EVERYDAY), "merged", ENOSPC, call="move_mount")
        assert "this mount namespace is full" in error.message
        assert "fs.mount-max" in error.remedy

    inside(here, work)


@root
@one_by_one
def test_no_descriptors_left(here: Path) -> None:
    def work() -> None:
        spec = parse_options(EVERYDAY)
        takes_layers_one_by_one()
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 2, 4096))
        with pytest.raises(MountError) as caught, contextlib.ExitStack() as files:
            with contextlib.suppress(OSError):
                while True:
                    files.enter_context(open("file"))
            mount(spec, "merged", api="new")
        assert caught.value.errno == EMFILE
        assert "no file descriptors are left" in caught.value.message

    inside(here, work)


@root
@both_apis
def test_without_proc(here: Path, api: str) -> None:
    """Where nothing can be found out, the kernel's answer has to do."""

    def work() -> None:
        ctypes.CDLL(None).umount2(b"/proc", 2)
        error = refused_without_proc("lowerdir=A:nowhere", api)
        assert "lowerdir nowhere does not exist" in error.message
        tmpfs("other")
        error = refused_without_proc("lowerdir=A,upperdir=C,workdir=other/work", api)
        assert error.errno == EINVAL
        mount(parse_options(EVERYDAY), "merged", api=api)

    def refused_without_proc(options: str, api: str) -> MountError:
        with pytest.raises(MountError) as caught:
            mount(parse_options(options), "merged", api=api)
        return caught.value

    inside(here, work)


@root
@both_apis
def test_a_mount_point_of_another_mount_namespace(here: Path, api: str) -> None:
    def work() -> None:
        with somebody_elses_mount(here / "other") as seen:
            error = refused("lowerdir=A:B", str(seen), api=api)
        assert error.errno == EINVAL
        assert "another mount namespace" in error.message

    inside(here, work)


def test_a_refusal_nobody_knows() -> None:
    error = explain_refusal(
        MountSpec(lowerdirs=(b"/", b"/usr")), b"/mnt", ENOSPC, ["e overlay: it rains", "w snow"]
    )
    assert error.message == "mount overlay on /mnt: it rains; snow"
    error = explain_refusal(MountSpec(lowerdirs=(b"/", b"/usr")), None, ENOSPC)
    assert error.message == "mount overlay: No space left on device"
    assert "dmesg" in error.remedy


@given(
    st.lists(st.binary(max_size=20), max_size=3),
    st.none() | st.binary(max_size=20),
    st.none() | st.binary(max_size=20),
    st.sampled_from(sorted(errorcode)),
    st.lists(st.text(), max_size=2),
    st.sampled_from(["", "fsopen", "fsconfig", "fsmount", "move_mount", "mount", "open"]),
)
def test_explaining_never_fails(
    lowers: list[bytes], upper: bytes | None, target: bytes | None, errno: int, messages: list[str], call: str
) -> None:
    spec = MountSpec(lowerdirs=tuple(lowers), upperdir=upper, workdir=upper)
    error = explain_refusal(spec, target, errno, messages, call=call)
    assert error.errno == errno
    assert error.message.isprintable()
