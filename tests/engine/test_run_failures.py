"""What options, files and limits can make fail in a start: verb, object, cause and remedy, never a raw step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lamina import Engine
from lamina.errors import CommandNotExecutable, CommandNotFound, KernelError, NotFound, StepFailed
from lamina.linux.mount import mount
from lamina.linux.program import Reg, Step
from lamina.runtime import init
from lamina.runtime.meaning import meaning_of
from support.bundles import printable, small
from support.leaks import Leaks
from support.namespaces import in_mount_namespace
from support.rootless import Rootless


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a file, a directory, a dangling link and a link to itself."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "directory").mkdir()
    (tmp_path / "dangling").symlink_to("/nonexistent/x")
    (tmp_path / "circle").symlink_to("circle")
    return tmp_path


WORKDIR = [
    ("{place}/file", "a file is in its place"),
    ("{place}/file/below", "or on the way to it"),
    ("{place}/dangling", "dangling link"),
    ("{place}/circle", "lead in a circle"),
    ("/proc/nothing", "a directory of the kernel's own"),
    ("/sys/nothing", "read-only"),
    ("/" + "x" * 300, "more than 255 bytes"),
    ("/x" * 3000, "more than 4,095"),
]
VOLUMES = [
    ("{place}/file:{place}/directory", "a file cannot be mounted on a directory"),
    ("{place}/directory:{place}/file", "is a directory, and a file is in the place of"),
    ("{place}/directory:/etc/passwd/x", "or on the way to it"),
    ("{place}/file:{place}/file/x", "a file is in its place, or on the way to it"),
    ("{place}/directory:/dev/null", "a file is in the place of /dev/null"),
    ("{place}/directory:{place}/dangling", "leads nowhere"),
    ("{place}/file:{place}/dangling", "leads nowhere"),
    ("{place}/directory:{place}/circle", "lead in a circle"),
    ("{place}/directory:/sys/x", "read-only"),
]


def refused(engine: Engine, command: str = "true", **options: Any) -> StepFailed:
    """The error of a start that leaves nothing behind."""
    with pytest.raises(StepFailed) as raised:
        engine.run("host", [command], **options)
    assert engine.containers(all=True) == []
    assert os.listdir(engine.store.tmp) == os.listdir(engine.store.running) == []
    assert "step" not in raised.value.message
    assert "@" not in raised.value.message
    assert raised.value.step  # it is there for who wants to know
    return raised.value


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Engine:
    return Engine(store_root)


@pytest.mark.root
@pytest.mark.parametrize(("path", "cause"), WORKDIR)
def test_a_working_directory_that_cannot_be(engine: Engine, place: Path, path: str, cause: str) -> None:
    path = path.format(place=place)
    error = refused(engine, workdir=path)
    assert error.message.startswith(f"enter working directory {path}: ")
    assert cause in error.message
    assert "--workdir" in error.remedy
    assert error.exit_code == 125


@pytest.mark.root
@pytest.mark.parametrize(("volume", "cause"), VOLUMES)
def test_a_volume_that_cannot_be(engine: Engine, place: Path, volume: str, cause: str) -> None:
    volume = volume.format(place=place)
    error = refused(engine, volumes=[volume])
    assert error.message.startswith("mount {} at {}: ".format(*volume.split(":")))
    assert cause in error.message
    assert error.remedy


@pytest.mark.root
def test_commands(engine: Engine, place: Path) -> None:
    script = place / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    foreign = place / "foreign"
    foreign.write_bytes(b"\x7fELF of some other machine")
    foreign.chmod(0o755)
    for command, kind, cause in (
        ("no-such", CommandNotFound, "no such command in the container"),
        (
            str(script),
            CommandNotFound,
            "No such file or directory in the container, or no such interpreter",
        ),
        (str(place / "file"), CommandNotExecutable, "Permission denied: it is a directory, or its mode"),
        (str(place), CommandNotExecutable, "Permission denied: it is a directory, or its mode"),
        (
            str(foreign),
            CommandNotExecutable,
            "Exec format error: it is neither a program for this machine",
        ),
    ):
        error = refused(engine, command)
        assert type(error) is kind
        assert error.message.startswith(f"execute {command}: {cause}")
        assert error.remedy
    assert "along PATH=/usr/local/sbin:" in refused(engine, "no-such").remedy
    assert "PATH=/nowhere" in refused(engine, "no-such", env=["PATH=/nowhere"]).remedy


@pytest.mark.root
def test_an_argument_that_is_too_long(engine: Engine) -> None:
    with pytest.raises(CommandNotExecutable, match=r"execute echo: Argument list too long: .*standard input"):
        engine.run("host", ["echo", "x" * 140_000])
    assert engine.containers(all=True) == []


@pytest.mark.root
def test_no_room_for_an_init(engine: Engine) -> None:
    if not Path(init.INIT).exists():
        pytest.skip("lamina-init is not built")
    error = refused(engine, init=True, pids_limit=1)
    assert (type(error), error.exit_code) == (StepFailed, 125)
    assert "--pids-limit" in error.remedy


@pytest.mark.userns
def test_without_root(rootless: Rootless) -> None:
    done = rootless.lamina("run", "--rm", "-w", "/usr/share/doc/mine", "host", "true")
    assert done.returncode == 125
    assert "enter working directory /usr/share/doc/mine: " in done.stderr
    assert "step" not in done.stderr
    assert "hint: name another directory with --workdir" in done.stderr


FORBIDDEN = """if True:
    import sys
    sys.path.insert(0, sys.argv[1])
    from support.forbidden import forbid
    from lamina.cli.entry import command_line
    from lamina.engine import id_maps
    id_maps._has_helpers = lambda: False  # set-user-ID programs do nothing under a filter
    forbid(sys.argv[2], int(sys.argv[3]))
    sys.exit(command_line(["run", "--rm", "host", "true"]))
"""


@pytest.mark.userns
@pytest.mark.parametrize(("call", "number"), [("setresgid", 1), ("unshare", 1), ("mount", 13), ("fsopen", 1)])
def test_a_user_namespace_without_privileges(rootless: Rootless, call: str, number: int) -> None:
    """As on Ubuntu 24.04, whose AppArmor takes them away; which call fails first depends on the user's ids."""
    done = rootless.python(FORBIDDEN, str(Path(__file__).parents[1]), call, str(number))
    assert done.returncode == 125
    *_, said, hint = done.stderr.splitlines()  # behind warnings
    assert said == (
        "lamina: start without root: a security module or a filter of system calls forbids "
        f"{call}(2) in a user namespace"
    )
    assert hint.startswith("hint: `lamina doctor`")


@pytest.mark.root
def test_a_user_namespace_without_privileges_by_apparmor() -> None:
    """The sysctl is a file in the place where Ubuntu's kernels have it."""
    asked = bundle(namespaces=[{"type": "user"}])

    def on_ubuntu() -> Any:
        mount("tmpfs", "/proc/sys/kernel", "tmpfs")
        Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").write_text("1\n")
        return [meaning_of(asked, step(call), number) for call, number in (("setgroups", 1), ("mount", 13))]

    for meaning in in_mount_namespace(on_ubuntu):
        assert meaning.message == (
            "start without root: this host lets an ordinary user make a user namespace, but do nothing in it "
            "(AppArmor: kernel.apparmor_restrict_unprivileged_userns is 1)"
        )
        assert "`lamina doctor`" in meaning.remedy
    assert meaning_of(bundle(), step("setgroups"), 1) is None  # root's containers have no such namespace


# -- what cannot be provoked here


def step(call: str, *names: str) -> Step:
    return Step(call, *(map(Reg, names) if names else (None,) * 3))


def bundle(**more: Any) -> Any:
    spec = small()
    spec["mounts"] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/b", "type": "bind", "source": "/proc", "options": ["rbind"]},
    ]
    spec["linux"].update(more)
    return printable(spec)


@pytest.mark.parametrize(
    ("failed", "number", "said"),
    [
        (step("move_mount", "mount0", "target0"), 40, "mount proc at /proc: a link is in the way"),
        (step("openat2", "target0"), 20, "mount proc at /proc: a file is in the place"),
        (step("fsconfig", "mount0.fs"), 1, "mount proc at /proc: this host does not permit"),
        (step("fsopen", "mount0.fs"), 19, "mount proc at /proc: this kernel has no proc"),
        (
            step("move_mount", "mount1", "target1"),
            28,
            "mount /proc at /b: there is no room for another mount",
        ),
        (step("open_tree", "mount1"), 22, "mount /proc at /b: that mount cannot be copied"),
        (step("mkdirat", "target1.1"), 75, "mount /proc at /b: it cannot be made, because"),
        (step("mkdirat", "cwd.1"), 13, "enter working directory /: no permission"),
        (step("fsconfig", "root.fs"), 28, "mount overlay"),
    ],
)
def test_what_a_step_means(failed: Step, number: int, said: str) -> None:
    meaning = meaning_of(bundle(), failed, number)
    assert meaning is not None
    assert meaning.message.startswith(said)


def test_too_little_memory_is_only_said_where_it_was_limited() -> None:
    failed = step("mkdirat", "cwd.1")
    limited = meaning_of(bundle(resources={"memory": {"limit": 6 << 20}}), failed, 12)
    assert limited is not None
    assert "--memory" in limited.remedy
    assert meaning_of(bundle(), failed, 12) is None


@pytest.mark.parametrize("failed", [step("keyctl"), step("fsconfig", "mount99"), step("close", "dev.null")])
def test_what_nobody_asked_for_is_told_as_it_is(failed: Step) -> None:
    assert meaning_of(bundle(), failed, 22) is None


@pytest.mark.root
@pytest.mark.parametrize("limit", [9, 12, 30, 64])
def test_too_few_open_files(store_root: Path, untouched_host: Leaks, limit: int) -> None:
    code = """if True:
        import resource, sys
        from lamina.cli.entry import command_line
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
        sys.exit(command_line(["run", "--rm", "host", "true"]))
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(limit)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 125
    assert "ulimit -" in done.stderr
    assert "step" not in done.stderr
    assert os.listdir(store_root / "containers") == []


@pytest.mark.root
def test_a_source_that_cannot_be(engine: Engine, place: Path) -> None:
    with pytest.raises(NotFound, match=r"mount .*circle at /srv: Too many levels .*\(name a source"):
        engine.run("host", ["true"], volumes=[f"{place}/circle:/srv"])
    with pytest.raises(
        KernelError, match=r"make volume source .*file/below: Not a directory \(name a file or dir"
    ):
        engine.run("host", ["true"], volumes=[f"{place}/file/below:/srv"])
    assert engine.containers(all=True) == []
