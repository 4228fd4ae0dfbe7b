"""The same verbs for somebody who is not root."""

from __future__ import annotations

import re

import pytest

from support.rootless import Rootless
from support.terminal import Terminal, lamina

pytestmark = pytest.mark.userns


def complaints(said: str) -> list[str]:
    """What was said, without the warnings about the accounts of the stage that this user lives on, and about what
    others have mounted on this machine.
    """
    others = re.compile(r"lamina: warning: (/etc|.*: [0-9]+ of its files are read-only)")
    return [line for line in said.splitlines() if not others.match(line)]


def test_run_diff_apply_and_undo(rootless: Rootless) -> None:
    file = rootless.home / "greeting"
    done = rootless.lamina(
        "run", "--name", "demo", "host", "--", "sh", "-c", f"echo hello >{file}; cat {file}; exit 4"
    )
    assert (done.stdout, complaints(done.stderr), done.returncode) == ("hello\n", [], 4)
    assert not file.exists()
    assert rootless.lamina("diff", "demo").stdout == f"A {file}\n"
    assert rootless.lamina("apply", "demo").returncode == 0
    assert file.read_text() == "hello\n"
    assert (file.stat().st_uid, file.stat().st_gid) == (rootless.uid, rootless.gid)
    assert rootless.lamina("undo", "demo").returncode == 0
    assert not file.exists()
    assert rootless.lamina("rm", "demo").stdout == "demo\n"


def test_try_on_a_terminal(rootless: Rootless) -> None:
    command = rootless.argv(*lamina("try", "--network", "none", "sh", "-c", "tty; stty size; touch here"))
    environment = {**rootless.env, "NO_COLOR": "1", "LAMINA_ROOT": f"{rootless.env['XDG_DATA_HOME']}/lamina"}
    with Terminal(command, env=environment, cwd=rootless.home, size=(30, 90)) as terminal:
        terminal.expect("/dev/pts/0\r\n30 90\r\n")
        terminal.expect(f"A {rootless.home}/here")
        terminal.expect(r"\[K\]eep\? ")
        terminal.type("a\r")
        terminal.expect("applied: 1 added")
        assert terminal.wait() == 0
    assert (rootless.home / "here").exists()


def test_doctor_and_info(rootless: Rootless) -> None:
    doctor = rootless.lamina("doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert f"store:    {rootless.env['XDG_DATA_HOME']}/lamina" in rootless.lamina("info").stdout


def test_a_command_that_is_not_there(rootless: Rootless) -> None:
    for command, status in (("no-such-command", 127), ("/etc", 126)):
        done = rootless.lamina("run", "--rm", "host", command)
        assert done.returncode == status, done.stderr
        assert complaints(done.stderr)[0].startswith(f"lamina: execute {command}: ")
    assert rootless.lamina("ps", "-aq").stdout == ""
