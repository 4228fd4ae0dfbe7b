"""CVE-2019-5736: nothing of ours can be reached, changed or executed from inside, in particular no interpreter."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

import lamina
from support.attacker import Attacker

REFUSAL = "lamina: a script cannot be interpreted by the program that executes it\n"


def state(path: Path) -> tuple[str, int, int, int, tuple[str, ...]]:
    found = path.stat()
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return content, found.st_mode, found.st_uid, found.st_mtime_ns, tuple(os.listxattr(path))


@pytest.fixture(params=["compiled", "uncompiled"])
def anyhow(request: pytest.FixtureRequest, attacker: Attacker) -> Iterator[Attacker]:
    """The attacker, also against a Lamina that was installed where there is no C compiler.

    Lamina runs in a copy of the interpreter: if the attack should succeed, this machine's own stays as it is.
    """
    package, copy = Path(lamina.__file__).parent, attacker.place / "copy"
    venv.create(copy, symlinks=False)
    interpreter = copy / "bin/python"
    if request.param == "uncompiled":
        without = shutil.ignore_patterns("*.so", "lamina-init", "__pycache__")
        shutil.copytree(package, copy / "lamina", ignore=without)
        package = copy / "lamina"
    if attacker.user is not None:
        attacker.user.give(copy)
    start = (
        f"import sys; sys.path.insert(0, {str(package.parent)!r}); from lamina.cli.entry import main; main()"
    )
    attacker.command = [str(interpreter), "-P", "-c", start]
    before = state(interpreter)
    yield attacker
    assert state(interpreter) == before


@pytest.fixture(autouse=True)
def _nothing_of_ours_changes() -> Iterator[None]:
    package = Path(lamina.__file__).parent
    ours = [Path(sys.executable).resolve(), *package.rglob("*.so"), package / "runtime/init/lamina-init"]
    before = [state(path) for path in ours if path.exists()]
    yield
    assert [state(path) for path in ours if path.exists()] == before


# opens the program that interprets it and changes whatever file that is
OVERWRITE = """\
import os
held = os.open("/proc/self/exe", os.O_RDONLY)
print("running as", os.readlink("/proc/self/exe"))
for attempt in (
    lambda: os.fchmod(held, 0o4777),
    lambda: os.fchown(held, 0, 0),
    lambda: os.utime(held, (0, 0)),
    lambda: os.setxattr(held, "user.lamina-attack", b"x"),
    lambda: os.write(os.open(f"/proc/self/fd/{held}", os.O_WRONLY), b"#!/bin/sh"),
):
    try:
        attempt()
        print("CHANGED")
    except OSError as error:
        print(error.strerror)
"""


@pytest.mark.parametrize(
    "interpreter", ["/proc/self/exe", "/proc/thread-self/exe", "/proc/1/exe", "/innocent"]
)
def test_cve_2019_5736_a_script_whose_interpreter_is_whoever_executes_it(
    anyhow: Attacker, interpreter: str
) -> None:
    """Whoever calls execve(2) is /proc/self/exe until it succeeds: it must be a program that is nobody's."""
    script = anyhow.place / "entrypoint"
    if interpreter == "/innocent":  # a link to it, so that no look at the first line would help
        interpreter = f"{anyhow.place}/innocent"
        Path(interpreter).symlink_to("/proc/self/exe")
    script.write_text(f"#!{interpreter}\n{OVERWRITE}")
    script.chmod(0o755)
    done = anyhow.lamina("run", "--rm", "host", "--", script)
    assert (done.returncode, done.stdout) == (126, REFUSAL)


def test_cve_2019_5736_the_command_is_whoever_executes_it(anyhow: Attacker) -> None:
    done = anyhow.lamina("run", "--rm", "host", "--", "/proc/self/exe", "-c", OVERWRITE)
    assert (done.returncode, done.stdout) == (126, REFUSAL)
    for command in ("/proc/self/fd/3", "/proc/self/fd/4", "/proc/self/fd/5", "/proc/1/exe"):
        done = anyhow.lamina("run", "--rm", "host", "--", command, "-c", OVERWRITE)
        assert done.returncode in (126, 127), done.stdout
        assert "running as" not in done.stdout


@pytest.mark.peer("gcc")
def test_cve_2019_5736_a_program_whose_loader_is_whoever_executes_it(anyhow: Attacker) -> None:
    source, program = anyhow.place / "p.c", anyhow.place / "program"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-o", program, source, "-Wl,--dynamic-linker=/proc/self/exe"], check=True)
    program.chmod(0o755)
    done = anyhow.lamina("run", "--rm", "host", "--", program)
    assert done.returncode != 0
    assert "running as" not in done.stdout


def test_cve_2019_5736_the_first_process_is_the_containers_own(attacker: Attacker) -> None:
    """/proc/1/exe is a file of the container's root, through its overlay, and so is everything it has mapped."""
    code = (
        "import os\n"
        "found = os.stat('/proc/1/exe')\n"
        "named = os.stat(os.readlink('/proc/1/exe'))\n"
        "print(found.st_ino == named.st_ino, found.st_dev == named.st_dev)\n"
        "files = {line.split()[-1] for line in open('/proc/1/maps') if '/' in line}\n"
        "print([file for file in files if 'lamina' in file or 'memfd' in file])\n"
    )
    assert attacker.python(code).stdout == "True True\n[]\n"


def test_cve_2019_5736_an_uncompiled_lamina_starts_and_says_no_less(anyhow: Attacker) -> None:
    """Where it cannot start safely it must not start; where it can, nothing need be said."""
    done = anyhow.lamina(
        "run", "--rm", "host", "--", "sh", "-c", "echo started; readlink /proc/$$/exe; exit 7"
    )
    assert done.returncode == 7, done.stdout
    first, program = done.stdout.splitlines()
    assert first == "started" and Path(program).name == Path("/bin/sh").resolve().name
    done = anyhow.lamina("run", "--rm", "host", "--", "no-such-command")
    assert done.returncode == 127, done.stdout


def test_cve_2019_5736_writing_to_the_interpreter_changes_the_overlay_only(attacker: Attacker) -> None:
    """The container may spoil the Python it sees; ours is another file (see the check around every test here)."""
    target = Path(sys.executable).resolve()
    attacker.said(f"exec 2>/dev/null; cp {target} /tmp/p; echo spoilt >> {target}; chmod 4777 {target}; :")


def test_cve_2024_0132_the_containers_environment_reaches_no_helper(attacker: Attacker) -> None:
    """CVE-2025-23266 too: LD_PRELOAD of a container is a matter of the container."""
    canary = attacker.place / "canary"
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "PATH"):
        done = attacker.inside(":", "-e", f"{name}={canary}", "-e", f"PATH={os.environ['PATH']}")
        assert done.returncode == 0 or name == "LD_PRELOAD", done.stdout
