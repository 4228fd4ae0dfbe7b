"""Containers that exist: found, looked at, and removed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.errors import Conflict, InvalidInput, NotFound
from lamina.store import names
from support.hosts import settle
from support.leaks import Leaks

pytestmark = pytest.mark.root

RUN = """if True:
    import sys
    from lamina import Engine
    sys.exit(Engine(sys.argv[1]).run("host", ["sh", "-c", sys.argv[3]], name=sys.argv[2],
             rm=len(sys.argv) > 4).returncode)
"""


class Elsewhere:
    """An engine in another process that runs a container for a while."""

    def __init__(self, root: Path, name: str, script: str, *, rm: bool = False) -> None:
        words = [sys.executable, "-c", RUN, str(root), name, f"echo ready; {script}", *(["rm"] if rm else [])]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said == b"ready\n", self.process.communicate()

    def end(self) -> int:
        self.process.communicate(timeout=200)
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def engine(store_root: Path) -> Engine:
    return Engine(store_root)


@pytest.fixture
def elsewhere(store_root: Path, untouched_host: Leaks) -> Iterator[list[Elsewhere]]:
    made: list[Elsewhere] = []
    yield made
    for one in made:
        one.close()


def run(engine: Engine, name: str, script: str = "true") -> Container:
    engine.run("host", ["sh", "-c", script], name=name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return engine.container(name)


# -- what it is


def test_what_is_known_of_one_that_ended(engine: Engine) -> None:
    before = time.time()
    container = run(engine, "web", "exit 3")
    assert (container.name, container.image, container.command) == ("web", "host", ["sh", "-c", "exit 3"])
    assert (container.state, container.exit_code, container.labels) == ("exited", 3, {})
    assert before <= container.created <= time.time()
    assert names.is_id(container.id)
    assert repr(container) == f"<Container {container.name} {container.id[:12]}>"


def test_in_the_words_of_docker_inspect(engine: Engine) -> None:
    engine.run(
        "host", ["sh", "-c", "exit 3"], name="web", env=["A=1"], memory="64m", labels=["k=v"], hostname="h"
    )
    found = engine.container("web").inspect()
    assert (found["Name"], found["Image"], found["Path"], found["Args"]) == (
        "web",
        "host",
        "sh",
        ["-c", "exit 3"],
    )
    state = found["State"]
    assert (state["Status"], state["Running"], state["ExitCode"], state["Pid"]) == ("exited", False, 3, 0)
    assert found["Created"] <= state["StartedAt"] <= state["FinishedAt"]
    assert found["Config"]["Hostname"] == "h"
    assert "A=1" in found["Config"]["Env"]
    assert found["Config"]["Labels"] == {"k": "v"}
    assert found["HostConfig"]["Memory"] == 64 << 20
    assert Path(found["LogPath"]).exists()


def test_one_that_runs(engine: Engine, elsewhere: list[Elsewhere], store_root: Path) -> None:
    elsewhere.append(Elsewhere(store_root, "web", "sleep 600"))
    container = engine.container("web")
    assert (container.state, container.exit_code) == ("running", None)
    assert os.path.exists(f"/proc/{container.inspect()['State']['Pid']}")
    assert [c.name for c in engine.containers()] == ["web"]
    changed = {change.path for change in container.changes() if not change.incidental}
    assert changed == set()


def test_lists_are_in_order_and_of_what_runs_unless_all_are_wanted(engine: Engine) -> None:
    for name in ("c", "a", "b"):
        run(engine, name)
    assert [c.name for c in engine.containers(all=True)] == ["c", "a", "b"]
    assert engine.containers() == []


def test_found_by_name_id_and_beginning(engine: Engine) -> None:
    container = run(engine, "web")
    for reference in ("web", container.id, container.id[:12], container.id[:5]):
        assert engine.container(reference).id == container.id


@pytest.mark.parametrize("reference", ["nosuch", "", "../web", "/", "we", "WEB", "\0", "0" * 64])
def test_what_is_not_there(engine: Engine, reference: str) -> None:
    run(engine, "web")
    with pytest.raises(NotFound, match="no such container"):
        engine.container(reference)


def test_an_ambiguous_beginning(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["ab" + "1" * 62, "ab" + "2" * 62])
    monkeypatch.setattr(names, "new_id", lambda: next(ids))
    run(engine, "x")
    run(engine, "y")
    with pytest.raises(InvalidInput, match="multiple IDs found with provided prefix"):
        engine.container("ab")
    assert engine.container("ab1").name == "x"
    # docker's order: a whole id, then a name, then the beginning of an id
    ids = iter(["c" * 64, "d" * 64, "e" * 64])
    run(engine, "ab1")
    assert engine.container("ab1").id == "c" * 64
    run(engine, "ab" + "1" * 62)
    assert engine.container("ab" + "1" * 62).name == "x"
    run(engine, "f" * 64)
    assert engine.container("f" * 64).id == "e" * 64, "a name that looks like an id"


def test_a_damaged_record_hides_nobody_and_can_be_removed(engine: Engine, store_root: Path) -> None:
    container = run(engine, "web")
    run(engine, "other")
    (store_root / "containers" / container.id / "container.json").write_text("{torn")
    found = {c.id: c for c in engine.containers(all=True)}
    assert len(found) == 2
    assert (found[container.id].name, found[container.id].state) == ("", "exited")
    engine.container(container.id[:12]).remove()
    assert [c.name for c in engine.containers(all=True)] == ["other"]
    run(engine, "web")


# -- what it wrote


def test_logs(engine: Engine) -> None:
    container = run(engine, "web", "echo one; echo two >&2; printf three")
    found = list(container.logs())
    assert b"".join(entry.data for entry in found if entry.stream == "stdout") == b"one\nthree"
    assert b"".join(entry.data for entry in found if entry.stream == "stderr") == b"two\n"
    assert [entry.time_ns for entry in found] == sorted(entry.time_ns for entry in found)


def test_logs_are_followed_to_the_end(engine: Engine, elsewhere: list[Elsewhere], store_root: Path) -> None:
    script = "for n in 1 2 3 4 5; do echo $n; sleep 0.1; done; exit 4"
    elsewhere.append(Elsewhere(store_root, "web", script))
    said = b"".join(entry.data for entry in engine.container("web").logs(follow=True))
    assert said == b"ready\n1\n2\n3\n4\n5\n"
    assert elsewhere[0].end() == 4


# -- what it did


def test_changes_apply_and_undo(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    (tmp_path / "gone").write_text("x")
    settle()
    script = f"cd {tmp_path} && echo after >file && rm gone && echo new >new"
    container = run(engine, "web", script)
    place = os.fsencode(tmp_path)
    kinds = {
        c.path[len(place) :]: c.kind
        for c in container.changes([tmp_path_bytes(tmp_path)])
        if not c.incidental
    }
    assert kinds == {b"/file": "changed", b"/gone": "deleted", b"/new": "added"}
    assert container.clashes() == []
    container.apply([f"{tmp_path}/file", f"{tmp_path}/new"], exclude=[f"{tmp_path}/new"])
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "lamina-store") == ["file", "gone"]
    assert (tmp_path / "file").read_text() == "after\n"
    container.undo()
    assert (tmp_path / "file").read_text() == "before"
    container.remove()


def tmp_path_bytes(path: Path) -> bytes:
    return os.fsencode(path)


def test_what_only_the_start_made_is_no_change(engine: Engine, tmp_path: Path) -> None:
    """Mount points of volumes, and a working directory that was missing."""
    engine.run("host", ["true"], name="x", volumes=[(tmp_path, "/srv/a/b")], workdir="/srv/c/d")
    assert [c.path for c in engine.container("x").changes() if not c.incidental] == []


def test_changes_of_a_running_container_cannot_be_applied(
    engine: Engine, elsewhere: list[Elsewhere], store_root: Path
) -> None:
    elsewhere.append(Elsewhere(store_root, "web", "touch /srv/lamina-x; sleep 600"))
    container = engine.container("web")
    for act in (container.apply, container.undo):
        with pytest.raises(Conflict, match="is running"):
            act()
    assert not os.path.exists("/srv/lamina-x")


# -- its end


def test_removing(engine: Engine, store_root: Path) -> None:
    container = run(engine, "web", "mkdir -p /srv/x/y; chmod 0 /srv/x")
    container.remove()
    assert engine.containers(all=True) == []
    assert os.listdir(store_root / "containers") == os.listdir(store_root / "tmp") == []
    for use in (container.remove, container.inspect, container.changes, lambda: container.state):
        with pytest.raises(NotFound):
            use()


def test_one_that_runs_is_removed_only_by_force(
    engine: Engine, elsewhere: list[Elsewhere], store_root: Path
) -> None:
    elsewhere.append(Elsewhere(store_root, "web", "trap '' TERM; sleep 600"))
    container = engine.container("web")
    with pytest.raises(Conflict, match=r"remove container .* is running"):
        container.remove()
    container.remove(force=True)
    assert elsewhere[0].end() == 137
    assert engine.containers(all=True) == []


def test_one_that_removes_itself_can_be_removed_by_force(
    engine: Engine, elsewhere: list[Elsewhere], store_root: Path
) -> None:
    elsewhere.append(Elsewhere(store_root, "web", "sleep 600", rm=True))
    container = engine.container("web")
    try:
        container.remove(force=True)
    except NotFound:
        pass  # its own engine was quicker
    assert elsewhere[0].end() == 137
    assert engine.containers(all=True) == []


def test_many_remove_the_same(engine: Engine) -> None:
    for _ in range(5):
        run(engine, "web", "touch /srv/a /srv/b /srv/c")
        found = [engine.container("web") for _ in range(4)]
        done: list[object] = []

        def remove(container: Container, done: list[object] = done) -> None:
            try:
                container.remove()
                done.append(container)
            except (NotFound, Conflict):
                pass

        threads = [threading.Thread(target=remove, args=(container,)) for container in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 1
        assert engine.containers(all=True) == []


def test_a_container_that_is_removed_while_its_changes_are_read(engine: Engine, monkeypatch) -> None:
    from lamina.engine import within

    engine.run("host", ["touch", "/srv/x"], name="x")
    container, other = engine.container("x"), engine.container("x")
    really = within.reach

    def meanwhile(*args, **keywords):
        other.remove()
        return really(*args, **keywords)

    monkeypatch.setattr(within, "reach", meanwhile)
    with pytest.raises(NotFound, match="no such container"):
        container.changes()
