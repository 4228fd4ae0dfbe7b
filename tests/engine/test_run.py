"""Running a command over this machine: what it sees, may and returns, and that the machine stays as it is."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lamina
from lamina import Completed, Engine
from lamina.errors import (
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    ContainerFailed,
    InvalidInput,
    KernelError,
    NotFound,
    TimeoutExpired,
    Unsupported,
)
from support.held import held_descriptors
from support.leaks import Leaks
from support.lives import until
from support.namespaces import in_mount_namespace
from support.process import children

if TYPE_CHECKING:
    from lamina.engine.options import RunOptions

pytestmark = pytest.mark.root

Sh = Callable[..., Completed]


@pytest.fixture
def engine(store_root: Path) -> Engine:
    return Engine(store_root)


@pytest.fixture
def sh(engine: Engine, untouched_host: Leaks) -> Sh:
    """Run a shell script in a container that is removed; what it printed as text."""

    def run(script: str, **options: object) -> Completed:
        options = {"rm": True, "capture_output": True, "text": True, "timeout": 200, **options}
        return engine.run("host", ["sh", "-ec", script], **options)  # type: ignore[call-overload, no-any-return]

    return run


# -- what comes back


def test_output_and_status(sh: Sh) -> None:
    done = sh("echo out; echo err >&2; exit 7")
    assert (done.args[0], done.returncode, done.stdout, done.stderr) == ("sh", 7, "out\n", "err\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_is_128_and_its_number(sh: Sh, number: int) -> None:
    # its first process is protected from its own signals: a child of it dies, and it says so as a shell does
    assert sh(f"sh -c 'kill -{number:d} $$'; :").returncode == 128 + number


def test_bytes_unless_text_is_asked_for(engine: Engine) -> None:
    done = engine.run("host", ["printf", r"\377\r\n"], rm=True, capture_output=True)
    assert done.stdout == b"\xff\r\n"
    text = engine.run("host", ["printf", r"\344\r\n"], rm=True, capture_output=True, encoding="latin-1")
    assert text.stdout == "ä\n"


def test_input(engine: Engine) -> None:
    assert engine.run("host", ["cat"], rm=True, input=b"\x00x", capture_output=True).stdout == b"\x00x"
    assert engine.run("host", ["cat"], rm=True, input="ü", capture_output=True, text=True).stdout == "ü"


def test_without_input_there_is_none(engine: Engine) -> None:
    """As in docker: nobody's terminal or file is read unless that is asked for."""
    reader, writer = os.pipe()
    before = os.dup(0)
    os.dup2(reader, 0)
    try:
        os.write(writer, b"mine\n")
        os.close(writer)
        assert engine.run("host", ["cat"], rm=True, capture_output=True).stdout == b""
        done = engine.run("host", ["cat"], rm=True, capture_output=True, interactive=True)
        assert done.stdout == b"mine\n"
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(reader)


def test_files_for_the_streams(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from a file")
    with open(tmp_path / "in") as source, open(tmp_path / "out", "w") as target:
        engine.run("host", ["cat"], rm=True, stdin=source, stdout=target, stderr=subprocess.DEVNULL)
    assert (tmp_path / "out").read_text() == "from a file"


def test_stderr_into_stdout(engine: Engine) -> None:
    done = engine.run(
        "host",
        ["sh", "-c", "echo a; echo b >&2; echo c"],
        rm=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.stdout == b"a\nb\nc\n"
    assert not done.stderr


def test_check(engine: Engine) -> None:
    with pytest.raises(ContainerFailed, match="exit status 3") as raised:
        engine.run(
            "host", ["sh", "-c", "echo x; exit 3"], rm=True, check=True, capture_output=True, text=True
        )
    assert (raised.value.returncode, raised.value.stdout) == (3, "x\n")
    engine.run("host", ["true"], rm=True, check=True)


def test_timeout(engine: Engine, untouched_host: Leaks) -> None:
    words = ["sh", "-c", "echo begun; sleep 99"]
    for seconds in (1.5, 10.5, 60.5):  # on a busy machine it may not have begun
        with pytest.raises(TimeoutExpired, match=rf"not ended within {seconds} s") as raised:
            engine.run("host", words, rm=True, timeout=seconds, capture_output=True, text=True)
        if raised.value.stdout:
            break
    assert raised.value.stdout == "begun\n"
    assert isinstance(raised.value, TimeoutError)


@pytest.mark.parametrize(
    "keywords",
    [
        {"capture_output": True, "stdout": subprocess.PIPE}, {"input": b"", "stdin": 0}, {"timeout": -1},
        {"stdout": -7}, {"timeout": float("nan")}, {"workdir": "x"},
    ],
)  # fmt: skip
def test_what_contradicts_itself(engine: Engine, keywords: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        engine.run("host", ["true"], **keywords)  # type: ignore[call-overload]
    assert engine.containers(all=True) == []


@pytest.mark.parametrize("command", [5, [5], None, [None]])
def test_what_is_no_command(engine: Engine, command: object) -> None:
    with pytest.raises(InvalidInput):
        engine.run("host", command)  # type: ignore[call-overload]


def test_a_single_word_is_a_command(engine: Engine) -> None:
    assert engine.run("host", "true", rm=True).args == ["true"]
    assert engine.run("host", Path("/bin/true"), rm=True).returncode == 0


def test_arguments_of_any_bytes(engine: Engine) -> None:
    words = ["printf", "%s|", "", " a\nb ", "\udcff", "ü", "$HOME", "*"]
    done = engine.run("host", words, rm=True, capture_output=True)
    assert done.stdout == b"| a\nb |" + b"\xff|" + "ü|$HOME|*|".encode()


# -- commands that do not start


@pytest.mark.parametrize(
    ("command", "error", "status"),
    [
        ("no-such-command", CommandNotFound, 127),
        ("/no/such/command", CommandNotFound, 127),
        ("/etc", CommandNotExecutable, 126),
        ("/etc/passwd", CommandNotExecutable, 126),
    ],
)
def test_what_cannot_be_executed(
    engine: Engine, untouched_host: Leaks, command: str, error: type[KernelError], status: int
) -> None:
    before = held_descriptors()
    with pytest.raises(error, match=f"execute .*{command}") as raised:
        engine.run("host", [command], name="web")
    assert raised.value.exit_code == status
    assert engine.containers(all=True) == []
    assert held_descriptors() == before
    assert engine.run("host", ["true"], name="web").returncode == 0, "the name is free again"


def test_an_image_that_is_not_there(engine: Engine) -> None:
    with pytest.raises(NotFound, match="image debian:12: no such image"):
        engine.run("debian:12", ["true"], pull="never")
    assert engine.containers(all=True) == []


def test_a_taken_name(engine: Engine) -> None:
    engine.run("host", ["true"], name="web")
    with pytest.raises(Conflict, match="name web: taken"):
        engine.run("host", ["true"], name="web")
    assert len(engine.containers(all=True)) == 1


# -- what it sees


def test_the_files_of_this_machine(sh: Sh) -> None:
    assert sh("cat /etc/passwd").stdout == Path("/etc/passwd").read_text()
    assert sh("ls /usr/bin | wc -l").stdout.strip() == str(len(os.listdir("/usr/bin")))


def test_the_directory_one_is_in(sh: Sh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sh("pwd").stdout.strip() == str(tmp_path)
    assert sh("pwd", workdir="/usr/../etc").stdout == "/etc\n"
    monkeypatch.chdir("/proc/self")
    assert sh("pwd").stdout == "/\n"


def test_a_working_directory_that_is_missing_is_made(sh: Sh) -> None:
    assert sh("pwd", workdir="/srv/does/not/exist").stdout == "/srv/does/not/exist\n"
    assert not os.path.exists("/srv/does")


def test_the_environment_is_not_the_callers(sh: Sh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("WANTED", "y")
    lines = sh("env", env=["A=b c", "WANTED", "GONE"], hostname="h").stdout.splitlines()
    assert {line for line in lines if not line.startswith(("PWD=", "_=", "SHLVL="))} == {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=h",
        "HOME=/root",
        "A=b c",
        "WANTED=y",
    }


def test_the_host_name(sh: Sh) -> None:
    done = sh("hostname")
    assert done.stdout.strip() == done.container[:12]
    assert sh("hostname", hostname="box.example").stdout == "box.example\n"
    assert socket.gethostname() == os.uname().nodename != "box.example"


@pytest.mark.parametrize(
    ("user", "wanted"),
    [
        (None, "0 0 0"),
        ("nobody", "65534 65534 65534"),
        ("12345", "12345 0 0"),
        ("1:5", "1 5 5"),
        (1, "1 1 1"),
    ],
)
def test_users(sh: Sh, user: object, wanted: str) -> None:
    assert sh("echo $(id -u) $(id -g) $(id -G)", user=user).stdout.strip() == wanted


def test_a_user_that_is_not_there(engine: Engine) -> None:
    with pytest.raises(NotFound, match="user nosuch"):
        engine.run("host", ["true"], user="nosuch")
    assert engine.containers(all=True) == []


def test_its_own_processes_only(sh: Sh) -> None:
    assert sh("echo $$; ls /proc | grep -c '^[0-9]'").stdout.split()[0] == "1"
    seen = sh("cat /proc/[0-9]*/comm").stdout.split()
    assert set(seen) <= {"sh", "cat"}


def test_its_own_network_unless_it_shares_ours(sh: Sh) -> None:
    devices = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"
    assert sh(devices).stdout.split() == ["lo"]

    def ours() -> list[str]:
        return [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]

    # somebody else may have a link made meanwhile
    until(lambda: sorted(sh(devices, network="host").stdout.split()) == sorted(ours()))
    assert sh("hostname", network="host").stdout.strip() == socket.gethostname()


def test_fresh_devices(sh: Sh) -> None:
    names = set(sh("ls /dev").stdout.split())
    wanted = "console fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert names <= set(wanted.split())
    assert set(wanted.split()) - {"console"} <= names
    assert (
        sh("ls -A /dev/shm /dev/mqueue; echo x >/dev/null; head -c 3 /dev/zero | wc -c").stdout.split()[-1]
        == "3"
    )


def test_kernel_views_are_closed(sh: Sh) -> None:
    for script in ("echo 1 > /proc/sys/kernel/panic", "echo x > /proc/sysrq-trigger", "mkdir /sys/x",
                   "head -c 1 /proc/kcore | grep -q .", "mkdir /sys/fs/cgroup/x", "ls /sys/firmware/*"):  # fmt: skip
        assert sh(f"{script} 2>/dev/null").returncode != 0, script


def test_few_privileges(sh: Sh) -> None:
    status = dict(
        line.split(":\t") for line in sh("cat /proc/self/status").stdout.splitlines() if ":\t" in line
    )
    docker, mknod = 0xA80425FB, 1 << 27
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == docker & ~mknod
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert int(status["SigIgn"], 16) == 0, (
        "Python ignores SIGPIPE and SIGXFSZ: the container does not inherit that"
    )
    user = sh("grep Cap /proc/self/status", user="nobody").stdout
    assert "CapEff:\t0000000000000000" in user
    for script in ("mount -t tmpfs x /mnt", "unshare -U true", "mknod /x b 8 0 && cat /x"):
        assert sh(f"{script} 2>/dev/null").returncode != 0, script


def test_three_descriptors_and_nothing_of_the_hosts(sh: Sh, tmp_path: Path) -> None:
    held = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(held, True)
    try:
        assert sh("for f in /proc/self/fd/*; do echo ${f##*/}; done | tr '\\n' ' '").stdout in (
            "0 1 2 ",
            "0 1 2 3 ",
        )
        code = "import os; print(sorted(int(f) for f in os.listdir('/proc/1/fd')))"
        python = [sys.executable, "-I", "-S", "-c", code]
        done = sh(" ".join(f'"{word}"' for word in python))
        assert done.stdout == "[0, 1, 2]\n"
    finally:
        os.close(held)


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 8, 10, 20, 100])
def test_cve_2024_21626_a_descriptor_as_working_directory(sh: Sh, number: int) -> None:
    try:
        done = sh("pwd; ls -d ../../etc/lamina-not-there", workdir=f"/proc/self/fd/{number}")
    except KernelError:
        return
    assert done.returncode != 0


def test_the_store_is_hidden(sh: Sh, store_root: Path) -> None:
    done = sh(f"ls -A {store_root}; touch {store_root}/x 2>/dev/null || echo refused")
    assert done.stdout == "refused\n"


def test_sockets_of_the_host_are_closed(sh: Sh, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r})"
        assert sh(f'{sys.executable} -I -S -c "{code}" 2>/dev/null', network="host").returncode != 0


# -- what it does stays inside


def picture(place: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in [place, *place.rglob("*")]:
        seen = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(seen.st_mode) else b""
        found[str(path)] = (
            seen.st_mode,
            seen.st_uid,
            seen.st_ino,
            seen.st_mtime_ns,
            seen.st_ctime_ns,
            content,
        )
    return found


HAVOC = """
cd {place}
echo changed >file; rm -r gone; mkdir new; echo x >new/x; chmod 700 kept; chown 1 file; mv kept moved
ln -s /etc/passwd link; mkfifo fifo; touch -d @0 file; rm -rf ../{name}/gone /usr/share /var/lib/dpkg
"""


@pytest.mark.parametrize("rm", [True, False])
def test_whatever_it_does_the_machine_stays_as_it_is(
    engine: Engine, untouched_host: Leaks, tmp_path: Path, rm: bool
) -> None:
    place = tmp_path / "place"
    for name in ("gone/a/b", "kept"):
        (place / name).mkdir(parents=True)
    (place / "file").write_text("as it was")
    before, shared = picture(place), os.listdir("/usr/share")
    done = engine.run("host", ["sh", "-e", "-c", HAVOC.format(place=place, name=place.name)], rm=rm, name="x")
    assert done.returncode == 0
    assert picture(place) == before
    assert os.listdir("/usr/share") == shared
    if not rm:
        changes = {change.path: change.kind for change in engine.container("x").changes()}
        assert changes[os.fsencode(place / "gone")] == "deleted"
        assert changes[os.fsencode(place / "new")] == "added"
        assert changes[b"/usr/share"] == "deleted"
        engine.container("x").remove()


def mounts_of_ours() -> str:
    return Path("/proc/self/mountinfo").read_text()


def test_other_file_systems_are_covered_too(tmp_path: Path) -> None:
    """A disk of its own, one below it, odd names, read-only, a file, a socket: each in a mount namespace of its own."""

    def stage() -> None:
        disk = tmp_path / "disk"
        odd = os.fsencode(disk) + b"/od\xffd, a:b\\c\n"
        below = disk / "below"
        closed = tmp_path / "closed"
        for directory in (disk, closed):
            directory.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "x", directory], check=True)
        for path in (odd, os.fsencode(below)):
            os.mkdir(path)
            subprocess.run(["mount", "-t", "tmpfs", "x", path], check=True)
        (disk / "f").write_text("disk")
        (below / "f").write_text("below")
        with open(odd + b"/f", "w") as file:
            file.write("odd")
        (closed / "f").write_text("closed")
        subprocess.run(["mount", "-o", "remount,ro", closed], check=True)
        (tmp_path / "file").write_text("bound")
        (tmp_path / "target").write_text("")
        subprocess.run(["mount", "--bind", tmp_path / "file", tmp_path / "target"], check=True)

        engine = Engine(tmp_path / "store")
        warnings: list[str] = []
        script = """
            set -e
            cat disk/f disk/below/f disk/od*/f closed/f target
            for f in disk/f disk/below/f disk/od*/f; do echo changed >"$f"; cat "$f"; done
            ! echo x 2>/dev/null >closed/f
            ! echo x 2>/dev/null >target
        """
        done = engine.run(
            "host", ["sh", "-c", script], name="x", workdir=tmp_path, capture_output=True, text=True,
            on_warning=warnings.append,
        )  # fmt: skip
        assert done.stdout == "diskbelowoddclosedbound" + "changed\n" * 3, done
        assert done.returncode == 0, done
        assert [(disk / "f").read_text(), (below / "f").read_text()] == ["disk", "below"]
        assert Path(os.fsdecode(odd + b"/f")).read_text() == "odd"
        assert [w for w in warnings if str(tmp_path) in w] == [
            f"{tmp_path / 'target'} (ext4) is read-only: a single file cannot be overlaid".replace(
                "ext4", fstype(tmp_path)
            )
        ]
        changed = {change.path for change in engine.container("x").changes() if change.kind == "changed"}
        assert {os.fsencode(disk / "f"), os.fsencode(below / "f"), odd + b"/f"} <= changed
        assert os.fsencode(tmp_path) in {
            at[: len(os.fsencode(tmp_path))] for at, _ in engine.container("x").overlays()
        }
        engine.container("x").remove()
        assert engine.containers(all=True) == []

    in_mount_namespace(stage)


def fstype(path: Path) -> str:
    found = subprocess.run(
        ["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True
    ).stdout.strip()
    return {"ext2/ext3": "ext4"}.get(found, found)


@pytest.mark.parametrize("one_by_one", [True, False], ids=["fsconfig", "mount2"])
def test_what_the_kernel_turns_out_not_to_overlay_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_by_one: bool
) -> None:
    """An overlay of an overlay whose own mount is out of sight: its depth shows only when it is tried."""
    if not one_by_one:
        monkeypatch.setattr("lamina.runtime.facts._takes_layers_one_by_one", lambda _: False)

    def stage() -> None:
        for name in ("a", "b", "c", "d", "e", "f", "one", "two"):
            (tmp_path / name).mkdir()
        (tmp_path / "a" / "file").write_text("deep")
        for lower, upper, work, merged in (("a", "b", "c", "one"), ("one", "d", "e", "two")):
            options = f"lowerdir={tmp_path}/{lower},upperdir={tmp_path}/{upper},workdir={tmp_path}/{work}"
            subprocess.run(["mount", "-t", "overlay", "x", "-o", options, tmp_path / merged], check=True)
        subprocess.run(["umount", "-l", tmp_path / "one"], check=True)
        engine = Engine(tmp_path / "store")
        warnings: list[str] = []
        done = engine.run(
            "host", ["sh", "-c", "cat two/file; ! touch two/x 2>/dev/null; echo x >here"], workdir=tmp_path, name="x",
            capture_output=True, text=True, on_warning=warnings.append,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "deep"), done
        (said,) = [w for w in warnings if "two" in w]
        assert "is read-only: the kernel does not overlay it (Invalid argument)" in said
        assert said in done.warnings
        container = engine.container("x")
        assert os.fsencode(tmp_path / "here") in {c.path for c in container.changes()}
        assert os.fsencode(tmp_path / "two") not in {at for at, _ in container.overlays()}
        container.remove()
        assert os.listdir(engine.store.containers) == []

    in_mount_namespace(stage)


def test_a_store_on_an_overlay_is_a_clear_error(tmp_path: Path) -> None:
    def stage() -> str:
        for name in ("lower", "upper", "work", "merged"):
            (tmp_path / name).mkdir()
        options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, tmp_path / "merged"], check=True)
        try:
            Engine(tmp_path / "merged" / "store").run("host", ["true"])
        except Unsupported as error:
            return str(error)
        return ""

    said = in_mount_namespace(stage)
    assert "overlay cannot hold the upper directory" in said
    assert "LAMINA_ROOT" in said


# -- options


def test_volumes(sh: Sh, tmp_path: Path) -> None:
    data = tmp_path / "da:ta, \n"
    data.mkdir()
    (data / "in").write_text("seen")
    sh("cat /srv/v/in; echo written >/srv/v/out", volumes=[(data, "/srv/v")])
    assert (data / "out").read_text() == "written\n"
    done = sh("cat /srv/v/in; ! echo x 2>/dev/null >/srv/v/out", volumes=[(data, "/srv/v", "ro")])
    assert (done.returncode, done.stdout) == (0, "seen")
    assert not os.path.exists("/srv/v")


def test_a_volume_that_is_a_file_and_one_that_is_made(sh: Sh, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("file")
    done = sh(
        "cat /srv/f; touch /srv/made/x",
        volumes=[f"{tmp_path}/f:/srv/f:ro", f"{tmp_path}/made/deep:/srv/made"],
    )
    assert (done.returncode, done.stdout) == (0, "file")
    assert (tmp_path / "made" / "deep" / "x").exists()


def test_a_directory_that_is_made_for_a_volume_is_named(sh: Sh, tmp_path: Path) -> None:
    """A dry run promises that this system stays as it is, so what it makes there all the same has to be said."""
    warnings: list[str] = []
    before = os.umask(0o077)
    try:
        for _ in range(2):
            done = sh("true", volumes=[f"{tmp_path}/made/deep:/srv/made"], on_warning=warnings.append)
    finally:
        os.umask(before)
    said = f"made the directory {tmp_path}/made on this system, for the volume at /srv/made"
    assert [warning for warning in warnings if "made" in warning] == [said]
    assert said not in done.warnings
    for place in (tmp_path / "made", tmp_path / "made/deep"):
        assert (place.stat().st_mode & 0o7777, place.stat().st_uid) == (0o755, 0)


def test_volumes_below_volumes_and_over_overlays(sh: Sh, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    done = sh(
        "cat /srv/name /srv/sub/name",
        volumes=[f"{tmp_path}/a:/srv", f"{tmp_path}/b:/srv/sub"],
    )
    assert done.stdout == "ab"


@pytest.mark.parametrize("target", ["/proc", "/proc/sys", "/proc/self/fd"])
def test_nothing_can_be_put_over_proc(engine: Engine, tmp_path: Path, target: str) -> None:
    with pytest.raises(InvalidInput, match="proc"):
        engine.run("host", ["true"], volumes=[(tmp_path, target)])
    assert engine.containers(all=True) == []


def test_read_only(sh: Sh, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    script = "! touch /x /etc/x /run/x 2>/dev/null; touch /srv/v/ok; echo x >/dev/shm/ok"
    assert sh(script, read_only=True, volumes=[(tmp_path / "v", "/srv/v")]).returncode == 0
    assert (tmp_path / "v" / "ok").exists()


@pytest.mark.parametrize("rm", [True, False])
def test_marks_of_mounts_that_nobody_repeats_are_removed_while_it_runs(
    engine: Engine, store_root: Path, rm: bool
) -> None:
    """One that is kept must not be mounted again over what a crash left half there: its mark stays."""
    options: RunOptions = {"network": "none"}
    options.update({"rm": True} if rm else {"durability": "none"})
    with engine.popen("host", ["cat"], stdin=-1, stdout=-1, **options) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"it runs\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"it runs\n"
        assert list(store_root.glob("containers/*/work-*/work"))
        until(lambda: bool(list(store_root.glob("containers/*/work-*/work/incompat"))) != rm)
    assert process.returncode == 0


def test_a_limit_of_processes(sh: Sh) -> None:
    script = "i=0; while [ $i -lt 20 ]; do sleep 5 & i=$((i+1)); done 2>/dev/null; echo not limited"
    done = sh(script, pids_limit=10)
    assert done.stdout == ""
    assert done.returncode != 0


def test_a_limit_of_memory(engine: Engine) -> None:
    code = "x = bytearray(400 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1"
    done = engine.run("host", [sys.executable, "-I", "-S", "-c", code], name="big", memory="64m", timeout=200)
    assert done.returncode == 128 + signal.SIGKILL
    assert engine.container("big").inspect()["State"]["OOMKilled"] is True


def test_a_limit_of_processors(sh: Sh) -> None:
    for place in ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu.max"):
        done = sh(f"cat {place}", cpus="0.5")
        if done.returncode == 0:
            assert done.stdout.split()[0] == "50000"
            return
    pytest.fail("neither v1 nor v2 shows the limit")


def test_entrypoint_and_labels(engine: Engine) -> None:
    done = engine.run(
        "host", ["b"], entrypoint=["echo", "a"], name="x", capture_output=True, labels={"k": "v"}
    )
    assert done.stdout == b"a b\n"
    container = engine.container("x")
    assert (container.labels, container.command) == ({"k": "v"}, ["echo", "a", "b"])


# -- a terminal


def test_a_terminal(engine: Engine) -> None:
    script = "tty; echo $TERM; stty size; read x; echo got $x; exit 3"
    options = {"rm": True, "tty": True, "input": b"hello\n", "capture_output": True, "timeout": 200}
    done = engine.run("host", ["sh", "-c", script], **options)  # type: ignore[call-overload]
    assert done.returncode == 3
    assert {"/dev/pts/0", "xterm", "got hello"} <= set(done.stdout.replace(b"\r", b"").decode().split("\n"))


# -- what does not change


def test_the_caller_stays_as_it_was(engine: Engine) -> None:
    engine.run("host", ["true"], rm=True)

    def all_of_it() -> list[object]:
        return [
            os.getcwd(), held_descriptors(), mounts_of_ours(), {n: signal.getsignal(n) for n in range(1, 32)},
            signal.pthread_sigmask(signal.SIG_BLOCK, ()), dict(os.environ), os.readlink("/proc/self/ns/mnt"),
            os.readlink("/proc/self/ns/pid_for_children"), threading.active_count(), os.getpgid(0), os.umask(0o22),
            Path("/proc/self/cgroup").read_text(), os.sched_getaffinity(0),
        ]  # fmt: skip

    before = all_of_it()
    engine.run("host", ["sh", "-c", "umask 0; exec sleep 0.01"], rm=True, memory="64m", network="none")
    with pytest.raises(CommandNotFound):
        engine.run("host", ["no-such-command"], rm=True)
    assert all_of_it() == before


def test_the_callers_limits_mask_and_signals_do_not_reach_it(sh: Sh) -> None:
    import resource

    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (777, limits[1]))
    umask = os.umask(0o077)
    try:
        done = sh("grep -E 'Sig(Ign|Blk)' /proc/self/status; ulimit -n; umask")
    finally:
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGUSR2, before)
    blocked, ignored, files, mode = done.stdout.split("\n")[:4]
    assert (int(blocked.split()[1], 16), int(ignored.split()[1], 16)) == (0, 0)
    assert (files != "777", mode) == (True, "0022")


@pytest.mark.slow
def test_from_many_threads_at_once(engine: Engine, untouched_host: Leaks) -> None:
    before = held_descriptors()
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(6):
            text = f"{number}-{turn}"
            try:
                done = engine.run("host", ["sh", "-c", f"echo {text}; cat"], rm=True, input=text.encode(),
                                  capture_output=True, timeout=200)  # fmt: skip
                if done.stdout != f"{text}\n{text}".encode() or done.returncode:
                    wrong.append(done)
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert held_descriptors() == before
    assert engine.containers(all=True) == []


def test_a_child_that_the_program_forks_meanwhile_holds_nothing_up(engine: Engine) -> None:
    """It has our pipes open; the container's end is noticed all the same, and its lock is free."""
    children: list[int] = []
    stop = threading.Event()

    def fork() -> None:
        while not stop.is_set() and len(children) < 40:
            pid = os.fork()
            if pid == 0:
                time.sleep(1000)
                os._exit(0)
            children.append(pid)
            time.sleep(0.01)

    thread = threading.Thread(target=fork)
    thread.start()
    try:
        for _ in range(10):
            assert engine.run("host", ["echo", "x"], capture_output=True, timeout=200).stdout == b"x\n"
        assert {container.state for container in engine.containers(all=True)} == {"exited"}
        for container in engine.containers(all=True):
            container.remove()
    finally:
        stop.set()
        thread.join()
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_a_keyboard_interrupt_ends_the_container(engine: Engine, untouched_host: Leaks) -> None:
    def interrupt() -> None:
        until(engine.containers)  # those that run
        os.kill(os.getpid(), signal.SIGINT)

    for options in ({"rm": True}, {"name": "kept"}):
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            engine.run("host", ["sleep", "1000"], **options)
        thread.join()
        assert len(engine.containers(all=True)) == ("name" in options)
    container = engine.container("kept")
    assert (container.state, container.exit_code) == ("exited", 128 + signal.SIGKILL)


@pytest.mark.parametrize(
    ("script", "status"),
    [("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done", 9), ("echo ready; sleep 99", 143)],
)
def test_signals_are_forwarded(engine: Engine, untouched_host: Leaks, script: str, status: int) -> None:
    code = f"""if True:
        import lamina, sys
        sys.exit(lamina.run("host", ["sh", "-c", {script!r}], rm=True, forward_signals=True).returncode)
    """
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(200) == status
    finally:
        process.kill()
        process.communicate()


# -- names of the package


def test_the_shortcut(store_root: Path) -> None:
    done = lamina.run("host", ["echo", "hi"], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("hi\n", 0)
    assert Engine().container(done.name).id == done.container


def test_a_plan_changes_nothing(engine: Engine, untouched_host: Leaks) -> None:
    text = str(engine.plan("host", ["make", "install"], memory="64m", volumes=["/etc:/srv/x"]))
    assert "pivot_root" in text
    assert "execve" in text
    assert engine.containers(all=True) == []


def test_full_disk_while_starting(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.engine import layers

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28), b"/store/x")

    engine.run("host", ["true"], rm=True)
    monkeypatch.setattr("lamina.engine.session.furnish", full)
    with pytest.raises(KernelError, match=r"No space left on device .free some space"):
        engine.run("host", ["true"], name="x")
    assert layers.furnish is not full
    assert engine.containers(all=True) == []


def test_records_are_plain_json(engine: Engine, store_root: Path) -> None:
    engine.run("host", ["printf", "\udcff"], name="x", env=["A=\udcfe"], stdout=subprocess.DEVNULL)
    home = store_root / "containers" / engine.container("x").id
    for name in ("container", "state", "exit", "spec"):
        json.loads((home / f"{name}.json").read_text())
    assert engine.container("x").command == ["printf", "\udcff"]


# -- kernels before 6.8


def test_an_old_kernel_is_given_its_stacks_by_mount(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What 5.12 to 6.7 need works on every kernel: a store far down, and an overlay over the root of another one."""
    from lamina.runtime import facts

    monkeypatch.setattr(facts, "_takes_layers_one_by_one", lambda _: False)
    deep = Engine(tmp_path.joinpath(*["d" * 200] * 9))
    for one in (engine, deep):
        done = one.run("host", ["sh", "-c", "echo x >/srv/written; ls /srv"], name="old", capture_output=True)
        assert (done.returncode, b"written" in (done.stdout or b"")) == (0, True)
        assert b"/srv/written" in [change.path for change in one.container("old").changes()]
        one.container("old").remove()


def test_a_store_whose_paths_are_too_long_for_a_parameter(engine: Engine, tmp_path: Path) -> None:
    """From 6.8 to 6.12 there is no way to hand a layer over as a descriptor."""
    deep = Engine(tmp_path.joinpath(*["d" * 200] * 9))
    assert deep.run("host", ["touch", "/srv/x"], rm=True, tty=True, capture_output=True).returncode == 0


def test_a_program_with_more_than_a_thousand_open_files(engine: Engine) -> None:
    """select(2) knows the first 1024 only."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 3000:
        pytest.skip(f"the hard limit of open files is {before[1]}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3000, before[1]))
    held: list[int] = []
    try:
        held += [os.open("/dev/null", os.O_RDONLY) for _ in range(1500)]
        for options in ({}, {"tty": True}, {"input": b"hello"}, {"pids_limit": 50}):
            done = engine.run("host", ["echo", "hello"], rm=True, capture_output=True, **options)
            assert b"hello" in (done.stdout or b"")
        with pytest.raises(CommandNotFound):
            engine.run("host", ["no-such-command"])
        assert engine.containers(all=True) == []
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_starts_in_several_threads_leave_the_program_as_dumpable_as_it_was(engine: Engine) -> None:
    """Each of them marks the memory that they all share."""
    code = """if True:
        import sys, threading
        from lamina import Engine
        from lamina.linux.process import prctl
        engine, failed = Engine(sys.argv[1]), []

        def work():
            for _ in range(8):
                done = engine.run("host", ["true"], rm=True, user="nobody")
                failed.extend([done] if done.returncode else [])

        for _ in range(4):
            threads = [threading.Thread(target=work) for _ in range(6)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
        print(prctl(3), failed)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, os.fsdecode(engine.store.path)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.stdout, done.stderr) == ("1 []\n", "")


class Now(BaseException):
    """What a handler raises, as the one for Ctrl-C raises KeyboardInterrupt."""


# what is raised between an open and its `with` leaves the closing to the collector, which warns
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("rm", [False, True])
def test_whatever_moment_a_handler_raises_at_the_container_is_recorded_or_gone(
    engine: Engine, rm: bool
) -> None:
    def now(*_: object) -> None:
        raise Now

    engine.run("host", ["true"], rm=True)  # so that everything is loaded
    young = children()
    before = signal.signal(signal.SIGALRM, now)
    try:
        for step in range(40):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0007 * (step + 1))
                # (one that is raised in a destructor is lost)
                engine.run("host", ["sleep", "1000"], rm=rm, timeout=2)
            except (Now, TimeoutExpired):
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert children() <= young
            states = {container.state for container in engine.containers(all=True)}
            assert states <= (set() if rm else {"exited"})
            assert os.listdir(engine.store.running) == os.listdir(engine.store.tmp) == []
            for container in engine.containers(all=True):
                container.remove()
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("when", ["session.furnish", "design.default_filter"])
def test_mounts_that_go_while_a_container_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """As other engines' do all the time: looked at once more, and started without them."""
    from lamina.engine import design, session

    module, name = {"session": session, "design": design}[when.partition(".")[0]], when.partition(".")[2]
    really = getattr(module, name)
    places = [tmp_path / "first", tmp_path / "second"]

    def meanwhile(*args: object) -> object:
        if places:
            place = places.pop()
            subprocess.run(["umount", place], check=True)
            place.rmdir()
        return really(*args)

    def stage() -> None:
        for place in places:
            place.mkdir()
            subprocess.run(["mount", "--bind", "/srv", place], check=True)
        engine = Engine(tmp_path / "store")
        monkeypatch.setattr(module, name, meanwhile)
        done = engine.run("host", ["ls", tmp_path], name="x", capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "store\n")
        assert [
            at for at, _ in engine.container("x").overlays() if at.startswith(os.fsencode(tmp_path))
        ] == []
        engine.container("x").remove()

    in_mount_namespace(stage)


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_mounts_that_are_gone_when_one_asks_what_was_done(tmp_path: Path, written: bool, kept: bool) -> None:
    """What was written there is still told; what was not touched is nothing to complain of. With the mount point *kept*
    there is a directory, but it is another one.
    """
    place = tmp_path / "place"

    def stage() -> list[tuple[str, bytes]]:
        place.mkdir(0o711)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", place], check=True)
        engine = Engine(tmp_path / "store")
        script = f"echo new > {place}/file" if written else "true"
        assert engine.run("host", ["sh", "-c", script], name="x").returncode == 0
        subprocess.run(["umount", place], check=True)
        if not kept:
            place.rmdir()
        container = engine.container("x")
        found = [(change.kind, change.path) for change in container.changes()]
        container.remove()
        return found

    found = [(kind, path) for kind, path in in_mount_namespace(stage) if path.startswith(os.fsencode(place))]
    assert found == ([("added", os.fsencode(place) + b"/file")] if written else [])


def test_a_directory_that_goes_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.engine import reviewed as module

    place = tmp_path / "place"

    def stage() -> list[bytes]:
        place.mkdir()
        subprocess.run(["mount", "--bind", "/srv", place], check=True)
        engine = Engine(tmp_path / "store")
        assert engine.run("host", ["true"], name="x").returncode == 0
        subprocess.run(["umount", place], check=True)
        place.rmdir()
        kept = {
            entry["lower"][0]: entry["inode"] for entry in engine.container("x")._home.asked()["overlays"]
        }
        monkeypatch.setattr(
            module, "inode_of", lambda path: kept[os.fsdecode(path)]
        )  # it went a moment later
        found = [change.path for change in engine.container("x").changes()]
        engine.container("x").remove()
        return found

    assert not [path for path in in_mount_namespace(stage) if path.startswith(os.fsencode(place))]


def test_a_failure_that_has_nothing_to_do_with_mounts_is_not_tried_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lamina.engine import session

    tries = []

    def fail(*args: object) -> None:
        tries.append(args)
        raise KernelError("open", 13, "/x")

    monkeypatch.setattr("lamina.engine.picture.mounts_changed", lambda: len(tries) > 1)
    monkeypatch.setattr(session, "furnish", fail)
    with pytest.raises(KernelError):
        engine.run("host", ["true"])
    assert len(tries) == 1


def test_what_is_mounted_may_go_while_a_container_is_created(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lamina.engine import session
    from lamina.engine.layers import furnish

    tries = []

    def fail_once(*args: object) -> None:
        tries.append(args)
        furnish(*args)  # type: ignore[arg-type]
        if len(tries) == 1:
            raise KernelError("open", 2, "/x")

    monkeypatch.setattr("lamina.engine.picture.mounts_changed", lambda: True)
    monkeypatch.setattr(session, "furnish", fail_once)
    box = engine.create("host", ["true"])
    assert (len(tries), box.status) == (2, "created")
    box.remove()


@pytest.mark.parametrize("verb", ["run", "start"])
def test_a_mount_that_goes_between_the_look_and_the_start_whoever_looks_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Another thread that looks at the mounts in that moment knows of the new ones; this one still has to look."""
    from lamina.engine import picture
    from lamina.engine import session as in_foreground
    from lamina.engine import starting as detached

    place = tmp_path / "mounted"
    module = in_foreground if verb == "run" else detached
    launch, launched = module.launch, []

    def stage() -> None:
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "x", place], check=True)
        engine = Engine(tmp_path / "store")

        def too_late(*args: object, **keywords: object) -> object:
            launched.append(args)
            if len(launched) == 1:
                subprocess.run(["umount", place], check=True)
                place.rmdir()
                other = threading.Thread(
                    target=picture.picture, args=(engine.store,), kwargs={"rootless": False}
                )
                other.start()
                other.join()
            return launch(*args, **keywords)

        monkeypatch.setattr(module, "launch", too_late)
        if verb == "run":
            assert engine.run("host", ["true"], rm=True).returncode == 0
        else:
            with engine.start("host", ["sleep", "600"], stop_timeout=0, lifetime="owner") as box:
                assert box.status == "running"
        assert verb == "start" or len(launched) == 2

    in_mount_namespace(stage)
