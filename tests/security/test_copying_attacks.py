"""What a container tries with whoever copies files into it and out of it, or looks at them with `Container.files`.

The one who exchanges names here is a program outside that works below the container's root: it can do nothing there
that root of the container could not, and is faster than any shell.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.engine.in_root import reach
from lamina.errors import Conflict, InvalidInput, KernelError, LaminaError, NotFound, Unsupported
from lamina.linux.fd import Fd
from support.leaks import Leaks
from support.running import forget, root_of, running
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

TURNS = 100  # copies during which names are exchanged
EXCHANGE = """
import os, sys
from lamina.linux.files import renameat2
os.chdir(sys.argv[1])
here = os.open(".", os.O_PATH)
print("ready", flush=True)
while True:
    for other in sys.argv[3:]:
        renameat2(here, sys.argv[2], here, other, 2)
"""
OF_THE_HOST = "of the host"


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Engine:
    small_image(store_root, env=["PATH=/bin:/usr/bin"])
    return Engine(store_root)


@pytest.fixture
def box(engine: Engine) -> Iterator[Container]:
    with running(engine, "sleep", "600") as found:
        yield found


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory of this system that a container must not get at, and what is copied, in `new` and `tree`."""
    place = tmp_path / "host"
    (place / "tree/x/deeper").mkdir(parents=True)
    (place / "new").write_text("copied")
    (place / "tree/x/file").write_text("copied")
    (place / "tree/x/deeper/file").write_text("copied")
    (place / "secret/deeper").mkdir(parents=True)
    for name in ("file", "deeper/file"):
        (place / "secret" / name).write_text(OF_THE_HOST)
        (place / "secret" / name).chmod(0o600)
    return place


def secret(host: Path) -> dict[str, tuple[str, str, int]]:
    """What is to stay as it is."""
    return {
        str(path.relative_to(host)): (
            path.read_text() if path.is_file() else "/",
            oct(path.stat().st_mode),
            path.stat().st_uid,
        )
        for path in sorted((host / "secret").rglob("*"))
    }


@contextmanager
def exchanged(box: Container, directory: str, name: str, *others: str) -> Iterator[None]:
    """*name* in the directory of the container changes places with each of *others*, all the time."""
    argv = [sys.executable, "-c", EXCHANGE, f"{root_of(box)}{directory}", name, *others]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
        assert process.poll() is None, "nothing was exchanged"
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def sh(box: Container, script: str, *words: str, privileged: bool = False) -> str:
    done = box.exec(
        ["sh", "-ec", script, "sh", *words], capture_output=True, text=True, privileged=privileged
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def tried(turns: int, act: Callable[[], object], *, until_done: bool = False) -> int:
    """How many of *turns* times *act* did what it should; else it must have said why not. *until_done*: go on until it
    did so once, whoever exchanges names may not have had a turn on a busy machine.
    """
    done = turn = 0
    end = time.monotonic() + 100
    while turn < turns or (until_done and not done and time.monotonic() < end):
        turn += 1
        try:
            act()
            done += 1
        except (LaminaError, OSError):
            if turn >= turns:
                time.sleep(0.001)
    return done


# -- names that are exchanged


def test_cve_2018_15664_links_exchanged_while_files_are_copied_in(box: Container, host: Path) -> None:
    """A directory changes places with links: to the host's directory, to "/", to what goes up for ever."""
    up = "../" * 30 + str(host / "secret")
    sh(
        box,
        'mkdir -p /t/x/deeper "/t$1"; ln -s "$1" /t/abs; ln -s "$2" /t/up; ln -s / /t/root',
        f"{host}/secret",
        up,
    )
    before = secret(host)
    with exchanged(box, "/t", "x", "abs", "up", "root"):
        # one look-up each: some find the directory
        one_step = [
            tried(TURNS, lambda: box.copy_in(host / "new", "/t/x/file"), until_done=True),
            tried(TURNS, lambda: (box.files / "t/x/file").write_text("copied"), until_done=True),
            tried(TURNS, lambda: (box.files / "t/x/new").mkdir(exist_ok=True), until_done=True),
        ]
        tried(TURNS // 3, lambda: box.copy_in(f"{host}/tree/x/.", "/t/x", archive=True))
        tried(TURNS // 3, lambda: box.copy_in(f"{host}/tree/.", "/t", archive=True))
    assert secret(host) == before
    assert all(one_step)
    assert sh(box, "find / -xdev -name '.lamina*'") == ""


def test_cve_2018_15664_links_exchanged_while_files_are_copied_out(box: Container, host: Path) -> None:
    before = secret(host)
    sh(box, 'mkdir -p /t/x/deeper; echo inside > /t/x/file; ln -s "$1" /t/abs', f"{host}/secret")
    with exchanged(box, "/t", "x", "abs"):
        found = set()

        def both() -> None:
            box.copy_out("/t/x/file", host / "out")
            found.add((host / "out").read_text())
            found.add((box.files / "t/x/file").read_text())

        assert tried(TURNS, both, until_done=True)
    assert found == {"inside\n"}
    assert secret(host) == before


def test_what_is_exchanged_for_a_fifo_a_device_or_a_file(box: Container, host: Path) -> None:
    """Nothing blocks, nothing is written to a device: what is no directory is refused or replaced."""
    sh(box, "mkdir -p /t/x; mkfifo /t/fifo; mknod /t/device c 1 1; echo old > /t/file", privileged=True)
    with exchanged(box, "/t", "x", "fifo", "device", "file"):
        tried(TURNS, lambda: box.copy_in(host / "new", "/t/x/file"))
        tried(TURNS, lambda: box.copy_in(f"{host}/tree/.", "/t"))
        tried(TURNS, lambda: (box.files / "t/x").write_text("copied"))
        tried(TURNS, lambda: (box.files / "t/x").read_bytes())
        tried(TURNS, lambda: list((box.files / "t").walk()))
    for name in ("fifo", "device", "file", "x"):
        sh(box, f"rm -rf /t/{name}")
    assert sh(box, "ls -A /t") == ""


def test_cve_2026_41568_mounts_exchanged_while_files_are_copied(engine: Engine, host: Path) -> None:
    """A container that may mount covers the destination with others, and takes them away: it all stays inside."""
    before = secret(host)
    script = """
        mkdir -p /t/x/deeper /other; touch /ready
        while :; do mount --bind /other /t/x; umount -l /t/x; mount -t tmpfs none /t/x; umount -l /t/x; done
    """
    with running(engine, "sh", "-c", script, options=("--privileged",)) as box:
        while box.exec(["test", "-e", "/ready"]).returncode:
            pass
        tried(TURNS, lambda: box.copy_in(f"{host}/tree/.", "/t", archive=True))
        tried(TURNS // 2, lambda: box.copy_out("/t", host / "out"))
        assert tried(TURNS, lambda: box.copy_in(host / "new", "/t/x/file"), until_done=True)
    assert secret(host) == before


def test_cve_2026_42306_a_mount_in_place_of_what_is_copied_over(engine: Engine, host: Path) -> None:
    """A file that is mounted on cannot be replaced, and what is mounted there is not emptied."""
    with running(engine, "sleep", "600", options=("-v", f"{host}/secret/file:/mounted")) as box:
        with pytest.raises(Conflict, match="mounted there"):
            box.copy_in(host / "new", "/mounted")
        with pytest.raises(Conflict, match="mounted there"):
            box.copy_in(host / "new", "/etc/hosts")
        assert (host / "secret/file").read_text() == OF_THE_HOST
        for act in (
            (box.files / "mounted").unlink,
            lambda: (box.files / "mounted").rename("other"),
            lambda: (box.files / "etc/passwd").rename("/mounted"),
            (box.files / "dev/shm").rmdir,
            (box.files / "dev/mqueue").rmdir,
        ):
            with pytest.raises(OSError, match="busy"):
                act()
        (box.files / "mounted").write_text("as the container might")
        assert (host / "secret/file").read_text() == "as the container might"
        assert "/mounted " in sh(box, "cat /proc/mounts")


def test_cve_2021_41089_the_hosts_permissions_stay_as_they_are(box: Container, host: Path) -> None:
    """Links, hard and symbolic, in and out: modes and owners of what they lead to outside are nobody's here."""
    before = secret(host)
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, kind, target, mode in (
            ("link", tarfile.SYMTYPE, f"{host}/secret", 0o777),
            ("link/file", tarfile.REGTYPE, "", 0o4777),
            ("up", tarfile.SYMTYPE, "../" * 20 + f"{host}/secret/file", 0o777),
            ("up", tarfile.REGTYPE, "", 0o666),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode, member.uid = kind, target, mode, 12345
            archive.addfile(member, io.BytesIO(b""))
    sh(box, 'mkdir -p "$1"', f"{host}/secret")
    box.copy_in(io.BytesIO(written.getvalue()), "/tmp")
    for act in (
        lambda: box.copy_in(io.BytesIO(written.getvalue()), "/tmp/link"),
        lambda: (box.files / "tmp/link/file").chmod(0o777),
    ):
        tried(1, act)
    sh(box, "mkdir -p /o/deeper; touch /o/file; chmod -R 777 /o")
    (host / "place").mkdir()
    (host / "place/deeper").symlink_to(host / "secret/deeper")
    os.link(host / "secret/file", host / "place/file")
    tried(1, lambda: box.copy_out("/o/.", host / "place", archive=True))
    assert secret(host) == before


# -- what leads out


def test_magic_links_of_proc_are_not_followed_to_write(box: Container, host: Path) -> None:
    for path in ("/proc/1/root/tmp/x", "/proc/1/cwd/x", "/proc/self/fd/0", "/proc/1/root", "/dev/fd/0"):
        with pytest.raises(LaminaError):
            box.copy_in(host / "new", path)
        with pytest.raises((LaminaError, OSError)):
            (box.files / path).write_text("x")


def test_cve_2007_4559_archives_that_are_copied_in(box: Container, host: Path) -> None:
    """Names that go up are refused, absolute ones are of the destination, links of the archive stay inside."""

    def archive(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> io.BytesIO:
        written = io.BytesIO()
        with tarfile.open(fileobj=written, mode="w") as made:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            made.addfile(member)
        return io.BytesIO(written.getvalue())

    before = secret(host)
    for bad in (archive("../x"), archive("a/../../x"), archive("x", tarfile.LNKTYPE, "../../etc/passwd")):
        with pytest.raises(InvalidInput):
            box.copy_in(bad, "/tmp")
    with pytest.raises(Conflict, match="not there"):
        box.copy_in(archive("x", tarfile.LNKTYPE, f"{host}/secret/file"), "/tmp")
    box.copy_in(archive(f"{host}/secret/file"), "/")
    assert sh(box, 'cat "$1"', f"{host}/secret/file") == ""
    assert secret(host) == before
    assert sh(box, "find /tmp /etc -name x") == ""


def test_whiteouts_of_an_archive_are_files(box: Container) -> None:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as made:
        for name in ("etc/.wh.passwd", "etc/.wh..wh..opq"):
            made.addfile(tarfile.TarInfo(name))
        device = tarfile.TarInfo("etc/group")
        device.type = tarfile.CHRTYPE
        made.addfile(device)
    assert box.copy_in(io.BytesIO(written.getvalue()), "/").left_out == 1
    assert "root" in sh(box, "cat /etc/passwd /etc/group; test -f /etc/.wh.passwd")


def test_forged_marks_of_an_overlay_are_dropped(engine: Engine, host: Path) -> None:
    """Attributes by which overlayfs would show something else, kept with -a otherwise."""
    (host / "marked").mkdir()
    for name in ("trusted.overlay.opaque", "trusted.overlay.redirect"):
        os.setxattr(host / "marked", name, b"/etc")
    assert engine.run("tiny", ["true"], name="box").returncode == 0
    try:
        engine.container("box").copy_in(host / "marked", "/tmp", archive=True)
        upper = Path(os.fsdecode(engine.container("box").overlays()[0][1].upperdir or b""), "tmp/marked")
        assert not [name for name in os.listxattr(upper) if "redirect" in name]
    finally:
        forget(engine)


# -- whose rights count


def test_root_of_the_machine_is_no_more_than_root_of_the_container(box: Container, host: Path) -> None:
    """Of a container with a user namespace: where its own root may not write, neither does who is led there."""
    sh(box, "mkdir -m 755 /roots; mkdir -m 777 /anybodys; echo old > /roots/file; ln -s /roots /anybodys/led")
    maps = [{"containerID": 0, "hostID": 2_000_000, "size": 65536}]
    box.record["id_maps"] = {"uidMappings": maps, "gidMappings": maps}
    box.copy_in(host / "new", "/anybodys")
    (box.files / "anybodys/other").write_text("x")
    assert sh(box, "stat -c %u:%g /anybodys/new /anybodys/other").split() == ["2000000:2000000"] * 2
    for path in ("/roots/file", "/anybodys/led/file", "/roots/new"):
        with pytest.raises(LaminaError, match="denied"):
            box.copy_in(host / "new", path)
        with pytest.raises(PermissionError):
            (box.files / path).write_text("x")
    assert sh(box, "cat /roots/file; ls /roots") == "old\nfile\n"


def test_the_groups_of_the_machines_root_count_for_nothing(box: Container, host: Path) -> None:
    """Whoever becomes the container's root stays in no group that root of the machine is in (CVE-2022-36109)."""
    sh(box, "mkdir -m 775 /groups; echo old > /groups/file; chmod 664 /groups/file")
    sh(box, "echo secret > /groups/secret; chmod 640 /groups/secret")
    maps = [{"containerID": 0, "hostID": 2_000_000, "size": 65536}]
    box.record["id_maps"] = {"uidMappings": maps, "gidMappings": maps}
    before = os.getgroups()
    os.setgroups([0, *before])
    try:
        for path in ("/groups/file", "/groups/new"):
            with pytest.raises(LaminaError, match="denied"):
                box.copy_in(host / "new", path)
            with pytest.raises(PermissionError):
                (box.files / path).write_text("x")
        with pytest.raises(PermissionError):
            (box.files / "groups/secret").read_text()
    finally:
        os.setgroups(before)
    assert sh(box, "cat /groups/file; ls /groups") == "old\nfile\nsecret\n"


def test_directories_without_end_do_not_end_a_walk(box: Container) -> None:
    """Deeper than this program's stack: whoever walks sees what can be named, and is done."""
    sh(box, "mkdir /deep; cd /deep; n=0; while [ $n -lt 1100 ]; do mkdir d; cd -P ./d; n=$((n+1)); done")
    for top_down in (True, False):
        assert sum(1 for _ in (box.files / "deep").walk(top_down)) == 1101
    assert len(list((box.files / "deep").rglob("d"))) > 100


def test_a_lease_does_not_keep_us_waiting(box: Container, host: Path) -> None:
    """Whoever holds one on a file blocks who opens it, for 45 seconds and as often as he likes."""
    sh(box, "echo held > /held")
    code = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("ready", flush=True)
sys.stdin.read()
"""
    argv = [sys.executable, "-c", code, f"{root_of(box)}/held"]
    holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        if holder.stdout.readline() != b"ready\n":
            pytest.skip("this file system has no leases")
        with pytest.raises(BlockingIOError):
            (box.files / "held").read_bytes()
        with pytest.raises(LaminaError):
            box.copy_out("/held", host / "out")
        box.copy_in(host / "new", "/held")  # another file takes its place
        assert (box.files / "held").read_text() == "copied"
    finally:
        holder.communicate()


def test_a_file_that_grows_without_end(box: Container) -> None:
    done = box.exec_detached(["sh", "-c", "while :; do echo more; done > /growing"])
    try:
        while not (box.files / "growing").exists() or not (box.files / "growing").stat().st_size:
            pass
        assert (box.files / "growing").read_bytes().startswith(b"more\n")
    finally:
        os.kill(done, signal.SIGKILL)


# -- what is loaded, and what stays as it is


def test_cve_2019_14271_nothing_of_a_container_is_loaded_or_entered(box: Container, host: Path) -> None:
    """Neither its libraries nor its modules, and this process stays where it is."""
    place = os.path.dirname(os.__file__)
    evil = box.files / place
    (evil / "encodings").mkdir(parents=True)
    (evil / "pwd.py").write_text("open('/loaded', 'w')")
    code = """
import os, sys
from lamina import Engine
def surroundings():
    return {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in os.listdir("/proc/self/ns")} | {
        name: os.stat(f"/proc/self/{name}").st_ino for name in ("root", "cwd")}
before = surroundings()
box = Engine(sys.argv[1]).container("box")
box.copy_in(sys.argv[2], "/tmp", archive=True)
box.copy_out("/etc", sys.argv[3])
(box.files / "tmp/x").write_text("x")
mapped = {line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if len(line.split(None, 5)) > 5}
assert before == surroundings(), "moved"
root = os.stat(f"/proc/{box.first_process['pid']}/root").st_dev
loaded = [path for path in mapped if path.startswith("/") and os.path.exists(path) and os.stat(path).st_dev == root]
assert not loaded, loaded
assert not [m for m in sys.modules.values() if "/proc/" in str(getattr(m, "__file__", ""))]
"""
    argv = [sys.executable, "-c", code, os.fsdecode(box.store.path), str(host / "tree"), str(host / "out")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert not (box.files / "loaded").exists()


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_killed_halfway_it_leaves_whole_files_and_no_mount(engine: Engine, host: Path, state: str) -> None:
    box = engine.create("tiny", ["sleep", "600"], name="box")
    if state == "running":
        box.start()
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as made:
        for number in range(3):
            member = tarfile.TarInfo(f"f{number}")
            member.size = 1 << 20
            made.addfile(member, io.BytesIO(bytes([65 + number]) * (1 << 20)))
    argv = [sys.executable, "-m", "lamina", "--root", os.fsdecode(engine.store.path), "cp", "-", "box:/tmp"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    try:
        process.stdin.write(written.getvalue()[: (5 << 20) // 2])
        process.stdin.flush()
        end = time.monotonic() + 100
        if state == "running":
            while not (box.files / "tmp/f1").exists():
                assert time.monotonic() < end
        else:
            time.sleep(0.5)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
    found = {path.name: path.stat().st_size for path in (box.files / "tmp").iterdir()}
    assert {name: size for name, size in found.items() if not name.startswith(".lamina-cp-")} == found
    assert set(found.values()) <= {1 << 20}
    if state == "running":
        assert set(found) == {"f0", "f1"}
    box.copy_in(host / "new", "/tmp")  # nobody holds it
    assert (box.files / "tmp/new").read_text() == "copied"
    forget(engine)


def test_what_cannot_be_written_to_by_anybody(box: Container, host: Path) -> None:
    """The kernel's own files, wherever a link of the container leads."""
    sh(box, "ln -s /proc/sys /tmp/sys; ln -s /sys/fs/cgroup /tmp/group; ln -s /proc/1 /tmp/one")
    for path in (
        "/tmp/sys/kernel/core_pattern",
        "/tmp/group/cgroup.procs",
        "/tmp/one/oom_score_adj",
        "/tmp/sys/x",
    ):
        with pytest.raises((Unsupported, Conflict, NotFound)):
            box.copy_in(host / "new", path)
        with pytest.raises((Unsupported, OSError)):
            (box.files / path).write_text("x")


def test_who_renames_all_the_time_costs_a_bounded_number_of_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ".." that raced with a rename is to be looked up again (openat2(2)): with forty links on the way, each of so
    many, whoever asks again for who asks again would be at it for minutes.
    """
    looks = 0

    def refused(call: str, *args: object, target: object) -> int:
        nonlocal looks
        looks += 1
        raise KernelError(call, errno.EAGAIN)

    monkeypatch.setattr("lamina.linux.files.syscall", refused)
    with Fd(os.open(tmp_path, os.O_PATH)) as root, pytest.raises(KernelError):
        reach(root, b"/link")
    assert looks <= 2000
