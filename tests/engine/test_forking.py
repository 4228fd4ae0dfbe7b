"""Forks: they begin where a snapshot ends, are containers like others, and need nobody."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.errors import (
    CommandNotFound,
    Conflict,
    InvalidInput,
    NotFound,
    Unsupported,
)
from support.lives import until
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

SLEEP = ["sleep", "1000"]


@pytest.fixture
def box(engine: Engine, store_root: Path) -> Container:
    """A container of `tiny` that has written something and has ended."""
    small_image(store_root)
    script = "echo one >/srv; mkdir /d; echo x >/d/x; rm /etc/image; chmod 700 /; exec sleep 0"
    made = engine.create("tiny", ["sh", "-c", script], name="box", labels={"job": "7"}, stop_timeout=0)
    made.start()
    assert made.wait() == 0
    until(lambda: made.state == "exited")
    return made


def does(container: Container, script: str) -> str:
    done = container.exec(["sh", "-c", script], capture_output=True, text=True, check=True)
    return str(done.stdout)


def test_forks_begin_where_their_parent_is_and_need_it_no_more(engine: Engine, box: Container) -> None:
    told: list[str] = []
    [one, other] = box.fork(2, name="child", start=True, command=SLEEP, on_warning=told.append)
    assert told == []
    assert [one.name, other.name] == ["child-1", "child-2"]
    assert (one.state, other.state, one.labels, one.image) == ("running", "running", {"job": "7"}, "tiny")
    box.remove()
    engine.storage.collect()
    looks = "cat /srv /d/x; ls /etc/image 2>/dev/null; stat -c %a /; hostname"
    assert does(one, looks) == f"one\nx\n700\n{one.short_id}\n"
    does(one, "echo two >/srv; rm -r /d")
    assert does(other, looks) == f"one\nx\n700\n{other.short_id}\n"

    # a fork of a fork, of one that has ended, with what was written to both
    one.stop()
    snapshot = one.snapshot("second")
    one.start()
    does(one, "echo three >/srv")
    with snapshot.start(env=["A=1"]) as grandchild:
        assert does(grandchild, "cat /srv; ls -d /d 2>/dev/null; echo $A") == "two\n1\n"
        one.remove(force=True)
        engine.storage.collect()
        assert does(grandchild, "cat /srv") == "two\n"
        with pytest.raises(NotFound):
            snapshot.fork()
        identity = grandchild.id
    with pytest.raises(NotFound):
        engine.container(identity)
    assert {one.name for one in engine.containers(all=True)} == {"child-2"}


def test_nothing_is_frozen_twice_and_everything_is_shared(engine: Engine, box: Container) -> None:
    children = box.fork(3)
    again = box.fork(1)
    assert len(box.snapshots()) == 1
    [snapshot] = box.snapshots()
    for child in (*children, *again):
        assert child.state == "created"
        assert child.record["forked"] == {"container": box.id, "name": "box", "snapshot": snapshot.id}
        assert list(child.record["layers"]) == snapshot.layers
        assert not child.snapshots()
    records = [
        {**child.record, "id": "", "name": "", "created": 0, "cgroup": "", "moment": 0} for child in children
    ]
    assert records[0] == records[1] == records[2]
    assert len({child.record["cgroup"] for child in children}) == 3
    assert not os.listdir(engine.store.leases)
    box.remove()
    assert {os.fsdecode(change.path) for change in children[0].changes()} >= {"/srv", "/d", "/d/x"}


def test_a_start_leaves_its_record_as_it_is(engine: Engine, box: Container) -> None:
    [child] = box.fork(command=["true"])
    place = Path(os.fsdecode(engine.store.containers)) / child.id / "container.json"
    before = place.stat().st_ino, place.read_bytes()
    child.start()
    assert child.wait() == 0
    assert (place.stat().st_ino, place.read_bytes()) == before


def test_all_or_none(engine: Engine, box: Container) -> None:
    engine.create("tiny", ["true"], name="try-3")
    before = {one.id for one in engine.containers(all=True)}
    with pytest.raises(InvalidInput, match="10000000 forks at once"):
        box.fork(10_000_000)
    with pytest.raises(InvalidInput, match="memory"):
        box.fork(memory="many")
    assert not box.snapshots()  # nor is there a state that nobody asked for
    with pytest.raises(Conflict, match="try-3"):
        box.fork(4, name="try")
    with pytest.raises(CommandNotFound):
        box.fork(3, start=True, command=["no-such-program"])
    with pytest.raises(InvalidInput):
        box.fork(2, names=["a"])
    with pytest.raises(Unsupported, match="privileged"):
        box.fork(privileged=True)  # type: ignore[call-arg]
    assert {one.id for one in engine.containers(all=True)} == before
    assert len(box.fork(2, name="try")) == 2  # the names are free again


def test_a_fork_that_is_killed_leaves_a_child_or_nothing(engine: Engine, box: Container) -> None:
    script = """if True:
    import os, sys
    from lamina import Engine
    from lamina.store import trace, containers
    wanted = int(sys.argv[2])
    seen = 0
    def count(*_):
        global seen
        seen += 1
        if seen == wanted:
            os.kill(os.getpid(), 9)
    real = os.rename
    os.rename = lambda *a, **k: (count(), real(*a, **k))[1]
    real_mkdir = os.mkdir
    os.mkdir = lambda *a, **k: (count(), real_mkdir(*a, **k))[1]
    real_link = os.symlink
    os.symlink = lambda *a, **k: (count(), real_link(*a, **k))[1]
    Engine(sys.argv[1]).container("box").fork(2)
    """
    import sys

    box.snapshot("first")
    for wanted in range(1, 40):
        words = [sys.executable, "-c", script, os.fsdecode(engine.store.path), str(wanted)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=200)
        children = [one for one in engine.containers(all=True) if one.name != "box"]
        engine.storage.collect()
        for child in children:
            assert {os.fsdecode(change.path) for change in child.changes()} >= {"/srv"}
            child.remove()
        assert not [name for name in os.listdir(engine.store.names) if name != b"box"]
        if done.returncode == 0:
            assert len(children) == 2
            break
    else:
        pytest.fail("it never came to its end")
    assert [snapshot.name for snapshot in box.snapshots()] == ["first"]
    assert {os.fsdecode(change.path) for change in box.changes()} >= {"/srv"}


def test_a_state_from_before_its_container_was_put_over_another_image(
    engine: Engine, box: Container, store_root: Path
) -> None:
    before = box.snapshot("before")

    def newer(place: Path) -> None:
        (place / "newer").write_text("newer\n")

    small_image(store_root, newer, names=("docker.io/library/newer:latest",), labels={"from": "newer"})
    box.rebase("newer")
    [old] = before.fork(start=True, command=SLEEP)
    [new] = box.fork(start=True, command=SLEEP)
    looks = "cat /srv; ls /newer 2>/dev/null; ls /etc/image 2>/dev/null"
    assert (does(old, f"{looks}; true"), does(new, f"{looks}; true")) == ("one\n", "one\n/newer\n")
    assert (old.image, new.image) == ("tiny", "newer")
    assert old.labels == {"job": "7"}
    assert old.image_id != new.image_id == box.image_id


def test_volumes(engine: Engine, store_root: Path, tmp_path: Path) -> None:
    small_image(store_root)
    volumes = ["data:/data", "/own", f"{tmp_path}:/host"]
    box = engine.start("tiny", SLEEP, name="box", volumes=volumes, stop_timeout=0)
    does(box, "echo shared >/data/x; echo mine >/own/x; echo host >/host/x; mkdir /kept; echo kept >/kept/x")
    box.stop()
    told: list[str] = []
    [child] = box.fork(start=True, on_warning=told.append)
    assert told == ["shared with its parent, as they are now: /data, /host"]
    assert does(child, "cat /data/x /host/x /kept/x; ls /own") == "shared\nhost\nkept\n"
    own = [entry["name"] for entry in child.record["volumes"] if entry["target"] == "/own"]
    assert own[0].startswith(child.id)
    does(child, "echo childs >/own/x")
    child.remove(force=True, volumes=True)
    box.start()
    assert does(box, "cat /own/x") == "mine\n"


def test_ids_of_its_own(engine: Engine, store_root: Path) -> None:
    small_image(store_root)
    box = engine.start("tiny", SLEEP, name="box", userns="auto", stop_timeout=0)
    does(box, "mkdir /d; echo x >/d/x; chown 7:8 /d/x")
    box.stop()
    [child] = box.fork(start=True)
    assert child.record["id_maps"] != box.record["id_maps"]
    assert does(child, "stat -c '%u %g' /d /d/x; echo more >>/d/x; cat /d/x") == "0 0\n7 8\nx\nmore\n"


def test_owned_forks_end_with_whoever_owns_their_parent(engine: Engine, store_root: Path) -> None:
    small_image(store_root)
    box = engine.start("tiny", SLEEP, lifetime="owner")
    box.kill()
    until(lambda: box.state == "exited")
    [child] = box.fork()
    assert child.record["owner"] == box.record["owner"]
    child.remove()
    [child] = box.fork(lifetime="container")
    assert "owner" not in child.record


def test_from_the_shell(
    engine: Engine, box: Container, lamina: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    box.snapshot("first")
    note = tmp_path / "ids"
    done = lamina("fork", "-n", "3", "--start", "-c", "sleep 1000", "--cidfile", note, "box@first", "try")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout.split()
        == note.read_text().split()
        == [engine.container(f"try-{n}").id for n in (1, 2, 3)]
    )
    assert {engine.container(f"try-{n}").state for n in (1, 2, 3)} == {"running"}
    [snapshot] = box.snapshots()
    done = lamina("fork", "--format", "json", snapshot.id, "last")
    assert json.loads(done.stdout)["Snapshot"] == snapshot.id
    assert lamina("fork", "--format", "{{.Name}}", "last").stdout.strip() in {
        c.name for c in engine.containers(True)
    }
    for words, text in (
        (("nosuch",), "no such container or snapshot"),
        (("box@nosuch",), "none of that name or id"),
        (("box", "last"), "name last: taken"),
        (("-n", "0", "box"), "at least one"),
        (("-n", "2", "-p", "80:80", "--network", "bridge", "box"), "same port"),
        (("--consistency", "wait", "box@first"), "--consistency is about a container that runs"),
    ):
        done = lamina("fork", *words)
        assert done.returncode == 125 and text in done.stderr, (words, done.stderr)
