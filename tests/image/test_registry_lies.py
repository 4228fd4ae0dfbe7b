"""Registries, mirrors and those who hand out tokens that do not fail, but lie, dawdle or go back on their word."""

from __future__ import annotations

import gzip
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import Corrupt, LaminaError, RegistryError
from lamina.image.documents import media
from lamina.image.platform import current
from lamina.image.reference import parse
from lamina.image.registry.blobs import open_blob
from lamina.image.registry.client import Registry
from lamina.image.registry.credentials import Login
from lamina.image.registry.transport import Patience, _retry_after
from lamina.image.registry.uploads import mount_blob, upload_blob
from lamina.image.transfer.options import Options
from lamina.image.transfer.pull import pull
from lamina.image.transfer.push import push
from lamina.store import images, tags
from lamina.store.root import Store
from lamina.testing.distribution import Handler
from lamina.testing.registry import FakeRegistry, Fault, digest, layer_of
from support.registries import registries

HERE = str(current())
BLOB = os.urandom(200_000)
FIRST, SECOND = {"etc/name": b"first"}, {"etc/other": os.urandom(200_000)}


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def mirror() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


def connect(fake: FakeRegistry, home: Path, *actions: str, **options: Any) -> Registry:
    login = options.pop("login", None)
    network = registries(home, **options)
    return network.repositories(parse(f"{fake.host}/team/tool"), *actions, login=login)[-1]


# -- mirrors: what one gives wrongly comes from the next place ---------------------------------------------------

WRONG: dict[str, Callable[[FakeRegistry], object]] = {
    "a manifest that is not JSON": lambda mirror: mirror.add_manifest(
        "m/team/tool", b"{", media.OCI_MANIFEST, "1"
    ),
    "a manifest that is cut off": lambda mirror: mirror.faults.append(
        Fault("lie", path="manifests", headers=(("Content-Length", "5"),))
    ),
    "a manifest that is a web page": lambda mirror: mirror.faults.append(Fault("web page", path="manifests")),
    "another manifest than the digest says": lambda mirror: mirror.faults.append(
        Fault("lie", path="manifests", headers=(("Docker-Content-Digest", digest(b"x")),))
    ),
    "a config of other bytes": lambda mirror: mirror.faults.append(Fault("other bytes", path="blobs")),
    "a layer of other bytes": lambda mirror: mirror.faults.append(
        Fault("other bytes", path=digest(gzip.compress(layer_of(SECOND), mtime=0)))
    ),
    "a layer of another length": lambda mirror: mirror.faults.append(
        Fault("more bytes", path=digest(gzip.compress(layer_of(SECOND), mtime=0)))
    ),
    "a layer that breaks off time and again": lambda mirror: mirror.faults.append(
        Fault("break", path=digest(gzip.compress(layer_of(SECOND), mtime=0)), after=10, times=99)
    ),
    "a layer that nobody may have": lambda mirror: mirror.faults.append(
        Fault("status", path=digest(gzip.compress(layer_of(SECOND), mtime=0)), status=403)
    ),
}


@pytest.mark.parametrize(
    ("wrong", "keep_blobs"),
    [(wrong, False) for wrong in WRONG] + [(wrong, True) for wrong in WRONG if "layer" in wrong],
)
def test_what_a_mirror_gives_wrongly_comes_from_the_registry(
    fake: FakeRegistry, mirror: FakeRegistry, store_root: Path, tmp_path: Path, wrong: str, keep_blobs: bool
) -> None:
    path = tmp_path / "etc/containers/registries.conf"
    path.parent.mkdir(parents=True)
    path.write_text(
        f"[[registry]]\nlocation = '{fake.host}'\n[[registry.mirror]]\nlocation = '{mirror.host}/m'\n"
    )
    fake.add_image("team/tool", "1", FIRST, SECOND, platform=HERE)
    mirror.add_image("m/team/tool", "1", FIRST, SECOND, platform=HERE)
    WRONG[wrong](mirror)
    said: list[str] = []
    came: dict[str, int] = {}
    totals: dict[str, int] = {}

    def hear(kind: str, /, **facts: Any) -> None:
        if kind == "warning":
            said.append(facts["text"])
        elif kind == "layer":
            totals[facts["id"]] = facts["total"]
        elif kind == "progress":
            came[facts["id"]] = came.get(facts["id"], 0) + facts["bytes"]

    with registries(tmp_path) as network:
        reference = parse(f"{fake.host}/team/tool:1")
        record = pull(
            Store(store_root),
            reference,
            None,
            hear,
            options=Options(keep_blobs=keep_blobs),
            registries=network,
        )
    assert len(record.layers) == 2
    assert any(mirror.host in text for text in said), said
    assert came == totals


def test_connections_are_used_again_for_what_comes_next(
    fake: FakeRegistry, store_root: Path, tmp_path: Path
) -> None:
    """Also after what was read as it came: one that is given back with an answer on it breaks for the next request."""
    fake.add_image("team/tool", "1", FIRST, SECOND, platform=HERE)
    store = Store(store_root)
    with registries(tmp_path, patience=Patience(attempts=1)) as network:
        record = pull(
            store, parse(f"{fake.host}/team/tool:1"), options=Options(parallel=1), registries=network
        )
        with FakeRegistry({"alice": "x"}) as guarded:
            network.credentials.save(guarded.host, Login("alice", "x"))
            push(store, record, parse(f"{guarded.host}/team/tool:1"), registries=network)


def test_an_answer_to_head_leaves_its_connection_free(
    fake: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not anybody still has the answer: each push to docker's registry lost a second by that."""
    found = fake.add_blob("team/tool", BLOB)
    fake.add_image("team/tool", "1", FIRST, platform=HERE)
    registry = connect(fake, tmp_path, "pull", "push", patience=Patience(attempts=1))
    real, kept = registry.transport._once, []

    def once(*args: Any) -> Any:
        kept.append(real(*args))
        return kept[-1]

    monkeypatch.setattr(registry.transport, "_once", once)
    for _ in range(2):
        assert registry.has_blob(found) == len(BLOB)
        assert registry.has_blob(digest(b"not there")) is None
        assert registry.head_manifest("1") is not None
        assert not mount_blob(registry, found, "nobody/nothing")


# -- answers -----------------------------------------------------------------------------------------------------


@given(st.text(max_size=40) | st.from_regex(r"-?[0-9]{1,30}(\.[0-9]+)?", fullmatch=True))
def test_any_retry_after_is_a_number_of_seconds_or_nothing(text: str) -> None:
    seconds = _retry_after(urllib3.HTTPResponse(headers={"Retry-After": text}))
    assert seconds is None or 0 <= seconds <= 2**40


def test_a_retry_after_that_means_nothing_does_not_hurry_us(fake: FakeRegistry, tmp_path: Path) -> None:
    """Or a registry would be asked six times in a millisecond."""
    found = fake.add_blob("team/tool", BLOB)
    slept: list[float] = []
    registry = connect(fake, tmp_path)
    registry.transport.waits._sleep = slept.append
    for text in ("-1", "-99999999999", "soon", "1e9", "0x10", "0", "Fri, 01 Jan 0001 00:00:00 GMT"):
        said = (("Retry-After", text),)
        fake.faults.append(Fault("status", path="blobs/", status=503, times=3, headers=said))
        with open_blob(registry, found, len(BLOB)) as stream:
            assert stream.readall() == BLOB
        assert len(slept) == 3 and all(pause > 0.1 for pause in slept), text
        slept.clear()


def test_a_token_that_breaks_off_is_an_error_of_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def token(self: Handler, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"token": ')
        self.close_connection = True

    monkeypatch.setattr(Handler, "token", token)
    with FakeRegistry({"alice": "x"}) as guarded, pytest.raises(RegistryError, match="broke off"):
        connect(guarded, tmp_path).get_manifest("1")


def test_a_token_that_ends_in_the_middle_is_fetched_anew(tmp_path: Path) -> None:
    """Of a download that breaks, and of an upload between two pieces."""
    with FakeRegistry({"alice": "x"}) as guarded:
        found = guarded.add_blob("team/tool", BLOB)
        registry = connect(guarded, tmp_path, "pull", "push", login=Login("alice", "x"))
        stream = open_blob(registry, found, len(BLOB))
        start = stream.read(1000)
        guarded.tokens.clear()
        guarded.faults.append(Fault("break", path="blobs/", after=0))
        stream._response.shutdown()  # type: ignore[union-attr]
        assert start + stream.readall() == BLOB
        went: list[int] = []

        def progress(count: int) -> None:
            if len(went) == 1:
                guarded.tokens.clear()
            went.append(count)

        other = os.urandom(500_000)
        upload_blob(registry, digest(other), len(other), io.BytesIO(other), chunk=100_000, progress=progress)
        assert guarded.blobs["team/tool"][digest(other)] == other
        assert len(guarded.asked("GET", "/token")) >= 3


# -- dawdling ----------------------------------------------------------------------------------------------------

DAWDLER = Patience(attempts=2, total=0.3, slowest=20, window=0.25)
# for answers that have to come: on a machine that is busy an honest registry is slow as well
OF_BLOBS, HONEST_TOO = Patience(slowest=20, window=0.25), Patience(slowest=40, window=2.0)


def test_a_blob_that_comes_a_byte_at_a_time_is_given_up(fake: FakeRegistry, tmp_path: Path) -> None:
    """Each byte comes in time, the whole would take a day."""
    found = fake.add_blob("team/tool", BLOB)
    fake.faults.append(Fault("trickle", path="blobs/", after=1000, times=99))
    with (
        open_blob(connect(fake, tmp_path, patience=OF_BLOBS), found, len(BLOB)) as stream,
        pytest.raises(RegistryError, match=r"breaks again and again: only \d+ bytes in"),
    ):
        stream.readall()


def test_a_blob_goes_on_when_it_comes_again(fake: FakeRegistry, tmp_path: Path) -> None:
    found = fake.add_blob("team/tool", BLOB)
    fake.faults.append(Fault("trickle", path="blobs/", after=1000))
    with open_blob(connect(fake, tmp_path, patience=HONEST_TOO), found, len(BLOB)) as stream:
        assert stream.readall() == BLOB
    ranges = [headers.get("Range") for verb, path, headers in fake.requests if "blobs/" in path]
    assert ranges[0] is None and re.fullmatch(r"bytes=\d+-", ranges[1] or "")


@pytest.mark.parametrize("path", ["manifests/", "/token", "/v2/"])
def test_an_answer_that_comes_a_byte_at_a_time_is_given_up(tmp_path: Path, path: str) -> None:
    with FakeRegistry({"alice": "x"}) as guarded:
        guarded.add_image("team/tool", "1", FIRST, platform=HERE)
        guarded.faults.append(Fault("trickle", path=path, times=99))
        registry = connect(guarded, tmp_path, login=Login("alice", "x"), patience=DAWDLER)
        with pytest.raises(RegistryError, match="does not come to its end"):
            registry.get_manifest("1")


# -- uploads -----------------------------------------------------------------------------------------------------


def test_a_registry_that_says_it_has_something_else_is_not_sent_to_for_ever(
    fake: FakeRegistry, tmp_path: Path
) -> None:
    """Less than it had, more than there is, or no word of it."""
    registry = connect(fake, tmp_path, "pull", "push")
    for said in ("0-0", "0-49999", "0-9999999", "5-10", "bytes=1-2", "", "x"):
        fake.faults[:] = [Fault("lie", method="PATCH", headers=(("Range", said),), times=10**6)]
        fake.blobs.clear()
        fake.requests.clear()
        try:
            upload_blob(registry, digest(BLOB), len(BLOB), io.BytesIO(BLOB), chunk=60_000)
        except (RegistryError, Corrupt):
            assert "team/tool" not in fake.blobs, said
        else:
            assert fake.blobs["team/tool"] == {digest(BLOB): BLOB}, said
        assert len(fake.asked("PATCH")) < 50, said
        lengths = [int(headers["Content-Length"]) for verb, _, headers in fake.requests if verb == "PUT"]
        assert all(length >= 0 for length in lengths), said


@pytest.mark.parametrize("most", [300_000, 1])
def test_what_is_too_large_for_who_is_between_goes_in_pieces(
    fake: FakeRegistry, tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy before a registry often takes no more than some megabytes at once, nginx one."""
    real = Handler.serve

    def serve(self: Handler, body: bytes) -> None:
        if len(body) > most:
            return self.error(413, "")
        return real(self, body)

    monkeypatch.setattr(Handler, "serve", serve)
    large = os.urandom(3_000_000)
    registry = connect(fake, tmp_path, "pull", "push")
    try:
        upload_blob(registry, digest(large), len(large), io.BytesIO(large))
    except RegistryError as error:
        assert (most, error.status) == (1, 413)
    else:
        assert fake.blobs["team/tool"] == {digest(large): large}


def test_one_byte_in_pieces(fake: FakeRegistry, tmp_path: Path) -> None:
    """A session of one byte says 0-0, as an empty one does."""
    upload_blob(connect(fake, tmp_path, "pull", "push"), digest(b"x"), 1, io.BytesIO(b"x"), chunk=1)
    upload_blob(connect(fake, tmp_path, "pull", "push"), digest(b"xyz"), 3, io.BytesIO(b"xyz"), chunk=1)
    assert sorted(fake.blobs["team/tool"].values()) == [b"x", b"xyz"]


@pytest.mark.parametrize("absolute", [False, True])
def test_where_an_upload_goes_on_may_be_said_in_either_way(
    fake: FakeRegistry, tmp_path: Path, absolute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Handler.answer

    def answer(self: Handler, status: int, body: bytes, headers: Any = None) -> None:
        found = dict(headers or {})
        if "/uploads/" in found.get("Location", ""):
            place = found["Location"]
            found["Location"] = f"http://{fake.host}{place}" if absolute else place.rpartition("/")[2]
            if not absolute and self.command == "POST":
                found["Location"] = place.partition("/blobs/uploads/")[2]  # relative to .../blobs/uploads/
        real(self, status, body, found)

    monkeypatch.setattr(Handler, "answer", answer)
    upload_blob(
        connect(fake, tmp_path, "pull", "push"), digest(BLOB), len(BLOB), io.BytesIO(BLOB), chunk=70_000
    )
    assert fake.blobs["team/tool"] == {digest(BLOB): BLOB}


def test_an_upload_that_goes_on_elsewhere_takes_no_credentials_there(tmp_path: Path) -> None:
    with FakeRegistry({"alice": "x"}) as guarded, FakeRegistry() as elsewhere:
        session = elsewhere.new_session()
        place = f"http://{elsewhere.host}/v2/team/tool/blobs/uploads/{session}"
        guarded.faults.append(
            Fault("lie", method="POST", path="uploads", headers=(("Location", place),), times=2)
        )
        registry = connect(guarded, tmp_path, "pull", "push", login=Login("alice", "x"))
        upload_blob(registry, digest(BLOB), len(BLOB), io.BytesIO(BLOB))
        assert elsewhere.blobs["team/tool"] == {digest(BLOB): BLOB}
        assert all("Authorization" not in headers for _, _, headers in elsewhere.requests)


# -- mounting ----------------------------------------------------------------------------------------------------


def test_a_mount_that_is_refused_is_no_end(fake: FakeRegistry, tmp_path: Path) -> None:
    found = fake.add_blob("other/tool", BLOB)
    registry = connect(fake, tmp_path, "pull", "push")
    for status in (400, 401, 403, 404, 405, 409, 501):
        fake.faults.append(Fault("status", method="POST", path="mount=", status=status))
        assert not mount_blob(registry, found, "other/tool")


@pytest.mark.parametrize("status", [400, 403])
def test_whoever_may_not_read_the_other_repository_may_push(
    store_root: Path, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some hand out a token for what they allow, others refuse it altogether."""
    real = Handler.token

    def token(self: Handler, body: bytes) -> None:
        if "other" in self.path:
            return self.error(status, "DENIED")
        return real(self, body)

    monkeypatch.setattr(Handler, "token", token)
    store = Store(store_root)
    with FakeRegistry({"alice": "x"}) as guarded, registries(tmp_path) as network:
        guarded.add_image("team/tool", "1", FIRST, platform=HERE)
        network.credentials.save(guarded.host, Login("alice", "x"))
        record = pull(store, parse(f"{guarded.host}/team/tool:1"), registries=network)
        names = [f"{guarded.host}/other/one:1", f"{guarded.host}/other/two:1"]
        for name in names:
            tags.tag(store, parse(name).canonical, record.id)
        push(store, record, parse(f"{guarded.host}/team/new:1"), registries=network)
        assert guarded.tags["team/new"]
        assert images.get(store, record.id) is not None


def test_stopping_is_heard_while_a_mirror_is_passed_over(
    fake: FakeRegistry, mirror: FakeRegistry, store_root: Path, tmp_path: Path
) -> None:
    """Who interrupts does not wait for the next place."""
    path = tmp_path / "etc/containers/registries.conf"
    path.parent.mkdir(parents=True)
    path.write_text(
        f"[[registry]]\nlocation = '{fake.host}'\n[[registry.mirror]]\nlocation = '{mirror.host}/m'\n"
    )
    fake.add_image("team/tool", "1", SECOND, platform=HERE)
    mirror.add_image("m/team/tool", "1", SECOND, platform=HERE)
    mirror.faults.append(Fault("other bytes", path=digest(gzip.compress(layer_of(SECOND), mtime=0))))
    stop: list[Callable[[], None]] = []

    class Hearing:
        def stopped_by(self, it: Callable[[], None]) -> None:
            stop.append(it)

        def __call__(self, kind: str, /, **facts: Any) -> None:
            if kind == "progress":
                stop[0]()

    with registries(tmp_path) as network, pytest.raises(LaminaError, match="stopped"):
        pull(Store(store_root), parse(f"{fake.host}/team/tool:1"), None, Hearing(), registries=network)
    assert fake.asked("GET", "blobs/") == []
