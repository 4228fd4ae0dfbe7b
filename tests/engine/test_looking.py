"""States compared, explained and told of: containers, snapshots and images, by one scenario."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina import Container, Engine
from lamina.engine.apply.values import HostChange
from lamina.engine.state_names import find_anything
from lamina.errors import Conflict, InvalidInput, KernelError, NotFound, Unsupported
from lamina.overlay.apply import Target
from support.lives import until
from support.small_images import busybox_tree, small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def box(engine: Engine, store_root: Path) -> Container:
    """A container over `tiny`, with two states and something that was written since."""
    small_image(store_root)
    made = engine.create("tiny", ["sh", "-c", "sh /step"], name="box")
    step(made, "echo one >/srv; mkdir /d; echo x >/d/x; echo y >/d/y; ln /d/x /d/z; rm /etc/image")
    made.snapshot("first", message="the first one")
    step(
        made,
        "echo two >/srv; rm -r /d/y; chmod 700 /d; mkdir /e; echo new >/e/new; rm /etc/group; mkdir /etc/group",
    )
    made.snapshot("second")
    step(made, "echo three >/srv; rm -r /e; mkdir /e; echo newer >/e/newer")
    return made


def step(container: Container, script: str) -> None:
    """Let it do something, and end."""
    (container.files / "step").write_text(script + "; rm /step\n")
    container.start()
    assert container.wait() == 0
    until(lambda: container.state == "exited")


def told(changes: list[HostChange]) -> dict[str, str]:
    """What a list would show, and of changed entries what changed."""
    return {
        os.fsdecode(one.path): " ".join([one.kind, *sorted(one.what - {"times"})])
        for one in changes
        if not one.incidental
    }


FIRST = {
    "/d": "added",
    "/d/x": "added",
    "/d/y": "added",
    "/d/z": "added",
    "/etc/image": "deleted",
    "/srv": "added",
}
SECOND = {
    "/d": "changed mode", "/d/y": "deleted", "/e": "added", "/e/new": "added", "/etc/group": "replaced",
    "/srv": "changed content",
}  # fmt: skip


def test_any_two_states_are_compared(engine: Engine, box: Container) -> None:
    first, second, image = box.find_snapshot("first"), box.find_snapshot("second"), engine.image("tiny")
    assert told(image.diff(first)) == FIRST == told(first.changes())
    assert told(first.diff(second)) == SECOND
    assert told(second.diff(box)) == {"/e/new": "deleted", "/e/newer": "added", "/srv": "changed content"}
    assert told(box.changes()) == told(image.diff(box)) == {
        "/d": "added", "/d/x": "added", "/d/z": "added", "/e": "added", "/e/newer": "added", "/etc/image": "deleted",
        "/etc/group": "replaced", "/srv": "added",
    }  # fmt: skip
    assert told(second.diff(second)) == {} == told(box.diff(box))
    assert told(second.diff(first))["/d/y"] == "added"
    linked = {one.path: one.link_to for one in image.diff(first)}
    assert linked[b"/d/z"] == b"/d/x"
    assert told(first.diff(second, ["/d"])) == {"/d": "changed mode", "/d/y": "deleted"}
    with pytest.raises(NotFound, match="changed nothing there"):
        first.diff(second, ["/nowhere"])

    # a fork is compared with whatever it came from, and with its sister
    [one, other] = second.fork(2, name="try")
    step(one, "echo one >/mine")
    assert told(second.diff(one)) == {"/mine": "added"} == told(other.diff(one))
    assert told(box.diff(one))["/mine"] == "added"

    async def by_a_loop() -> None:
        from lamina import AsyncEngine

        its = AsyncEngine(engine.store.path)
        its_box, its_image = await its.container("box"), await its.image("tiny")
        its_first = await its_box.find_snapshot("first")
        assert await its_first.diff(its_box) == first.diff(box)
        assert await its_image.diff(its_first) == image.diff(first)
        assert (await its_first.explain("/srv")).why == first.explain("/srv").why
        assert (await its_box.history()).here == box.history().here
        assert [line async for line in its_box.patch(await its_first.diff(its_box))]

    asyncio.run(by_a_loop())
    patch = b"".join(second.patch(first.diff(second, ["/srv"])))
    assert b"-one\n+two\n" in patch

    with pytest.raises(InvalidInput, match="with what"):
        image.changes()
    host = engine.create("host", ["true"], name="over-host")
    with pytest.raises(Unsupported, match="over this system"):
        host.diff(box)
    assert {type(find_anything(engine.store, name)).__name__ for name in ("box", "box@first", "tiny")} == {
        "Container", "Snapshot", "Image"
    }  # fmt: skip
    for name in ("nothing", "box@nothing", "nothing@first"):
        with pytest.raises(NotFound):
            find_anything(engine.store, name)


def test_a_directory_is_made_like_another_state(
    engine: Engine, box: Container, tmp_path: Path, lamina: Lamina, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = box.find_snapshot("first"), box.find_snapshot("second")
    copy = tmp_path / "copy"
    box.rewind(first)
    engine.export("box", tmp_path / "first.tar")
    copy.mkdir()
    shutil.unpack_archive(tmp_path / "first.tar", copy, filter="fully_trusted")

    (copy / "d/x").write_text("mine")
    with pytest.raises(Conflict, match="2 paths are not as the first state has them") as refused:
        second.apply_to(copy, since=engine.image("tiny"), paths=["/d/x"])
    assert "/d/x: there, and not in the first state" in str(refused.value)
    (copy / "d/x").write_text("x\n")
    (copy / "d/y").write_text("somebody's\n")
    before = sorted(path.relative_to(copy) for path in copy.rglob("*"))
    with pytest.raises(Conflict, match="/d/y: its content differs"):
        second.apply_to(copy, since=first)
    assert sorted(path.relative_to(copy) for path in copy.rglob("*")) == before, "nothing was changed"

    done = second.apply_to(copy, since=first, force=True)
    assert done.forced == (b"/d/y",)
    assert (copy / "srv").read_text() == "two\n"
    assert not (copy / "d/y").exists()
    assert (copy / "etc/group").is_dir()
    assert (copy / "d").stat().st_mode & 0o7777 == 0o700
    again = second.apply_to(copy, since=first)
    assert again.changed == ()
    assert set(again.already) >= {b"/srv", b"/e/new", b"/d/y", b"/etc/group"}

    # the disk is full in the middle: what was changed is whole, and the same call goes on there
    apply, times = Target.apply, iter(range(3))

    def full(self: Target, *words: Any) -> None:
        if next(times, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        apply(self, *words)

    with monkeypatch.context() as patched:
        patched.setattr(Target, "apply", full)
        with pytest.raises(OSError, match="No space left") as failed:
            first.apply_to(copy, since=second)
    assert "the same command goes on there" in failed.value.__notes__[0]
    assert first.apply_to(copy, since=second).already
    assert not list(copy.rglob(".lamina-*"))
    assert second.apply_to(copy, since=first).changed

    back = lamina("diff", "box@second", "box@first", "--apply-to", str(copy))
    assert "paths changed" in back.stdout, back.stderr
    assert (copy / "d/y").read_text() == "y\n"
    for wrong in ("/", os.fsdecode(engine.store.path), os.fsdecode(engine.store.path) + "/layers"):
        with pytest.raises(InvalidInput):
            second.apply_to(wrong, since=first)


def test_a_path_says_which_step_made_it(
    engine: Engine, box: Container, tmp_path: Path, lamina: Lamina
) -> None:
    found = box.explain("/srv")
    assert [maker.kind for maker in found.makers] == ["container", "state", "state", "image"]
    assert [row.answer for row in found.rows] == ["file", "file", "file", "absent"]
    assert found.made_by is not None
    assert (found.made_by.kind, found.copy_up) == ("container", 0)
    assert [maker.title for maker in found.makers] == ["box", "box@second", "box@first", "tiny:latest 1/1"]
    assert found.makers[2].message == "the first one"
    assert all(maker.created > 0 for maker in found.makers[1:3])

    gone = box.explain("/etc/image")
    assert not gone.exists
    assert gone.made_by is not None
    assert gone.made_by.title == "box@first"
    at_second = box.find_snapshot("second").explain("d/x")
    assert (at_second.copy_up, at_second.links, at_second.made_by and at_second.made_by.title) == (
        2,
        2,
        "box@first",
    )
    assert "parts it from 1 other name" in at_second.cost
    image = engine.image("tiny").explain("/bin/sh")
    assert (image.type, image.made_by and image.made_by.kind) == ("symlink", "image")

    whole = box.explain("/")
    sums = {maker.kind: found.share(row.layer) for row, maker in zip(found.rows, found.makers, strict=True)
            for found in [whole]}  # fmt: skip
    assert sums["image"] is not None
    assert sums["image"].shown > 40
    assert sums["image"].hidden >= 2  # /etc/image and /etc/group
    assert whole.share(2).deletes >= 1  # type: ignore[union-attr]
    assert whole.copy_up > 100_000
    assert box.explain("/", add_up=False).shares == ()
    with pytest.raises(InvalidInput):
        box.explain("")

    document = json.loads(lamina("explain", "--format", "json", "box", "/srv").stdout)
    assert [row["made_by"]["kind"] for row in document["layers"]] == ["container", "state", "state", "image"]
    table = lamina("why", "box@second", "/srv").stdout.splitlines()
    assert table[0] == "/srv: layer 1's file wins"
    assert table[2].split() == ["LAYER", "HERE", "SIZE", "OUTCOME", "WHEN", "MADE", "BY"]
    assert "box@second" in table[3]
    page, picture = tmp_path / "page.html", tmp_path / "picture.svg"
    page.write_text("of before")
    assert lamina("explain", "--html", str(page), "box", "/").returncode == 0
    assert page.read_text().startswith("<!doctype html>")
    assert lamina("explain", "--svg", str(picture), "box", "/srv").returncode == 0
    assert picture.read_text().startswith("<svg")
    assert lamina("explain", "--svg", str(tmp_path / "nowhere/x"), "box", "/srv").returncode == 125
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["page.html", "picture.svg"]


def test_squashed_layers_say_what_they_were_made_of(
    engine: Engine, box: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = box.find_snapshot("first"), box.find_snapshot("second")
    box.squash()
    found = box.explain("/d/x")
    assert [(maker.title, maker.squashed) for maker in found.makers][1:] == [
        ("box@first", True),
        ("tiny:latest 1/1", False),
    ]
    assert box.explain("/etc/group").made_by == box.explain("/e").makers[1]
    assert box.explain("/etc/image").makers[1].title == "box@first"

    # one stands on the squashed layer, the others on what it was made of: no file is read for that
    monkeypatch.setattr(
        "lamina.overlay.difference.Difference._same_content", lambda *_: pytest.fail("a file is read")
    )
    assert told(second.diff(box, exclude=["/srv"])) == {"/e/new": "deleted", "/e/newer": "added"}
    assert told(first.diff(box, ["/d"])) == {"/d": "changed mode", "/d/y": "deleted"}


def test_containers_over_this_system_are_compared_place_by_place(engine: Engine, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "kept").write_text("kept")
    one = engine.create("host", ["sh", "-c", f"echo 1 >>{place}/one; echo changed >{place}/kept"], name="one")
    other = engine.create("host", ["sh", "-c", f"echo 2 >>{place}/other"], name="other")
    for container in (one, other):
        container.start()
        container.wait()
        until(lambda: container.state == "exited")  # noqa: B023
    found = {
        path.removeprefix(str(tmp_path)): kind for path, kind in told(one.diff(other, [str(place)])).items()
    }
    assert found == {"/place/kept": "changed content", "/place/one": "deleted", "/place/other": "added"}
    why = one.explain(place / "kept")
    assert [maker.kind for maker in why.makers] == ["container", "host"]
    assert why.resolved == os.fsencode(place / "kept")


def test_a_state_from_before_a_rebase_is_over_its_own_image(
    engine: Engine, box: Container, store_root: Path
) -> None:
    first = box.find_snapshot("first")
    before = told(first.changes())
    small_image(
        store_root, lambda place: None, lambda place: (place / "two").touch(),
        names=("docker.io/library/two:latest",),
    )  # fmt: skip
    box.rebase("two", force=True)
    assert told(first.changes()) == before
    assert told(engine.image("tiny").diff(first)) == before
    assert told(first.diff(box))["/two"] == "added"
    assert not first.explain("/two").exists
    assert first.explain("/bin/busybox").makers[-1].title == "tiny:latest 1/1"
    assert box.explain("/two").exists


def test_the_tree_of_states(engine: Engine, box: Container, lamina: Lamina) -> None:
    second = box.find_snapshot("second")
    second.fork(2, name="try")
    box.rewind("first")
    step(box, "echo other >/srv")
    box.snapshot("other")
    log = box.history()
    assert [one.snapshot.name for one in log.states] == ["other", "second", "first"]
    assert [one.here for one in log.states] == [True, False, False]
    assert log.states[1].forks == ("try-1", "try-2")
    assert log.states[0].parent == log.states[1].parent == log.states[2].snapshot.id
    assert (log.begins, log.written) == ("tiny", False)

    drawn = lamina("log", "box").stdout.splitlines()
    assert drawn[0].split() == ["○", "box", "now,", "nothing", "written", "since"]
    assert drawn[1].startswith("◉    other")
    assert drawn[2].startswith("│ ●  second")
    assert "→ try-1, try-2" in drawn[2]
    assert drawn[3] == "├─╯"
    assert drawn[4].startswith("●    first")
    assert "“the first one”" in drawn[4]
    assert drawn[5].split() == ["┴", "tiny"]
    again = lamina("snapshot", "ls", "--tree", "box").stdout.splitlines()
    assert [line.split()[:3] for line in again] == [line.split()[:3] for line in drawn]
    names = lamina("log", "--format", "{{.Name}} {{.Here}}", "box").stdout.split()
    assert names == ["other", "true", "second", "false", "first", "false"]

    newest = lamina("log", "-n", "2", "box").stdout.splitlines()
    assert [line.split()[:2] for line in newest[:3]] == [line.split()[:2] for line in drawn[:3]]
    assert newest[3].split() == ["┆", "and", "1", "more,", "over", "tiny"]
    assert lamina("log", "-n", "1", "--format", "{{.Name}}", "box").stdout == "other\n"

    # what came from a state that is removed comes from its parent
    second.remove()
    for look in (lambda: second.diff(box), lambda: box.diff(second), lambda: second.explain("/srv")):
        with pytest.raises(NotFound):
            look()
    assert [one.snapshot.name for one in box.history().states] == ["other", "first"]
    assert box.history().states[1].forks == ("try-1", "try-2")
    fork = engine.container("try-1").history()
    assert (fork.states, fork.begins.startswith("box@")) == ((), True)


def test_what_was_written_where_the_engine_made_a_directory_is_written(
    engine: Engine, tmp_path: Path
) -> None:
    """The working directory is made at the first start; what is in it is not."""
    (tmp_path / "tree").mkdir()
    busybox_tree(tmp_path / "tree")
    engine.from_directory(tmp_path / "tree", "tiny", changes=["ENV PATH=/bin"])
    box = engine.create("tiny", ["sh", "-c", "sh /step"], name="box", workdir="/app")
    step(box, "true")
    assert not box.history().written
    box.snapshot("first")
    assert not box.history().written
    step(box, "echo x >/app/d")
    assert box.history().written

    # mount points in a frozen layer, which an image or a fork stands on, are nobody's doing either
    made = engine.container("box").commit("made")
    assert told(engine.image("tiny").diff(made)) == {"/app": "added", "/app/d": "added"}
    assert told(made.diff(engine.image("tiny"))) == {"/app": "deleted", "/app/d": "deleted"}
    [fork] = box.fork(1, name="fork")
    assert (
        told(engine.image("tiny").diff(fork)) == {"/app": "added", "/app/d": "added"} == told(fork.changes())
    )


def test_lists_of_differences_on_the_command_line(engine: Engine, box: Container, lamina: Lamina) -> None:
    assert lamina("diff", "box@first", "box@second").stdout.splitlines() == [
        "C /d/  (mode 755 → 700, times)", "D /d/y", "A /e/", "A /e/new", "R /etc/group/  (file → directory)", "C /srv",
    ]  # fmt: skip
    assert lamina("diff", "box@first", "box@second", "/srv").stdout == "C /srv\n"
    assert lamina("diff", "box@first", "/srv").stdout == "A /srv\n"
    assert "-one\n+two\n" in lamina("diff", "-p", "box@first", "box@second", "/srv").stdout
    assert "1 deleted" in lamina("diff", "--stat", "box@first", "box@second").stdout
    assert lamina("diff", "tiny", "box@first", "--format", "{{.Kind}}").stdout.split() == [
        "A",
        "A",
        "A",
        "A",
        "D",
        "A",
    ]
    second = box.find_snapshot("second")
    for name in ("box@second", second.id):
        assert lamina("inspect", "-f", "{{.Name}} {{.Parent}}", name).stdout == f"second {second.parent}\n"
    assert lamina("inspect", "box@nothing").returncode == 1
    assert lamina("inspect", "--type", "snapshot", "box").returncode == 1
    for words in (("tiny",), ("box", "box@nothing"), ("box@first", "nothing"), ("nothing", "box")):
        done = lamina("diff", *words)
        assert done.returncode == 125, words
        assert done.stderr.startswith("lamina: "), words


def test_a_directory_that_became_a_link_since_it_was_looked_at_is_not_followed(tmp_path: Path) -> None:
    """Whoever may write above it must not choose another while changes are gathered."""
    from lamina.engine.apply_to import apply_to, check_directory

    (tmp_path / "above" / "copy").mkdir(parents=True)
    (tmp_path / "host" / "copy").mkdir(parents=True)
    place = check_directory(os.fsencode(tmp_path / "above" / "copy"), os.fsencode(tmp_path / "store"))
    assert apply_to([], place).changed == ()
    (tmp_path / "above").rename(tmp_path / "aside")
    (tmp_path / "above").symlink_to(tmp_path / "host")
    with pytest.raises(KernelError, match="symbolic links"):
        apply_to([], place)
