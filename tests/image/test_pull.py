"""Pulling: from a name to an image in the store, and what happens when the registry, the store or the image is bad."""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.engine.inspect import timestamp
from lamina.engine.pulling import pull_for_run
from lamina.errors import Corrupt, InvalidInput, NotFound, RegistryError, Unsupported
from lamina.image.documents import media
from lamina.image.documents.moment import nanoseconds
from lamina.image.platform import current
from lamina.image.platform import parse as platform
from lamina.image.reference import parse
from lamina.image.transfer.options import Options
from lamina.image.transfer.pull import pull
from lamina.store import blobs, garbage, images, layers, tags
from lamina.store.check import check
from lamina.store.claims import claim
from lamina.store.images import ImageRecord
from lamina.store.leases import lease
from lamina.store.prune import enforce, prune_images
from lamina.store.root import Store
from lamina.testing.registry import FakeRegistry, Fault, digest, layer_of
from lamina.values import replace
from support.registries import registries

HERE = str(current())
FIRST = {"bin/tool": b"#!/bin/sh\n", "etc/name": b"first"}
SECOND = {"etc/other": b"second"}


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def store(store_root: Path) -> Store:
    return Store(store_root)


class Heard:
    """What a pull told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, /, **facts: Any) -> None:
        self.events.append((kind, facts))

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [facts for told, facts in self.events if told == kind]


class Puller:
    """Pulls into one store, as somebody who has configured nothing."""

    def __init__(self, store: Store, fake: FakeRegistry, home: Path) -> None:
        self.store, self.fake, self.home = store, fake, home
        self.heard = Heard()

    def __call__(self, name: str, wanted: str | None = None, **options: Any) -> ImageRecord:
        self.heard = Heard()
        with registries(self.home) as network:
            return pull(
                self.store,
                parse(f"{self.fake.host}/{name}"),
                None if wanted is None else platform(wanted),
                self.heard,
                options=Options(**options),
                registries=network,
            )

    def content(self, record: ImageRecord, name: str) -> bytes:
        """A file of an image, from its topmost layer that has it."""
        for identity in reversed(record.layers):
            path = layers.tree_of(self.store, identity) + b"/" + name.encode()
            if os.path.lexists(path):
                with open(path, "rb") as file:
                    return file.read()
        raise FileNotFoundError(name)

    def is_clean(self) -> bool:
        """Whether nothing is left of what failed, after the collector came by."""
        garbage.collect(self.store)
        assert check(self.store, rehash=True).findings == ()
        nothing = not images.identities(self.store) and not layers.identities(self.store)
        return nothing and not list(blobs.identities(self.store)) and not list(tags.list_names(self.store))


@pytest.fixture
def puller(store: Store, fake: FakeRegistry, tmp_path: Path) -> Puller:
    return Puller(store, fake, tmp_path)


# -- what is right ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("docker", [False, True])
def test_an_image_is_pulled(puller: Puller, fake: FakeRegistry, docker: bool) -> None:
    run = {"Cmd": ["/bin/tool"], "Labels": {"a": "b"}}
    found = fake.add_image("team/tool", "1", FIRST, SECOND, platform=HERE, config=run, docker=docker)
    record = puller("team/tool:1")
    name = f"{fake.host}/team/tool:1"
    assert tags.named(puller.store, name) == record.id
    kept = tags.find_name(puller.store, name)
    assert kept is not None
    assert kept.digests == (found,)
    assert record.manifest == found
    assert record.run["cmd"] == ["/bin/tool"]
    assert record.run["labels"] == {"a": "b"}
    assert record.layers == tuple(digest(layer_of(files)).partition(":")[2] for files in (FIRST, SECOND))
    assert puller.content(record, "etc/name") == b"first"
    assert puller.content(record, "etc/other") == b"second"
    assert images.get(puller.store, record.id) == record
    assert sorted(blobs.identities(puller.store)) == sorted([found, record.config])
    assert (record.os, record.architecture) == (current().os, current().architecture)
    assert [event["id"] for event in puller.heard.all("layer")] == [
        layer["digest"] for layer in json.loads(fake.manifests["team/tool"][found][0])["layers"]
    ]
    kind, facts = puller.heard.events[-1]
    assert (kind, facts["image"], facts["digest"], facts["known"]) == ("done", record.id, found, False)
    assert fake.host in facts["reference"]
    assert sum(event["bytes"] for event in puller.heard.all("progress")) == sum(
        event["total"] for event in puller.heard.all("layer")
    )


def test_what_is_there_is_not_transferred(puller: Puller, fake: FakeRegistry) -> None:
    fake.add_image("team/tool", "1", FIRST, SECOND, platform=HERE)
    first = puller("team/tool:1")
    fake.requests.clear()
    assert puller("team/tool:1") == first
    assert [(method, path.rpartition("/")[0]) for method, path, _ in fake.requests] == [
        ("GET", "/v2"),
        ("HEAD", "/v2/team/tool/manifests"),
    ]
    assert len(puller.heard.all("exists")) == 2


def test_layers_are_shared_between_images(puller: Puller, fake: FakeRegistry) -> None:
    fake.add_image("team/one", "1", FIRST, platform=HERE)
    fake.add_image("team/two", "1", FIRST, SECOND, platform=HERE)
    one = puller("team/one:1")
    fake.requests.clear()
    two = puller("team/two:1")
    assert one.layers == two.layers[:1]
    assert len(fake.asked("GET", "/blobs/")) == 2  # its config, and the layer that is not shared
    assert (len(puller.heard.all("exists")), len(puller.heard.all("progress"))) == (1, 1)


def test_a_layer_that_is_in_an_image_twice_is_fetched_once(puller: Puller, fake: FakeRegistry) -> None:
    fake.add_image("team/tool", "1", FIRST, SECOND, FIRST, platform=HERE)
    record = puller("team/tool:1")
    assert record.layers == (record.layers[0], record.layers[1], record.layers[0])
    assert len(fake.asked("GET", "/blobs/")) == 3


def test_an_image_is_chosen_from_an_index(puller: Puller, fake: FakeRegistry) -> None:
    arm = fake.add_image("team/tool", "", FIRST, platform="linux/arm64", config={"Labels": {"x": "arm"}})
    riscv = fake.add_image("team/tool", "", SECOND, platform="linux/riscv64")
    both = {"linux/arm64/v8": arm, "linux/riscv64": riscv}
    for kind in (media.OCI_INDEX, media.DOCKER_MANIFEST_LIST):
        index = fake.add_index("team/tool", "1", both, kind)
        record = puller("team/tool:1", "linux/aarch64")
        assert record.manifest == arm
        assert index in record.indexes
        assert {index, arm} <= set(record.blobs)
        name = tags.find_name(puller.store, f"{fake.host}/team/tool:1")
        assert name is not None
        assert index in name.digests
    assert puller("team/tool:1", "riscv64").manifest == riscv
    with pytest.raises(
        NotFound, match="it has no image for linux/s390x; there is linux/arm64, linux/riscv64"
    ):
        puller("team/tool:1", "linux/s390x")


def test_a_digest_says_exactly_which(puller: Puller, fake: FakeRegistry) -> None:
    found = fake.add_image("team/tool", "1", FIRST, platform=HERE)
    record = puller(f"team/tool@{found}")
    assert tags.named(puller.store, f"{fake.host}/team/tool@{found}") == record.id
    fake.requests.clear()
    assert puller(f"team/tool:other@{found}") == record  # the tag does not count, as with docker
    assert tags.named(puller.store, f"{fake.host}/team/tool:other") is None
    assert fake.requests == []  # everything is here: nobody needs to be asked


def test_compressed_layers_are_kept_when_that_is_asked_for(puller: Puller, fake: FakeRegistry) -> None:
    fake.add_image("team/tool", "1", FIRST, SECOND, platform=HERE)
    plain = puller("team/tool:1")
    record = puller("team/tool:1", keep_blobs=True)
    assert record.id == plain.id
    assert len(record.blobs) == len(plain.blobs) + 2
    for blob in record.blobs:
        blobs.verify(puller.store, blob)
    fake.requests.clear()
    puller("team/tool:1", keep_blobs=True)
    assert not fake.asked("GET", "/blobs/")


def test_layers_may_be_staged_for_somebody_else_who_unpacks_them(puller: Puller, fake: FakeRegistry) -> None:
    fake.add_image("team/tool", "1", FIRST, SECOND, platform=HERE)
    places: list[bytes] = []

    def within(work: Any, place: bytes, *arguments: Any, **words: Any) -> Any:
        places.append(place)
        return work(place, *arguments, **words)

    record = puller("team/tool:1", staged=True, words={"within": within, "userxattr": True})
    assert puller.content(record, "etc/other") == b"second"
    assert len(places) == 2
    garbage.collect(puller.store)
    assert len(list(blobs.identities(puller.store))) == 2  # the compressed layers are not kept


def test_a_download_that_broke_off_goes_on_where_it_was(puller: Puller, fake: FakeRegistry) -> None:
    big = {"data": os.urandom(300_000)}
    found = fake.add_image("team/tool", "1", big, platform=HERE)
    blob = json.loads(fake.manifests["team/tool"][found][0])["layers"][0]["digest"]
    fake.faults += [Fault("break", path=blob, after=200_000), Fault("status", path=blob, status=404)]
    with pytest.raises(NotFound):
        puller("team/tool:1", keep_blobs=True)
    fake.requests.clear()
    puller("team/tool:1", keep_blobs=True)
    assert [headers.get("Range") for _, path, headers in fake.requests if blob in path] == ["bytes=200000-"]


def test_a_layer_that_somebody_else_unpacks_is_waited_for(puller: Puller, fake: FakeRegistry) -> None:
    fake.add_image("team/tool", "1", FIRST, platform=HERE)
    identity = digest(layer_of(FIRST)).partition(":")[2]
    other = claim(puller.store, identity)
    pulled: list[ImageRecord] = []
    thread = threading.Thread(target=lambda: pulled.append(puller("team/tool:1")))
    thread.start()
    with lease(puller.store) as held:
        while not puller.heard.all("waiting"):
            thread.join(0.01)
        with layers.stage(puller.store, identity, held) as stage:
            Path(os.fsdecode(stage.path), "theirs").write_text("x")
            stage.commit("sha256:" + identity, 1, 1)
        other.release()
        thread.join()
    assert puller.content(pulled[0], "theirs") == b"x"
    assert len(fake.asked("GET", "/blobs/")) == 1  # the config alone


def test_two_pulls_at_once_fetch_every_layer_once(puller: Puller, fake: FakeRegistry, tmp_path: Path) -> None:
    fake.add_image("team/tool", "1", *({f"file{n}": os.urandom(50_000)} for n in range(4)), platform=HERE)
    problems: list[BaseException] = []

    def one() -> None:
        try:
            Puller(puller.store, fake, tmp_path)("team/tool:1")
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    found = json.loads(fake.manifests["team/tool"][fake.tags["team/tool"]["1"]][0])
    for layer in found["layers"]:
        assert len(fake.asked("GET", layer["digest"])) == 1


def test_a_tag_that_moves_takes_its_name_along(puller: Puller, fake: FakeRegistry) -> None:
    fake.add_image("team/tool", "1", FIRST, platform=HERE)
    old = puller("team/tool:1")
    fake.add_image("team/tool", "1", SECOND, platform=HERE)
    new = puller("team/tool:1")
    assert old.id != new.id
    assert tags.named(puller.store, f"{fake.host}/team/tool:1") == new.id
    assert images.get(puller.store, old.id) is not None


def test_a_mirror_is_asked_first_and_what_it_has_not_comes_from_the_registry(
    puller: Puller, fake: FakeRegistry, tmp_path: Path
) -> None:
    with FakeRegistry() as mirror:
        path = tmp_path / "etc/containers/registries.conf"
        path.parent.mkdir(parents=True)
        path.write_text(
            f"[[registry]]\nlocation = '{fake.host}'\n[[registry.mirror]]\nlocation = '{mirror.host}/m'\n"
        )
        fake.add_image("team/tool", "1", FIRST, SECOND, platform=HERE)
        fake.add_image("team/tool", "2", FIRST, platform=HERE)
        found = mirror.add_image("m/team/tool", "1", FIRST, SECOND, platform=HERE)
        gone = json.loads(mirror.manifests["m/team/tool"][found][0])["layers"][1]["digest"]
        del mirror.blobs["m/team/tool"][gone]
        record = puller("team/tool:1")
        assert tags.named(puller.store, f"{fake.host}/team/tool:1") == record.id
        assert [path.rpartition("/")[2] for path in fake.asked("GET", "/blobs/")] == [gone]
        puller("team/tool:2")
        assert any("mirror" in event["text"] for event in puller.heard.all("warning"))


# -- what is wrong ---------------------------------------------------------------------------------------------


def changed(fake: FakeRegistry, **changes: Any) -> str:
    """The image team/tool:1, with another manifest."""
    found = fake.add_image("team/tool", "1", FIRST, platform=HERE)
    document = json.loads(fake.manifests["team/tool"][found][0])
    return fake.add_manifest("team/tool", {**document, **changes}, media.OCI_MANIFEST, "1")


def layer(fake: FakeRegistry, data: bytes, **changes: Any) -> dict[str, Any]:
    return {**fake.descriptor("team/tool", data, media.OCI_LAYER_GZIP), **changes}


PACKED = gzip.compress(layer_of(FIRST), mtime=0)
BAD: dict[str, Any] = {
    "an unknown tag": (lambda fake: fake.add_image("team/tool", "2", FIRST), NotFound, "no such image"),
    "a manifest that is a web page": (
        lambda fake: fake.faults.append(Fault("web page", path="manifests")),
        RegistryError,
        "no registry",
    ),
    "no JSON": (
        lambda fake: fake.add_manifest("team/tool", b"{", media.OCI_MANIFEST, "1"),
        InvalidInput,
        "not JSON",
    ),
    "an artifact": (
        lambda fake: changed(fake, config={"mediaType": "application/x", "digest": digest(b""), "size": 0}),
        InvalidInput,
        "an artifact",
    ),
    "another layer than the config promises": (
        lambda fake: changed(fake, layers=[layer(fake, gzip.compress(layer_of(SECOND)))]),
        Corrupt,
        "promises the diff_id",
    ),
    "more layers than diff_ids": (
        lambda fake: changed(fake, layers=[layer(fake, PACKED)] * 2),
        InvalidInput,
        "it has 1 diff_ids, its manifest 2 layers",
    ),
    "a layer of another size": (
        lambda fake: changed(fake, layers=[layer(fake, PACKED, size=len(PACKED) + 1)]),
        Corrupt,
        f"{len(PACKED)} bytes, it should be {len(PACKED) + 1}",
    ),
    "a layer that is not there": (
        lambda fake: changed(fake, layers=[layer(fake, PACKED, digest=digest(b"x"))]),
        NotFound,
        "has no such blob",
    ),
    "other bytes": (
        lambda fake: (changed(fake), fake.faults.append(Fault("other bytes", path=digest(PACKED)))),
        Corrupt,
        "what came has the digest",
    ),
    "a layer that is cut off": (
        lambda fake: (
            changed(fake),
            fake.faults.append(Fault("break", path=digest(PACKED), after=20, times=1000)),
        ),
        RegistryError,
        "breaks again and again",
    ),
    "a layer that is a web page": (
        lambda fake: (changed(fake), fake.faults.append(Fault("web page", path=digest(PACKED)))),
        RegistryError,
        "a web page",
    ),
    "a layer that is no archive": (
        lambda fake: changed(fake, layers=[layer(fake, b"neither gzip nor tar" * 100)]),
        InvalidInput,
        "archive",
    ),
    "a config that is not JSON": (
        lambda fake: changed(fake, config=fake.descriptor("team/tool", b"not JSON", media.OCI_CONFIG)),
        InvalidInput,
        "read config of .*: not JSON",
    ),
    "a config of other bytes": (
        lambda fake: (changed(fake), fake.faults.append(Fault("other bytes", path="/blobs/"))),
        Corrupt,
        "what came has the digest",
    ),
    "an image for another system": (
        lambda fake: fake.add_image("team/tool", "1", FIRST, platform="windows/amd64"),
        Unsupported,
        "an image for windows/amd64, not for Linux",
    ),
    "indexes in indexes": (lambda fake: nested(fake, 3), InvalidInput, "an index in an index"),
}


def nested(fake: FakeRegistry, depth: int) -> None:
    found = fake.add_image("team/tool", "", FIRST, platform=HERE)
    for _ in range(depth):
        found = fake.add_index("team/tool", "1", {HERE: found}, media.OCI_INDEX)


@pytest.mark.parametrize("keep_blobs", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_a_clear_error_and_leaves_nothing(
    puller: Puller, fake: FakeRegistry, name: str, keep_blobs: bool
) -> None:
    prepare, error, reason = BAD[name]
    prepare(fake)
    with pytest.raises(error, match=reason):
        puller("team/tool:1", keep_blobs=keep_blobs)
    assert puller.is_clean()


def test_two_indexes_above_an_image_are_allowed(puller: Puller, fake: FakeRegistry) -> None:
    nested(fake, 2)
    assert len(puller("team/tool:1").indexes) == 2


def test_one_bad_layer_stops_the_others(puller: Puller, fake: FakeRegistry) -> None:
    big = [{f"file{n}": os.urandom(20_000)} for n in range(12)]
    found = fake.add_image("team/tool", "1", *big, platform=HERE)
    blob = json.loads(fake.manifests["team/tool"][found][0])["layers"][0]["digest"]
    fake.faults.append(Fault("other bytes", path=blob))
    with pytest.raises(Corrupt):
        puller("team/tool:1", parallel=1)
    assert len(fake.asked("GET", "/blobs/")) <= 4


def test_an_image_for_another_machine_is_warned_of_or_refused(puller: Puller, fake: FakeRegistry) -> None:
    other = "linux/s390x" if current().architecture != "s390x" else "linux/amd64"
    fake.add_image("team/tool", "1", FIRST, platform=other)
    assert puller("team/tool:1").architecture == platform(other).architecture
    assert other in puller.heard.all("warning")[0]["text"]
    assert puller("team/tool:1", other).id
    assert puller.heard.all("warning") == []
    with pytest.raises(NotFound, match=f"an image for {other}, not for linux/riscv64"):
        puller("team/tool:1", "linux/riscv64")


def test_no_prune_comes_between_an_image_and_its_name(
    puller: Puller, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add_image("team/tool", "1", FIRST, platform=HERE)
    real = images.put

    def put(store: Store, *args: Any, **words: Any) -> ImageRecord:
        record = real(store, *args, **words)
        assert prune_images(store) == []
        return record

    monkeypatch.setattr(images, "put", put)
    record = puller("team/tool:1")
    assert images.get(puller.store, record.id) == record


def test_what_a_start_pulled_is_neither_pruned_nor_evicted_before_it_is_held(
    store: Store, fake: FakeRegistry
) -> None:
    found = fake.add_image("team/tool", "1", FIRST, platform=HERE)

    def meanwhile(kind: str, /, **facts: Any) -> None:
        if kind == "done" and facts.get("digest") == found:
            assert prune_images(store, everything=True) == []
            assert enforce(store, 1).images == ()

    with pull_for_run(store, f"{fake.host}/team/tool:1", None, meanwhile, {}) as held:
        assert prune_images(store, everything=True) == []
        garbage.collect(store)
        assert all(layers.is_there(store, layer) for layer in held.record.layers)
    assert [gone.id for gone in prune_images(store, everything=True)] == [held.record.id]


def test_a_config_that_is_damaged_here_is_fetched_again(puller: Puller, fake: FakeRegistry) -> None:
    fake.add_image("team/tool", "1", FIRST, platform=HERE)
    record = puller("team/tool:1")
    with open(blobs.place_of(puller.store, record.config), "wb") as file:
        file.write(b"damaged")
    assert puller("team/tool:1") == record
    blobs.verify(puller.store, record.config)


def test_what_is_pulled_is_kept_while_it_is_pulled(
    puller: Puller, fake: FakeRegistry, tmp_path: Path
) -> None:
    """The collector comes by at every event: nothing that is needed goes."""
    fake.add_image("team/tool", "1", FIRST, SECOND, platform=HERE)

    def collecting(kind: str, /, **facts: Any) -> None:
        garbage.collect(puller.store)

    with registries(tmp_path) as network:
        record = pull(puller.store, parse(f"{fake.host}/team/tool:1"), events=collecting, registries=network)
    garbage.collect(puller.store)
    assert puller.content(record, "etc/other") == b"second"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 10**9),
        ("2026-01-02T03:04:05.123456789Z", 1767323045123456789),
        ("2026-01-02T04:04:05+01:00", 1767323045000000000),
        ("0001-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.9Z", 0),
        ("9998-12-31T23:59:59Z", 253370764799 * 10**9),
        ("9999-12-31T23:59:59-23:59", 0),
        ("2026-01-02T03:04:05", 0),
        ("nonsense", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_when_an_image_was_made(text: str | None, expected: int) -> None:
    assert nanoseconds(text) == expected
    assert timestamp(expected)


@pytest.mark.parametrize(
    ("fault", "whose"),
    [
        (Fault("status", path="/manifests/", status=503), None),
        (Fault("status", path="/blobs/", status=429, times=3, headers=(("Retry-After", "1"),)), "layer"),
        (Fault("break", path="/blobs/", after=30, times=2), "layer"),
    ],
    ids=["manifest", "busy", "broken"],
)
@pytest.mark.parametrize("keep_blobs", [False, True])
def test_a_retry_is_told(
    puller: Puller, fake: FakeRegistry, fault: Fault, whose: str | None, keep_blobs: bool
) -> None:
    """`left` counts down from `seconds`, so that whoever draws it can do so; nobody waits in silence."""
    found = fake.add_image("team/tool", "1", FIRST, platform=HERE)
    layers_of = json.loads(fake.manifests["team/tool"][found][0])["layers"]
    fake.faults.append(replace(fault, path=f"/blobs/{layers_of[0]['digest']}") if whose else fault)
    puller("team/tool:1", keep_blobs=keep_blobs)
    told = puller.heard.all("retrying")
    assert len([one for one in told if one["left"] == one["seconds"]]) >= fault.times
    assert {one.get("id") for one in told} == ({layers_of[0]["digest"]} if whose else {None})
    assert [one["attempt"] for one in told] == sorted(one["attempt"] for one in told)
    assert all(one["reason"] and one["left"] >= 1 for one in told)
