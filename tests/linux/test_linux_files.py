"""Opening inside a root under attack, renames, attributes, clones, handles: on a real disk."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from lamina.errors import KernelError
from lamina.linux import constants as c
from lamina.linux.fd import Fd
from lamina.linux.files import (
    copy_file_range,
    ficlone,
    fstatfs,
    name_to_handle_at,
    open_by_handle_at,
    openat2,
    renameat2,
    statfs,
    statx,
)
from lamina.linux.probe_overlay import reflink


def directory(path: Path) -> Fd:
    return Fd(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))


def failing(error: pytest.ExceptionInfo[KernelError]) -> int:
    assert error.value.errno is not None
    return error.value.errno


@pytest.fixture
def root(tmp_path: Path) -> Path:
    inside = tmp_path / "root"
    (inside / "etc").mkdir(parents=True)
    (inside / "etc" / "passwd").write_text("inside")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("outside")
    (inside / "absolute").symlink_to("/etc/passwd")
    (inside / "up").symlink_to("../../../../../../etc/passwd")
    (inside / "etc" / "beside").symlink_to("passwd")
    (inside / "proc").symlink_to("/proc")
    return inside


@pytest.mark.parametrize(
    "path", ["etc/passwd", "/etc/passwd", "absolute", "up", "../../etc/passwd", "etc/../../etc/beside"]
)
def test_nothing_leaves_the_root(door: str, root: Path, path: str) -> None:
    with directory(root) as fd, openat2(fd, path, os.O_RDONLY, resolve=c.RESOLVE_IN_ROOT) as file:
        assert os.read(file, 100) == b"inside"
        assert not os.get_inheritable(file)


@pytest.mark.parametrize(
    ("path", "resolve", "expected"),
    [
        ("absolute", c.RESOLVE_BENEATH, errno.EXDEV),
        ("../etc/passwd", c.RESOLVE_BENEATH, errno.EXDEV),
        ("etc/beside", c.RESOLVE_NO_SYMLINKS, errno.ELOOP),
        ("/proc/self/exe", c.RESOLVE_NO_MAGICLINKS, errno.ELOOP),
        ("nothing", c.RESOLVE_IN_ROOT, errno.ENOENT),
        ("/proc", c.RESOLVE_NO_XDEV, errno.EXDEV),
        ("etc", 0x800, errno.EINVAL),
    ],
)
def test_refused_ways(door: str, root: Path, path: str, resolve: int, expected: int) -> None:
    with directory(root) as fd, pytest.raises(KernelError, match=f"openat2 {path}") as caught:
        openat2(fd, path, os.O_RDONLY, resolve=resolve)
    assert failing(caught) == expected


def test_creating_inside_a_root(door: str, root: Path) -> None:
    umask = os.umask(0o022)
    try:
        with directory(root) as fd:
            openat2(fd, b"/up\xff", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640, c.RESOLVE_IN_ROOT).close()
    finally:
        os.umask(umask)
    assert os.stat(os.fsencode(root) + b"/up\xff").st_mode & 0o777 == 0o640


def test_a_link_that_is_exchanged_meanwhile(door: str, root: Path) -> None:
    """The race of CVE-2021-30465: whatever the moment, the file is the one inside."""
    (root / "real").mkdir()
    (root / "real" / "passwd").write_text("inside")
    (root / "link").symlink_to("../etc")
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            renameat2(c.AT_FDCWD, root / "real", c.AT_FDCWD, root / "link", c.RENAME_EXCHANGE)

    racer = threading.Thread(target=exchange)
    racer.start()
    try:
        with directory(root) as fd:
            for _ in range(500):  # where the ".." in the link met a rename the kernel is asked again
                with openat2(fd, "real/passwd", os.O_RDONLY, resolve=c.RESOLVE_IN_ROOT) as file:
                    assert os.read(file, 100) == b"inside"
    finally:
        stop.set()
        racer.join()


def test_renames(door: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    with pytest.raises(KernelError, match=f"renameat2 {one} to {two}: File exists") as caught:
        renameat2(c.AT_FDCWD, one, c.AT_FDCWD, two, c.RENAME_NOREPLACE)
    assert failing(caught) == errno.EEXIST
    renameat2(c.AT_FDCWD, one, c.AT_FDCWD, two, c.RENAME_EXCHANGE)
    assert (one.read_text(), two.read_text()) == ("2", "1")
    renameat2(c.AT_FDCWD, one, c.AT_FDCWD, two)
    assert two.read_text() == "2"
    assert not one.exists()


@pytest.mark.root
def test_rename_that_leaves_a_whiteout(door: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with directory(tmp_path) as fd:
        renameat2(fd, "file", fd, "moved", c.RENAME_WHITEOUT)
    left = os.lstat(tmp_path / "file")
    assert (left.st_mode & 0o170000, left.st_rdev) == (0o020000, 0)


def test_statx_and_stat_agree(door: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 5000)
    os.utime(file, ns=(1_000_000_001, -5))
    for path in (file, Path("/dev/null"), Path("/proc/self"), Path("/")):
        while True:  # what others do in "/" meanwhile is seen by the one and not by the other
            plain, more, again = os.lstat(path), statx(c.AT_FDCWD, path), os.lstat(path)
            if (plain.st_mtime_ns, plain.st_ctime_ns) == (again.st_mtime_ns, again.st_ctime_ns):
                break
        assert (more.mode, more.nlink, more.uid, more.gid) == (
            plain.st_mode, plain.st_nlink, plain.st_uid, plain.st_gid,
        )  # fmt: skip
        assert (more.ino, more.dev, more.rdev) == (plain.st_ino, plain.st_dev, plain.st_rdev)
        assert (more.size, more.blocks, more.blksize) == (plain.st_size, plain.st_blocks, plain.st_blksize)
        assert (more.mtime_ns, more.ctime_ns) == (plain.st_mtime_ns, plain.st_ctime_ns)
        assert more.mask & c.STATX_BASIC_STATS == c.STATX_BASIC_STATS
    assert statx(c.AT_FDCWD, file).mtime_ns == -5
    with open(file) as opened:
        assert statx(opened.fileno(), "", c.AT_EMPTY_PATH).ino == os.stat(file).st_ino
    assert statx(c.AT_FDCWD, "/proc").attributes & c.STATX_ATTR_MOUNT_ROOT
    with pytest.raises(KernelError) as caught:
        statx(c.AT_FDCWD, tmp_path / "none")
    assert failing(caught) == errno.ENOENT


def test_statfs_and_statvfs_agree(door: str) -> None:
    told, library = statfs("/proc"), os.statvfs("/proc")
    assert told.type == c.PROC_SUPER_MAGIC
    assert (told.bsize, told.frsize, told.namelen) == (library.f_bsize, library.f_frsize, library.f_namemax)
    with directory(Path("/sys")) as fd:
        assert fstatfs(fd).type == c.SYSFS_MAGIC
    root, library = statfs("/"), os.statvfs("/")
    assert (root.blocks, root.files) == (library.f_blocks, library.f_files)


def test_copy_inside_the_kernel(door: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"0123456789")
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "w+b") as target:
        assert copy_file_range(source.fileno(), target.fileno(), 4, 3, 1) == 4
        assert copy_file_range(source.fileno(), target.fileno(), 2) == 2  # at the descriptors' own positions
        assert copy_file_range(source.fileno(), target.fileno(), 9, 10, 0) == 0
    assert (tmp_path / "out").read_bytes() == b"01456"
    with open(tmp_path / "in", "rb") as source, pytest.raises(KernelError) as caught:
        copy_file_range(source.fileno(), source.fileno(), 1)
    assert failing(caught) == errno.EBADF


def test_clones(door: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"shared" * 1000)
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as target:
        if reflink(tmp_path):
            ficlone(target.fileno(), source.fileno())
            assert (tmp_path / "out").read_bytes() == b"shared" * 1000
        else:
            with pytest.raises(KernelError, match="FICLONE") as caught:
                ficlone(target.fileno(), source.fileno())
            assert failing(caught) == errno.EOPNOTSUPP


def test_handles(door: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("found again")
    try:
        handle = name_to_handle_at(c.AT_FDCWD, file)
    except KernelError as error:
        assert error.errno == errno.EOPNOTSUPP
        pytest.skip(f"no handles here: {error}")
    assert handle == name_to_handle_at(c.AT_FDCWD, file)
    assert handle.mount_id == statx(c.AT_FDCWD, file).mnt_id
    file.rename(tmp_path / "renamed")
    with directory(tmp_path) as place, Fd(os.open(tmp_path, os.O_RDONLY)) as anywhere:
        assert name_to_handle_at(place, "renamed").handle == handle.handle
        try:
            with open_by_handle_at(anywhere, handle, os.O_RDONLY) as again:
                assert os.read(again, 100) == b"found again"
                assert not os.get_inheritable(again)
        except KernelError as error:
            assert error.errno == errno.EPERM
            assert os.geteuid() != 0
        else:
            (tmp_path / "renamed").unlink()
            with pytest.raises(KernelError) as caught:
                open_by_handle_at(anywhere, handle, os.O_RDONLY)
            assert failing(caught) == errno.ESTALE
