"""A state machine of containers that run, their states and forks, against a plain model: what each shows is at all
times what was written there, whatever was frozen, gone back to, forked, squashed, promoted, committed, stopped and
started again, and whoever was killed in between: the process that did one of these at any step, the container's
supervisor, its first process.

A long run: LAMINA_TIME_TRAVEL_RUNNING=500 (so many machines) `pytest -o timeout=0` of this file.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import sleep

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from lamina import Container, Engine, Snapshot
from lamina.engine import squashing
from lamina.errors import Conflict
from lamina.overlay.spec import MountSpec, steady_options, top_first
from lamina.overlay.stack import Overlay
from lamina.store import images, layers, trace
from lamina.store.check import DAMAGED
from support.leaks import Leaks
from support.lives import await_burials, kill_supervisor, remove_all, state_of, until
from support.rootless import remove_whole
from support.small_images import busybox_tree

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

LONG = "LAMINA_TIME_TRAVEL_RUNNING" in os.environ
EXAMPLES = int(os.environ.get("LAMINA_TIME_TRAVEL_RUNNING") or 1)
STEPS = 40 if LONG else 14
PHASES = (
    Phase.generate,
)  # each step is a container's: making a failure small takes longer than anybody waits
NAMES = ("a", "b", "d/a", "d/b", "d/e/a")
LIVING = ("running", "paused")

# which of what there is: how much that is depends on when somebody was killed, what is drawn must not
WHICH = st.integers(0, 59)

Tree = dict[str, str]  # what is below /task: files and their content, directories with "/" at the end

WRITE = "mkdir -p /task/{up} && echo {text} >/task/{path}"
# in place, whoever has it open: a descriptor that was opened before would not be in the state
APPEND = "mkdir -p /task/{up} && echo {text} >>/task/{path}"
# made anew under its old name: a directory becomes opaque, and is seen to be
RENEW = "rm -rf /task/d && mkdir /task/d && echo {text} >/task/d/new"


def tree_of(top: Path) -> Tree:
    found: Tree = {}
    for directory, _, names in os.walk(top):
        here = Path(directory)
        if here != top:
            found[f"{here.relative_to(top)}/"] = ""
        for name in names:
            found[str((here / name).relative_to(top))] = (here / name).read_text()
    return found


class Running(RuleBasedStateMachine):
    """`trees` are the containers' as they are to be, `states` those of snapshots, `kept` those of images."""

    place: Path

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=self.place))
        self.engine = Engine(self.root / "store")
        self.count = 0
        self.trees: dict[str, Tree] = {}
        self.states: dict[str, tuple[str, Tree]] = {}
        self.kept: dict[str, Tree] = {}

    @initialize()
    def begin(self) -> None:
        busybox_tree(self.root / "tree")
        self.engine.from_directory(self.root / "tree", "tiny")
        self.start()

    def teardown(self) -> None:
        remove_all(self.engine)
        await_burials()  # they would remove the same
        remove_whole(self.root)  # in which somebody who squashes may have a claim just now

    def box(self, identity: str) -> Container:
        return self.engine.container(identity)

    def one(self, which: int) -> Container:
        return self.box(list(self.trees)[which % len(self.trees)])

    def a_state(self, which: int) -> tuple[str, Container]:
        found = list(self.states)[which % len(self.states)]
        return found, self.box(self.states[found][0])

    def next_text(self) -> str:
        self.count += 1
        return str(self.count)

    def met(self, box: Container, tree: Tree) -> None:
        """The snapshots of *box* that something else has made are of *tree*."""
        for one in box.snapshots():
            self.states.setdefault(one.id, (box.id, tree))

    def runs(self, box: Container) -> bool:
        """Have it run; what it shows is looked at through its first process."""
        if box.state == "paused":
            box.unpause()
        if box.state not in LIVING:
            until(lambda: box.state in ("exited", "created"))
            box.start()
        return True

    def shell(self, box: Container, words: str) -> None:
        self.runs(box)
        box.exec(["sh", "-ec", words], check=True, timeout=200)

    # -- what is done

    @rule()
    def start(self) -> None:
        if len(self.trees) > 1:
            return
        command = [
            "sh",
            "-c",
            "trap exit TERM; mkdir -p /task; cd /task; while :; do sleep 1000 & wait; done",
        ]
        box = self.engine.start("tiny", command, network="none", stop_timeout=0)
        until(lambda: (Path(f"/proc/{state_of(box)['pid']}/root/task")).is_dir())
        self.trees[box.id] = {}

    @rule(which=WHICH, path=st.sampled_from(NAMES), how=st.sampled_from([WRITE, APPEND]))
    def write(self, which: int, path: str, how: str) -> None:
        box, text = self.one(which), self.next_text()
        tree = dict(self.trees[box.id])
        self.shell(box, how.format(up=os.path.dirname(path) or ".", path=path, text=text))
        tree[path] = (tree.get(path, "") if how is APPEND else "") + text + "\n"
        up = os.path.dirname(path)
        while up:
            tree[up + "/"] = ""
            up = os.path.dirname(up)
        self.trees[box.id] = tree

    @rule(which=WHICH, path=st.sampled_from(("a", "d", "d/e", "d/a")))
    def delete(self, which: int, path: str) -> None:
        box = self.one(which)
        self.shell(box, f"rm -rf /task/{path}")
        tree = self.trees[box.id]
        self.trees[box.id] = {
            name: text for name, text in tree.items() if name != path and not name.startswith(path + "/")
        }

    @rule(which=WHICH)
    def renew(self, which: int) -> None:
        box, text = self.one(which), self.next_text()
        self.shell(box, RENEW.format(text=text))
        tree = {name: known for name, known in self.trees[box.id].items() if not name.startswith("d/")}
        self.trees[box.id] = {**tree, "d/": "", "d/new": text + "\n"}

    @rule(which=WHICH)
    def rename(self, which: int) -> None:
        box = self.one(which)
        tree = self.trees[box.id]
        files = [name for name in tree if not name.endswith("/")]
        if not files:
            return
        name = files[which % len(files)]
        self.shell(box, f"mv /task/{name} /task/moved")
        self.trees[box.id] = {**{key: text for key, text in tree.items() if key != name}, "moved": tree[name]}

    @rule(which=WHICH, consistency=st.sampled_from(["auto", "refuse", "copy", "wait"]))
    def freeze(self, which: int, consistency: str) -> None:
        box = self.one(which)
        if box.state == "paused" and consistency != "copy":
            consistency = "auto"  # its working directory cannot be moved then: what was written is copied
        made = box.snapshot(consistency=consistency)
        self.states[made.id] = box.id, self.trees[box.id]

    @rule(which=WHICH)
    def rewind(self, which: int) -> None:
        if not self.states:
            return
        state, box = self.a_state(which)
        if self.refused(box, lambda: box.rewind(state)):
            return
        self.trees[box.id] = self.states[state][1]

    def refused(self, box: Container, verb: Callable[[], object]) -> bool:
        """Whether *verb* was: of one that is paused in another directory than / no files can be put back."""
        if box.state != "paused":
            verb()
            return False
        with pytest.raises(Conflict, match="the container is paused"):
            verb()
        return True

    @rule(which=WHICH)
    def forget(self, which: int) -> None:
        if not self.states:
            return
        state, box = self.a_state(which)
        box.find_snapshot(state).remove()
        del self.states[state]

    @rule(which=WHICH, background=st.booleans())
    def squash(self, which: int, background: bool) -> None:
        box = self.one(which)
        if background:
            squashing.squash_due(box._home)
        else:
            box.squash()

    @rule(which=WHICH, of_a_state=st.booleans())
    def fork(self, which: int, of_a_state: bool) -> None:
        if len(self.trees) > 2:
            return
        if self.states and of_a_state:
            state, box = self.a_state(which)
            [child], tree = box.find_snapshot(state).fork(start=True), self.states[state][1]
        else:
            box = self.one(which)
            [child], tree = box.fork(start=True), self.trees[box.id]
            self.met(box, tree)
        self.trees[child.id] = tree

    @rule(which=WHICH, fork=WHICH)
    def promote(self, which: int, fork: int) -> None:
        if len(self.trees) < 2:
            return
        box, other = self.one(which), self.one(fork)
        if box == other:
            return
        made: list[Snapshot] = []
        if self.refused(box, lambda: made.append(box.promote(other))):
            self.met(box, self.trees[box.id])
            return
        self.states[made[0].id] = box.id, self.trees[other.id]
        self.met(box, self.trees[box.id])
        self.trees[box.id] = self.trees[other.id]

    @rule(which=WHICH)
    def commit(self, which: int) -> None:
        box = self.one(which)
        self.kept[box.commit().id] = self.trees[box.id]

    @rule(which=WHICH, verb=st.sampled_from(["stop", "start", "pause", "kill", "restart"]))
    def life(self, which: int, verb: str) -> None:
        box = self.one(which)
        if verb == "start":
            self.runs(box)
        elif box.state == "running":
            getattr(box, verb)()

    @rule(which=WHICH)
    def orphaned(self, which: int) -> None:
        """Its supervisor is killed: it lives on, or has ended, and its files are what they were."""
        box = self.one(which)
        if box.state in LIVING:
            kill_supervisor(box)

    @rule(which=WHICH)
    def remove(self, which: int) -> None:
        if len(self.trees) < 2:
            return
        box = self.one(which)
        box.remove(force=True)
        del self.trees[box.id]
        self.states = {state: found for state, found in self.states.items() if found[0] != box.id}

    @rule()
    def collect(self) -> None:
        self.engine.storage.collect()

    @rule(
        which=WHICH,
        step=st.integers(1, 45),
        verb=st.sampled_from(["freeze", "copy", "squash", "rewind"]),
        after=st.none() | st.integers(0, 15_000),
    )
    def killed(self, which: int, step: int, verb: str, after: int | None) -> None:
        """Whoever makes a snapshot, goes back, or squashes is killed, at that *step* or *after* so many microseconds
        with everybody in its process group: it has happened, or it has not.
        """
        box = self.one(which)
        mine = [state for state, found in self.states.items() if found[0] == box.id]
        if verb == "rewind" and not mine:
            return
        state = mine[step % len(mine)] if mine else ""
        before = self.trees[box.id]
        self.in_a_child(box.id, verb, state, step, after)
        box = self.box(box.id)
        new = {one.id for one in box.snapshots()} - self.states.keys()
        assert not new or verb in ("freeze", "copy")
        for identity in new:
            self.states[identity] = box.id, before
        if verb == "rewind":
            self.runs(box)
            found = self.shown(box)
            assert found in (before, self.states[state][1])
            self.trees[box.id] = found

    def in_a_child(self, identity: str, verb: str, state: str, step: int, after: int | None) -> None:
        begun, begins = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.setpgid(0, 0)
                box = Engine(self.root / "store").container(identity)
                if after is None:
                    trace.hook = trace.parse(f"kill:{step}")
                os.write(begins, b"b")
                if verb == "rewind":
                    box.rewind(state)
                elif verb == "squash":
                    box.squash()
                else:
                    box.snapshot(consistency="copy" if verb == "copy" else "auto")
                os._exit(0)
            except Conflict:
                os._exit(0)
            except BaseException:
                os._exit(1)
        with open(begun, "rb", buffering=0) as beginning:
            os.close(begins)
            beginning.read(1)
        if after is not None:
            sleep(after / 1e6)
            os.killpg(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (0, -signal.SIGKILL)

    # -- what holds

    def shown(self, box: Container) -> Tree:
        """What is below /task, as its processes see it; of one that does not run, through its layers."""
        if box.state in LIVING:
            return tree_of(Path(f"/proc/{state_of(box)['pid']}/root/task"))
        return through_layers(box.overlays()[0][1])

    def spec_of(self, ids: tuple[str, ...]) -> MountSpec:
        trees = [layers.tree_of(self.engine.store, one) for one in ids]
        return MountSpec(top_first(trees), options=steady_options(False))

    @invariant()
    def every_tree_is_as_it_was(self) -> None:
        for identity, tree in self.trees.items():
            box = self.box(identity)
            assert self.shown(box) == tree, (identity[:12], box.state)
        for state, (identity, tree) in self.states.items():
            found = self.box(identity).find_snapshot(state).record
            assert through_layers(self.spec_of(found.layers)) == tree, state[:12]
        for identity, tree in self.kept.items():
            kept = images.get(self.engine.store, identity)
            assert kept is not None
            assert through_layers(self.spec_of(kept.layers)) == tree, identity[:12]

    @invariant()
    def nothing_is_damaged(self) -> None:
        if self.trees:
            found = self.engine.storage.check().findings
            assert [one for one in found if one.severity == DAMAGED] == []


def through_layers(spec: MountSpec) -> Tree:
    """What a stack shows below /task, read without a mount."""
    with Overlay(spec).open() as tree:
        top = tree / "task"
        found: Tree = {}
        for directory, _, names in top.walk():
            here = str(directory)[len("/task/") :]
            if here:
                found[here + "/"] = ""
            for name in names:
                found[os.path.join(here, name)] = (directory / name).read_text()
        return found


def test_every_state_is_what_it_was(tmp_path: Path, untouched_host: Leaks) -> None:
    Running.place = tmp_path
    wanted = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None,
        suppress_health_check=list(HealthCheck), phases=PHASES, database=None,
    )  # fmt: skip
    before = squashing.DEEP
    squashing.DEEP = 3
    try:
        run_state_machine_as_test(Running, settings=wanted)
    finally:
        squashing.DEEP = before
