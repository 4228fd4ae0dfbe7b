"""Containers, images and volumes as objects: docker-py's words, and the errors that are promised for each."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina import Container, Engine, LaminaError, Volume
from lamina.engine.images import Image
from lamina.errors import (
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    ContainerFailed,
    InvalidInput,
    InvalidReference,
    NotFound,
    TimeoutExpired,
    Unsupported,
)
from support.leaks import Leaks
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Engine:
    small_image(store_root, labels={"team": "red"})
    return Engine(store_root)


@pytest.fixture
def box(engine: Engine) -> Iterator[Container]:
    with engine.start("tiny", ["sleep", "600"], name="box", labels={"a": "b"}) as found:
        yield found


@pytest.fixture
def image(engine: Engine) -> Image:
    return engine.image("tiny")


# -- containers


def test_what_a_container_is(engine: Engine, box: Container) -> None:
    assert (box.name, box.image, box.image_id, box.command) == (
        "box",
        "tiny",
        engine.image("tiny").id,
        ["sleep", "600"],
    )
    assert (len(box.id), box.short_id, repr(box)) == (64, box.id[:12], f"<Container box {box.id[:12]}>")
    assert box.labels == {"a": "b", "team": "red"}
    assert (box.status, box.state, box.is_alive, box.exit_code) == ("running", "running", True, None)
    assert box.attrs["State"]["Pid"] == box.inspect()["State"]["Pid"]
    assert box == engine.container(box.id[:20]) != engine
    assert {box, engine.container("box")} == {box}


def test_another_name_is_seen_after_reload(engine: Engine, box: Container) -> None:
    other = engine.container("box")
    assert other.name == "box"
    box.rename("crate")
    assert (box.name, other.name) == ("crate", "box")
    other.reload()
    assert other.name == "crate"


def test_waiting_for_a_container(engine: Engine, box: Container) -> None:
    with pytest.raises(TimeoutExpired, match=f"container {box.name}: not ended within 0.01 s"):
        box.wait(0.01)
    with pytest.raises(TimeoutError):
        box.wait(timeout=0)
    assert box.status == "running"
    box.kill("TERM")
    assert box.wait(200) == box.wait() == 143
    box.remove()
    with pytest.raises(NotFound):
        box.wait()


def test_what_is_written_is_read(engine: Engine) -> None:
    with engine.start("tiny", ["sh", "-c", "echo out; echo err >&2"]) as box:
        box.wait()
        assert sorted((entry.stream, entry.data) for entry in box.logs()) == [
            ("stderr", b"err\n"),
            ("stdout", b"out\n"),
        ]


def test_run_as_subprocess_has_it(engine: Engine) -> None:
    def run(script: str, **options: object) -> object:
        return engine.run("tiny", ["sh", "-c", script], rm=True, **options)  # type: ignore[call-overload]

    with pytest.raises(ContainerFailed) as failed:
        run("echo out; echo err >&2; exit 3", check=True, capture_output=True, text=True)
    assert (failed.value.returncode, failed.value.stdout, failed.value.stderr) == (3, "out\n", "err\n")
    for seconds in (0.5, 5, 50):  # on a busy machine it may not have begun
        with pytest.raises(TimeoutExpired) as late:
            run(r"printf 'so far\303'; exec sleep 600", timeout=seconds, capture_output=True, text=True)
        if late.value.stdout:
            break
    assert (late.value.stdout, late.value.stderr) == ("so far�", "")
    with pytest.raises(UnicodeDecodeError):
        run(r"printf '\377'", capture_output=True, text=True)
    done = engine.run("tiny", ["printf", r"\377"], rm=True, capture_output=True, errors="replace")
    assert done.stdout == "�"
    with pytest.raises(InvalidInput, match="capture_output and stdout"):
        run("true", capture_output=True, stdout=-1)
    with pytest.raises(InvalidInput, match="input and stdin"):
        run("true", input=b"", stdin=0)
    with pytest.raises(LookupError):
        run("true", encoding="no-such")


# name: what is done, what is raised, docker's exit code
MISTAKES: dict[str, tuple[Callable[[Engine, Container], object], type[LaminaError], int]] = {
    "run, nothing to execute": (lambda e, _: e.run("tiny", ["no-such"], rm=True), CommandNotFound, 127),
    "run, not executable": (lambda e, _: e.run("tiny", ["/etc/passwd"], rm=True), CommandNotExecutable, 126),
    "run, no such image": (lambda e, _: e.run("no/such:1", pull="never"), NotFound, 125),
    "run, no image": (lambda e, _: e.run("UPPER"), InvalidReference, 125),
    "run, wrong option": (lambda e, _: e.run("tiny", memory="much"), InvalidInput, 125),
    "run, taken name": (lambda e, _: e.run("tiny", ["true"], name="box"), Conflict, 125),
    "run, no command": (lambda e, _: e.run("tiny", [""]), LaminaError, 125),
    "run, wrong timeout": (lambda e, _: e.run("tiny", ["true"], timeout=-1), InvalidInput, 125),
    "create, taken name": (lambda e, _: e.create("tiny", name="box"), Conflict, 125),
    "create, wrong owner": (
        lambda e, _: e.create("tiny", lifetime="owner", owner=1 << 22),
        InvalidInput,
        125,
    ),
    "container, none": (lambda e, _: e.container("no-such"), NotFound, 125),
    "image, none": (lambda e, _: e.image("no-such"), NotFound, 125),
    "volume, none": (lambda e, _: e.volume("no-such"), NotFound, 125),
    "volume, wrong name": (lambda e, _: e.create_volume("../up"), InvalidInput, 125),
    "exec, nothing to execute": (lambda _, b: b.exec(["no-such"]), CommandNotFound, 127),
    "exec, not executable": (lambda _, b: b.exec(["/etc/passwd"]), CommandNotExecutable, 126),
    "exec, in time": (lambda _, b: b.exec(["sleep", "600"], timeout=0.05), TimeoutExpired, 125),
    "exec, checked": (lambda _, b: b.exec(["false"], check=True), ContainerFailed, 125),
    "exec, no such directory": (lambda _, b: b.exec(["true"], workdir="/no/such"), NotFound, 126),
    "exec, no such user": (lambda _, b: b.exec(["true"], user="no-such"), NotFound, 126),
    "exec, no command": (lambda _, b: b.exec([]), InvalidInput, 125),
    "popen, nothing to execute": (lambda _, b: b.popen(["no-such"]), CommandNotFound, 127),
    "engine.popen, no such image": (lambda e, _: e.popen("no/such:1", pull="never"), NotFound, 125),
    "kill, no such signal": (lambda _, b: b.kill("NONE"), InvalidInput, 125),
    "remove, it runs": (lambda _, b: b.remove(), Conflict, 125),
    "rename, to what it is called": (lambda _, b: b.rename("box"), InvalidInput, 125),
    "rename, no name": (lambda _, b: b.rename("a/b"), InvalidInput, 125),
    "unpause, not paused": (lambda _, b: b.unpause(), Conflict, 125),
    "update, wrong": (lambda _, b: b.update(memory="much"), InvalidInput, 125),
    "top, wrong": (lambda _, b: b.top(["-o", "nothing"]), InvalidInput, 125),
    "image.tag, wrong": (lambda e, _: e.image("tiny").tag("UPPER"), InvalidReference, 125),
    "image.remove, in use": (lambda e, _: e.image("tiny").remove(), Conflict, 125),
    "apply, over an image": (lambda _, b: b.apply(), LaminaError, 125),
    "undo, nothing": (lambda _, b: b.undo(), LaminaError, 125),
    "events, wrong filter": (lambda e, _: list(e.events(filters={"no": ["x"]}, until=0)), InvalidInput, 125),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_errors_of_one_tree_with_dockers_exit_codes(
    engine: Engine, box: Container, mistake: str
) -> None:
    act, kind, code = MISTAKES[mistake]
    before = box.attrs["State"]
    with pytest.raises(kind) as raised:
        act(engine, box)
    assert raised.value.exit_code == code
    assert raised.value.message and "\n" not in raised.value.message
    assert engine.containers(all=True) == [box]  # nothing was left, nothing was lost
    assert box.attrs["State"] == before


def test_a_container_that_is_gone(engine: Engine, box: Container) -> None:
    box.remove(force=True)
    verbs: list[Callable[[], object]] = [
        box.reload, box.start, box.stop, box.kill, box.pause, box.unpause, box.restart, box.remove, box.top,
        box.inspect, lambda: box.attrs, lambda: box.status, lambda: box.exec(["true"]), lambda: box.popen(["true"]),
        lambda: box.exec_detached(["true"]), lambda: list(box.logs()), lambda: box.update(memory="64m"),
        lambda: box.rename("other"), box.changes, box.apply, box.undo, lambda: box.copy_out("/etc", "/nowhere"),
    ]  # fmt: skip
    for verb in verbs:
        with pytest.raises(NotFound, match=box.short_id):
            verb()


# -- images


def test_what_an_image_is(engine: Engine, image: Image) -> None:
    assert (image.tags, image.digests, image.labels) == (["tiny:latest"], [], {"team": "red"})
    assert (len(image.id), image.short_id, repr(image)) == (64, image.id[:12], "<Image tiny:latest>")
    assert engine.images() == [image]
    assert image == engine.image(image.id[:12]) and image != engine
    assert {image, engine.image("tiny")} == {image}
    assert image.size > 0 and image.platform.startswith("linux") and not image.is_pinned
    image.tags.append("mine")
    assert image.tags == ["tiny:latest"]


def test_an_images_names(engine: Engine, image: Image) -> None:
    other = engine.image("tiny")
    image.tag("shop/tiny:2")
    assert image.tags == ["shop/tiny:2", "tiny:latest"]
    assert other.tags == ["tiny:latest"]
    other.reload()
    assert other.tags == image.tags
    with pytest.raises(Conflict, match="several repositories"):
        image.remove()
    done = image.remove(force=True)
    assert ("Untagged", "shop/tiny:2") in done and ("Deleted", f"sha256:{image.id}") in done
    assert engine.images() == []
    for gone in (image.reload, image.history, image.remove, lambda: image.attrs, lambda: image.tag("again")):
        with pytest.raises(NotFound):
            gone()


def test_an_image_is_saved_with_its_names(engine: Engine, tmp_path: Path) -> None:
    made = engine.from_directory(tmp_path, "made:1")
    assert made.history()[0].id == made.id
    assert made.attrs == engine.inspect_image("made:1")
    made.save(tmp_path / "saved.tar")
    with tarfile.open(tmp_path / "saved.tar") as archive:
        assert "manifest.json" in archive.getnames()
    made.remove()
    assert [image.tags for image in engine.load(tmp_path / "saved.tar")] == [["made:1"]]
    with pytest.raises(InvalidInput, match="no form"):
        engine.image("made:1").save(tmp_path / "other", form="zip")
    assert not (tmp_path / "other").exists()


# -- volumes


def test_what_a_volume_is(engine: Engine) -> None:
    volume = engine.create_volume("data", labels={"a": "b"})
    assert isinstance(volume, Volume)
    assert (volume.name, volume.labels, volume.is_anonymous, volume.users) == ("data", {"a": "b"}, False, [])
    assert volume.path.is_dir() and abs(volume.created - time.time()) < 3600
    assert engine.volumes() == [volume] == [engine.volume("data")] and volume != engine
    assert {volume, engine.volume("data")} == {volume}
    assert repr(volume) == "<Volume data>"
    assert engine.create_volume("data", labels={"other": "label"}).labels == {"a": "b"}  # it was there
    assert volume.attrs["Mountpoint"] == str(volume.path)
    assert engine.create_volume().is_anonymous


def test_a_volume_that_is_used_is_not_removed(engine: Engine) -> None:
    volume = engine.create_volume("data")
    with engine.create("tiny", ["true"], name="user", volumes=["data:/data"]):
        assert volume.users == []
        volume.reload()
        assert volume.users == ["user"]
        with pytest.raises(Conflict, match="in use by user"):
            volume.remove()
    volume.remove()
    for gone in (volume.reload, volume.remove, lambda: engine.volume("data")):
        with pytest.raises(NotFound):
            gone()
    assert engine.volumes() == []


def test_what_cannot_be_done_here_says_so(engine: Engine, box: Container) -> None:
    with pytest.raises(Unsupported):
        engine.export(engine.run("host", ["true"], name="over-host").container, "/dev/null")
    engine.container("over-host").remove()
