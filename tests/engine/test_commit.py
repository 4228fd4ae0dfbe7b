"""`commit`: what a container wrote becomes a layer like others, what it was asked to be an image's config."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from lamina import Container, Engine
from lamina.engine.committed_image import run_of
from lamina.engine.digesting import digested
from lamina.errors import Conflict, InvalidInput, InvalidReference, NotFound, Unsupported
from lamina.image.pack import pack_stored
from lamina.overlay.spec import MountSpec, top_first
from lamina.overlay.stack import Overlay
from lamina.store import blobs, images, layers
from lamina.store.root import Store
from support.image_archives import ImageSource, old_docker, tar, tree_tar
from support.leaks import Leaks
from support.lives import until
from support.namespaces import in_mount_namespace
from support.operations import Operation, operations, perform
from support.running import wait_for
from support.small_images import busybox_tree
from support.snapshots import snapshot_tree
from support.stacks import Kit, mounted

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks, tmp_path: Path) -> Engine:
    """With the image `tiny`, of two layers, that says a good deal of itself."""
    found = Engine(store_root)
    tree = tmp_path / "tree"
    tree.mkdir()
    busybox_tree(tree)
    (tree / "data/dir").mkdir(parents=True)
    for name in ("kept", "gone", "dir/in"):
        (tree / "data" / name).write_text(f"{name}\n")
    config = {
        "Env": ["PATH=/bin", "A=1", "B=1"],
        "Cmd": ["sh"],
        "Labels": {"of": "image"},
        "ExposedPorts": {"80/tcp": {}},
        "OnBuild": ["RUN true"],
        "Healthcheck": {"Test": ["CMD", "true"], "Retries": 3},
    }
    source = ImageSource(tree_tar(tree), tar({"etc/second": b"2\n"}), config=config, author="the base's")
    found.load(_file(tmp_path, tar(*old_docker((source, ["tiny:latest"])))))
    return found


def _file(place: Path, data: bytes) -> Path:
    (place / "image.tar").write_bytes(data)
    return place / "image.tar"


def ended(engine: Engine, script: str, **options: Any) -> Container:
    """A container of `tiny` that has done *script*."""
    done = engine.run("tiny", ["sh", "-ec", script], capture_output=True, timeout=200, **options)
    assert done.returncode == 0, done.stderr
    return engine.container(done.container)


def output(engine: Engine, image: str, *words: str) -> str:
    done = engine.run(image, words, rm=True, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def config_of(engine: Engine, identity: str) -> dict[str, Any]:
    record = images.get(engine.store, identity)
    assert record is not None
    found: dict[str, Any] = json.loads(blobs.read_blob(engine.store, record.config, 1 << 20))
    return found


class Sized:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes, /) -> None:
        self.data += data


def top(engine: Engine, identity: str) -> tuple[layers.Layer, bytes]:
    """The uppermost layer, and its archive made once more, which has the digest that the config says then."""
    record = images.get(engine.store, identity)
    assert record is not None
    record = digested(engine.store, record)
    layer = layers.find(engine.store, record.layers[-1])
    assert layer is not None
    out = Sized()
    packed = pack_stored(layer, out)
    assert packed.diff_id == layer.diff_id == config_of(engine, identity)["rootfs"]["diff_ids"][-1]
    return layer, bytes(out.data)


def names_in(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return sorted(member.name for member in opened)


WORK = """
echo new > /data/new; rm /data/gone; rm -r /data/dir; mkdir /data/dir; echo other > /data/dir/other
chmod 600 /data/kept; ln /data/new /data/hard; ln -s /etc/second /data/link; chown 7:8 /data/new; mkfifo /data/fifo
"""


def test_what_it_wrote_is_a_layer(engine: Engine) -> None:
    box = ended(engine, WORK)
    image = box.commit("made:1", message="by hand", author="me")
    assert image.tags == ["made:1"]
    _, archive = top(engine, image.id)
    assert names_in(archive) == [
        ".", "data", "data/.wh.gone", "data/dir", "data/dir/.wh..wh..opq", "data/dir/other", "data/fifo",
        "data/hard", "data/kept", "data/link", "data/new",
    ]  # fmt: skip
    script = "cat /data/link /data/dir/* /data/hard; stat -c %a-%u:%g-%h /data/kept /data/new; ls /data"
    assert output(engine, "made:1", "sh", "-c", script) == (
        "2\nother\nnew\n600-0:0-1\n644-7:8-2\ndir\nfifo\nhard\nkept\nlink\nnew\n"
    )
    config = config_of(engine, image.id)
    assert (config["author"], len(config["rootfs"]["diff_ids"])) == ("me", 3)
    last = config["history"][-1]
    assert (last["comment"], last["author"], "empty_layer" in last) == ("by hand", "me", False)
    assert last["created_by"] == f"sh -ec {WORK}"
    assert config["history"][:-1] == [{"created_by": "layer 0"}, {"created_by": "layer 1"}]
    assert engine.storage.check().findings == ()


def test_what_it_was_asked_to_be(engine: Engine) -> None:
    box = ended(
        engine, "true", env={"B": "2", "C": "3"}, user="1000", workdir="/data", labels={"mine": "x"},
        volumes=["/own", "named:/named"], stop_signal="INT", health_cmd="test -e /x", health_interval="7s",
    )  # fmt: skip
    image = box.commit(changes=['CMD ["cat"]', "ENV D=4", "EXPOSE 53/udp"])
    assert config_of(engine, image.id)["config"] == {
        "Env": ["PATH=/bin", "A=1", "B=2", "C=3", "D=4"],
        "Cmd": ["cat"],
        "User": "1000",
        "WorkingDir": "/data",
        "Labels": {"of": "image", "mine": "x"},
        "Volumes": {"/own": {}},
        "ExposedPorts": {"53/udp": {}, "80/tcp": {}},
        "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD-SHELL", "test -e /x"], "Interval": 7 * 10**9, "Retries": 3},
    }
    again = engine.container(engine.create("tiny", ["-c", "true"], entrypoint="sh").id).commit()
    config = config_of(engine, again.id)
    assert (config["config"]["Entrypoint"], config["config"]["Cmd"]) == (["sh"], ["-c", "true"])
    assert config["history"][-1]["created_by"] == "-c true"
    box.remove(volumes=True)


def test_where_nothing_was_written_there_is_no_layer(engine: Engine) -> None:
    """Although its start made places to mount at: /dev, /proc, the files of names, a volume's."""
    box = ended(engine, "true", volumes=["/some/where/own"])
    image = box.commit("same")
    config = config_of(engine, image.id)
    assert len(config["rootfs"]["diff_ids"]) == 2
    assert config["history"][-1]["empty_layer"] is True
    box.remove(volumes=True)


def test_a_running_one_stands_still_meanwhile(engine: Engine) -> None:
    """Two counters that are written one after the other never differ by more than one in what is committed."""
    script = "i=0; while :; do i=$((i+1)); echo $i > /a; mv /a /one; echo $i > /b; mv /b /two; done"
    box = engine.start("tiny", ["sh", "-c", script])
    seen: list[int] = []
    try:
        assert box.exec(["sh", "-c", "until test -e /two; do sleep 0.01; done"], timeout=200).returncode == 0
        for consistency in ("auto", "auto", "copy"):
            goes_on = f"until test $(cat /two) -gt {seen[-1] if seen else 0}; do sleep 0.01; done"
            assert box.exec(["sh", "-c", goes_on], timeout=200).returncode == 0
            image = box.commit(consistency=consistency)
            assert image.is_pending
            assert box.state == "running"
            one, two = output(engine, image.id, "cat", "/one", "/two").split()
            assert int(one) - int(two) in (0, 1)
            seen.append(int(two))
        assert seen == sorted(set(seen))
        actions = [
            event.action
            for event in engine.events(since=0, until=time.time(), filters={"container": [box.id]})
            if not event.action.startswith("exec_")
        ]
        assert actions[-5:] == ["commit", "commit", "pause", "unpause", "commit"]
        box.pause()
        box.commit()
        assert box.state == "paused"
        box.unpause()
        box.commit(pause=False)
        assert box.state == "running"
    finally:
        box.remove(force=True)


def test_several_at_once_each_see_it_standing_still(engine: Engine) -> None:
    box = engine.start("tiny", ["sh", "-c", "while :; do echo x >> /log; sleep 0.01; done"])
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(box.commit().id)) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert len(found) == 4 and box.state == "running"
    finally:
        box.remove(force=True)


def test_one_that_run_rm_stays_with(engine: Engine) -> None:
    """The classic: try something in a shell that is removed at its end, and keep it from another terminal."""
    words = [
        "--root",
        os.fsdecode(engine.store.path),
        "run",
        "--rm",
        "--name",
        "shell",
        "-i",
        "-e",
        "B=9",
        "tiny",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "lamina", *words, "sh", "-c", "echo kept > /new; echo ready; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        wait_for(engine, process, "shell")
        image = engine.container("shell").commit("kept", pause=False)
    finally:
        process.stdin.close()
        process.wait(200)
        process.stdout.close()
    assert "B=9" in config_of(engine, image.id)["config"]["Env"]
    _, archive = top(engine, image.id)
    assert names_in(archive) == [".", "new"]
    assert output(engine, "kept", "cat", "/new") == "kept\n"
    assert engine.containers(all=True) == []


def test_images_of_images_are_removed_like_others(engine: Engine) -> None:
    for number in range(3):
        box = ended(engine, f"echo {number} > /{number}") if not number else box_of(engine, number)
        box.commit("chain")
        box.remove()
    assert output(engine, "chain", "cat", "/0", "/1", "/2") == "0\n1\n2\n"
    engine.remove_image("tiny")
    assert output(engine, "chain", "cat", "/0", "/etc/second") == "0\n2\n"
    engine.prune_images()
    assert [image.tags for image in engine.images()] == [["chain:latest"]]
    engine.remove_image("chain")
    assert layers.identities(engine.store) == []
    assert engine.storage.check().findings == ()


def box_of(engine: Engine, number: int) -> Container:
    done = engine.run("chain", ["sh", "-c", f"echo {number} > /{number}"], timeout=200)
    assert done.returncode == 0
    return engine.container(done.container)


def shown(spec: MountSpec) -> dict[bytes, object]:
    """What a stack shows, of what an archive can hold: no sockets, no attributes that are overlayfs' own, no inodes."""
    with Overlay(spec).open() as tree:
        found = snapshot_tree(tree)
    sockets = {path for path, record in found.items() if stat.S_ISSOCK(int(record[0], 8))}
    kept: dict[bytes, object] = {}
    for path, (mode, uid, gid, links, size, mtime, _, rdev, payload, attributes) in found.items():
        if path not in sockets:
            others = [pair for pair in attributes if not pair[0].startswith("trusted.overlay.")]
            is_directory = stat.S_ISDIR(int(mode, 8))
            if is_directory:
                payload = [name for name in payload if (path + b"/" + name).lstrip(b"/") not in sockets]
            fixed = (None, None) if is_directory else (links, size)
            kept[path] = (mode, uid, gid, *fixed, mtime, rdev, payload, others)
    return kept


def images_layers(engine: Engine, identity: str) -> tuple[str, ...]:
    record = images.get(engine.store, identity)
    assert record is not None
    return record.layers


def shown_by(engine: Engine, identity: str) -> dict[bytes, object]:
    """What the layers of an image show together."""
    trees = [layers.tree_of(engine.store, layer) for layer in images_layers(engine, identity)]
    return shown(MountSpec(top_first(trees)))


@pytest.mark.slow
def test_whatever_programs_do_the_image_shows_it(tmp_path: Path) -> None:
    """Files, links, devices, attributes, renames, in any order, through a mount of the container's own stack."""
    kit = Kit(redirects=False, metacopies=False)

    def check() -> None:
        engine = Engine(tmp_path / "store")
        files = {"a/": b"", "a/file": b"x" * 5000, "a/b/": b"", "a/b/c": b"c", "d": b"d"}
        engine.load(_file(tmp_path, tar(*old_docker((ImageSource(tar(files)), ["small:1"])))))
        elsewhere = Engine(tmp_path / "elsewhere")
        place = os.fsencode(tmp_path) + b"/mounted"
        os.mkdir(place)

        @settings(max_examples=25, deadline=None)
        @given(operations(kit))
        def one(program: list[Operation]) -> None:
            box = engine.create("small:1", ["never"])
            try:
                spec = box.overlays()[0][1]
                with mounted(spec, place):
                    perform(place, program)
                wanted = shown(spec)
                image = box.commit()
                assert image.is_pending == (len(images_layers(engine, image.id)) > 1)
                assert shown_by(engine, image.id) == wanted == shown(box.overlays()[0][1])
                engine.save(image.id, tmp_path / "saved.tar")
                (loaded,) = elsewhere.load(tmp_path / "saved.tar")
                image.reload()
                assert (loaded.id, shown_by(elsewhere, loaded.id)) == (image.id, wanted)
                engine.remove_image(image.id, force=True)
                elsewhere.remove_image(loaded.id)
            finally:
                box.remove()

        one()

    in_mount_namespace(check, timeout=300)


# -- what cannot be


def test_what_cannot_be_committed(engine: Engine) -> None:
    box = ended(engine, "echo x > /x")
    for name in ("Made", "a b", "made:"):
        with pytest.raises(InvalidReference):
            box.commit(name)
    with pytest.raises(InvalidInput, match="digest cannot be given"):
        box.commit("made@sha256:" + "0" * 64)
    with pytest.raises(Conflict, match="always this system"):
        box.commit("host")
    with pytest.raises(InvalidInput, match="no instruction"):
        box.commit("made", changes=["RUN true"])
    engine.remove_image("tiny", force=True)
    with pytest.raises(NotFound, match=r"was removed.*") as caught:
        box.commit("made")
    assert "export" in caught.value.remedy
    assert engine.images() == []
    here = engine.run("host", ["true"])
    with pytest.raises(Unsupported, match="over this machine"):
        engine.container(here.container).commit("made")


def test_a_slip_of_the_pen_pauses_nothing(engine: Engine) -> None:
    box = engine.start("tiny", ["sleep", "600"])
    try:
        with pytest.raises(InvalidInput):
            box.commit(changes=["NOSUCH x"])
        actions = [event.action for event in engine.events(since=0, until=time.time())]
        assert "pause" not in actions and box.state == "running"
    finally:
        box.remove(force=True)


def test_a_name_that_no_layer_can_have_is_said_when_it_is_packed(engine: Engine, tmp_path: Path) -> None:
    box = ended(engine, "mkdir /data/new; echo x > /data/new/.wh.kept")
    with pytest.raises(Unsupported, match=r"\.wh\.kept"):
        box.commit("copied", consistency="copy")
    assert len(engine.images()) == 1
    assert os.listdir(engine.store.tmp) == [] and len(layers.identities(engine.store)) == 2
    box.commit("made")
    assert output(engine, "made", "cat", "/data/new/.wh.kept") == "x\n"
    with pytest.raises(Unsupported, match=r"\.wh\.kept"):
        engine.save("made", tmp_path / "made.tar")
    assert not (tmp_path / "made.tar").exists() and engine.image("made").is_pending
    with pytest.raises(Unsupported, match=r"\.wh\.kept"):
        box.commit("now", now=True)
    assert os.listdir(engine.store.tmp) == [] and engine.image("now").is_pending


def test_a_config_is_unicode(engine: Engine) -> None:
    """What of a container is not can be said otherwise, but for its command, which was."""
    box = engine.create("tiny", ["sh", "-c", "echo \udcff"], env=["A=\udcff"], labels={"l": "x"})
    with pytest.raises(InvalidInput, match=r"config\.Env: 'A=\\udcff' is not UTF-8"):
        box.commit("made:1", changes=['CMD ["sh"]'])
    with pytest.raises(InvalidInput, match=r"history\.comment: .* is not UTF-8"):
        box.commit("made:1", changes=['CMD ["sh"]', "ENV A=1"], message="\udcff")
    box.commit("made:1", changes=['CMD ["sh"]', "ENV A=1"], message="why")
    assert engine.image("made:1").history()[0].created_by == "sh -c echo \ufffd"


def test_limits_are_those_of_any_layer(engine: Engine) -> None:
    box = ended(engine, "for n in 1 2 3 4 5; do echo $n > /$n; done")
    with pytest.raises(InvalidInput, match="the limit is 3") as caught:
        box.commit(limits={"entries": 3})
    assert "--layer-limit entries=N" in caught.value.remedy
    assert box.commit(limits={"entries": 30}).size


def caught_in_the_middle(box: Container, words: list[str]) -> subprocess.Popen[str]:
    """A command that was stopped while *box* is paused; one that was too quick is let go, and another one tried."""
    for _ in range(50):
        process = subprocess.Popen(
            [sys.executable, "-m", "lamina", *words], stderr=subprocess.PIPE, text=True
        )
        try:
            until(lambda: box.state == "paused" or process.poll() is not None)  # noqa: B023
            process.send_signal(signal.SIGSTOP)
            until(lambda: stands(process.pid))  # noqa: B023
            if box.state == "paused":
                return process
        except BaseException:
            process.kill()
            raise
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=200)
    raise AssertionError("it is always too quick")


def stands(pid: int) -> bool:
    """Whether a child of ours is stopped, or has ended: then it does no more."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZ"


def test_interrupted_in_the_middle_it_lets_the_container_go_on(engine: Engine) -> None:
    """Stopped where the container is paused, then interrupted: it runs again, and nothing is half-made."""
    box = engine.start(
        "tiny", ["sh", "-c", "dd if=/dev/urandom of=/big bs=1M count=40 2>/dev/null; sleep 600"]
    )
    words = ["--root", os.fsdecode(engine.store.path), "commit", "--consistency", "copy", box.id, "made"]
    try:
        until(lambda: any(c.path == b"/big" and c.after and c.after.size == 40 << 20 for c in box.changes()))
        process = caught_in_the_middle(box, words)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=200)
        assert process.returncode == 130, said
        assert box.state == "running"
        assert os.listdir(engine.store.tmp) == []
        assert box.commit("made").tags == ["made:latest"]
    finally:
        box.remove(force=True)


def test_what_becomes_a_device_while_it_is_read_is_not_opened(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: a container that may make devices exchanges a file for one, between the look and the opening."""
    from lamina.image.pack import pack_layer
    from lamina.overlay.lookup import look

    (tmp_path / "upper").mkdir()
    (tmp_path / "upper/file").write_text("x")
    opened: list[tuple[Any, int]] = []

    def exchanged(fd: int, name: bytes) -> Any:
        found = look(fd, name)
        os.unlink(name, dir_fd=fd)
        os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(1, 3), dir_fd=fd)
        return found

    really = os.open

    def noted(path: Any, flags: int, *more: Any, **words: Any) -> int:
        opened.append((path, flags))
        return really(path, flags, *more, **words)

    monkeypatch.setattr("lamina.image.pack.layer.look", exchanged)
    fd = os.open(tmp_path / "upper", os.O_RDONLY)
    monkeypatch.setattr(os, "open", noted)
    try:
        with pytest.raises(Conflict, match="became something else"):
            pack_layer(fd, Sized())
        assert opened == []
    finally:
        os.close(fd)


def test_a_full_disk_leaves_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.errors import KernelError
    from lamina.store import trace

    box = ended(engine, WORK)
    kept = len(layers.identities(engine.store))
    hits: list[str] = []

    def full(name: str) -> None:
        hits.append(name)
        if name == "layer.rename":
            raise OSError(28, "No space left on device")

    # not `point`: a module that is imported meanwhile would keep it, and be watched by no other test
    monkeypatch.setattr(trace, "hook", full)
    with pytest.raises(KernelError, match="No space"):
        box.commit("made", consistency="copy")
    assert "layer.rename" in hits
    monkeypatch.undo()
    assert os.listdir(engine.store.tmp) == [] and len(layers.identities(engine.store)) == kept
    assert box.commit("made", consistency="copy").tags == ["made:latest"]


# -- pure


def test_published_ports_are_exposed() -> None:
    options = {"networking": {"published": [["tcp", "", 8080, 80], ["udp", "127.0.0.1", 0, 53]]}}
    asked = {"id": "0" * 64, "command": ["x"], "options": options}
    assert run_of(asked, {"exposed_ports": ["80/tcp", "90/tcp"]})[1]["exposed_ports"] == [
        "53/udp",
        "80/tcp",
        "90/tcp",
    ]


def test_the_store_is_another_s_too(engine: Engine) -> None:
    """What one engine commits another sees."""
    image = ended(engine, "echo x > /x").commit("made")
    assert Engine(Store(engine.store.path).path).image("made").id == image.id


def test_how_it_is_found_out_whether_it_is_well_is_committed(engine: Engine) -> None:
    box = ended(engine, "true", health_cmd="test -e /x", health_interval="5s")
    image = box.commit()
    assert config_of(engine, image.id)["config"]["Healthcheck"] == {
        "Test": ["CMD-SHELL", "test -e /x"],
        "Interval": 5 * 10**9,
        "Retries": 3,
    }
    other = ended(engine, "true", no_healthcheck=True)
    assert config_of(engine, other.commit().id)["config"]["Healthcheck"]["Test"] == ["NONE"]
