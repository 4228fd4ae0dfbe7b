"""Volumes as part of a state: copied with a snapshot where that was asked for, gone back to, begun with by forks."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import traceback
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from lamina import Container, Engine
from lamina.engine.upper_copy import copy_stored
from lamina.errors import Conflict, InvalidInput, NotFound
from lamina.store import layers, trace, volumes
from support.lives import until

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.usefixtures("tiny")]
FILL = (
    "mkdir /data/d; echo 1 >/data/d/f; ln /data/d/f /data/g; chown 7:8 /data/d; chmod 700 /data/d; echo 1 >/f; "
    "echo o >/own/o"
)
CHANGE = "rm -r /data/d; echo 2 >/data/g; echo 2 >/data/new; echo 2 >/f; echo 2 >/own/o"


def data(engine: Engine, name: str = "data") -> Path:
    return Path(os.fsdecode(volumes.data_of(engine.store, name)))


def texts(place: Path) -> dict[str, str]:
    return {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}


def does(box: Container, script: str) -> str:
    """Also where it does not run: then it runs for that."""
    was = box.state
    if was != "running":
        box.start()
    done = box.exec(["sh", "-ec", script], check=True, capture_output=True, text=True, timeout=200)
    if was != "running":
        box.stop(timeout=0)
        until(lambda: box.state == "exited")
    return str(done.stdout)


@pytest.fixture
def box(engine: Engine, tmp_path: Path) -> Container:
    (tmp_path / "host").mkdir()
    mounted = ["data:/data", "/own", f"{tmp_path}/host:/host"]
    return engine.create(
        "tiny", ["sleep", "600"], name="box", volumes=mounted, network="none", stop_timeout=0
    )


def test_gone_back_to_with_everything_that_was_in_them(engine: Engine, box: Container) -> None:
    does(box, FILL)
    heard: list[str] = []
    state = box.snapshot("one", volumes=True, on_warning=heard.append)
    assert heard == ["volumes and binds are no part of a snapshot: /host"]
    assert [(one["Name"][:4], one["Target"]) for one in state.inspect()["Volumes"]] == [
        ("data", "/data"),
        (box.id[:4], "/own"),
    ]
    does(box, CHANGE)
    other = box.snapshot("other", on_warning=heard.append)
    assert heard[1:] == [
        "volumes and binds are no part of a snapshot: /data, /own, /host (--volumes: volumes are)"
    ]
    box.snapshot(on_warning=heard.append).remove()
    box.snapshot(volumes=True, on_warning=heard.append).remove()
    assert len(heard) == 2
    assert other.inspect()["Volumes"] == []
    box.rewind("one", volumes=False)
    assert (texts(data(engine)), does(box, "cat /f /own/o")) == ({"g": "2\n", "new": "2\n"}, "1\n2\n")
    engine.storage.collect()
    box.rewind("one")
    assert texts(data(engine)) == {"d/f": "1\n", "g": "1\n"}
    found = (data(engine) / "d").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (7, 8, 0o700)
    assert os.path.samefile(data(engine) / "d/f", data(engine) / "g")
    assert does(box, "cat /f /own/o") == "1\no\n"
    box.rewind(other)  # which says nothing of volumes
    assert does(box, "cat /f /own/o") == "2\no\n"
    # one that was removed since is there again
    box.rewind("one")
    assert engine.storage.check().findings == ()
    copies = [one.layer for one in state.record.volumes]
    state.remove()
    other.remove()
    engine.storage.collect()
    assert not any(layers.is_there(engine.store, one) for one in copies)


def test_of_one_that_runs_they_are_as_of_one_moment(engine: Engine, box: Container) -> None:
    """Whether its root is replaced, or what was written copied because somebody holds it just then."""
    box.start()
    does(box, FILL)
    box.exec_detached(
        ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/data/n.new; mv /data/n.new /data/n; "
         "echo $i >/n.new; mv /n.new /n; done"]
    )  # fmt: skip

    def turn() -> int:
        return int((data(engine) / "n").read_text()) if (data(engine) / "n").exists() else 0

    frozen = 0
    for consistency in ("auto", "copy", "wait"):
        until(lambda: turn() >= frozen + 3)  # noqa: B023  # since then it wrote both
        state = box.snapshot(consistency=consistency, volumes=True)
        copy = Path(os.fsdecode(layers.tree_of(engine.store, state.record.volumes[0].layer)))
        [root] = [Path(os.fsdecode(layers.tree_of(engine.store, one))) for one in state.record.new]
        frozen = int((copy / "n").read_text())
        assert 0 <= frozen - int((root / "n").read_text()) <= 1
        assert (copy / "d/f").read_text() == "1\n"
    with pytest.raises(Conflict, match="has volumes, and it runs"):
        box.rewind(state)
    box.stop()
    does(box, "rm -r /data/*")
    nothing = box.snapshot(volumes=True)
    box.start()
    assert (
        box.snapshot(volumes=True).record.new == ()
    )  # nothing of the root was written: they are copied all the same
    user = engine.start("tiny", ["sleep", "600"], name="user", volumes=["data:/x"], stop_timeout=0)
    box.stop()
    with pytest.raises(Conflict, match="volume data, which user uses"):
        box.rewind(state)
    assert texts(data(engine)) == {}
    user.remove(force=True)
    box.rewind(state)
    assert texts(data(engine))["d/f"] == "1\n"
    box.rewind(nothing)
    assert texts(data(engine)) == {}


def test_forks_begin_with_what_was_in_them(engine: Engine, box: Container) -> None:
    does(box, FILL)
    state = box.snapshot(volumes=True)
    does(box, CHANGE)
    told: list[str] = []
    one, other = state.fork(2, on_warning=told.append, network="none")
    assert told == ["shared with its parent, as they are now: /host"]
    assert does(one, "cat /data/d/f /own/o; stat -c %u /data/d; echo 3 >/data/d/f") == "1\no\n7\n"
    assert does(other, "cat /data/d/f; ls /data") == "1\nd\ng\n"
    assert texts(data(engine)) == {"g": "2\n", "new": "2\n"}
    [shared] = box.fork()  # as it is now: with what is in them now
    assert does(shared, "cat /data/new") == "2\n"
    names = {entry["name"] for entry in one.record["volumes"] if entry.get("name", "").startswith(one.id)}
    assert len(names) == 2
    state.remove()
    for fork in (one, other, shared):
        fork.remove(force=True, volumes=True)
    engine.storage.collect()
    assert {volume.name for volume in engine.volumes()} == {"data", f"{box.id}-1"}
    assert engine.storage.check().findings == ()


def test_a_volume_that_is_mounted_twice_or_in_part_is_one_in_a_fork_too(engine: Engine) -> None:
    (data(engine, engine.create_volume("data").name) / "part").mkdir()
    box = engine.create(
        "tiny",
        ["sleep", "600"],
        volumes=["data:/one", "data:/two:ro"],
        mounts=["type=volume,src=data,dst=/in,volume-subpath=part"],
        network="none",
        stop_timeout=0,
    )
    does(box, "echo 1 >/one/f; echo 1 >/in/g")
    state = box.snapshot(volumes=True)
    does(box, "echo 2 >/one/f; echo 2 >/in/g")
    look = "cat /one/f /two/f /in/g /one/part/g"
    told: list[str] = []
    for fork in state.fork(2, on_warning=told.append):
        assert does(fork, look) == "1\n1\n1\n1\n"
        assert (
            does(fork, f"echo 3 >/one/f; echo 3 >/in/g; {look}; ! echo >/two/f 2>/dev/null") == "3\n3\n3\n3\n"
        )
        names = {entry["name"] for entry in fork.record["volumes"]}
        assert len(names) == 1 and names.pop().startswith(fork.id)
        # a fork of what it is now begins with new ones, in which nobody has made that directory
        with pytest.raises(NotFound, match="mount part of volume"):
            fork.fork()
        [child] = fork.snapshot(volumes=True).fork()
        assert does(child, look) == "3\n3\n3\n3\n"
        child.remove(force=True, volumes=True)
        fork.remove(force=True, volumes=True)
    assert told == []
    assert does(box, look) == "2\n2\n2\n2\n"
    assert [volume.name for volume in engine.volumes()] == ["data"]


def test_what_is_in_them_belongs_to_the_ids_of_the_fork(engine: Engine, tmp_path: Path) -> None:
    """Owners, those in ACLs and in capabilities of files; what belongs to somebody else is nobody's, as it was."""
    box = engine.create(
        "tiny", ["sleep", "600"], userns="auto", volumes=["data:/data", "same:/same:idmap"], stop_timeout=0
    )
    does(box, "mkdir /data/d; echo 1 >/data/d/f; chown 7:8 /data/d/f; chmod 4755 /data/d/f; chmod 700 /data/d; "
         "ln -s f /data/d/l; echo 1 >/same/f; chown 7:8 /same/f")  # fmt: skip
    first = box.record["id_maps"]["uidMappings"][0]["hostID"]
    file = data(engine) / "d/f"
    os.setxattr(file, "system.posix_acl_access", acl(first + 9))
    (data(engine) / "stranger").write_text("")
    os.chown(data(engine) / "stranger", 5, 5)
    state = box.snapshot(volumes=True)
    with pytest.raises(InvalidInput):
        state.fork(2, memory="many")
    looks = "stat -c '%u:%g %a' /data /data/d /data/d/f /data/d/l /data/stranger /same/f; cat /data/d/f"
    wanted = does(box, looks)
    assert wanted.split("\n")[:6] == [
        "0:0 755", "0:0 700", "7:8 4775", "0:0 777", "65534:65534 644", "7:8 644",
    ]  # fmt: skip
    forks = state.fork(2)
    firsts = set()
    for fork in forks:
        assert does(fork, looks) == wanted
        does(fork, "echo 2 >>/data/d/f; chown 9 /data/d/f")
        here = fork.record["id_maps"]["uidMappings"][0]["hostID"]
        firsts.add(here)
        [own] = [one["name"] for one in fork.record["volumes"] if one["target"] == "/data"]
        assert (data(engine, own) / "d/f").stat().st_uid == here + 9
        assert os.getxattr(data(engine, own) / "d/f", "system.posix_acl_access") == acl(here + 9)
    assert len({first, *firsts}) == 3
    for fork in forks:
        fork.remove(force=True, volumes=True)


def acl(uid: int) -> bytes:
    """rwx for the owner and for *uid*, r-x for everybody else: as the kernel keeps it."""
    entries = [(1, 7, -1), (2, 7, uid), (4, 5, -1), (16, 7, -1), (32, 5, -1)]
    packed = (struct.pack("<HHI", tag, bits, number & 0xFFFFFFFF) for tag, bits, number in entries)
    return struct.pack("<I", 2) + b"".join(packed)


def test_killed_at_any_step_volumes_and_files_are_of_one_state(engine: Engine, box: Container) -> None:
    does(box, FILL)
    states = {"1": box.snapshot("one", volumes=True), "2": None}
    does(box, CHANGE)
    states["2"] = box.snapshot("two", volumes=True)
    now = "2"
    for step in range(1, 200):
        wanted = "1" if now == "2" else "2"
        pid = os.fork()
        if not pid:
            try:
                there = Engine(os.fsdecode(engine.store.path)).container("box")
                trace.hook = trace.parse(f"kill:{step}")
                there.rewind("one" if wanted == "1" else "two")
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, -signal.SIGKILL)
        found = (box.files / "f").read_text().strip()  # whoever comes next finishes it
        assert texts(data(engine))["g"] == found + "\n", step
        assert texts(data(engine, f"{box.id}-1"))["o"] == ("o\n" if found == "1" else "2\n"), step
        now = found
        if not status:
            break
    assert step > 8
    box.rewind("two")
    engine.storage.collect()
    home = os.fsdecode(engine.store.containers) + "/" + box.id
    assert not [entry for entry in os.listdir(home) if entry.startswith("volume-")]
    assert engine.storage.check().findings == ()


def test_from_the_shell(engine: Engine, box: Container, lamina: Callable[..., CompletedProcess[str]]) -> None:
    does(box, FILL)
    first = lamina("snapshot", "create", "box", "without")
    assert "--volumes: volumes are" in first.stderr and first.returncode == 0
    assert lamina("snapshot", "create", "--volumes", "box", "one").stderr == ""
    does(box, CHANGE)
    assert lamina("rewind", "--no-volumes", "box", "one").returncode == 0
    assert texts(data(engine))["g"] == "2\n"
    assert lamina("rewind", "--save", "before", "box", "one").returncode == 0
    assert texts(data(engine))["g"] == "1\n"
    assert lamina("rewind", "box", "before").returncode == 0
    assert texts(data(engine))["g"] == "2\n"


def test_others_who_are_at_work_in_a_volume_are_not_in_the_way(engine: Engine, box: Container) -> None:
    """What is gone, or something else, when it is looked at is left out; nothing else is taken for it."""
    churn = (
        "cd /data; while :; do mkdir x; echo 1 >x/f; ln -s /etc/passwd l; rm -r x l; echo 1 >x; mkfifo l; rm x l; "
        "mkdir l; rmdir l; done"
    )
    other = engine.start("tiny", ["sh", "-c", churn], volumes=["data:/data"], network="none", stop_timeout=0)
    (data(engine) / "kept").write_text("kept")
    for _ in range(20):
        state = box.snapshot(volumes=True)
        copy = Path(os.fsdecode(layers.tree_of(engine.store, state.record.volumes[0].layer)))
        assert (copy / "kept").read_text() == "kept"
        assert {path.name for path in copy.rglob("*")} <= {"kept", "x", "f", "l"}
        state.remove()
    other.remove(force=True)


def test_a_file_on_which_a_program_has_a_lease_is_said(engine: Engine, box: Container) -> None:
    box.start()
    file = data(engine) / "leased"
    file.write_text("x")
    asked: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, frame: asked.append(number))
    try:
        with file.open("r+") as held:
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            with pytest.raises(Conflict, match="copy leased: a program has a lease on this file") as raised:
                box.snapshot("one", volumes=True)
        assert "try again" in raised.value.remedy and asked
    finally:
        signal.signal(signal.SIGIO, before)
    assert (box.status, box.snapshots()) == ("running", [])
    assert box.snapshot("one", volumes=True).name == "one"  # it was given up


def test_a_device_in_it_is_copied_and_not_opened(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    os.mkfifo(source / "fifo")  # whoever opened it would wait for ever
    os.mknod(source / "null", 0o20666, os.makedev(1, 3))
    copy_stored(os.fsencode(source), os.fsencode(copy), True)
    assert (copy / "fifo").is_fifo()
    assert (copy / "null").stat().st_rdev == os.makedev(1, 3)
