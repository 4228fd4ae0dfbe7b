"""An ordinary user applies to files of his own; what he may not do is said, and nothing of it is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.rootless import Rootless

TESTS = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.userns

PRELUDE = f"""
import os, sys
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from support.hosts import Machine, differences, hidden, picture
machine = Machine(Path(os.environ["TMPDIR"]) / "m", userxattr=True)
"""


def play(rootless: Rootless, text: str) -> None:
    done = rootless.python(PRELUDE + text)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "well\n", done.stdout


def test_everything_of_ones_own(rootless: Rootless) -> None:
    play(
        rootless,
        """
for path in ("d/conf", "d/gone", "d/tree/x", "closed/f", "kind/x"):
    machine.write(path, "old")
(machine.root / "closed").chmod(0o555)
def work():
    Path("d/conf").write_text("new")
    os.unlink("d/gone")
    os.system("rm -r d/tree kind; echo file > kind; mkdir -p n/m; echo x > n/m/f; chmod 500 n/m")
    os.system("echo more > closed/g; chmod 700 d")
    os.setxattr("d/conf", "user.note", b"x")
machine.run(work)
before = picture(machine.root)
merged = {  # there the user is root
    path: (*entry[:2], os.getuid(), os.getgid(), *entry[4:]) for path, entry in machine.merged_picture().items()
}
machine.apply()
assert differences(picture(machine.root), merged) == {}, differences(picture(machine.root), merged)
machine.undo()
assert differences(picture(machine.root), before) == {}, differences(picture(machine.root), before)
assert hidden(machine.root) == []
print("well")
""",
    )


def test_a_directory_of_others_is_refused(rootless: Rootless) -> None:
    play(
        rootless,
        """
from lamina.engine.apply.gather import changes_of
from lamina.engine.apply.operations import apply
from lamina.errors import KernelError
import errno
machine.write("mine", "old")
machine.run(lambda: os.system("echo new > mine; mkdir sub; echo x > sub/f"))
changes = machine.changes()
# the same changes, to a directory of root's
changes = [change for change in changes if change.path.startswith(b"/sub")]
try:
    apply(changes, machine.journal, started_ns=machine.started_ns, root="/etc")
except KernelError as error:
    assert error.errno == errno.EACCES, error
    assert "/sub" in str(error) or "/.lamina-" in str(error), error
    assert "everything is as it was before" in str(error), error
    print("well")
""",
    )
