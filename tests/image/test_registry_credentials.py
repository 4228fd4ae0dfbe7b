"""Credentials: docker's file, podman's file, helpers; kept by login, forgotten by logout, seen by nobody else."""

from __future__ import annotations

import base64
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput, RegistryError
from lamina.image.registry.credentials import Credentials, Login
from support.registries import nobody

ALICE = Login("alice", "s3cret:with colon")


def auth(name: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{name}:{password}".encode()).decode()}


def write(path: Path, **content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def docker(home: Path) -> Path:
    return home / ".docker/config.json"


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("a.org:5000", "a.org:5000"),
        ("https://a.org:5000", "a.org:5000"),
        ("https://a.org:5000/v1/", "a.org:5000"),
        ("http://a.org/v2", "a.org"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
    ],
)
def test_keys_are_written_in_many_ways(tmp_path: Path, key: str, host: str) -> None:
    write(docker(tmp_path), auths={key: auth("alice", "s3cret:with colon")})
    credentials = Credentials(nobody(tmp_path))
    assert credentials.find(host, "team/tool") == ALICE
    assert credentials.find("b.org") is None
    assert credentials.find("evil" + host) is None
    assert credentials.find(host + ".evil.org") is None


def test_an_entry_for_a_repository_comes_before_that_of_its_registry(tmp_path: Path) -> None:
    write(
        docker(tmp_path),
        auths={
            "a.org": auth("all", "1"),
            "a.org/team/tool": auth("tool", "3"),
            "a.org/team": auth("team", "2"),
            "a.org/te": auth("no", "no"),
        },
    )
    credentials = Credentials(nobody(tmp_path))
    found = [
        credentials.find("a.org", name) for name in ("team/tool", "team/tool/sub", "team/other", "teams", "")
    ]
    assert [login and login.username for login in found] == ["tool", "tool", "team", "all", "all"]


def test_other_ways_to_say_who_one_is(tmp_path: Path) -> None:
    write(
        docker(tmp_path),
        auths={
            "token.org": {**auth("bob", ""), "identitytoken": "long"},
            "plain.org": {"username": "carol", "password": "p"},
            "padded.org": {"auth": base64.b64encode(b"dave:p\0\0").decode()},
            "empty.org": {},
        },
    )
    credentials = Credentials(nobody(tmp_path))
    assert credentials.find("token.org") == Login("bob", "", "long")
    assert credentials.find("plain.org") == Login("carol", "p")
    assert credentials.find("padded.org") == Login("dave", "p")
    assert credentials.find("empty.org") is None


def test_which_files_are_asked(tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "DOCKER_CONFIG": str(tmp_path / "elsewhere")}
    write(
        tmp_path / "run/containers/auth.json",
        auths={"a.org": auth("podman", ""), "b.org": auth("podman", "")},
    )
    write(tmp_path / "elsewhere/config.json", auths={"a.org": auth("docker", "")})
    write(docker(tmp_path), auths={"c.org": auth("not here", "")})
    credentials = Credentials(nobody(tmp_path, **environment))
    assert [login and login.username for login in map(credentials.find, ("a.org", "b.org", "c.org"))] == [
        "docker",
        "podman",
        None,
    ]
    write(tmp_path / "only.json", auths={"c.org": auth("only", "")})
    only = Credentials(nobody(tmp_path, **environment, REGISTRY_AUTH_FILE=str(tmp_path / "only.json")))
    assert only.find("a.org") is None
    assert only.find("c.org") == Login("only", "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"auths": []}', None),
        ('{"auths": [1]}', "auths is no JSON object"),
        ('{"auths": {"a.org": "x"}}', "entry of a.org is no JSON object"),
        ('{"auths": {"a.org": {"auth": "%%%"}}}', "not base64"),
        ('{"auths": {"a.org": {"auth": "YWJj"}}}', "not user:password"),
        ("", None),
    ],
)
def test_a_damaged_file_is_an_error_not_an_anonymous_pull(
    tmp_path: Path, content: str, reason: str | None
) -> None:
    docker(tmp_path).parent.mkdir()
    docker(tmp_path).write_text(content)
    if reason is None:
        assert Credentials(nobody(tmp_path)).find("a.org") is None
        return
    with pytest.raises(InvalidInput, match=reason):
        Credentials(nobody(tmp_path)).find("a.org")


def test_login_keeps_everything_else_in_the_file(tmp_path: Path) -> None:
    write(
        docker(tmp_path),
        auths={"b.org": auth("bob", "x"), "https://a.org/v1/": auth("old", "old")},
        HttpHeaders={"X": "y"},
        psFormat="table",
    )
    docker(tmp_path).chmod(0o644)
    credentials = Credentials(nobody(tmp_path))
    assert credentials.save("a.org", ALICE) == str(docker(tmp_path))
    assert credentials.find("a.org") == ALICE
    content = json.loads(docker(tmp_path).read_text())
    assert content["HttpHeaders"] == {"X": "y"}
    assert content["psFormat"] == "table"
    assert set(content["auths"]) == {"a.org", "b.org"}  # the old form of the same is gone
    assert docker(tmp_path).stat().st_mode & 0o777 == 0o600
    assert os.listdir(docker(tmp_path).parent) == ["config.json"]


def test_login_makes_the_file_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Credentials(nobody(tmp_path)).save("docker.io", Login("alice", "x"))
    finally:
        os.umask(old)
    assert docker(tmp_path).stat().st_mode & 0o777 == 0o600
    assert docker(tmp_path).parent.stat().st_mode & 0o777 == 0o700
    assert "https://index.docker.io/v1/" in json.loads(docker(tmp_path).read_text())["auths"]


def test_a_linked_file_stays_linked(tmp_path: Path) -> None:
    write(tmp_path / "dotfiles/docker.json", auths={})
    docker(tmp_path).parent.mkdir()
    docker(tmp_path).symlink_to(tmp_path / "dotfiles/docker.json")
    Credentials(nobody(tmp_path)).save("a.org", ALICE)
    assert docker(tmp_path).is_symlink()
    assert "a.org" in (tmp_path / "dotfiles/docker.json").read_text()


def test_a_token_is_kept_as_docker_keeps_it(tmp_path: Path) -> None:
    credentials = Credentials(nobody(tmp_path))
    credentials.save("a.org", Login("bob", token="long"))
    assert credentials.find("a.org") == Login("bob", "", "long")
    assert json.loads(docker(tmp_path).read_text())["auths"]["a.org"]["identitytoken"] == "long"


def test_logins_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    def login(number: int) -> None:
        Credentials(nobody(tmp_path)).save(f"host{number}.org", ALICE)

    threads = [threading.Thread(target=login, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads(docker(tmp_path).read_text())["auths"]) == 12


def test_logout_forgets_it_everywhere(tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path / "run")}
    write(tmp_path / "run/containers/auth.json", auths={"a.org": auth("x", ""), "b.org": auth("y", "")})
    write(docker(tmp_path), auths={"https://a.org/v1/": auth("x", "")})
    credentials = Credentials(nobody(tmp_path, **environment))
    assert credentials.forget("a.org") == [str(docker(tmp_path)), str(tmp_path / "run/containers/auth.json")]
    assert credentials.find("a.org") is None
    assert credentials.find("b.org") == Login("y", "")
    assert credentials.forget("a.org") == []


def test_secrets_are_not_in_what_is_printed() -> None:
    assert "s3cret" not in repr(ALICE)
    assert "long" not in repr(Login("a", token="long"))


# -- helpers ---------------------------------------------------------------------------------------------------

HELPER = """#!/bin/sh
# keeps what it is given in files beside it, and writes down its environment
here=$(dirname "$0")
env | sort > "$here/environment"
case $1 in
get) read -r server; file=$here/$(echo "$server" | tr -c 'a-z0-9.\\n' _)
     [ -e "$file" ] || { echo "credentials not found in native keychain"; exit 1; }
     cat "$file" ;;
store) message=$(cat); server=$(echo "$message" | sed 's/.*"ServerURL": "\\([^"]*\\)".*/\\1/')
     echo "$message" > "$here/$(echo "$server" | tr -c 'a-z0-9.\\n' _)" ;;
erase) read -r server; rm "$here/$(echo "$server" | tr -c 'a-z0-9.\\n' _)" ;;
*) exit 2 ;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path) -> Path:
    program = tmp_path / "bin/docker-credential-test"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(0o755)
    return program


def with_helper(home: Path, helper: Path, **environment: str) -> Credentials:
    path = f"{helper.parent}:{os.environ['PATH']}"
    return Credentials(nobody(home, **{"PATH": path, **environment}))


@pytest.mark.parametrize("configured", [{"credHelpers": {"a.org": "test"}}, {"credsStore": "test"}])
def test_a_helper_keeps_and_gives_credentials(
    tmp_path: Path, helper: Path, configured: dict[str, Any]
) -> None:
    write(docker(tmp_path), **configured)
    credentials = with_helper(tmp_path, helper)
    assert credentials.find("a.org") is None
    assert credentials.save("a.org", ALICE) == "docker-credential-test"
    assert credentials.find("a.org") == ALICE
    assert "auths" not in json.loads(docker(tmp_path).read_text())
    assert credentials.forget("a.org") == ["docker-credential-test"]
    assert credentials.find("a.org") is None


def test_a_helper_knows_docker_hub_by_dockers_name(tmp_path: Path, helper: Path) -> None:
    write(docker(tmp_path), credsStore="test")
    with_helper(tmp_path, helper).save("docker.io", ALICE)
    assert "https___index.docker.io_v1_" in os.listdir(helper.parent)
    assert with_helper(tmp_path, helper).find("docker.io", "library/debian") == ALICE


def test_a_helpers_token_is_a_token(tmp_path: Path, helper: Path) -> None:
    write(docker(tmp_path), credsStore="test")
    credentials = with_helper(tmp_path, helper)
    credentials.save("a.org", Login("ignored", token="long"))
    assert credentials.find("a.org") == Login(token="long")


def test_a_helper_gets_a_clean_environment(tmp_path: Path, helper: Path) -> None:
    write(docker(tmp_path), credsStore="test")
    with_helper(
        tmp_path,
        helper,
        LD_PRELOAD="/tmp/evil.so",
        PYTHONPATH="/tmp",
        BASH_ENV="/tmp/x",
        LAMINA_ROOT="/x",
        AWS_PROFILE="work",
        http_proxy="http://proxy",
    ).find("a.org")
    seen = (helper.parent / "environment").read_text()
    names = {line.partition("=")[0] for line in seen.splitlines()}
    assert {"HOME", "PATH", "AWS_PROFILE", "http_proxy"} <= names
    assert not names & {"LD_PRELOAD", "PYTHONPATH", "BASH_ENV", "LAMINA_ROOT"}


@pytest.mark.parametrize(
    ("name", "script", "reason"),
    [
        ("test", "#!/bin/sh\necho oh no >&2; exit 3\n", "status 3: oh no"),
        ("test", "#!/bin/sh\necho hello\n", "its answer is no credentials"),
        ("test", '#!/bin/sh\necho \'{"Username": 1, "Secret": "x"}\'\n', "its answer is no credentials"),
        ("missing", "", "not found"),
        ("../test", "", "not the name of one"),
        ("", "", None),
    ],
)
def test_a_helper_that_fails_is_an_error(
    tmp_path: Path, helper: Path, name: str, script: str, reason: str | None
) -> None:
    helper.write_text(script)
    write(docker(tmp_path), credsStore=name)
    if reason is None:
        assert with_helper(tmp_path, helper).find("a.org") is None
        return
    with pytest.raises((RegistryError, InvalidInput), match=reason):
        with_helper(tmp_path, helper).find("a.org")
