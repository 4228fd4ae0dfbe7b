"""The client against a registry that has accidents on demand: patience, redirects, tokens, streams, uploads."""

from __future__ import annotations

import io
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import Corrupt, LaminaError, NotFound, RegistryError
from lamina.image.documents import media
from lamina.image.documents.reading import Limits
from lamina.image.reference import parse
from lamina.image.registry.blobs import open_blob
from lamina.image.registry.challenge import Challenge, parse_challenges
from lamina.image.registry.client import Registry
from lamina.image.registry.credentials import Login
from lamina.image.registry.session import Registries, registry_name
from lamina.image.registry.tls import Tls
from lamina.image.registry.transport import Patience, Transport, shown
from lamina.image.registry.uploads import mount_blob, upload_blob
from lamina.image.registry.waits import Wait
from lamina.testing.registry import FakeRegistry, Fault, digest
from support.registries import nobody, registries

BLOB = os.urandom(300_000)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


def connect(
    fake: FakeRegistry,
    home: Path,
    *actions: str,
    login: Login | None = None,
    name: str = "team/tool",
    **options: Any,
) -> Registry:
    network = registries(home, **options)
    return network.repositories(parse(f"{fake.host}/{name}"), *actions, login=login)[-1]


# -- patience --------------------------------------------------------------------------------------------------


class Clock:
    """Sleeps that take no time and are written down."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def transport(self, home: Path, **patience: Any) -> Transport:
        return Transport(Tls(nobody(home)), Patience(**patience), sleep=self.slept.append, chance=lambda: 1.0)

    def registry(self, fake: FakeRegistry, home: Path, **patience: Any) -> Registry:
        network = Registries(nobody(home), transport=self.transport(home, **patience))
        return network.repositories(parse(f"{fake.host}/team/tool"))[0]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_registry_is_asked_again_after_longer_and_longer_pauses(
    fake: FakeRegistry, tmp_path: Path, status: int
) -> None:
    fake.add_image("team/tool", "1", {"a": b"b"})
    fake.faults.append(Fault("status", path="manifests", status=status, times=3))
    clock = Clock()
    assert clock.registry(fake, tmp_path).get_manifest("1").data
    assert clock.slept == [0.5, 1.0, 2.0]
    assert len(fake.asked("GET", "manifests")) == 4


def test_pauses_have_a_random_part(tmp_path: Path) -> None:
    slept: list[float] = []
    transport = Transport(Tls(nobody(tmp_path)), sleep=slept.append, chance=iter([0.0, 1.0]).__next__)
    transport.pause(1, "")
    transport.pause(1, "")
    assert slept == [0.25, 0.5]


def test_patience_ends(fake: FakeRegistry, tmp_path: Path) -> None:
    fake.faults.append(Fault("status", path="manifests", status=503, times=100))
    clock = Clock()
    with pytest.raises(RegistryError, match="fails with status 503") as caught:
        clock.registry(fake, tmp_path, attempts=3).get_manifest("1")
    assert caught.value.status == 503
    assert len(fake.asked("GET", "manifests")) == 3
    with pytest.raises(RegistryError, match="fails with status 503"):
        clock.registry(fake, tmp_path, attempts=50, total=10.0).get_manifest("1")
    assert len(fake.asked("GET", "manifests")) < 12


@pytest.mark.parametrize(("said", "least", "most"), [("7", 7, 7.8), ("0", 0.5, 0.5), ("nonsense", 0.5, 0.5)])
def test_a_registry_says_how_long_to_wait(
    fake: FakeRegistry, tmp_path: Path, said: str, least: float, most: float
) -> None:
    fake.add_image("team/tool", "1", {"a": b"b"})
    fake.faults.append(Fault("status", path="manifests", status=429, headers=(("Retry-After", said),)))
    clock = Clock()
    clock.registry(fake, tmp_path).get_manifest("1")
    assert len(clock.slept) == 1
    assert least <= clock.slept[0] <= most


def test_a_registry_may_say_it_with_a_date(fake: FakeRegistry, tmp_path: Path) -> None:
    from email.utils import formatdate

    fake.add_image("team/tool", "1", {"a": b"b"})
    when = formatdate(time.time() + 60, usegmt=True)
    fake.faults.append(Fault("status", path="manifests", status=503, headers=(("Retry-After", when),)))
    clock = Clock()
    clock.registry(fake, tmp_path).get_manifest("1")
    assert 20 <= clock.slept[0] <= 70


def test_a_pause_is_told_every_second_to_who_listens_in_this_thread(
    fake: FakeRegistry, tmp_path: Path
) -> None:
    fake.add_image("team/tool", "1", {"a": b"b"})
    fake.faults.append(
        Fault("status", path="manifests", status=429, headers=(("Retry-After", "2"),)),
    )
    clock = Clock()
    heard: list[Wait] = []
    registry = clock.registry(fake, tmp_path)
    with registry.transport.waits.telling(heard.append):
        registry.get_manifest("1")
    assert [(wait.seconds, wait.left, wait.attempt) for wait in heard] == [(3, 3, 2), (3, 2, 2), (3, 1, 2)]
    assert all("too many requests (429)" in wait.reason for wait in heard)
    assert clock.slept == pytest.approx([1.0, 1.0, 0.2])
    registry.transport.pause(1, "nobody listens any more")
    assert len(heard) == 3


def test_a_listener_that_raises_ends_the_pause(fake: FakeRegistry, tmp_path: Path) -> None:
    fake.faults.append(Fault("status", path="manifests", status=429, headers=(("Retry-After", "60"),)))
    clock = Clock()
    registry = clock.registry(fake, tmp_path)

    def stop(wait: Wait) -> None:
        if wait.left < 60:
            raise LaminaError("stopped")

    with registry.transport.waits.telling(stop), pytest.raises(LaminaError, match="stopped"):
        registry.get_manifest("1")
    assert sum(clock.slept) < 10
    assert len(fake.asked("GET", "manifests")) == 1


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_an_upload_waits_as_long_as_the_registry_asks(
    fake: FakeRegistry, tmp_path: Path, method: str
) -> None:
    fake.faults.append(Fault("status", method=method, status=429, headers=(("Retry-After", "7"),)))
    clock = Clock()
    registry = Registries(nobody(tmp_path), transport=clock.transport(tmp_path)).repositories(
        parse(f"{fake.host}/team/tool"), "pull", "push"
    )[0]
    upload_blob(registry, digest(BLOB), len(BLOB), io.BytesIO(BLOB), chunk=100_000)
    assert clock.slept == [pytest.approx(7.7)]
    assert fake.blobs["team/tool"] == {digest(BLOB): BLOB}


def test_an_upload_does_not_wait_for_hours(fake: FakeRegistry, tmp_path: Path) -> None:
    fake.faults.append(Fault("status", method="PUT", status=429, times=9, headers=(("Retry-After", "9999"),)))
    clock = Clock()
    registry = clock.registry(fake, tmp_path)
    with pytest.raises(RegistryError, match="asks to come back in 9999 seconds"):
        upload_blob(registry, digest(BLOB), len(BLOB), io.BytesIO(BLOB))
    assert clock.slept == []
    assert len(fake.asked("PUT")) == 1


def test_a_wait_that_is_too_long_is_refused_with_the_length(fake: FakeRegistry, tmp_path: Path) -> None:
    fake.faults.append(Fault("status", path="manifests", status=429, headers=(("Retry-After", "21600"),)))
    clock = Clock()
    with pytest.raises(RegistryError, match="asks to come back in 21600 seconds") as caught:
        clock.registry(fake, tmp_path).get_manifest("1")
    assert (caught.value.status, clock.slept) == (429, [])


def test_nobody_there_is_said_at_once(tmp_path: Path) -> None:
    clock = Clock()
    network = Registries(nobody(tmp_path), transport=clock.transport(tmp_path))
    with socket.socket() as taken:  # nobody listens there, nor may anybody else meanwhile
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(RegistryError, match=f"^reach registry 127.0.0.1:{port}: Connection refused"):
            network.repositories(parse(f"127.0.0.1:{port}/a"))[0].get_manifest("1")
    assert clock.slept == []


@pytest.mark.parametrize("host", ["a.org:99999", "a.org:0", "[::1]:500000", "[:::::]"])
def test_a_host_that_cannot_be_one_is_said_at_once(tmp_path: Path, host: str) -> None:
    """Docker's grammar of names allows it."""
    with pytest.raises(RegistryError, match="that is no address"):
        registries(tmp_path).repositories(parse(f"{host}/team/tool"))


def test_an_unknown_host_is_said_at_once(tmp_path: Path) -> None:
    clock = Clock()
    network = Registries(nobody(tmp_path), transport=clock.transport(tmp_path))
    with pytest.raises(RegistryError, match=r"reach registry no-such-host.invalid"):
        network.repositories(parse("no-such-host.invalid/a"))[0].get_manifest("1")
    assert clock.slept == []


def test_a_host_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        clock = Clock()
        transport = clock.transport(tmp_path, attempts=2, read=0.1, connect=0.1)
        network = Registries(nobody(tmp_path), transport=transport)
        with pytest.raises(RegistryError, match="no answer in time"):
            network.repositories(parse(f"{host}/a"))[0].get_manifest("1")


# -- manifests -------------------------------------------------------------------------------------------------


def test_a_manifest_by_tag_and_by_digest(fake: FakeRegistry, tmp_path: Path) -> None:
    found = fake.add_image("team/tool", "1", {"a": b"b"})
    registry = connect(fake, tmp_path)
    by_tag = registry.get_manifest("1")
    assert (by_tag.digest, by_tag.media_type) == (found, media.OCI_MANIFEST)
    assert registry.get_manifest(found) == by_tag
    assert registry.head_manifest("1") == found


@pytest.mark.parametrize("version", ["2", "sha256:" + "0" * 64])
def test_an_image_that_is_not_there(fake: FakeRegistry, tmp_path: Path, version: str) -> None:
    fake.add_image("team/tool", "1", {"a": b"b"})
    registry = connect(fake, tmp_path)
    for ask in (registry.get_manifest, registry.head_manifest):
        with pytest.raises(NotFound, match="the registry has no such image"):
            ask(version)


def test_a_web_page_is_no_registry(fake: FakeRegistry, tmp_path: Path) -> None:
    fake.faults.append(Fault("web page", path="/v2/"))
    with pytest.raises(RegistryError, match=r"no registry.*web page"):
        connect(fake, tmp_path).get_manifest("1")
    page = (("Content-Type", "text/html; charset=utf-8"),)
    fake.faults.append(Fault("status", path="/v2/", status=404, headers=page))
    with pytest.raises(RegistryError, match=r"no registry.*web page"):
        connect(fake, tmp_path).get_manifest("1")
    fake.add_image("team/tool", "1", {"a": b"b"})
    fake.faults.append(Fault("web page", path="manifests"))
    with pytest.raises(RegistryError, match=r"no registry.*web page"):
        connect(fake, tmp_path).get_manifest("1")


def test_a_manifest_without_end_is_cut_off(fake: FakeRegistry, tmp_path: Path) -> None:
    fake.add_manifest("team/tool", b" " * 100_000, media.OCI_MANIFEST, "1")
    fake.faults.append(Fault("no length", path="manifests"))
    network = registries(tmp_path)
    network.limits = Limits(document=50_000)
    with pytest.raises(RegistryError, match="larger than the 50000 bytes"):
        network.repositories(parse(f"{fake.host}/team/tool"))[0].get_manifest("1")


def test_the_complaint_of_a_registry_is_quoted_as_text(fake: FakeRegistry, tmp_path: Path) -> None:
    with FakeRegistry({"alice": "x"}) as guarded:
        with pytest.raises(
            RegistryError, match="access denied, or no such repository: unauthorized"
        ) as caught:
            connect(guarded, tmp_path).get_manifest("1")
        assert (caught.value.status, caught.value.code) == (401, "UNAUTHORIZED")
        assert f"lamina login {guarded.host}" in str(caught.value)


def test_all_tags_page_by_page(fake: FakeRegistry, tmp_path: Path) -> None:
    fake.page = 2
    for tag in "abcde":
        fake.add_image("team/tool", tag, {"a": b"b"})
    assert list(connect(fake, tmp_path).tags()) == list("abcde")
    assert len(fake.asked("GET", "tags/list")) == 3
    with pytest.raises(NotFound):
        list(connect(fake, tmp_path, name="team/other").tags())


def test_a_next_page_elsewhere_is_not_fetched(fake: FakeRegistry, tmp_path: Path) -> None:
    fake.add_image("team/tool", "1", {"a": b"b"})
    fake.faults.append(Fault("lie", path="tags", headers=(("Link", '<http://192.0.2.1/x>; rel="next"'),)))
    with pytest.raises(RegistryError, match="the next page is elsewhere"):
        list(connect(fake, tmp_path).tags())


# -- blobs -----------------------------------------------------------------------------------------------------


def fetch(registry: Registry, found: str, size: int = len(BLOB), **options: Any) -> bytes:
    with open_blob(registry, found, size, **options) as stream:
        return stream.readall()


def test_a_blob_is_read_and_verified(fake: FakeRegistry, tmp_path: Path) -> None:
    came: list[int] = []
    found = fake.add_blob("team/tool", BLOB)
    registry = connect(fake, tmp_path)
    assert registry.has_blob(found) == len(BLOB)
    assert fetch(registry, found, progress=came.append) == BLOB
    assert sum(came) == len(BLOB)
    assert fetch(registry, found, offset=1234) == BLOB[1234:]
    assert fetch(registry, fake.add_blob("team/tool", b""), 0) == b""


@given(places=st.lists(st.integers(0, 2000), max_size=5))
@settings(max_examples=max(settings().max_examples // 10, 30))  # each is a server
def test_a_stream_survives_breaks_anywhere(
    places: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytes(range(250)) * 8
    with FakeRegistry() as fake:
        found = fake.add_blob("team/tool", data)
        fake.faults += [Fault("break", path="blobs/", after=place) for place in places]
        assert fetch(connect(fake, tmp_path_factory.getbasetemp()), found, len(data)) == data
        ranges = [headers.get("Range") for method, path, headers in fake.requests if "blobs/" in path]
        assert ranges[0] is None
        assert len(ranges) <= len(places) + 1


def test_a_registry_that_cannot_continue_sends_it_all_again(fake: FakeRegistry, tmp_path: Path) -> None:
    found = fake.add_blob("team/tool", BLOB)
    fake.faults += [Fault("break", path="blobs/", after=200_000), Fault("no range", path="blobs/")]
    came: list[int] = []
    assert fetch(connect(fake, tmp_path), found, progress=came.append) == BLOB
    assert sum(came) == len(BLOB)


def test_a_registry_that_breaks_without_end_is_given_up(fake: FakeRegistry, tmp_path: Path) -> None:
    found = fake.add_blob("team/tool", BLOB)
    fake.faults.append(Fault("break", path="blobs/", after=10, times=1000))
    with pytest.raises(RegistryError, match="breaks again and again"):
        fetch(connect(fake, tmp_path), found)
    assert len(fake.asked("GET", "blobs/")) < 10


BLOB_LIES = {
    "other bytes": (Fault("other bytes", path="blobs/"), Corrupt, "what came has the digest sha256:"),
    "more bytes": (Fault("more bytes", path="blobs/"), Corrupt, "300004 bytes, it should be 300000"),
    "a web page": (Fault("web page", path="blobs/"), RegistryError, "sends a web page instead"),
    "nothing": (Fault("status", path="blobs/", status=404), NotFound, "has no such blob"),
    "denied": (Fault("status", path="blobs/", status=403), RegistryError, "access denied"),
    "another status": (Fault("status", path="blobs/", status=204), RegistryError, "answered 204"),
}


@pytest.mark.parametrize("lie", BLOB_LIES)
def test_a_blob_that_is_not_what_was_said_is_refused(fake: FakeRegistry, tmp_path: Path, lie: str) -> None:
    fault, error, reason = BLOB_LIES[lie]
    found = fake.add_blob("team/tool", BLOB)
    fake.faults.append(fault)
    with pytest.raises(error, match=reason):
        fetch(connect(fake, tmp_path), found)


def test_more_bytes_than_announced_are_not_read(fake: FakeRegistry, tmp_path: Path) -> None:
    found = fake.add_blob("team/tool", BLOB)
    fake.faults.append(Fault("no length", path="blobs/"))
    with pytest.raises(Corrupt, match="more than the 1000 bytes"):
        fetch(connect(fake, tmp_path), found, 1000)


def test_fewer_bytes_than_announced_are_an_error(fake: FakeRegistry, tmp_path: Path) -> None:
    found = fake.add_blob("team/tool", BLOB)
    fake.faults.append(Fault("no length", path="blobs/"))
    with pytest.raises(Corrupt, match="the registry has fewer than 300000 bytes"):
        fetch(connect(fake, tmp_path), found, len(BLOB) + 1)


def test_another_part_than_was_asked_for_is_refused(fake: FakeRegistry, tmp_path: Path) -> None:
    found = fake.add_blob("team/tool", BLOB)
    fake.faults += [Fault("break", path="blobs/", after=1000), Fault("other part", path="blobs/")]
    with pytest.raises(RegistryError, match="another part"):
        fetch(connect(fake, tmp_path), found)


# -- redirects -------------------------------------------------------------------------------------------------


def test_a_redirect_elsewhere_gets_no_credentials(tmp_path: Path) -> None:
    """Blobs are often kept elsewhere; who keeps them is not told who we are."""
    with FakeRegistry({"alice": "x"}) as fake, FakeRegistry() as elsewhere:
        found = fake.add_blob("team/tool", BLOB)
        elsewhere.add_blob("team/tool", BLOB)
        fake.faults.append(
            Fault("redirect", path="blobs/", location=f"http://{elsewhere.host}/v2/team/tool/blobs/{found}")
        )
        assert fetch(connect(fake, tmp_path, login=Login("alice", "x")), found) == BLOB
        sent = [headers for _, path, headers in fake.requests if "blobs/" in path]
        assert all("Authorization" in headers for headers in sent)
        got = [headers for _, path, headers in elsewhere.requests]
        assert len(got) == 1
        assert not {"Authorization", "Cookie"} & set(got[0])


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_a_challenge_from_elsewhere_is_not_answered(tmp_path: Path, scheme: str) -> None:
    """CVE-2020-15157: credentials for whoever asks for them after a redirect, there or at the realm that he names."""
    with FakeRegistry({"alice": "x"}) as fake, FakeRegistry({"alice": "x"}, scheme=scheme) as evil:
        found = fake.add_blob("team/tool", BLOB)
        target = f"http://{evil.host}/v2/team/tool/blobs/{found}"
        fake.faults.append(Fault("redirect", path="blobs/", location=target, times=9))
        with pytest.raises(RegistryError, match="access denied"):
            fetch(connect(fake, tmp_path, login=Login("alice", "x")), found)
        assert len(evil.requests) == 1
        assert "Authorization" not in evil.requests[0][2]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("file:///etc/passwd", "which is no address"),
        ("gopher://x/", "no address"),
        ("http://[", "no address"),
        ("http://a.org:99999/", "no address"),
        ("http://a.org:x/?secret", "to 'http://a.org:x/', which is no address"),
    ],
)
def test_a_redirect_to_what_is_no_address_is_refused(
    fake: FakeRegistry, tmp_path: Path, location: str, reason: str
) -> None:
    found = fake.add_blob("team/tool", BLOB)
    fake.faults.append(Fault("redirect", path="blobs/", location=location))
    with pytest.raises(RegistryError, match=reason):
        fetch(connect(fake, tmp_path), found)


class Endless(io.RawIOBase):
    """Content that has no end."""

    def __init__(self) -> None:
        self.given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.given += len(buffer)
        assert self.given < 10 << 20, "all of it is read"
        return len(buffer)

    def read1(self, count: int = -1) -> bytes:
        return self.read(count)


@pytest.mark.parametrize("status", [302, 401, 503])
def test_what_nobody_wants_of_an_answer_is_not_read_to_its_end(
    fake: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    found = fake.add_blob("team/tool", BLOB)
    registry = connect(fake, tmp_path, login=Login("alice", "x"))
    address = registry.address(f"blobs/{found}")
    headers = {"Location": address, "WWW-Authenticate": 'Basic realm="x"'}
    real, endless = registry.transport._once, Endless()

    def once(*args: Any) -> Any:
        if endless.given:
            return real(*args)
        return urllib3.HTTPResponse(endless, headers, status, preload_content=False)

    monkeypatch.setattr(registry.transport, "_once", once)
    assert fetch(registry, found) == BLOB


@pytest.mark.parametrize("place", ["http://[", "https://a.org:x/", "//a.org:99999/"])
def test_places_that_are_none_are_refused(fake: FakeRegistry, tmp_path: Path, place: str) -> None:
    fake.add_image("team/tool", "1", {"a": b"b"})
    registry = connect(fake, tmp_path, "pull", "push")
    fake.faults.append(Fault("lie", path="tags", headers=(("Link", f'<{place}>; rel="next"'),)))
    with pytest.raises(RegistryError, match="the next page is elsewhere"):
        list(registry.tags())
    fake.faults.append(Fault("status", path="uploads", times=9, status=202, headers=(("Location", place),)))
    with pytest.raises(RegistryError, match="does not say where to upload"):
        upload_blob(registry, digest(BLOB), len(BLOB), io.BytesIO(BLOB))


def test_a_message_shows_no_secret_of_an_address() -> None:
    assert shown("https://user:word@a.org/v2/x?X-Amz-Signature=1#y") == "https://a.org/v2/x"
    assert shown("/v2/x?_state=1") == "/v2/x"


def test_redirects_in_a_circle_end(fake: FakeRegistry, tmp_path: Path) -> None:
    found = fake.add_blob("team/tool", BLOB)
    fake.faults.append(Fault("redirect", path="blobs/", location=f"/v2/team/tool/blobs/{found}", times=50))
    with pytest.raises(RegistryError, match="more than 5 redirects"):
        fetch(connect(fake, tmp_path), found)


# -- tokens ----------------------------------------------------------------------------------------------------


def test_a_token_is_fetched_once_for_many_threads(tmp_path: Path) -> None:
    with FakeRegistry({"alice": "x"}) as fake:
        found = fake.add_blob("team/tool", BLOB)
        registry = connect(fake, tmp_path, login=Login("alice", "x"))
        threads = [threading.Thread(target=fetch, args=(registry, found)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tokens = fake.asked("GET", "/token")
        assert len(tokens) == 1
        assert "scope=repository%3Ateam%2Ftool%3Apull" in tokens[0]
        assert "account=alice" in tokens[0]


def test_an_expired_token_is_fetched_again(tmp_path: Path) -> None:
    with FakeRegistry({"alice": "x"}) as fake:
        found = fake.add_blob("team/tool", BLOB)
        registry = connect(fake, tmp_path, login=Login("alice", "x"))
        assert fetch(registry, found) == BLOB
        fake.tokens.clear()
        assert fetch(registry, found) == BLOB
        assert len(fake.asked("GET", "/token")) == 2


def test_nobody_may_read_what_is_public(tmp_path: Path) -> None:
    with FakeRegistry({"alice": "x"}) as fake:
        found = fake.add_blob("public/tool", BLOB)
        assert fetch(connect(fake, tmp_path, name="public/tool"), found) == BLOB
        with pytest.raises(RegistryError, match="access denied"):
            fetch(connect(fake, tmp_path, name="team/tool"), found)


def test_an_identity_token_is_changed_for_a_token_by_oauth(tmp_path: Path) -> None:
    with FakeRegistry({"alice": "x"}) as fake:
        fake.refresh_tokens["long"] = "alice"
        found = fake.add_blob("team/tool", BLOB)
        assert fetch(connect(fake, tmp_path, login=Login(token="long")), found) == BLOB
        assert fake.asked("POST", "/token")
        with pytest.raises(RegistryError, match=r"log in to .* as the token: .* refused \(status 401\)"):
            fetch(connect(fake, tmp_path, login=Login(token="wrong")), found)


def test_basic_authentication(tmp_path: Path) -> None:
    with FakeRegistry({"alice": "x"}, scheme="basic") as fake:
        found = fake.add_blob("team/tool", BLOB)
        assert fetch(connect(fake, tmp_path, login=Login("alice", "x")), found) == BLOB
        for login in (None, Login("alice", "y")):
            with pytest.raises(RegistryError, match="access denied"):
                fetch(connect(fake, tmp_path, login=login), found)


def test_login_asks_before_it_keeps(tmp_path: Path) -> None:
    with FakeRegistry({"alice": "x"}) as fake:
        network = registries(tmp_path)
        with pytest.raises(RegistryError, match=f"log in to {fake.host} as alice"):
            network.login(fake.host, Login("alice", "y"))
        assert network.credentials.find(fake.host) is None
        assert network.login(fake.host, Login("alice", "x")).endswith(".docker/config.json")
        found = fake.add_blob("team/tool", BLOB)
        assert fetch(connect(fake, tmp_path), found) == BLOB
        network.logout(fake.host)
        with pytest.raises(NotFound, match="not logged in"):
            network.logout(fake.host)


def test_login_to_a_registry_with_basic_authentication(tmp_path: Path) -> None:
    with FakeRegistry({"alice": "x"}, scheme="basic") as fake:
        network = registries(tmp_path)
        with pytest.raises(RegistryError, match=f"log in to {fake.host}: .* not take this name and password"):
            network.login(fake.host, Login("alice", "y"))
        assert network.login(fake.host, Login("alice", "x"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("quay.io", "quay.io"),
        ("http://a.org:5000/v2/", "a.org:5000"),
        ("localhost:5000", "localhost:5000"),
        ("registry", "registry"),
    ],
)
def test_what_people_log_in_to(text: str, name: str) -> None:
    assert registry_name(text) == name


def test_a_realm_that_is_not_encrypted_gets_nothing(tmp_path: Path) -> None:
    from lamina.image.registry.authentication import Authenticator

    for realm, reason in (
        ("http://auth.example.org/token", "not encrypted"),
        ("file:///x", "no address"),
        ("", "no a"),
        ("https://[", "no address"),
    ):
        authenticator = Authenticator("a.org", Login("alice", "x"), registries(tmp_path).transport)
        authenticator.learn([Challenge("bearer", (("realm", realm),))], frozenset(), None)
        with pytest.raises(RegistryError, match=reason):
            authenticator.header(frozenset({"repository:a:pull"}))
    with pytest.raises(RegistryError, match="it wants negotiate, which is not supported"):
        authenticator.learn([Challenge("negotiate")], frozenset(), None)


def test_this_machines_registry_gives_nobody_else_the_password(
    fake: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may do without TLS itself; whoever it names as the one who hands out tokens may not."""
    asked: list[tuple[str, bool]] = []

    def request(method: str, url: str, *_: Any, verify: bool, **__: Any) -> Any:
        asked.append((url.partition("?")[0], verify))
        raise RegistryError("stop")

    for insisting, realm, answer in (
        (True, "http://auth.example.org/t", "not encrypted"),
        (True, "https://auth.example.org/t", "stop"),
        (True, "http://127.0.0.1:1/t", "stop"),
        (False, "http://auth.example.org/t", "stop"),
    ):
        registry = connect(fake, tmp_path, login=Login("alice", "x"), verify=insisting)
        registry.authenticator.learn([Challenge("bearer", (("realm", realm),))], frozenset(), None)
        with monkeypatch.context() as patched, pytest.raises(RegistryError, match=answer):
            patched.setattr(registry.transport, "request", request)
            registry.authenticator.header(registry.scopes)
    assert asked == [
        ("https://auth.example.org/t", True),
        ("http://127.0.0.1:1/t", False),
        ("http://auth.example.org/t", False),
    ]


@pytest.mark.parametrize(
    "answer",
    [
        b'{"token": "a", "expires_in": 1%s}' % (b"0" * 400),
        b"",
        b"[]",
        b"{}",
        b'{"token": 1}',
        b'{"token": "a\\nb"}',
        b"<html>",
    ],
)
def test_what_is_no_token_is_an_error(tmp_path: Path, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "lamina.testing.distribution.Handler.token", lambda self, body: self.answer(200, answer)
    )
    with FakeRegistry({"alice": "x"}) as fake, pytest.raises(RegistryError, match="is no token"):
        connect(fake, tmp_path).get_manifest("1")


CHALLENGES = {
    'Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"': [
        ("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a:pull,push"})
    ],
    'Basic realm="x"': [("basic", {"realm": "x"})],
    'BEARER Realm="x" , Error="insufficient_scope"': [
        ("bearer", {"realm": "x", "error": "insufficient_scope"})
    ],
    'Basic realm="a, b", Bearer realm="c"': [("basic", {"realm": "a, b"}), ("bearer", {"realm": "c"})],
    r'Basic realm="a \"quoted\" \\ word"': [("basic", {"realm": 'a "quoted" \\ word'})],
    "Bearer realm=bare,service=s": [("bearer", {"realm": "bare", "service": "s"})],
    "Negotiate, Basic realm=x": [("negotiate", {}), ("basic", {"realm": "x"})],
    "Negotiate": [("negotiate", {})],
    'Bearer realm="first",realm="second"': [("bearer", {"realm": "first"})],
    "": [],
    '="': [],
}


@pytest.mark.parametrize("header", CHALLENGES)
def test_challenges_are_read(header: str) -> None:
    found = [(challenge.scheme, dict(challenge.parameters)) for challenge in parse_challenges([header])]
    assert found == CHALLENGES[header]


@given(st.text(max_size=80) | st.text(alphabet='Basic =",\\ realm', max_size=80))
def test_any_challenge_is_read_or_left_out(header: str) -> None:
    for challenge in parse_challenges([header]):
        assert challenge.scheme


# -- uploads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 100_000, 300_000, 7_000_000])
def test_a_blob_is_uploaded_whole_or_in_pieces(fake: FakeRegistry, tmp_path: Path, chunk: int | None) -> None:
    went: list[int] = []
    registry = connect(fake, tmp_path, "pull", "push")
    upload_blob(registry, digest(BLOB), len(BLOB), io.BytesIO(BLOB), chunk=chunk, progress=went.append)
    assert fake.blobs["team/tool"] == {digest(BLOB): BLOB}
    assert sum(went) == len(BLOB)
    assert len(fake.asked("PATCH")) == (0 if chunk is None else -(-len(BLOB) // chunk))
    assert not fake.sessions


def test_an_empty_blob_is_uploaded(fake: FakeRegistry, tmp_path: Path) -> None:
    upload_blob(connect(fake, tmp_path, "pull", "push"), digest(b""), 0, io.BytesIO(b""))
    assert fake.blobs["team/tool"] == {digest(b""): b""}


@pytest.mark.parametrize("chunk", [None, 100_000])
@pytest.mark.parametrize(
    "fault",
    [
        Fault("break", method="PUT"),
        Fault("break", method="PATCH"),
        Fault("break", method="POST"),
        Fault("status", method="PUT", status=503),
        Fault("status", method="PATCH", status=500, times=2),
        Fault("status", method="POST", status=429),
        Fault("status", method="PATCH", status=416),
        Fault("status", method="PUT", status=404),
    ],
    ids=str,
)
def test_an_upload_survives(fake: FakeRegistry, tmp_path: Path, fault: Fault, chunk: int | None) -> None:
    fake.faults.append(fault)
    upload_blob(
        connect(fake, tmp_path, "pull", "push"), digest(BLOB), len(BLOB), io.BytesIO(BLOB), chunk=chunk
    )
    assert fake.blobs["team/tool"] == {digest(BLOB): BLOB}


def test_an_upload_that_is_refused_is_not_tried_again(fake: FakeRegistry, tmp_path: Path) -> None:
    registry = connect(fake, tmp_path, "pull", "push")
    with pytest.raises(RegistryError, match="400: digest invalid"):
        upload_blob(registry, digest(b"something else"), len(BLOB), io.BytesIO(BLOB))
    assert len(fake.asked("PUT")) == 1
    with FakeRegistry({"alice": "x"}) as guarded:
        reader = connect(guarded, tmp_path, "pull", "push")
        with pytest.raises(RegistryError, match="access denied"):
            upload_blob(reader, digest(BLOB), len(BLOB), io.BytesIO(BLOB))


def test_a_source_that_is_shorter_than_it_should_be(fake: FakeRegistry, tmp_path: Path) -> None:
    registry = connect(fake, tmp_path, "pull", "push")
    with pytest.raises((LaminaError, OSError)):
        upload_blob(registry, digest(BLOB), len(BLOB) + 1, io.BytesIO(BLOB))


def test_a_blob_of_another_repository_is_mounted(fake: FakeRegistry, tmp_path: Path) -> None:
    found = fake.add_blob("other/tool", BLOB)
    registry = connect(fake, tmp_path, "pull", "push")
    assert mount_blob(registry, found, "other/tool")
    assert fake.blobs["team/tool"] == {found: BLOB}
    assert not mount_blob(registry, digest(b"not there"), "other/tool")
    assert not fake.sessions


def test_mounting_asks_for_the_scope_of_both_repositories(tmp_path: Path) -> None:
    with FakeRegistry({"alice": "x"}) as fake:
        found = fake.add_blob("other/tool", BLOB)
        registry = connect(fake, tmp_path, "pull", "push", login=Login("alice", "x"))
        assert mount_blob(registry, found, "other/tool")
        assert any(
            "other%2Ftool%3Apull" in path and "team%2Ftool" in path for path in fake.asked("GET", "/token")
        )


def test_a_manifest_is_put(fake: FakeRegistry, tmp_path: Path) -> None:
    found = fake.add_image("team/tool", "1", {"a": b"b"})
    data, kind = fake.manifests["team/tool"][found]
    registry = connect(fake, tmp_path, "pull", "push")
    assert registry.put_manifest("2", data, kind) == found
    assert fake.tags["team/tool"]["2"] == found
    lie = (("Docker-Content-Digest", "sha256:" + "0" * 64),)
    fake.faults.append(Fault("lie", method="PUT", headers=lie))
    with pytest.raises(Corrupt, match="the registry has the digest sha256:0000"):
        registry.put_manifest("3", data, kind)


# -- TLS -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    words = (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=lamina-test -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(
        ["openssl", *words.split(), "-keyout", "server.key", "-out", "server.crt"],
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=200,
    )
    return directory


def server_context(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.crt", directory / "server.key")
    return context


@pytest.mark.peer("openssl")
def test_a_page_that_is_not_encrypted_gets_no_credentials(certificate: Path, tmp_path: Path) -> None:
    """The same host, but for everybody between to read."""
    with FakeRegistry({"alice": "x"}, context=server_context(certificate)) as fake:
        fake.add_image("team/tool", "1", {"a": b"b"})
        link = (("Link", f'<http://{fake.host}/v2/team/tool/tags/list?last=0>; rel="next"'),)
        fake.faults.append(Fault("lie", path="tags", headers=link))
        with pytest.raises(RegistryError, match="the next page is elsewhere"):
            list(connect(fake, tmp_path, login=Login("alice", "x")).tags())


@pytest.mark.peer("openssl")
def test_this_machines_registry_need_not_be_trusted(certificate: Path, tmp_path: Path) -> None:
    """As docker has it for 127.0.0.0/8: with TLS, whoever's, or without."""
    with FakeRegistry(context=server_context(certificate)) as fake:
        found = fake.add_blob("team/tool", BLOB)
        assert fetch(connect(fake, tmp_path), found) == BLOB


@pytest.mark.peer("openssl")
def test_a_certificate_is_believed_if_certs_d_says_so(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamina.image.registry.client.is_loopback", lambda host: False)
    monkeypatch.setattr("lamina.image.registry.authentication.is_loopback", lambda host: False)
    with FakeRegistry({"alice": "x"}, context=server_context(certificate)) as fake:
        found = fake.add_blob("team/tool", BLOB)
        login = Login("alice", "x")
        with pytest.raises(RegistryError, match=r"certificate is not trusted: .*certs.d"):
            fetch(connect(fake, tmp_path, login=login), found)
        assert fetch(connect(fake, tmp_path, login=login, verify=False), found) == BLOB
        trusted = tmp_path / f"etc/containers/certs.d/{fake.host}/ca.crt"
        trusted.parent.mkdir(parents=True)
        trusted.write_bytes((certificate / "server.crt").read_bytes())
        assert fetch(connect(fake, tmp_path, login=login), found) == BLOB


def test_a_registry_without_tls_is_not_spoken_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.image.registry.client.is_loopback", lambda host: False)
    with FakeRegistry() as fake:
        found = fake.add_blob("team/tool", BLOB)
        with pytest.raises(RegistryError, match=r"does not speak TLS .*--tls-verify=false"):
            fetch(connect(fake, tmp_path), found)
        assert fetch(connect(fake, tmp_path, verify=False), found) == BLOB
        insecure = tmp_path / "etc/containers/registries.conf"
        insecure.parent.mkdir(parents=True)
        insecure.write_text(f"[[registry]]\nlocation = '{fake.host}'\ninsecure = true\n")
        assert fetch(connect(fake, tmp_path), found) == BLOB
