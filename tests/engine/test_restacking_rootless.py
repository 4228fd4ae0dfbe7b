"""The root of an ordinary user's container, replaced under it: where control groups were delegated to him."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from errno import EBUSY
from functools import partial
from pathlib import Path

import pytest

from lamina.runtime.cgroups import read_layout
from support.lives import until
from support.rootless import Rootless

pytestmark = [pytest.mark.root, pytest.mark.userns, pytest.mark.peer("busybox")]

PROGRAM = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from lamina import Engine
from lamina.errors import Conflict
from support.chains import Chain, digest
from support.small_images import small_image
root = Path(sys.argv[2])
engine, said = Engine(root), []
small_image(root)
with engine.start("tiny", ["sleep", "1000"], workdir="/home/ann", network="none") as box:
    def shell(words):
        return box.exec(["sh", "-c", words], check=True, capture_output=True, text=True).stdout
    chain = Chain(box)
    for number in range(3):
        shell(f"echo {number} > count; echo x >> /etc/passwd")
        swapped = chain.freeze(consistency="refuse").swapped
        said.append([swapped, shell("pwd; cat count; readlink /proc/1/cwd").split()])
    seen = [digest(one) for one in chain.layers]
    held = box.exec_detached(["sh", "-c", "exec sleep 1000 > /tmp/held"])
    while not os.path.exists(chain.stacks[0][1].upperdir + b"/tmp/held"): pass
    try:
        chain.freeze(consistency="refuse")
    except Conflict as error:
        said.append("a file open for writing as descriptor 1: /tmp/held" in str(error))
    copied = []
    said.append([chain.freeze(copy=lambda: copied.append(1)).swapped, copied])
    said.append(seen == [digest(one) for one in chain.layers] and len(seen))
print(json.dumps(said))
"""


@pytest.fixture
def group(rootless: Rootless) -> Iterator[Path]:
    """A control group that the user may divide, in the hierarchy where processes are frozen."""
    layout = read_layout()
    mount = layout.v1.get("freezer") or layout.v2
    assert mount is not None
    place = Path(os.fsdecode(mount), f"lamina-restacking-{os.getpid()}")
    place.mkdir()
    rootless.give(place)
    try:
        yield place
    finally:
        until(partial(is_removed, place))


def is_removed(group: Path) -> bool:
    """Whether it is now: a supervisor whose container was removed may still be on its way out of it."""
    try:
        group.rmdir()
    except OSError as error:
        if error.errno != EBUSY:
            raise
        return False
    return True


def test_it_is_replaced_as_roots_are(rootless: Rootless, group: Path) -> None:
    def join() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    words = [str(Path(__file__).parents[1]), str(rootless.tmp / "store")]
    done = rootless.python(PROGRAM, *words, preexec_fn=join)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        *[[True, ["/home/ann", str(number), "/home/ann"]] for number in range(3)],
        True,
        [False, [1]],
        3,
    ]


KILLED = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from lamina import Engine
from lamina.engine import replacing
from lamina.linux.program import Step
from support.small_images import small_image
root, calls = Path(sys.argv[2]), []
engine = Engine(root)
small_image(root)
def killed_at(number):
    pid = os.fork()
    if pid:
        calls.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return
    steps_of, walk = replacing.swap_steps, replacing.Swap._walk
    def cut(*given):
        steps, needed = steps_of(*given)
        if number < len(steps):
            steps[number] = Step("exit_group", 0)
        return steps, needed
    def walked(swap, *given):
        try:
            return walk(swap, *given)
        except BaseException:
            os.kill(swap.still._guard._child.pid, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
    replacing.swap_steps, replacing.Swap._walk = cut, walked
    try:
        Engine(root).container("box").snapshot(consistency="refuse")
    finally:
        os._exit(0)
with engine.start("tiny", ["sleep", "1000"], name="box", network="none", volumes=["data:/data"]) as box:
    def shell(words):
        return box.exec(["sh", "-c", words], check=True, capture_output=True, text=True).stdout
    mounts = shell("cut -d' ' -f5 /proc/self/mountinfo | sort")
    for number in range(0, 60, 3):
        shell(f"echo {number} >/count")
        killed_at(number)
        box.snapshot(consistency="refuse")
        assert shell("cat /count; echo x >/count") == f"{number}\\n", number
        assert shell("cut -d' ' -f5 /proc/self/mountinfo | sort") == mounts, number
assert calls.count(-signal.SIGKILL) > 10, calls
print("well")
"""


def test_what_somebody_left_half_replaced_is_made_whole(rootless: Rootless, group: Path) -> None:
    def join() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    words = [str(Path(__file__).parents[1]), str(rootless.tmp / "store")]
    done = rootless.python(KILLED, *words, preexec_fn=join)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
