"""`lamina events`: what happens is told as it happens, in docker's words."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.cli.verbs import events
from lamina.engine import Engine, watching
from lamina.errors import InvalidInput
from support.image_archives import ImageSource, old_docker, tar

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]


def told(lamina: Lamina, *options: str) -> list[dict[str, object]]:
    done = lamina("events", "--since", "1h", "--until", "0s", "--format", "json", *options)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def words(records: list[dict[str, object]]) -> list[str]:
    return [f"{one['Type']} {one['Action']}" for one in records]


@pytest.mark.root
def test_the_life_of_a_container(lamina: Lamina) -> None:
    lamina("run", "--name", "box", "--label", "team=red", "host", "sh", "-c", "exit 3")
    lamina("rm", "box")
    found = told(lamina)
    assert words(found) == [f"container {what}" for what in ("create", "start", "die", "destroy")]
    die = found[2]
    assert die["status"] == "die"
    assert die["from"] == "host"
    actor = die["Actor"]
    assert isinstance(actor, dict)
    assert die["id"] == actor["ID"]
    assert actor["Attributes"] == {"team": "red", "image": "host", "name": "box", "exitCode": "3"}
    assert int(str(die["timeNano"])) // 10**9 == die["time"]


@pytest.mark.root
def test_one_that_is_removed_at_its_end(lamina: Lamina) -> None:
    lamina("run", "--rm", "host", "true")
    assert words(told(lamina)) == [f"container {what}" for what in ("create", "start", "die", "destroy")]


@pytest.mark.root
def test_one_that_could_not_be_started_never_was(lamina: Lamina) -> None:
    assert lamina("run", "--rm", "host", "no-such-command").returncode == 127
    assert told(lamina) == []


def test_images_and_volumes(lamina: Lamina, tmp_path: Path) -> None:
    image = ImageSource(tar({"file": b"1"}))
    files, links = old_docker((image, ["one:1"]))
    (tmp_path / "in.tar").write_bytes(tar(files, links))
    lamina("load", "-i", tmp_path / "in.tar")
    lamina("tag", "one:1", "two")
    lamina("save", "-o", tmp_path / "out.tar", "two")
    lamina("rmi", "one:1")
    lamina("rmi", "two")
    lamina("volume", "create", "data")
    lamina("volume", "create", "data")
    lamina("volume", "rm", "data")
    found = told(lamina)
    assert words(found) == [
        "image load", "image tag", "image save", "image untag", "image untag", "image delete",
        "volume create", "volume destroy",
    ]  # fmt: skip
    assert {one["id"] for one in found[:6]} == {f"sha256:{image.id}"}
    assert words(told(lamina, "--filter", "type=volume")) == ["volume create", "volume destroy"]
    assert words(told(lamina, "-f", "volume=data", "-f", "event=destroy")) == ["volume destroy"]
    assert words(told(lamina, "-f", "event=tag", "-f", "event=load")) == ["image load", "image tag"]
    assert words(told(lamina, "-f", "image=two:latest")) == ["image tag", "image untag"]
    assert len(told(lamina, "-f", f"image={image.id[:12]}")) == 6
    done = lamina(
        "events", "--since", "1h", "--until", "0s", "--format", "{{.Type}}/{{.Action}}", "-f", "type=volume"
    )
    assert done.stdout == "volume/create\nvolume/destroy\n"
    form = "{{.Status}} {{.ID}} {{.From}} {{.Scope}} {{.Time}} {{.TimeNano}}"
    said = lamina(
        "events", "--since", "1h", "--until", "0s", "--format", form, "-f", "event=tag"
    ).stdout.split()
    assert said[:3] == ["tag", f"sha256:{image.id}", "local"]
    assert said[4].startswith(said[3])
    lines = lamina("events", "--since", "1h", "--until", "0s", "-f", "type=volume").stdout.splitlines()
    assert lines[0].split(" ", 1)[1] == "volume create data (driver=local)"
    time.strptime(lines[0].split(".")[0], "%Y-%m-%dT%H:%M:%S")


def test_nothing_is_said_of_before_unless_asked(lamina: Lamina) -> None:
    lamina("volume", "create", "data")
    assert lamina("events", "--until", "0s").stdout == ""
    assert told(lamina, "--since", "2099-01-01T00:00:00") == []


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("nonsense=1", "there is type, event, container, image, volume, network, label"),
        ("type", "not KEY=VALUE: type=..."),
        ("=x", "there is type, event, container, image, volume, network, label"),
    ],
)
def test_a_filter_that_there_is_not(lamina: Lamina, option: str, said: str) -> None:
    done = lamina("events", "--filter", option)
    assert done.returncode == 125
    assert said in done.stderr


def test_the_filters_are_the_engine_s() -> None:
    assert [*events.FILTERS] == [*watching.FILTERS]
    with pytest.raises(InvalidInput):
        Engine().events(filters={"nonsense": ["x"]})


@pytest.fixture
def following() -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "lamina", "events", "--since", "1h", "--format", "{{.Type}} {{.Action}}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_they_come_as_they_happen_until_somebody_interrupts(
    lamina: Lamina, following: subprocess.Popen[str]
) -> None:
    assert following.stdout is not None
    for name in ("a", "b"):
        lamina("volume", "create", name)
        assert following.stdout.readline() == "volume create\n"
    following.send_signal(signal.SIGINT)
    assert following.wait(100) in (130, -signal.SIGINT)


def test_a_terminal_obeys_nothing_of_what_it_is_told(lamina: Lamina) -> None:
    from lamina.store.events import event, note
    from lamina.store.root import Store

    note(Store(), event("container", "start", "x", name="\033[31mred", image="a\nb"))
    out = lamina("events", "--since", "1h", "--until", "0s").stdout
    assert "\033" not in out
    assert out.count("\n") == 1
