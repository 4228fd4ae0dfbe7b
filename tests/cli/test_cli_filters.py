"""--filter of ps, images, image prune and volume ls."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.cli.filters import anything, passes, reader
from support.image_archives import ImageSource, old_docker, tar, tree_tar
from support.leaks import Leaks
from support.small_images import busybox_tree

Lamina = Callable[..., subprocess.CompletedProcess[str]]


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def words(filters: list[str]) -> list[str]:
    return [word for one in filters for word in ("--filter", one)]


@pytest.mark.parametrize(
    ("verb", "text", "said"),
    [
        ("ps", "volumes=x", "there is no filter 'volumes'; did you mean volume? there is name, id, status"),
        ("ps", "anchestor=x", "did you mean ancestor?"),
        ("ps", "status=runing", "'runing' is none of created, running, paused"),
        ("ps", "exited=much", "'much' is no number"),
        ("ps", "name=(", "is no regular expression"),
        ("ps", "label", "not KEY=VALUE: label=..."),
        ("images", "refrence=x", "did you mean reference?"),
        ("images", "dangling=perhaps", "neither true nor false"),
        ("images", "until=perhaps", "not a time"),
        ("image prune", "untl=1h", "did you mean until?"),
        ("image prune", "until=inf", "not a time"),
        ("volume ls", "lable=x", "did you mean label?"),
        ("volume ls", "zzz=x", "there is no filter 'zzz'; there is name, label, dangling, driver"),
    ],
)
def test_what_is_no_filter(lamina: Lamina, verb: str, text: str, said: str) -> None:
    done = lamina(*verb.split(), "--filter", text)
    assert done.returncode == 125 and said in done.stderr


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "label"]), st.integers(0, 3).map(str)), max_size=5))
def test_values_of_a_key_are_alternatives_and_keys_and_labels_all_hold(
    filters: list[tuple[str, str]],
) -> None:
    def holds(key: str, value: str) -> bool:
        return value in ("1", "2")

    wanted = all(
        (all if key == "label" else any)(holds(key, value) for other, value in filters if other == key)
        for key, _ in filters
    )
    assert passes(filters, holds) is wanted


@given(st.text(max_size=10))
def test_any_text_is_read_or_refused(text: str) -> None:
    read = reader({"key": anything})
    try:
        assert "=".join(read(text)) == text
    except ValueError as error:
        assert "key" in str(error)


@pytest.fixture
def containers(lamina: Lamina, tmp_path: Path, untouched_host: Leaks) -> None:
    place = tmp_path / "tree"
    place.mkdir()
    busybox_tree(place)
    source = ImageSource(tree_tar(place), config={"Cmd": ["true"], "Env": ["PATH=/bin"]})
    other = ImageSource(tree_tar(place), tar({"top": b""}), config={"Cmd": ["true"], "Env": ["PATH=/bin"]})
    (tmp_path / "in.tar").write_bytes(
        tar(*old_docker((source, ["tiny:latest", "also:2"]), (other, ["other:1"])))
    )
    ok(lamina("load", "-q", "-i", tmp_path / "in.tar"))
    ok(lamina("run", "--name", "first", "-l", "a=1", "-l", "b=2", "-v", "data:/srv", "tiny"))
    assert lamina("run", "--name", "second", "-l", "a=1", "also:2", "false").returncode == 1
    ok(lamina("run", "--name", "third", "-v", f"{place}:/work", "other:1"))


@pytest.mark.root
@pytest.mark.peer("busybox")
@pytest.mark.usefixtures("containers")
def test_containers(lamina: Lamina) -> None:
    identity = ok(lamina("ps", "-aq", "--no-trunc", "--filter", "name=first")).strip()
    image = ok(lamina("images", "-q", "--no-trunc", "tiny")).strip()
    for filters, wanted in (
        (["name=first"], "first"),
        (["name=^/first$"], "first"),
        (["name=^ir"], ""),
        (["name=st$"], "first"),
        (["name=ir"], "third first"),
        (["name=first", "name=second"], "second first"),
        ([f"id={identity[:8]}"], "first"),
        (["status=exited"], "third second first"),
        (["status=running"], ""),
        (["status=running", "status=exited"], "third second first"),
        (["exited=1"], "second"),
        (["exited=0", "exited=1"], "third second first"),
        (["exited=0", "label=a=1"], "first"),
        (["label=a"], "second first"),
        (["label=a=1", "label=b"], "first"),
        (["label=a=2"], ""),
        (["volume=data"], "first"),
        (["volume=/srv"], "first"),
        (["volume=/work"], "third"),
        (["volume=/nowhere"], ""),
        (["ancestor=tiny"], "second first"),
        (["ancestor=also:2"], "second first"),
        (["ancestor=docker.io/library/tiny:latest"], "second first"),
        ([f"ancestor={image.removeprefix('sha256:')[:12]}"], "second first"),
        (["ancestor=other"], ""),
        (["ancestor=other:1"], "third"),
        (["before=second"], "first"),
        (["since=second"], "third"),
    ):
        assert ok(lamina("ps", "-a", "--format", "{{.Names}}", *words(filters))).split() == wanted.split(), (
            filters
        )
    done = lamina("ps", "-a", "-f", "before=nobody")
    assert done.returncode != 0 and "no such container" in done.stderr


@pytest.mark.root
def test_images_are_pruned_by_age_and_label(lamina: Lamina, tmp_path: Path) -> None:
    made = {
        "old:1": ImageSource(
            tar({"a": b"1"}), created="2020-01-01T00:00:00Z", config={"Labels": {"kind": "x"}}
        ),
        "old:2": ImageSource(
            tar({"a": b"2"}), created="2020-01-01T00:00:00Z", config={"Labels": {"keep": ""}}
        ),
        "new:1": ImageSource(
            tar({"a": b"3"}), created="2024-06-01T00:00:00Z", config={"Labels": {"kind": "y"}}
        ),
    }

    def left(*filters: str) -> list[str]:
        lamina("image", "rm", "-f", *made)
        (tmp_path / "in.tar").write_bytes(
            tar(*old_docker(*((image, [name]) for name, image in made.items())))
        )
        ok(lamina("load", "-q", "-i", tmp_path / "in.tar"))
        ok(lamina("image", "prune", "-af", *words([*filters])))
        return sorted(ok(lamina("images", "--format", "{{.Repository}}:{{.Tag}}")).split())

    assert left() == []
    assert left("until=2022-01-01T00:00:00") == ["new:1"]
    assert left("until=24h") == []
    assert left("until=2019-01-01T00:00:00") == ["new:1", "old:1", "old:2"]
    assert left("until=24h", "until=2022-01-01T00:00:00") == ["new:1"], "both hold"
    assert left("label=kind") == ["old:2"]
    assert left("label=kind=y") == ["old:1", "old:2"]
    assert left("label=kind", "label=kind=x") == ["new:1", "old:2"]
    assert left("label!=keep") == ["old:2"]
    assert left("label!=kind=x", "until=2022-01-01T00:00:00") == ["new:1", "old:1"]


@pytest.mark.root
def test_volumes(lamina: Lamina) -> None:
    ok(lamina("volume", "create", "--label", "a=1", "--label", "b", "data"))
    ok(lamina("volume", "create", "--label", "a=1", "other"))
    for filters, wanted in (
        (["name=dat"], "data"),
        (["name=dat", "name=oth"], "data other"),
        (["label=a"], "data other"),
        (["label=a", "label=b"], "data"),
        (["driver=local"], "data other"),
        (["driver=nfs"], ""),
        (["dangling=true", "name=other"], "other"),
        (["dangling=false"], ""),
    ):
        assert ok(lamina("volume", "ls", "-q", *words(filters))).split() == wanted.split(), filters
