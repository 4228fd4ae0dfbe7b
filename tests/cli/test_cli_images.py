"""The verbs for images as people type them: docker's words, columns and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina import Engine
from lamina.cli.patterns import matches
from lamina.cli.sizes import human
from support.image_archives import ImageSource, digest, old_docker, tar
from support.leaks import Leaks
from support.lives import until
from support.small_images import busybox_tree, small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

Lamina = Callable[..., subprocess.CompletedProcess[str]]
BASE = tar({"etc/": b"", "etc/base": b"base\n"})
ONE = ImageSource(BASE, config={"Env": ["A=1"], "Cmd": ["sh"], "Labels": {"kind": "one"}})
TWO = ImageSource(BASE, tar({"top": b"top"}), config={"Cmd": ["true"]}, created="2025-01-01T00:00:00Z")


@pytest.fixture
def loaded(lamina: Lamina, tmp_path: Path, untouched_host: Leaks) -> None:
    files, links = old_docker((ONE, ["one:1", "localhost:5000/team/one:2"]), (TWO, []))
    (tmp_path / "in.tar").write_bytes(tar(files, links))
    done = lamina("load", "-i", tmp_path / "in.tar")
    assert done.stdout.splitlines() == [
        "Loaded image: one:1", "Loaded image: localhost:5000/team/one:2", f"Loaded image ID: sha256:{TWO.id}"
    ]  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("loaded")
def test_images(lamina: Lamina) -> None:
    lines = lamina("images").stdout.splitlines()
    assert lines[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["<none>", "<none>", TWO.id[:12]],
        ["localhost:5000/team/one", "2", ONE.id[:12]],
        ["one", "1", ONE.id[:12]],
    ]
    assert lamina("images", "-q").stdout.split() == [TWO.id[:12], ONE.id[:12]]
    assert lamina("image", "ls", "-q", "--no-trunc").stdout.split() == [
        f"sha256:{TWO.id}",
        f"sha256:{ONE.id}",
    ]
    assert "DIGEST" in lamina("images", "--digests").stdout.splitlines()[0]
    documents = [json.loads(line) for line in lamina("images", "--format", "json").stdout.splitlines()]
    assert documents[2]["Repository"] == "one" and documents[2]["Size"] == "5B"
    shown = lamina("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}", "one").stdout
    assert shown == f"one:1 {ONE.id[:12]}\n"
    table = lamina("images", "--format", "table {{.Tag}}\t{{.Size}}").stdout
    assert table.splitlines()[0].split() == ["TAG", "SIZE"]


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        (["dangling=true"], ["<none>"]),
        (["dangling=false"], ["localhost:5000/team/one", "one"]),
        (["label=kind"], ["localhost:5000/team/one", "one"]),
        (["label=kind=two"], []),
        (["reference=one"], ["one"]),
        (["reference=*:1"], ["one"]),
        (["reference=localhost:5000/*/*"], ["localhost:5000/team/one"]),
        (["before=" + TWO.id[:12]], ["localhost:5000/team/one", "one"]),
        (["since=one:1"], ["<none>"]),
        (["until=2024-06-01T00:00:00"], ["localhost:5000/team/one", "one"]),
        (["label=kind", "reference=one"], ["one"]),
    ],
)
def test_filters(lamina: Lamina, filters: list[str], wanted: list[str]) -> None:
    words = [word for text in filters for word in ("--filter", text)]
    assert lamina("images", "--format", "{{.Repository}}", *words).stdout.split() == wanted


def test_filters_that_are_none(lamina: Lamina) -> None:
    for text in ("x=y", "dangling", "dangling=perhaps", "until=perhaps"):
        done = lamina("images", "-f", text)
        assert done.returncode == 125 and "internal error" not in done.stderr, done.stderr


@pytest.mark.usefixtures("loaded")
def test_tag_and_rmi(lamina: Lamina) -> None:
    assert lamina("tag", TWO.id[:12], "two").returncode == 0
    done = lamina("rmi", "one:1", "nothing", "two")
    assert (done.returncode, done.stderr) == (
        1, "lamina: image nothing: no such image\n"
           "hint: 'lamina images' lists what there is; 'lamina pull' fetches\n"
    )  # fmt: skip
    assert done.stdout == (
        f"Untagged: one:1\nUntagged: two:latest\nDeleted: sha256:{TWO.id}\nDeleted: {digest(TWO.layers[1])}\n"
    )
    assert lamina("rmi", "-f", "nothing").returncode == 0
    assert lamina("image", "rm", ONE.id).stdout.startswith(
        "Untagged: localhost:5000/team/one:2\nDeleted: sha256:"
    )
    assert lamina("images", "-q").stdout == ""
    assert lamina("tag", "one:1", "x").returncode == 125
    for name in ("Upper", "host", "x@sha256:" + "0" * 64):
        assert lamina("tag", "one:1", name).returncode == 125


@pytest.mark.usefixtures("loaded")
def test_an_id_with_names_in_several_repositories(lamina: Lamina) -> None:
    done = lamina("rmi", ONE.id[:12])
    assert done.returncode == 1 and "names in several repositories" in done.stderr
    assert lamina("rmi", "-f", ONE.id[:12]).returncode == 0


def test_an_image_in_use(lamina: Lamina, store_root: Path, untouched_host: Leaks) -> None:
    small_image(store_root)
    lamina("run", "--name", "user", "tiny", "true")
    done = lamina("rmi", "tiny")
    assert done.returncode == 1 and "it is used by 1 container (user)" in done.stderr
    with subprocess.Popen(
        [sys.executable, "-m", "lamina", "run", "--rm", "--name", "running", "-i", "tiny", "cat"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"x\n")
        process.stdin.flush()
        process.stdout.read(1)
        # it may say something a moment before it is written down that it runs
        until(lambda: lamina("ps", "--format", "{{.Names}}").stdout == "running\n")
        done = lamina("rmi", "-f", "tiny")
        assert done.returncode == 1 and "the running container running" in done.stderr
        process.stdin.close()
        process.wait(100)
    assert lamina("rmi", "-f", "tiny").returncode == 0
    assert lamina("diff", "user").returncode == 0  # its layers stay as long as it does
    assert lamina("ps", "-a", "--format", "{{.Image}}").stdout == "tiny\n"
    assert lamina("rm", "user").returncode == 0


@pytest.mark.usefixtures("loaded")
def test_history_and_inspect(lamina: Lamina) -> None:
    lines = lamina("history", "--format", "{{.ID}} {{.CreatedBy}} {{.Size}}", TWO.id[:12]).stdout.splitlines()
    assert lines == [f"{TWO.id[:12]} layer 1 3B", "<missing> layer 0 5B"]
    assert lamina("history", "-q", "--no-trunc", "one:1").stdout == f"sha256:{ONE.id}\n"
    heads = lamina("history", "one:1").stdout.splitlines()[0].split()
    assert heads == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    found = json.loads(lamina("inspect", "one:1").stdout)[0]
    assert (found["Id"], found["Config"]["Env"]) == (f"sha256:{ONE.id}", ["A=1"])
    assert found["RepoTags"] == ["localhost:5000/team/one:2", "one:1"]
    assert lamina("image", "inspect", "-f", "{{.Architecture}}", "one:1").stdout == "amd64\n"
    assert lamina("inspect", "--type", "container", "one:1").returncode == 1
    done = lamina("inspect", "nothing", "one:1")
    assert (done.returncode, len(json.loads(done.stdout))) == (1, 1)
    assert "inspect nothing: no such container, image, network or volume" in done.stderr


@pytest.mark.usefixtures("loaded")
def test_save_and_load_through_pipes(lamina: Lamina, tmp_path: Path) -> None:
    archive = lamina("save", "one:1", text=False).stdout
    assert lamina("rmi", "-f", ONE.id).returncode == 0
    done = lamina("load", "-q", input=archive, text=False)
    assert os.fsencode(done.stdout) == b"Loaded image: one:1\n"
    assert lamina("save", "-o", tmp_path / "out", "--format", "oci-dir", "one:1").returncode == 0
    assert lamina("tag", "one:1", "other:1").returncode == 0  # which is not what the archive calls it
    assert lamina("load", tmp_path / "out").stdout == "Loaded image: one:1\n"
    done = lamina("save", "--format", "oci-dir", "one:1")
    assert done.returncode == 125 and "a directory has to be named" in done.stderr
    assert lamina("save").returncode == 125


def test_a_terminal_gets_no_archive(lamina: Lamina, store_root: Path) -> None:
    small_image(store_root)
    leader, terminal = os.openpty()
    try:
        done = lamina("save", "tiny", capture_output=False, stdout=terminal, stderr=subprocess.PIPE)
        assert done.returncode == 125 and "standard output is a terminal" in done.stderr
        done = lamina("load", stdin=terminal)
        assert done.returncode == 125 and "standard input is a terminal" in done.stderr
    finally:
        os.close(leader)
        os.close(terminal)


def test_what_cannot_be_written_is_named_as_it_was_typed(lamina: Lamina, store_root: Path) -> None:
    small_image(store_root)
    done = lamina("save", "-o", "/no/such/place.tar", "tiny")
    assert done.returncode == 125 and "write /no/such/place.tar: No such file" in done.stderr


def test_import_run_export(lamina: Lamina, tmp_path: Path, untouched_host: Leaks) -> None:
    place = tmp_path / "tree"
    place.mkdir()
    busybox_tree(place)
    done = lamina("image", "from-dir", place, "tree:1", "-c", "ENV A=b", "-c", 'CMD ["sh", "-c", "echo $A"]')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sha256:") and len(done.stdout) == 72
    assert lamina("run", "--rm", "tree:1").stdout == "b\n"
    lamina("run", "--name", "x", "tree:1", "touch", "/new")
    archive = lamina("export", "x", text=False).stdout
    assert lamina("import", "-", "again:1", "-m", "why", input=archive, text=False).returncode == 0
    assert lamina("run", "--rm", "again:1", "ls", "/new").stdout == "/new\n"
    assert lamina("history", "--format", "{{.Comment}}", "again:1").stdout == "why\n"
    done = lamina("import", "https://example.org/a.tar?x", "x:1")
    assert (done.returncode, done.stderr) == (
        125,
        "lamina: import https://example.org/a.tar?x: nothing is fetched here\n"
        "hint: curl -fsSL 'https://example.org/a.tar?x' | lamina import - NAME\n",
    )
    done = lamina("import", "-", "x:1", "-c", "RUN x", input="")
    assert done.returncode == 125 and "RUN is no instruction that changes a config" in done.stderr
    assert lamina("rm", "-v", "x").stdout == "x\n"


def test_images_that_nobody_uses(lamina: Lamina, store_root: Path, untouched_host: Leaks) -> None:
    small_image(store_root)
    small_image(store_root, names=(), cmd=["other"])
    done = lamina("image", "prune", "-f")
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("Total reclaimed space: ")
    assert len(Engine(store_root).images()) == 1
    done = lamina("image", "prune", "-a")
    assert done.returncode == 125 and "prune: there is no terminal to ask on" in done.stderr
    lamina("image", "prune", "-af")
    assert Engine(store_root).images() == []


def test_options_of_run(lamina: Lamina, store_root: Path, tmp_path: Path, untouched_host: Leaks) -> None:
    small_image(store_root, volumes=["/own"])
    (tmp_path / "f").write_text("bound\n")
    done = lamina(
        "run", "--rm", "-v", "v:/v", "-v", "/w", "--tmpfs", "/t:size=1m", "--pull", "never", "--mount",
        f"type=bind,src={tmp_path}/f,dst=/f,ro", "tiny", "sh", "-c", "cat /f; ls -d /own /v /w /t; echo x 2>&1 >/f",
    )  # fmt: skip
    assert done.stdout.splitlines()[:5] == ["bound", "/own", "/t", "/v", "/w"]
    assert "Read-only" in done.stdout
    done = lamina("run", "--pull", "never", "nothing:1", "true")
    assert (done.returncode, done.stderr.splitlines()[0]) == (125, "lamina: image nothing:1: no such image")
    assert lamina("run", "--pull", "sometimes", "tiny", "true").returncode == 125
    assert lamina("run", "--rm", "-u", "nobody", "tiny", "true").returncode == 125
    assert lamina("run", "--rm", "tiny", "nothing").returncode == 127
    assert lamina("run", "--rm", "tiny", "/etc").returncode == 126
    assert lamina("run", "--rm", "tiny", "sh", "-c", "exit 9").returncode == 9
    assert "overlay of" in lamina("plan", "tiny", "true").stdout


def test_what_is_not_there_says_so(lamina: Lamina) -> None:
    done = lamina("inspect", "nobody")
    assert (done.returncode, done.stdout) == (
        1,
        "[]\n",
    ) and "no such container, image, network or volume" in done.stderr
    assert lamina("login", "-u", "ann", "registry.example").returncode == 125
    assert "Usage: lamina image VERB" in lamina("image").stdout


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0B"), (5, "5B"), (999, "999B"), (1000, "1kB"), (7_330_000, "7.33MB"), (124_123_456, "124MB"),
     (999_999, "1000kB"), (1_020_000_000, "1.02GB"), (10**18, "1000PB")],
)  # fmt: skip
def test_sizes_are_docker_s(number: int, shown: str) -> None:
    assert human(number) == shown


@pytest.mark.parametrize(
    ("text", "pattern", "wanted"),
    [("a/b", "a/*", True), ("a/b", "*", False), ("ab", "a?", True), ("a/", "a?", False), ("b", "[ab]", True),
     ("c", "[^ab]", True), ("a*", "a\\*", True), ("ab", "a\\*", False), ("[", "[", True), ("a.b", "a.b", True),
     ("axb", "a.b", False), ("x", "[z-a]", False)],
)  # fmt: skip
def test_patterns(text: str, pattern: str, wanted: bool) -> None:
    assert matches(text, pattern) is wanted
