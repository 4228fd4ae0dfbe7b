"""search: Docker Hub's way, and the list of all repositories where there is none; fakes and a real registry."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput, NotFound, RegistryError, Unsupported
from lamina.image.registry import search as searching
from lamina.image.registry.credentials import Login
from lamina.testing.registry import FakeRegistry, Fault
from support.image_archives import ImageSource, old_docker, tar
from support.registries import DockerRegistry, registries

Lamina = Callable[..., subprocess.CompletedProcess[str]]

RESULTS: list[dict[str, Any]] = [
    {
        "name": "debian",
        "description": "Debian is a\nLinux  distribution",
        "star_count": 5000,
        "is_official": True,
    },
    {"name": "alice/debian", "description": "d" * 80, "star_count": 3, "is_automated": True},
    {"name": "bob/debian-tools", "description": "\033]0;owned\a", "star_count": 1},
    {"name": None, "description": None, "star_count": "many"},
]


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def hub(fake: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    """A registry that is configured in Docker Hub's place."""
    (tmp_path / "registries.conf").write_text(
        f'[[registry]]\nprefix = "docker.io"\nlocation = "{fake.host}"\ninsecure = true\n'
    )
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    fake.found = RESULTS
    return fake


def names(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["Name"] for line in done.stdout.splitlines()]


def test_the_table_is_docker_s(lamina: Lamina, hub: FakeRegistry) -> None:
    lines = lamina("search", "debian").stdout.splitlines()
    assert lines[0].split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
    assert lines[1].split() == [
        f"{hub.host}/debian",
        "Debian",
        "is",
        "a",
        "Linux",
        "distribution",
        "5000",
        "[OK]",
    ]
    assert "d" * 44 + "…" in lines[2] and "d" * 45 not in lines[2]
    assert "^[]0;owned^G" in lines[3], "what somebody wrote there commands no terminal"
    assert "d" * 80 in lamina("search", "--no-trunc", "debian").stdout
    assert hub.requests[-1][1] == "/v1/search?q=debian&n=25"


def test_tags_of_a_repository(lamina: Lamina, hub: FakeRegistry) -> None:
    hub.page = 2
    for tag in ("1", "1.2", "latest"):
        hub.add_image("team/tool", tag, {"x": b"x"})
    shown = lamina("search", "--list-tags", "team/tool")
    assert shown.stdout.split() == [
        "NAME",
        "TAG",
        "team/tool",
        "1",
        "team/tool",
        "1.2",
        "team/tool",
        "latest",
    ], shown.stderr
    assert (
        lamina("search", "--list-tags", "--limit", "1", "--format", "{{.Tag}}", "team/tool").stdout == "1\n"
    )
    done = lamina("search", "--list-tags", "team/tool:1")
    assert done.returncode == 125 and "one is named already" in done.stderr
    done = lamina("search", "--list-tags", "team/other")
    assert done.returncode == 125 and "no such repository" in done.stderr
    done = lamina("search", "--list-tags", "--filter", "stars=1", "team/tool")
    assert done.returncode == 125 and "--list-tags with --filter" in done.stderr


def test_filters_and_limits(lamina: Lamina, hub: FakeRegistry) -> None:
    def found(*argv: str) -> list[str]:
        return [
            name.partition("/")[2] for name in names(lamina("search", "--format", "json", "debian", *argv))
        ]

    assert found() == ["debian", "alice/debian", "bob/debian-tools"]
    assert found("--limit", "2") == ["debian", "alice/debian"]
    assert found("-f", "is-official=true") == ["debian"]
    assert found("-f", "is-official=false", "--filter", "stars=2") == ["alice/debian"]
    assert found("-f", "is-automated=1") == ["alice/debian"]
    done = lamina("search", "debian", "--format", "{{.StarCount}}|{{.IsOfficial}}|{{.Index}}", "--limit", "1")
    assert done.stdout == f"5000|[OK]|{hub.host}\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--limit", "0", "x"], "not a number from 1 to 100"),
        (["--limit", "101", "x"], "not a number from 1 to 100"),
        (["-f", "is-oficial=true", "x"], "did you mean is-official?"),
        (["-f", "stars=many", "x"], "'many' is no number"),
        (["-f", "is-official=perhaps", "x"], "neither true nor false"),
        (["-f", "stars", "x"], "not KEY=VALUE"),
        ([], "TERM"),
    ],
)
def test_what_makes_no_sense(lamina: Lamina, argv: list[str], said: str) -> None:
    done = lamina("search", *argv)
    assert done.returncode == 125 and said in done.stderr


def find(fake: FakeRegistry, home: Path, text: str, limit: int = 25) -> list[str]:
    with registries(home) as network:
        return [one.name for one in searching.search(text, limit, network)]


def test_docker_hub_has_an_index_of_its_own(
    fake: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "HUB_INDEX", f"http://{fake.host}")
    fake.found = RESULTS
    assert find(fake, tmp_path, "debian") == ["debian", "alice/debian", "bob/debian-tools"]
    assert find(fake, tmp_path, "docker.io/library/debian", 1) == ["debian"], (
        "official ones have no library there"
    )
    assert [path for _, path, _ in fake.requests] == ["/v1/search?q=debian&n=25", "/v1/search?q=debian&n=1"]
    assert all("Authorization" not in headers for _, _, headers in fake.requests)
    with pytest.raises(InvalidInput, match="no word to look for"):
        find(fake, tmp_path, "docker.io/")
    with pytest.raises(InvalidInput, match="a limit of 0"):
        find(fake, tmp_path, "debian", 0)
    fake.faults.append(Fault("status", path="/v1/search", status=429, headers=(("Retry-After", "9999"),)))
    with pytest.raises(RegistryError, match="9999 seconds"):
        find(fake, tmp_path, "debian")
    fake.found = None
    with pytest.raises((RegistryError, NotFound)):
        find(fake, tmp_path, "debian")


def test_a_registry_without_a_search_is_listed_page_by_page(fake: FakeRegistry, tmp_path: Path) -> None:
    fake.page = 2
    for name in ("team/a", "team/b", "team/tool", "tools/c", "x"):
        fake.add_image(name, "1", {"a": b"b"})
    assert find(fake, tmp_path, f"{fake.host}/tool") == [f"{fake.host}/team/tool", f"{fake.host}/tools/c"]
    assert find(fake, tmp_path, f"{fake.host}/tool", 1) == [f"{fake.host}/team/tool"]
    assert len(find(fake, tmp_path, f"{fake.host}/")) == 5, "without a term all of them"
    assert find(fake, tmp_path, f"{fake.host}/nothing") == []
    assert not fake.asked("GET", "/v1/search")[-1].endswith("q=&n=25"), "there is nothing to search for"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("web page", path="/v1/search"),
        Fault("status", path="/v1/search", status=400),
        Fault("redirect", path="/v1/search", location="/login"),
        Fault("status", path="/v1/search", status=401),
    ],
    ids=str,
)
def test_whatever_a_registry_without_a_search_says(fake: FakeRegistry, tmp_path: Path, fault: Fault) -> None:
    fake.add_image("team/tool", "1", {"a": b"b"})
    fake.faults.append(fault)
    assert find(fake, tmp_path, f"{fake.host}/tool") == [f"{fake.host}/team/tool"]


def test_a_registry_that_can_neither(fake: FakeRegistry, tmp_path: Path) -> None:
    fake.catalog = False
    with pytest.raises(Unsupported, match="neither a search nor a list") as caught:
        find(fake, tmp_path, f"{fake.host}/tool")
    assert "lamina pull" in caught.value.remedy
    fake.catalog = True
    fake.faults.append(
        Fault("lie", path="_catalog", headers=(("Link", '<http://elsewhere.invalid/>; rel="next"'),))
    )
    with pytest.raises(RegistryError, match="the next page is elsewhere"):
        find(fake, tmp_path, f"{fake.host}/tool")


def test_a_registry_that_wants_a_login(tmp_path: Path) -> None:
    with FakeRegistry({"alice": "secret"}, scheme="basic") as guarded:
        guarded.add_image("team/tool", "1", {"a": b"b"})
        with registries(tmp_path) as network:
            network.login(guarded.host, Login("alice", "secret"))
            assert [one.name for one in searching.search(f"{guarded.host}/tool", 5, network)] == [
                f"{guarded.host}/team/tool"
            ]


@pytest.mark.root
@pytest.mark.peer("docker-registry")
def test_the_real_registry(lamina: Lamina, tmp_path: Path) -> None:
    with DockerRegistry(tmp_path / "registry") as registry:
        wanted = [f"{registry.host}/{name}:1" for name in ("team/tool", "team/other", "alone")]
        for number, name in enumerate(wanted):
            source = ImageSource(tar({"a": b"%d" % number}))
            (tmp_path / "in.tar").write_bytes(tar(*old_docker((source, [name]))))
            assert lamina("load", "-i", tmp_path / "in.tar").returncode == 0
            assert lamina("push", name).returncode == 0
        found = names(lamina("search", "--format", "json", f"{registry.host}/"))
        assert sorted(found) == sorted(name.removesuffix(":1") for name in wanted)
        assert names(lamina("search", "--format", "json", f"{registry.host}/team")) == [
            f"{registry.host}/team/other", f"{registry.host}/team/tool",
        ]  # fmt: skip
        assert lamina("search", f"{registry.host}/nothing").stdout.splitlines()[1:] == []
