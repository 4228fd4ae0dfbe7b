"""pull, push, login and `run` of what is not here yet, against a real registry on loopback, as root and as a user."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.image_archives import ImageSource, old_docker, tar, tree_tar
from support.leaks import Leaks
from support.registries import ALICE, DockerRegistry
from support.rootless import Rootless
from support.small_images import busybox_tree

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox", "docker-registry")]

Lamina = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path / "registry") as found:
        yield found


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    place = tmp_path / "tree"
    place.mkdir()
    busybox_tree(place)
    top = tar({"etc/": b"", "etc/top": b"top\n"})
    return ImageSource(tree_tar(place), top, config={"Cmd": ["cat", "/etc/top"], "Env": ["PATH=/bin"]})


def load(lamina: Lamina, source: ImageSource, tmp_path: Path, name: str) -> None:
    (tmp_path / "in.tar").write_bytes(tar(*old_docker((source, [name]))))
    assert lamina("load", "-i", tmp_path / "in.tar").returncode == 0


def test_push_pull_and_run(
    lamina: Lamina, registry: DockerRegistry, source: ImageSource, tmp_path: Path, untouched_host: Leaks
) -> None:
    name = f"{registry.host}/team/tool:1"
    load(lamina, source, tmp_path, name)
    done = lamina("push", name)
    assert done.returncode == 0, done.stderr
    digest = done.stdout.splitlines()[-1].removeprefix("digest: ")
    assert done.stdout.count(digest) == 1
    assert digest.startswith("sha256:")
    assert "Pushed" in done.stdout
    assert lamina("rmi", name).returncode == 0
    done = lamina("pull", name)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-3:] == [f"Digest: {digest}", f"Status: Downloaded newer image for {name}", name]
    assert f"Status: Image is up to date for {name}" in lamina("pull", name).stdout.splitlines()
    assert sum(line.endswith(": Pull complete") for line in lines) == 2
    assert lamina("images", "-q", "--no-trunc").stdout == f"sha256:{source.id}\n"  # the id it came with
    assert lamina("images", "--digests", "--format", "{{.Digest}}").stdout == f"{digest}\n"
    assert (
        lamina("pull", "-q", f"{registry.host}/team/tool@{digest}").stdout
        == f"{registry.host}/team/tool@{digest}\n"
    )
    assert lamina("run", "--rm", f"{registry.host}/team/tool@{digest}").stdout == "top\n"
    lamina("rmi", "-f", source.id)
    done = lamina("run", "--rm", name)
    assert done.stdout == "top\n", done.stderr
    assert f"unable to find image '{name}' locally" in done.stderr and "Pull complete" in done.stderr
    lamina("rmi", name)
    done = lamina("run", "--rm", "-q", name)
    assert (done.stdout, done.stderr.count("\n")) == ("top\n", 1)
    done = lamina("run", "--rm", "--pull", "always", name)
    assert done.stdout == "top\n" and "Already exists" in done.stderr


def test_what_the_registry_does_not_have(lamina: Lamina, registry: DockerRegistry) -> None:
    for verb in (["pull"], ["run", "--rm"]):
        done = lamina(*verb, f"{registry.host}/no/thing:1")
        assert done.returncode == 125 and "internal error" not in done.stderr, done.stderr
        assert "no/thing" in done.stderr
    done = lamina("push", f"{registry.host}/no/thing:1")
    assert done.returncode == 125 and "no such image" in done.stderr
    assert lamina("pull", "127.0.0.1:1/x/y").returncode == 125
    assert lamina("pull", "Upper:").returncode == 125
    assert lamina("ps", "-a", "-q").stdout == ""


@pytest.mark.userns
@pytest.mark.peer("newuidmap")
def test_an_ordinary_user_pulls_and_runs(
    lamina: Lamina, registry: DockerRegistry, source: ImageSource, tmp_path: Path, rootless: Rootless
) -> None:
    name = f"{registry.host}/team/tool:1"
    load(lamina, source, tmp_path, name)
    assert lamina("push", "-q", name).returncode == 0
    done = rootless.lamina("run", "--rm", name)
    assert done.stdout == "top\n", done.stderr
    assert rootless.lamina("images", "-q", "--no-trunc").stdout == f"sha256:{source.id}\n"
    # the layers were unpacked from blobs in the store, which go with the pull
    assert json.loads(rootless.lamina("gc", "--dry-run", "--format", "json").stdout)["blobs"] == []
    assert rootless.lamina("tag", name, f"{registry.host}/team/again:1").returncode == 0
    done = rootless.lamina("push", f"{registry.host}/team/again:1")
    assert done.returncode == 0, done.stderr
    assert rootless.lamina("rmi", "-f", source.id).returncode == 0


def test_login_and_logout(
    lamina: Lamina, source: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with DockerRegistry(tmp_path / "closed", users=ALICE) as registry:
        name = f"{registry.host}/team/tool:1"
        load(lamina, source, tmp_path, name)
        assert lamina("push", name).returncode == 125
        done = lamina("login", "-u", "alice", "--password-stdin", registry.host, input="wrong\n")
        assert done.returncode == 125 and "secret" not in done.stderr
        done = lamina("login", "-u", "alice", "--password-stdin", registry.host, input="\n")
        assert done.returncode == 125 and "standard input has no password" in done.stderr
        done = lamina("login", "-u", "alice", "--password-stdin", registry.host, input="secret\n")
        assert (done.stdout, done.returncode) == ("Login Succeeded\n", 0), done.stderr
        done = lamina("push", name)
        assert done.returncode == 0, done.stderr
        done = lamina("logout", registry.host)
        assert done.stdout == f"Removing login credentials for {registry.host}\n"
        assert lamina("push", name).returncode == 125
        done = lamina("logout", registry.host)  # as in docker
        assert (done.stdout, done.returncode) == (f"Not logged in to {registry.host}\n", 0)


def test_all_tags_with_their_blobs(
    lamina: Lamina, registry: DockerRegistry, source: ImageSource, tmp_path: Path
) -> None:
    names = [f"{registry.host}/team/tool:{tag}" for tag in ("1", "2")]
    load(lamina, source, tmp_path, names[0])
    assert lamina("tag", *names).returncode == 0
    done = lamina("push", "--all-tags", "--tls-verify=false", f"{registry.host}/team/tool")
    assert done.returncode == 0, done.stderr
    assert [line.partition(": digest: sha256:")[0] for line in done.stdout.splitlines()[-2:]] == names
    for wrong, said in (
        (names[0], "all tags are asked for"),
        (f"{registry.host}/team/no", "no image is called so"),
    ):
        done = lamina("push", "-a", wrong)
        assert (done.returncode, said in done.stderr) == (125, True)
    for name in names:
        assert lamina("rmi", name).returncode == 0
    done = lamina(
        "pull", "-q", "--all-tags", "--keep-blobs", "--tls-verify=false", f"{registry.host}/team/tool"
    )
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, names), done.stderr
    done = lamina("pull", "-a", names[0])
    assert (done.returncode, "all tags are asked for, and one is named" in done.stderr) == (125, True)
    with DockerRegistry(tmp_path / "other") as other:
        # with the blobs kept, what arrives elsewhere is the same to the byte
        moved = f"{other.host}/team/tool:1"
        assert lamina("tag", names[0], moved).returncode == 0
        there = lamina("push", "-q", moved).stdout
    assert there == lamina("images", "--digests", "--format", "{{.Digest}}", names[0]).stdout
