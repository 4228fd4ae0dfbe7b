"""References are read as Docker reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput, InvalidReference
from lamina.image.reference import DEFAULT_REGISTRY, Reference, parse

SHA256 = "sha256:" + "3b" * 32
SHA512 = "sha512:" + "c4" * 64

# text: (registry, repository, tag, digest, familiar name)
READ = {
    "debian": ("docker.io", "library/debian", "latest", None, "debian:latest"),
    "debian:12": ("docker.io", "library/debian", "12", None, "debian:12"),
    "debian:12.9-slim_a.B": ("docker.io", "library/debian", "12.9-slim_a.B", None, "debian:12.9-slim_a.B"),
    "debian:_": ("docker.io", "library/debian", "_", None, "debian:_"),
    f"debian@{SHA256}": ("docker.io", "library/debian", None, SHA256, f"debian@{SHA256}"),
    f"debian:12@{SHA256}": ("docker.io", "library/debian", "12", SHA256, f"debian:12@{SHA256}"),
    f"quay.io/a/b@{SHA512}": ("quay.io", "a/b", None, SHA512, f"quay.io/a/b@{SHA512}"),
    "someone/thing": ("docker.io", "someone/thing", "latest", None, "someone/thing:latest"),
    "docker.io/debian": ("docker.io", "library/debian", "latest", None, "debian:latest"),
    "docker.io/library/debian": ("docker.io", "library/debian", "latest", None, "debian:latest"),
    "docker.io/library/a/b": ("docker.io", "library/a/b", "latest", None, "library/a/b:latest"),
    "index.docker.io/debian": ("docker.io", "library/debian", "latest", None, "debian:latest"),
    "index.docker.io/a/b": ("docker.io", "a/b", "latest", None, "a/b:latest"),
    "library/debian": ("docker.io", "library/debian", "latest", None, "debian:latest"),
    # what is a registry
    "localhost/a": ("localhost", "a", "latest", None, "localhost/a:latest"),
    "localhost:5000/a": ("localhost:5000", "a", "latest", None, "localhost:5000/a:latest"),
    "localhost": ("docker.io", "library/localhost", "latest", None, "localhost:latest"),
    "localhost:5000": ("docker.io", "library/localhost", "5000", None, "localhost:5000"),
    "example.org/a": ("example.org", "a", "latest", None, "example.org/a:latest"),
    "example.org": ("docker.io", "library/example.org", "latest", None, "example.org:latest"),
    "host:5000/a:1": ("host:5000", "a", "1", None, "host:5000/a:1"),
    "192.168.0.1:8/debian": ("192.168.0.1:8", "debian", "latest", None, "192.168.0.1:8/debian:latest"),
    "[fc00::1]:5000/a/b": ("[fc00::1]:5000", "a/b", "latest", None, "[fc00::1]:5000/a/b:latest"),
    "[::1]/a": ("[::1]", "a", "latest", None, "[::1]/a:latest"),
    "Docker/thing": ("Docker", "thing", "latest", None, "Docker/thing:latest"),
    "xn--n3h.com/foo": ("xn--n3h.com", "foo", "latest", None, "xn--n3h.com/foo:latest"),
    "test_com/foo": ("docker.io", "test_com/foo", "latest", None, "test_com/foo:latest"),
    # separators
    "a---b/c__d/e.f/g_h": ("docker.io", "a---b/c__d/e.f/g_h", "latest", None, "a---b/c__d/e.f/g_h:latest"),
    # names whose short form would be read as something else keep the long one
    "docker.io/localhost/x": (
        "docker.io",
        "localhost/x",
        "latest",
        None,
        "docker.io/localhost/x:latest",
    ),
    "docker.io/a.b/x:1": ("docker.io", "a.b/x", "1", None, "docker.io/a.b/x:1"),
    "a/" * 127 + "a": ("docker.io", "a/" * 127 + "a", "latest", None, "a/" * 127 + "a:latest"),
    "a:" + "t" * 128: ("docker.io", "library/a", "t" * 128, None, "a:" + "t" * 128),
    "docker.io/" + "a" * 64: ("docker.io", "library/" + "a" * 64, "latest", None, "a" * 64 + ":latest"),
}

# text: what the error must say
REFUSED = {
    "": "at least one component",
    "Debian": r"repository name \(library/Debian\) must be lowercase",
    "a/B": r"repository name \(a/B\) must be lowercase",
    "docker.io/docker/Docker:1": r"repository name \(docker/Docker\) must be lowercase",
    "a" * 64: "cannot specify 64-byte hexadecimal strings",
    "https://docker.io/debian": "invalid reference format: a reference has no scheme",
    " debian": "it contains white space",
    "debian\n": "it contains white space",
    "debian:1\n2": "it contains white space",
    "debian:": "invalid reference format",
    "debian:-1": "invalid reference format",
    "debian:.1": "invalid reference format",
    "debian:a/b": "invalid reference format",
    "debian:1:2": "invalid reference format",
    "debian@": "invalid reference format",
    f"debian@{SHA256}:12": "invalid reference format",
    "a:" + "t" * 129: "must not be more than 128 characters",
    "-a": "invalid reference format",
    "a-/b": "invalid reference format",
    "_a": "invalid reference format",
    "a..b/c": "invalid reference format",
    "a_.b/c": "invalid reference format",
    "a___b": "invalid reference format",
    "a//b": "invalid reference format",
    "a/": "invalid reference format",
    "/a": "invalid reference format",
    "../a": "invalid reference format",
    "a/../b": "invalid reference format",
    "host:port/a": "invalid reference format",
    "-host.org/a": "invalid reference format",
    "fc00::1:5000/debian": "invalid reference format",
    "[fe80::1%eth0]:5000/debian": "invalid reference format",
    "[::ffff:1.2.3.4]/debian": "invalid reference format",
    "[fc00::1]:5000": "invalid reference format",
    "dèbian": "invalid reference format",
    "debian:１": "invalid reference format",  # a digit, but none of ASCII's
    "debian\0": "invalid reference format",
    "a/" * 128 + "a": "must not be more than 255 characters",
    "a" * 2049: "longer than 2048 characters",
    "debian@sha256:abc": "invalid reference format",
    "debian@sha256:" + "ab" * 31: "not a digest",
    "debian@sha256:" + "AB" * 32: "not a digest",
    "debian@md5:" + "ab" * 16: "not a digest",
    "debian@sha256:../../etc/passwd": "invalid reference format",
}


@pytest.mark.parametrize("text", READ)
def test_a_reference_is_read_as_docker_reads_it(text: str) -> None:
    registry, repository, tag, digest, familiar = READ[text]
    found = parse(text)
    assert found == Reference(registry, repository, tag, digest)
    assert found.familiar == familiar
    assert parse(found.familiar) == parse(found.canonical) == found


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_reference_is_refused_with_dockers_reason(text: str) -> None:
    with pytest.raises(InvalidReference, match=REFUSED[text]):
        parse(text)


def test_a_reference_without_tag_may_be_kept_so() -> None:
    assert parse("debian", default_tag=None) == Reference("docker.io", "library/debian")
    assert parse("debian", default_tag=None).canonical == "docker.io/library/debian"
    assert parse("debian", default_tag=None).version == "latest"


def test_what_a_registry_is_asked_for() -> None:
    assert parse("a:1").version == "1"
    assert parse(f"a:1@{SHA256}").version == SHA256


def test_edits_make_new_references() -> None:
    assert parse("debian:12").with_digest(SHA256).canonical == f"docker.io/library/debian@{SHA256}"
    assert parse(f"debian@{SHA256}").with_tag("12").canonical == "docker.io/library/debian:12"
    with pytest.raises(InvalidReference, match="invalid tag format"):
        parse("debian").with_tag("a/b")
    with pytest.raises(InvalidInput, match="not a digest"):
        parse("debian").with_digest("sha256:../..")


COMPONENT = st.from_regex(r"\A[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}\Z")
REGISTRY = st.one_of(
    st.just(DEFAULT_REGISTRY),
    st.just("localhost"),
    st.from_regex(r"\A[a-z0-9]{1,5}(-[A-Z]{1,3})?\.[a-z]{2,3}(:[0-9]{1,5})?\Z"),
    st.from_regex(r"\A\[[a-f0-9]{0,3}::?[a-f0-9:]{1,6}\](:[0-9]{1,5})?\Z"),
)
REFERENCE = st.builds(
    lambda registry, components, tag, digest: Reference(registry, "/".join(components), tag, digest),
    REGISTRY,
    st.lists(COMPONENT, min_size=2, max_size=4),
    st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,10}\Z"),
    st.none() | st.sampled_from([SHA256, SHA512]),
)


@given(REFERENCE)
def test_the_canonical_and_the_familiar_name_mean_the_same(reference: Reference) -> None:
    assert parse(reference.canonical) == reference
    assert parse(reference.familiar) == reference
    assert len(reference.familiar) <= len(reference.canonical)


@given(st.text(max_size=40) | st.text(alphabet="aA0.:/@-_[]", max_size=30))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except InvalidReference:
        return
    assert parse(found.canonical) == parse(found.familiar) == found
