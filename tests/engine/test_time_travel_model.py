"""A state machine of containers and their states against a plain model: every tree is at all times what it was when it
was looked at last, whatever was frozen, gone back to, removed, committed, collected, forked, squashed, merged,
promoted, or killed in between.

Containers do not run here; what is done in them is done through the kernel's own mount of their stacks. A long run:
LAMINA_TIME_TRAVEL=5000 (so many machines) `pytest -o timeout=0 tests/engine/test_time_travel_model.py`.
"""

from __future__ import annotations

import os
import signal
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lamina import Container, Engine
from lamina.engine import chains, squashing
from lamina.engine.lineage import common_ancestor
from lamina.errors import Conflict, NotFound
from lamina.linux.mount import umount2
from lamina.overlay import mount as overlays
from lamina.overlay.spec import MountSpec, steady_options, top_first
from lamina.overlay.stack import Overlay
from lamina.store import images, layers, trace
from lamina.store.check import DAMAGED
from lamina.store.containers import Home
from support.image_archives import ImageSource, old_docker, tar
from support.lives import await_burials
from support.namespaces import in_mount_namespace
from support.operations import Operation, operations, perform
from support.rootless import remove_whole
from support.snapshots import Snapshot, snapshot, snapshot_tree
from support.snapshots import differences as compared
from support.stacks import Kit

pytestmark = pytest.mark.root

PROGRAMS = operations(Kit(redirects=False, metacopies=False))
FILES = {"a/": b"", "a/file": b"x" * 5000, "a/b/": b"", "a/b/c": b"c", "d": b"d"}
# of one file with several names each is a copy of its own once it was changed: overlayfs has no more to say of it
IGNORED = frozenset({"ctime", "nlink"})
LONG = "LAMINA_TIME_TRAVEL" in os.environ
EXAMPLES = int(os.environ.get("LAMINA_TIME_TRAVEL") or 4)
# each step looks at everything: making a failure small takes longer than a test may
PHASES = (Phase.generate, *((Phase.shrink,) if LONG else ()))
STEPS = 60 if LONG else 20


def tree_of(engine: Engine, ids: tuple[str, ...]) -> MountSpec:
    trees = [layers.tree_of(engine.store, one) for one in ids]
    return MountSpec(top_first(trees) or (engine.store.empty,), options=steady_options(False))


def shown(spec: MountSpec) -> Snapshot:
    with Overlay(spec).open() as tree:
        return snapshot_tree(tree)


def differences(ours: Snapshot, theirs: Snapshot, ignore: frozenset[str]) -> list[str]:
    """What differs, but for the time of the top directory: that alone is no reason for a layer."""
    return [line for line in compared(ours, theirs, ignore) if not line.startswith("b'' mtime")]


def content(tree: Snapshot) -> dict[bytes, object]:
    """What an archive can hold of it, and an image therefore has."""
    kinds = stat.S_ISREG, stat.S_ISLNK
    files = {path: record for path, record in tree.items() if any(kind(int(record[0], 8)) for kind in kinds)}
    return {path: (*record[:3], record[5], record[8]) for path, record in files.items()}


def unlike(tree: Snapshot, wanted: Snapshot) -> list[str]:
    """What differs. The root's times alone are nothing that is frozen (`unwritten.is_idle`): a file that was made there
    and removed again makes no layer.
    """
    return [line for line in differences(tree, wanted, IGNORED) if not line.startswith("b'' mtime:")]


class TimeTravel(RuleBasedStateMachine):
    """`trees` are the containers' as they were last seen, `states` those of snapshots, `kept` those of images."""

    place: Path

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=self.place))
        self.mounted = os.fsencode(self.root / "mounted")
        os.mkdir(self.mounted)
        self.engine = Engine(self.root / "store")
        self.trees: dict[str, Snapshot] = {}
        self.states: dict[str, tuple[str, Snapshot]] = {}
        self.kept: dict[str, Snapshot] = {}
        self.forks: dict[str, tuple[str, Snapshot]] = {}

    @initialize()
    def begin(self) -> None:
        (self.root / "image.tar").write_bytes(tar(*old_docker((ImageSource(tar(FILES)), ["small:1"]))))
        self.engine.load(self.root / "image.tar")
        self.create()

    def teardown(self) -> None:
        await_burials()  # they would remove the same
        remove_whole(self.root)  # in which somebody who squashes may have a claim just now

    def box(self, identity: str) -> Container:
        return self.engine.container(identity)

    def stack(self, identity: str) -> MountSpec:
        return self.box(identity).overlays()[0][1]

    def one(self, data: st.DataObject) -> Container:
        return self.box(list(self.trees)[data.draw(st.integers(0, len(self.trees) - 1))])

    def a_state(self, data: st.DataObject) -> tuple[str, Container]:
        names = list(self.states)
        found = names[data.draw(st.integers(0, len(names) - 1))]
        return found, self.box(self.states[found][0])

    # -- what is done

    @rule()
    @precondition(lambda self: len(self.trees) < 3)
    def create(self) -> None:
        box = self.engine.create("small:1", ["never"])
        self.trees[box.id] = shown(self.stack(box.id))

    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        box = self.one(data)
        program: list[Operation] = data.draw(PROGRAMS)
        overlays.mount(self.stack(box.id), self.mounted)
        try:
            perform(self.mounted, program)
            self.trees[box.id] = snapshot(self.mounted)
        finally:
            umount2(self.mounted, 0)

    @rule(data=st.data(), named=st.booleans())
    def freeze(self, data: st.DataObject, named: bool) -> None:
        box = self.one(data)
        made = box.snapshot(f"s{len(self.states)}-{os.urandom(3).hex()}" if named else None)
        self.states[made.id] = box.id, self.trees[box.id]

    @rule(data=st.data())
    @precondition(lambda self: self.states)
    def rewind(self, data: st.DataObject) -> None:
        state, box = self.a_state(data)
        box.rewind(state)
        self.trees[box.id] = self.states[state][1]

    @rule(data=st.data())
    @precondition(lambda self: self.states)
    def fail(self, data: st.DataObject) -> None:
        """Something is tried, and taken back; what it made a snapshot of stays."""
        state, box = self.a_state(data)
        before = self.trees[box.id]
        with pytest.raises(ZeroDivisionError), box.attempt():
            box.rewind(state)
            raise ZeroDivisionError
        self.trees[box.id] = before

    @rule(data=st.data())
    @precondition(lambda self: self.states)
    def forget(self, data: st.DataObject) -> None:
        state, box = self.a_state(data)
        box.find_snapshot(state).remove()
        del self.states[state]

    @rule(data=st.data(), keep=st.integers(0, 3))
    def prune(self, data: st.DataObject, keep: int) -> None:
        box = self.one(data)
        last = [one.id for one in box.snapshots()[::-1][:keep]]
        for gone in box.prune_snapshots(keep):
            assert gone.id not in last
            del self.states[gone.id]

    @rule(data=st.data(), background=st.booleans())
    def squash(self, data: st.DataObject, background: bool) -> None:
        """Layers become fewer, and no tree is another one."""
        box = self.one(data)
        if background:
            squashing.squash_due(Home(box.store, box.id))
            return
        mine = [state for state, found in self.states.items() if found[0] == box.id]
        since = data.draw(st.sampled_from([None, *mine]))
        if since is not None and data.draw(st.booleans()):
            box.find_snapshot(since).squash()
            return
        try:
            box.squash(since)
        except Conflict:
            assert since is not None

    @rule(data=st.data())
    @precondition(lambda self: len(self.trees) < 4)
    def fork(self, data: st.DataObject) -> None:
        """Of a container as it is now, or of one of its states."""
        of_a_state: bool = data.draw(st.booleans())
        if of_a_state and self.states:
            state, box = self.a_state(data)
            [child], tree = box.find_snapshot(state).fork(), self.states[state][1]
        else:
            box = self.one(data)
            [child], tree = box.fork(1), self.trees[box.id]
            self.met(box, tree)
        self.trees[child.id] = tree
        self.forks[child.id] = box.id, tree

    def met(self, box: Container, tree: Snapshot) -> None:
        """The snapshots of *box* that something else has made are of *tree*."""
        for one in box.snapshots():
            self.states.setdefault(one.id, (box.id, tree))

    @rule(data=st.data())
    @precondition(lambda self: len(self.trees) > 1)
    def promote(self, data: st.DataObject) -> None:
        box, other = self.one(data), self.one(data)
        if box == other:
            return
        made = box.promote(other)
        self.states[made.id] = box.id, self.trees[other.id]
        self.met(box, self.trees[box.id])
        self.trees[box.id] = self.trees[other.id]

    @rule(data=st.data())
    @precondition(lambda self: self.forks)
    def merge(self, data: st.DataObject) -> None:
        """Where the parent is what the fork began with, it becomes what the fork is."""
        child = list(self.forks)[data.draw(st.integers(0, len(self.forks) - 1))]
        parent, began = self.forks[child]
        if parent not in self.trees or differences(self.trees[parent], began, IGNORED):
            return
        box, fork = self.box(parent), self.box(child)
        forked = fork.record["forked"]["snapshot"]
        try:
            if common_ancestor(Home(box.store, box.id), Home(box.store, fork.id))[1].id != forked:
                return
        except NotFound:  # the snapshot was removed
            return
        assert box.merge([fork]).clashes == ()
        tree = shown(self.stack(parent))
        # directories in which something was put have times of their own
        assert differences(tree, self.trees[child], IGNORED | {"mtime"}) == []
        made = box.snapshots()[-1]
        if box.record.get("snapshot") == made.id and made.id not in self.states:
            self.states[made.id] = parent, tree
        self.met(box, self.trees[parent])
        self.trees[parent] = tree

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        box = self.one(data)
        image = box.commit()
        self.kept[image.id] = self.trees[box.id]

    @rule(data=st.data())
    @precondition(lambda self: len(self.trees) > 1)
    def remove(self, data: st.DataObject) -> None:
        box = self.one(data)
        box.remove()  # its forks stay
        del self.trees[box.id]
        self.forks.pop(box.id, None)
        self.states = {state: found for state, found in self.states.items() if found[0] != box.id}

    @rule()
    def collect(self) -> None:
        self.engine.storage.collect()

    @rule(data=st.data(), step=st.integers(1, 40))
    def killed(self, data: st.DataObject, step: int) -> None:
        """In the middle of a snapshot, a rewind, a removal or a squash: it has happened, or it has not."""
        box = self.one(data)
        mine = [state for state, found in self.states.items() if found[0] == box.id]
        verb = data.draw(st.sampled_from(["freeze", "squash", *(["rewind", "forget"] if mine else [])]))
        state = mine[data.draw(st.integers(0, len(mine) - 1))] if mine else ""
        self.in_a_child(box.id, verb, state, step)
        there = {one.id for one in box.snapshots()}
        tree = shown(self.stack(box.id))
        if verb == "rewind" and differences(tree, self.trees[box.id], IGNORED):
            self.trees[box.id] = self.states[state][1]
        if verb == "forget" and state not in there:
            del self.states[state]
        for new in there - self.states.keys():
            assert verb == "freeze"
            self.states[new] = box.id, self.trees[box.id]

    def in_a_child(self, identity: str, verb: str, state: str, step: int) -> None:
        pid = os.fork()
        if not pid:
            try:
                box = Engine(self.root / "store").container(identity)
                trace.hook = trace.parse(f"kill:{step}")
                if verb == "freeze":
                    box.snapshot("killed-" + os.urandom(4).hex())
                elif verb == "rewind":
                    box.rewind(state)
                elif verb == "squash":
                    box.squash()
                else:
                    box.find_snapshot(state).remove()
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (0, -signal.SIGKILL)

    # -- what holds

    @invariant()
    def every_tree_is_as_it_was(self) -> None:
        for identity, tree in self.trees.items():
            assert unlike(shown(self.stack(identity)), tree) == [], identity[:12]
        for state, (identity, tree) in self.states.items():
            kept = self.box(identity).find_snapshot(state).record
            assert unlike(shown(tree_of(self.engine, kept.layers)), tree) == [], state[:12]
        for identity, tree in self.kept.items():
            record = images.get(self.engine.store, identity)
            assert record is not None
            assert content(shown(tree_of(self.engine, record.layers))) == content(tree), "commit"

    @invariant()
    def nothing_is_damaged(self) -> None:
        if not self.trees:
            return
        found = self.engine.storage.check().findings
        assert [one for one in found if one.severity == DAMAGED] == []
        for identity in self.trees:
            asked: dict[str, Any] = self.box(identity).record
            assert not chains.pending(asked)


def test_every_state_is_what_it_was(tmp_path: Path) -> None:
    TimeTravel.place = tmp_path

    def run() -> None:
        squashing.DEEP = 3  # in this child alone
        wanted = settings(
            max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None,
            suppress_health_check=list(HealthCheck), phases=PHASES, database=None,
        )  # fmt: skip
        run_state_machine_as_test(TimeTravel, settings=wanted)

    in_mount_namespace(run, timeout=max(300, 60 * EXAMPLES))
