"""Namespaces and clone3, in children of single-threaded programs of our own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading

import pytest

from lamina.errors import KernelError
from lamina.linux import constants as c
from lamina.linux.fd import Fd
from lamina.linux.mount import listmount, statmount
from lamina.linux.namespaces import (
    NAMESPACES,
    clone3,
    ns_mount_id,
    ns_owner,
    ns_owner_uid,
    ns_parent,
    ns_type,
    setns,
    unshare,
)
from lamina.linux.probe import probe
from support.namespaces import in_mount_namespace, in_user_namespace
from support.rootless import Rootless

PROLOGUE = f"""
import os, sys
sys.path[:0] = {[p for p in sys.path if p]!r}
from lamina.linux import _door, call, constants as c
from lamina.linux.namespaces import clone3, setns, unshare
from lamina.linux.process import waitid
"""


def program(door: str, code: str) -> str:
    """Run *code* in a program of its own, which has one thread."""
    use = "call._raw = _door.syscall\n" if door == "ctypes" else ""
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + use + code], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def namespace(name: str) -> Fd:
    return Fd(os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC))


@pytest.mark.parametrize("name", [n for n in NAMESPACES if os.path.exists(f"/proc/self/ns/{n}")])
def test_kinds(door: str, name: str) -> None:
    with namespace(name) as fd:
        assert ns_type(fd) == NAMESPACES[name]


@pytest.mark.userns
def test_owners_and_parents(door: str) -> None:
    def stage() -> None:
        with namespace("uts") as uts, pytest.raises(KernelError, match="NS_GET_USERNS") as caught:
            ns_owner(uts)
        assert caught.value.errno == errno.EPERM  # owned by the one outside, which is out of our reach
        unshare(c.CLONE_NEWUTS)
        with namespace("uts") as uts, ns_owner(uts) as owner, namespace("user") as user:
            assert os.fstat(owner).st_ino == os.fstat(user).st_ino
            assert not os.get_inheritable(owner)
            assert ns_owner_uid(user) == 0  # the one outside is mapped to 0
            with pytest.raises(KernelError, match="NS_GET_PARENT") as caught:
                ns_parent(user)
            assert caught.value.errno == errno.EPERM
        if probe().at_least("6.11"):
            with namespace("mnt") as fd:
                root = statmount(listmount()[0], c.STATMOUNT_MNT_NS_ID)
                assert ns_mount_id(fd) == root.mnt_ns_id
                assert listmount(mnt_ns_id=ns_mount_id(fd)) == listmount()

    in_user_namespace(stage)


@pytest.mark.userns
def test_unshare_and_setns(door: str) -> None:
    def stage() -> None:
        before = os.readlink("/proc/self/ns/uts")
        with namespace("uts") as fd:
            unshare(c.CLONE_NEWUTS)
            assert os.readlink("/proc/self/ns/uts") != before
            with pytest.raises(KernelError, match="setns CLONE_NEWNET: Invalid argument"):
                setns(fd, c.CLONE_NEWNET)
        with namespace("uts") as second:
            unshare(c.CLONE_NEWUTS)
            setns(second)
            assert os.readlink("/proc/self/ns/uts") == f"uts:[{os.fstat(second).st_ino}]"
        with namespace("user") as own, pytest.raises(KernelError) as caught:
            setns(own, c.CLONE_NEWUSER)
        assert caught.value.errno == errno.EINVAL

    in_user_namespace(stage)


def test_refusals(door: str) -> None:
    with pytest.raises(KernelError, match=r"unshare CLONE_PTRACE\|CLONE_CHILD_SETTID: Invalid argument"):
        unshare(c.CLONE_PTRACE | c.CLONE_CHILD_SETTID)
    with pytest.raises(KernelError) as caught:
        setns(-1)
    assert caught.value.errno == errno.EBADF


def test_clone3_forks(door: str) -> None:
    said = program(
        door,
        """
mine = os.getpid()
pid, pidfd = clone3(c.CLONE_PIDFD | c.CLONE_CLEAR_SIGHAND)
if pid == 0:
    os._exit(3 if pidfd is None and os.getpid() != mine and os.getppid() == mine else 4)
print(waitid(c.P_PIDFD, pidfd).returncode, waitid is not None, os.get_inheritable(pidfd))
pid, pidfd = clone3()
if pid == 0:
    import json  # the interpreter still works
    os._exit(len(json.dumps([1, 2])))
print(pidfd, waitid(c.P_PID, pid).returncode)
""",
    )
    assert said.split() == ["3", "True", "False", "None", "6"]


@pytest.mark.userns
def test_clone3_into_namespaces(door: str, rootless: Rootless) -> None:
    code = """
pid, pidfd = clone3(c.CLONE_PIDFD | c.CLONE_NEWUSER | c.CLONE_NEWPID | c.CLONE_NEWUTS)
if pid == 0:
    os._exit(os.getpid())
print(waitid(c.P_PIDFD, pidfd).returncode)
"""
    use = "call._raw = _door.syscall\n" if door == "ctypes" else ""
    said = rootless.python(PROLOGUE + use + code)
    assert said.stdout.split() == ["1"], said.stderr


def test_clone3_is_for_one_thread_only(door: str) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(ValueError, match="several threads"):
            clone3(c.CLONE_PIDFD)
    finally:
        stop.set()
        thread.join()
    for flags in (c.CLONE_VM, c.CLONE_THREAD | c.CLONE_VM | c.CLONE_SIGHAND):
        with pytest.raises(ValueError, match="share its memory"):
            clone3(flags)


def test_clone3_into_no_cgroup(door: str) -> None:
    said = program(
        door,
        """
try:
    clone3(c.CLONE_INTO_CGROUP, cgroup=os.open("/", os.O_PATH))
except OSError as error:
    print(error.errno, error)
""",
    )
    assert said.startswith(f"{errno.EBADF} clone3 CLONE_INTO_CGROUP")


@pytest.mark.root
def test_clone3_into_a_cgroup(door: str) -> None:
    trees = [tree for tree in probe().cgroup_hierarchies if tree.version == 2 and tree.writable]
    if not trees or not probe().clone_into_cgroup:
        pytest.skip("needs a cgroup v2 tree to write to")
    group = os.fsdecode(trees[0].own) + f"/lamina-test-{os.getpid()}-{door}"
    os.mkdir(group)
    try:
        said = program(
            door,
            f"""
pid, _ = clone3(c.CLONE_INTO_CGROUP, cgroup=os.open({group!r}, os.O_RDONLY | os.O_DIRECTORY))
if pid == 0:
    text = [line for line in open("/proc/self/cgroup") if line.startswith("0::")][0]
    os._exit(5 if text.strip().endswith({os.path.basename(group)!r}) else 6)
print(waitid(c.P_PID, pid).returncode)
""",
        )
    finally:
        os.rmdir(group)
    assert said.split() == ["5"]


@pytest.mark.root
def test_mount_namespace_of_ones_own(door: str) -> None:
    def stage() -> bool:
        before = os.readlink("/proc/self/ns/mnt")
        with namespace("mnt") as fd:
            unshare(c.CLONE_NEWNS | c.CLONE_FS)
            changed = os.readlink("/proc/self/ns/mnt") != before
            setns(fd, c.CLONE_NEWNS)
        return changed and os.readlink("/proc/self/ns/mnt") == before

    assert in_mount_namespace(stage)
