"""Who attacks: scripts in containers over this machine, started by root and by an ordinary user."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from support.rootless import Rootless

Done = subprocess.CompletedProcess[str]
LAMINA = [sys.executable, "-m", "lamina"]


class Attacker:
    """Runs shell scripts in containers, as whoever the test is about. `place` is a directory of that user's."""

    def __init__(self, place: Path, user: Rootless | None = None) -> None:
        self.place, self.user, self.rootless = place, user, user is not None
        self.command = LAMINA

    def run(self, *command: str | Path, **options: Any) -> Done:
        """A command of this user's on the host; standard error is part of what it says."""
        options = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "stdin": subprocess.DEVNULL,
            "text": True,
            "timeout": 100,
            **options,
        }
        if self.user is not None:
            done = self.user.run(*command, **options)
        else:
            done = subprocess.run([str(word) for word in command], **options)
        if done.stdout:  # of what the machine is like, not of the attack
            lines = done.stdout.splitlines(keepends=True)
            done.stdout = "".join(line for line in lines if not line.startswith("lamina: warning: "))
        return done

    def lamina(self, *arguments: str | Path, **options: Any) -> Done:
        """The `lamina` command."""
        return self.run(*self.command, *arguments, **options)

    def inside(self, script: str, *options: str | Path, **more: Any) -> Done:
        """A shell script in a container that is removed."""
        return self.lamina("run", "--rm", *options, "host", "--", "sh", "-c", script, **more)

    def said(self, script: str, *options: str | Path, **more: Any) -> str:
        """What the script prints; it must end well."""
        done = self.inside(script, *options, **more)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def python(self, code: str, *options: str | Path, **more: Any) -> Done:
        """The same for a Python program."""
        return self.lamina("run", "--rm", *options, "host", "--", sys.executable, "-c", code, **more)
