"""registries.conf and certs.d: what people configured for podman and docker holds for us."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from lamina.errors import InvalidInput, RegistryError
from lamina.image.reference import parse
from lamina.image.registry.configuration import Endpoint, read_configuration
from lamina.image.registry.places import Places
from lamina.image.registry.tls import Tls
from lamina.image.registry.transport import host_of, is_loopback
from support.registries import nobody

DIGEST = "@sha256:" + "ab" * 32


def endpoints(home: Path, text: str, reference: str, **options: bool) -> list[Endpoint]:
    path = home / "etc/containers/registries.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return list(read_configuration(nobody(home)).endpoints(parse(reference), **options))


def test_without_configuration_a_registry_is_where_it_says(tmp_path: Path) -> None:
    found = read_configuration(nobody(tmp_path)).endpoints(parse("debian"))
    assert found == (Endpoint("docker.io", "library/debian"),)


MIRRORS = """
unqualified-search-registries = ["quay.io"]
[[registry]]
prefix = "docker.io/library"
location = "hub.internal/official"
insecure = true
  [[registry.mirror]]
  location = "10.0.0.1:5000/mirror"
  insecure = true
  [[registry.mirror]]
  location = "digests.internal"
  pull-from-mirror = "digest-only"
  [[registry.mirror]]
  location = "tags.internal"
  pull-from-mirror = "tag-only"
[[registry]]
location = "quay.io"
blocked = true
[[registry]]
prefix = "*.example.org"
location = "cache.internal/all"
[[registry]]
prefix = "docker.io/library/debian"
location = "docker.io/library/debian"
[[registry]]
location = "strict.internal"
mirror-by-digest-only = true
  [[registry.mirror]]
  location = "mirror.internal"
"""


def test_mirrors_are_asked_first_and_the_longest_prefix_counts(tmp_path: Path) -> None:
    assert endpoints(tmp_path, MIRRORS, "ubuntu:24.04") == [
        Endpoint("10.0.0.1:5000", "mirror/ubuntu", insecure=True, mirror=True),
        Endpoint("tags.internal", "ubuntu", mirror=True),
        Endpoint("hub.internal", "official/ubuntu", insecure=True),
    ]
    assert [found.host for found in endpoints(tmp_path, MIRRORS, "ubuntu" + DIGEST)] == [
        "10.0.0.1:5000",
        "digests.internal",
        "hub.internal",
    ]
    assert endpoints(tmp_path, MIRRORS, "debian") == [Endpoint("docker.io", "library/debian")]
    assert endpoints(tmp_path, MIRRORS, "debiandoc/x") == [Endpoint("docker.io", "debiandoc/x")]


def test_pushing_does_not_go_to_mirrors(tmp_path: Path) -> None:
    assert endpoints(tmp_path, MIRRORS, "ubuntu", mirrors=False) == [
        Endpoint("hub.internal", "official/ubuntu", insecure=True)
    ]


def test_subdomains_by_an_asterisk(tmp_path: Path) -> None:
    assert endpoints(tmp_path, MIRRORS, "a.example.org/x/y") == [Endpoint("cache.internal", "all/x/y")]
    assert endpoints(tmp_path, MIRRORS, "example.org/x") == [Endpoint("example.org", "x")]
    assert endpoints(tmp_path, MIRRORS, "notexample.org/x") == [Endpoint("notexample.org", "x")]


def test_mirrors_for_digests_only(tmp_path: Path) -> None:
    assert [found.host for found in endpoints(tmp_path, MIRRORS, "strict.internal/a:1")] == [
        "strict.internal"
    ]
    assert [found.host for found in endpoints(tmp_path, MIRRORS, "strict.internal/a" + DIGEST)] == [
        "mirror.internal",
        "strict.internal",
    ]


def test_a_blocked_registry_is_not_asked(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"use registry quay.io: blocked by .*registries.conf"):
        endpoints(tmp_path, MIRRORS, "quay.io/a/b")
    with pytest.raises(RegistryError, match="blocked"):  # a prefix ends before a port, as podman reads it
        endpoints(tmp_path, MIRRORS, "quay.io:8443/a/b")
    assert endpoints(tmp_path, MIRRORS, "quay.iot/a/b") == [Endpoint("quay.iot", "a/b")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[registries.block]\nregistries = ['a']\n", "version 1"),
        ("= nothing", "not TOML"),
        ("registry = 1", "no array of tables"),
        ("registry = [1]", "no array of tables"),
        ("[[registry]]\ninsecure = true\n", "neither prefix nor location"),
        ("[[registry]]\nlocation = 'a'\ninsecure = 'yes'\n", "insecure is 'yes', which is no bool"),
        ("[[registry]]\nlocation = 'https://a'\n", "without http:// or https://"),
        ("[[registry]]\nlocation = 'a'\n[[registry.mirror]]\n", "without location"),
        (
            "[[registry]]\nlocation = 'a'\n[[registry.mirror]]\nlocation='b'\npull-from-mirror='x'\n",
            "is 'x', not all",
        ),
        ("#" * (1 << 20) + "#", "larger than"),
    ],
)
def test_a_file_that_cannot_be_understood_is_an_error(tmp_path: Path, text: str, reason: str) -> None:
    """It may forbid something: as if it were not there is the wrong way to read it."""
    with pytest.raises(InvalidInput, match=reason):
        endpoints(tmp_path, text, "debian")


def test_which_files_count(tmp_path: Path) -> None:
    def write(path: str, location: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"[[registry]]\nprefix = 'a.org'\nlocation = '{location}'\n")

    def where(**environment: str) -> str:
        found = read_configuration(nobody(tmp_path, **environment)).endpoints(parse("a.org/x"))
        return found[0].host

    write("etc/containers/registries.conf", "system")
    assert where() == "system"
    write("etc/containers/registries.conf.d/50.conf", "drop-in")
    write("etc/containers/registries.conf.d/40.conf", "earlier-drop-in")
    write("etc/containers/registries.conf.d/60.txt", "no-drop-in")
    assert where() == "drop-in"
    write(".config/containers/registries.conf.d/x.conf", "own-drop-in")
    assert where() == "own-drop-in"
    write("only.conf", "only")
    assert where(CONTAINERS_REGISTRIES_CONF=str(tmp_path / "only.conf")) == "only"
    with pytest.raises(InvalidInput, match="No such file"):
        where(CONTAINERS_REGISTRIES_CONF=str(tmp_path / "missing.conf"))


def test_the_users_own_file_is_read_instead_of_the_systems(tmp_path: Path) -> None:
    places = nobody(tmp_path, XDG_CONFIG_HOME=str(tmp_path / "xdg"))
    for directory in (tmp_path / "xdg/containers", tmp_path / "etc/containers"):
        directory.mkdir(parents=True)
        (directory / "registries.conf").write_text("")
    assert places.registries() == [str(tmp_path / "xdg/containers/registries.conf")]


def test_a_machine_without_configuration_has_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    assert Places({}).home.startswith("/")
    assert Places({}).credentials()[1].startswith("/run/containers/")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.8.9.10", True),
        ("[::1]:5000", True),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("127.evil:80", False),
        ("10.0.0.1", False),
        ("::1", False),
    ],
)
def test_what_is_this_machine(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_host_is_named_as_people_name_it() -> None:
    from urllib.parse import urlsplit

    assert host_of(urlsplit("https://a.org:443/x")) == "a.org"
    assert host_of(urlsplit("https://a.org:5000/x")) == "a.org:5000"
    assert host_of(urlsplit("https://[::1]:5000/x")) == "[::1]:5000"


# -- certificates ----------------------------------------------------------------------------------------------


def certificate(directory: Path, name: str) -> None:
    words = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.cert"
    subprocess.run(["openssl", *words.split()], cwd=directory, check=True, capture_output=True, timeout=200)


@pytest.mark.peer("openssl")
def test_certificates_of_a_host_are_for_that_host(tmp_path: Path) -> None:
    ours = tmp_path / "etc/containers/certs.d/a.org:5000"
    ours.mkdir(parents=True)
    certificate(ours, "client")
    (ours / "ca.crt").write_bytes((ours / "client.cert").read_bytes())
    (ours / "README").write_text("not a certificate")
    tls = Tls(nobody(tmp_path))
    assert tls.context("a.org:5000") is tls.context("a.org:5000")
    names = [dict(pair[0] for pair in root["subject"]) for root in tls.context("a.org:5000").get_ca_certs()]  # type: ignore[misc]
    assert {"commonName": "client"} in names
    other = tls.context("b.org").get_ca_certs()
    assert len(other) == len(names) - 1


def test_nothing_is_verified_only_when_that_was_asked_for(tmp_path: Path) -> None:
    assert Tls(nobody(tmp_path)).context("a.org").verify_mode == ssl.CERT_REQUIRED
    assert Tls(nobody(tmp_path)).context("a.org").check_hostname
    assert Tls(nobody(tmp_path)).context("a.org", verify=False).verify_mode == ssl.CERT_NONE
    assert Tls(nobody(tmp_path), verify=False).context("a.org").verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("ca.crt", "nonsense", "ca.crt"), ("client.cert", "nonsense", r"its key .*client.key is not there")],
)
def test_certificates_that_cannot_be_read_are_an_error(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    directory = tmp_path / "etc/docker/certs.d/a.org"
    directory.mkdir(parents=True)
    (directory / name).write_text(content)
    with pytest.raises(InvalidInput, match=reason):
        Tls(nobody(tmp_path)).context("a.org")
