"""Manifests, indexes and configs: what is read, what is refused and how, and that what we write is what the
specification's JSON schemas allow.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput
from lamina.image.documents import (
    Descriptor,
    Healthcheck,
    History,
    ImageConfig,
    Index,
    Limits,
    Manifest,
    PlatformField,
    RootFS,
    RunConfig,
    config_run,
    decode_config,
    decode_manifest,
    encode,
    encode_config,
    media,
    run_config,
    type_of,
)
from lamina.image.platform import Platform, best, parse
from support.image_schema import validator

D1, D2, D3 = ("sha256:" + digit * 64 for digit in "123")
Document = dict[str, Any]


VALID = {
    Index: validator("image-index-schema.json"),
    Manifest: validator("image-manifest-schema.json"),
    ImageConfig: validator("config-schema.json"),
}


def descriptor(media_type: str, digest: str = D1, size: int = 7, **more: Any) -> Document:
    return {"mediaType": media_type, "digest": digest, "size": size, **more}


def manifest(**changes: Any) -> Document:
    return {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": descriptor(media.OCI_CONFIG),
        "layers": [descriptor(media.OCI_LAYER_GZIP, D2, 9)],
        **changes,
    }


def index(*platforms: str, **changes: Any) -> Document:
    entries = []
    for platform in platforms:
        system, architecture, *variant = platform.split("/")
        entries.append(
            descriptor(
                media.OCI_MANIFEST,
                platform={
                    "os": system,
                    "architecture": architecture,
                    **({"variant": variant[0]} if variant else {}),
                },
            )
        )
    return {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries, **changes}


def config(**changes: Any) -> Document:
    return {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [D3]},
        **changes,
    }


def raw(document: object) -> bytes:
    return json.dumps(document).encode()


# -- what is read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manifest_type", "config_type", "layer_type"),
    [
        (media.OCI_MANIFEST, media.OCI_CONFIG, media.OCI_LAYER_GZIP),
        (media.OCI_MANIFEST, media.OCI_CONFIG, media.OCI_LAYER_ZSTD),
        (media.OCI_MANIFEST, media.OCI_CONFIG, media.OCI_LAYER),
        (media.DOCKER_MANIFEST, media.DOCKER_CONFIG, media.DOCKER_LAYER_GZIP),
        (media.OCI_MANIFEST, media.DOCKER_CONFIG, media.DOCKER_LAYER_GZIP),  # mixed ones exist
    ],
)
def test_manifests_of_both_worlds_are_read(manifest_type: str, config_type: str, layer_type: str) -> None:
    document = manifest(
        mediaType=manifest_type, config=descriptor(config_type), layers=[descriptor(layer_type, D2, 9)] * 3
    )
    found = decode_manifest(raw(document), manifest_type)
    assert isinstance(found, Manifest)
    assert (found.config.digest, [layer.digest for layer in found.layers]) == (D1, [D2] * 3)
    assert type_of(found) == manifest_type


@pytest.mark.parametrize("kind", [media.OCI_INDEX, media.DOCKER_MANIFEST_LIST])
def test_indexes_of_both_worlds_are_read_and_an_image_is_chosen(kind: str) -> None:
    found = decode_manifest(
        raw(index("linux/arm64/v8", "linux/amd64", "windows/amd64", mediaType=kind)), kind
    )
    assert isinstance(found, Index)
    assert type_of(found) == kind
    assert found.platforms == ["linux/arm64", "linux/amd64", "windows/amd64"]
    assert best(found.images, parse("linux/aarch64")) is found.manifests[0]
    assert best(found.images, parse("linux/s390x")) is None


def test_a_document_that_does_not_say_what_it_is_is_what_the_registry_says() -> None:
    for document, said, kind in (
        (index("linux/amd64"), media.DOCKER_MANIFEST_LIST + "; charset=utf-8", Index),
        (manifest(), media.DOCKER_MANIFEST, Manifest),
        (manifest(), "application/json", Manifest),
        (index("linux/amd64"), None, Index),
    ):
        document.pop("mediaType")
        found = decode_manifest(raw(document), said)
        assert type(found) is kind
        if said in media.MANIFESTS:
            assert type_of(found, said) == said


def test_what_is_no_image_in_an_index_is_passed_over() -> None:
    document = index("linux/amd64", "unknown/unknown")
    document["manifests"][1]["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
    document["manifests"].append(descriptor("application/vnd.example.thing+json"))
    document["manifests"].append(descriptor(media.OCI_MANIFEST, annotations=None, platform=None))
    found = decode_manifest(raw(document))
    assert isinstance(found, Index)
    assert found.platforms == ["linux/amd64", "unsaid"]


def test_null_is_read_as_nothing_as_go_writes_it() -> None:
    run = dict.fromkeys(
        [
            "Env",
            "Cmd",
            "Entrypoint",
            "ExposedPorts",
            "Volumes",
            "Labels",
            "OnBuild",
            "Healthcheck",
            "Shell",
            "User",
        ]
    )
    found = decode_config(raw(config(config=run, history=None, created=None)), layers=1)
    assert config_run(found) == config_run(decode_config(raw(config())))
    assert config_run(found) == {
        "env": [],
        "entrypoint": None,
        "cmd": None,
        "workdir": "",
        "user": "",
        "volumes": [],
        "exposed_ports": [],
        "labels": {},
        "stop_signal": "",
        "healthcheck": None,
        "shell": None,
        "onbuild": [],
    }


def test_what_a_start_needs_of_a_config() -> None:
    document = config(
        variant="v3",
        config={
            "User": "1000:1000",
            "Env": ["PATH=/bin", "A=b c"],
            "Entrypoint": ["/entry", "-x"],
            "Cmd": "one word",
            "WorkingDir": "/srv",
            "Volumes": {"/b": {}, "/a": {}},
            "ExposedPorts": {"80/tcp": {}},
            "Labels": {"io.systemd.unit": "evil"},
            "StopSignal": "SIGQUIT",
            "Shell": ["/bin/bash", "-c"],
            "OnBuild": ["RUN x"],
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000, "Retries": 3},
            "Unknown": {"of": "the future"},
        },
    )
    found = decode_config(raw(document), layers=1)
    assert found.platform == Platform("linux", "amd64", "v3")
    assert config_run(found) == {
        "env": ["PATH=/bin", "A=b c"],
        "entrypoint": ["/entry", "-x"],
        "cmd": ["one word"],
        "workdir": "/srv",
        "user": "1000:1000",
        "volumes": ["/a", "/b"],
        "exposed_ports": ["80/tcp"],
        "labels": {"io.systemd.unit": "evil"},
        "stop_signal": "SIGQUIT",
        "healthcheck": {
            "test": ["CMD", "true"],
            "interval": 5_000_000_000,
            "timeout": 0,
            "start_period": 0,
            "start_interval": 0,
            "retries": 3,
        },
        "shell": ["/bin/bash", "-c"],
        "onbuild": ["RUN x"],
    }


def test_an_empty_entrypoint_is_not_the_same_as_none() -> None:
    found = decode_config(raw(config(config={"Entrypoint": [], "Cmd": []})))
    assert (config_run(found)["entrypoint"], config_run(found)["cmd"]) == ([], [])


# -- what is refused -------------------------------------------------------------------------------------------


LAYER = media.OCI_LAYER_GZIP
NO_MANIFEST: dict[str, tuple[bytes, str | None, str]] = {
    "nothing": (b"", None, "not JSON: .*it is empty"),
    "a web page": (b"<!DOCTYPE html><html>", None, "not JSON: .*a web page"),
    "no JSON": (b"{schemaVersion: 2}", None, "not JSON"),
    "not UTF-8": (b'{"schemaVersion": 2, "mediaType": "\xff"}', None, "not JSON"),
    "an unpaired surrogate": (b'{"schemaVersion": 2, "mediaType": "\\ud800x"}', None, "not JSON"),
    "a list": (b"[]", None, "expected `object`"),
    "more after the end": (raw(manifest()) + b"{}", None, "not JSON"),
    "no number": (b'{"schemaVersion": NaN}', None, "not JSON"),
    "nested deeply": (
        b'{"schemaVersion": 2, "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        None,
        "nested too deeply",
    ),
    "a name twice": (
        raw(manifest()).replace(b'"layers"', b'"layers": [], "layers"'),
        None,
        "'layers' is there twice in one object",
    ),
    "a name twice, spelled differently": (
        raw(manifest()).replace(b'"layers"', b'"\\u006cayers": [], "layers"'),
        None,
        "'layers' is there twice in one object",
    ),
    "too large": (b" " * ((4 << 20) + 1), None, "4194305 bytes, at most 4194304 are allowed"),
    "no version": (b"{}", None, "schemaVersion is None, not 2"),
    "version 3": (raw(manifest(schemaVersion=3)), None, "schemaVersion is 3, not 2"),
    "schema 1": (raw({"schemaVersion": 1, "fsLayers": [{"blobSum": D1}]}), None, "Docker's schema 1"),
    "schema 1 by its type": (raw(manifest()), next(iter(media.SCHEMA_1)), "Docker's schema 1"),
    "index and manifest": (raw(manifest(manifests=[])), None, "could be an index and a manifest"),
    "an index that is said to be a manifest": (
        raw(index("linux/amd64")),
        media.OCI_MANIFEST,
        "it says it is .*index.*says .*manifest",
    ),
    "another type of manifest than was said": (raw(manifest()), media.DOCKER_MANIFEST, "it says it is"),
    "a manifest that calls itself index": (
        raw(manifest(mediaType=media.OCI_INDEX)),
        None,
        "but has no manifests",
    ),
    "an index that calls itself manifest": (
        raw(index("linux/amd64", mediaType=media.OCI_MANIFEST)),
        None,
        "but has no layers",
    ),
    "an unknown type": (raw(manifest(mediaType="application/json")), None, "'application/json' is no image"),
    "a helm chart": (
        raw(manifest(config=descriptor("application/vnd.cncf.helm.config.v1+json"))),
        None,
        "an artifact of type 'application/vnd.cncf.helm.config.v1.json', not an image",
    ),
    "an artifact of 1.1": (
        raw(manifest(artifactType="application/vnd.example.sbom", config=descriptor(media.OCI_EMPTY))),
        None,
        "an artifact of type 'application/vnd.example.sbom', not an image",
    ),
    "no config": (raw({"schemaVersion": 2, "layers": []}), None, "missing required field `config`"),
    "no layers": (
        raw({"schemaVersion": 2, "config": descriptor(media.OCI_CONFIG)}),
        None,
        "missing required field `layers`",
    ),
    "layers that are no list": (
        raw(manifest(layers={})),
        None,
        r"expected `array`, got `object` - at `\$.layers`",
    ),
    "a layer that is no object": (raw(manifest(layers=[None])), None, r"\$.layers\[0\]"),
    "a layer without size": (
        raw(manifest(layers=[{"mediaType": LAYER, "digest": D1}])),
        None,
        "missing required field `size`",
    ),
    "a negative size": (raw(manifest(layers=[descriptor(LAYER, D1, -1)])), None, "int` >= 0"),
    "a size that is no number": (
        raw(manifest(layers=[descriptor(LAYER, D1) | {"size": "7"}])),
        None,
        "expected `int`",
    ),
    "a size beyond 64 bits": (raw(manifest(layers=[descriptor(LAYER, D1, 2**63)])), None, r"int"),
    "a fraction of a byte": (
        raw(manifest(layers=[descriptor(LAYER) | {"size": 1.5}])),
        None,
        "expected `int`",
    ),
    "a digest that is a path": (
        raw(manifest(layers=[descriptor(LAYER, "sha256:../../../etc/passwd")])),
        None,
        "not a digest",
    ),
    "a digest of another algorithm": (
        raw(manifest(config=descriptor(media.OCI_CONFIG, "md5:" + "a" * 32))),
        None,
        "not a",
    ),
    "a digest in capitals": (
        raw(manifest(config=descriptor(media.OCI_CONFIG, "sha256:" + "A" * 64))),
        None,
        "not a",
    ),
    "a digest with a line break": (
        raw(manifest(layers=[descriptor(LAYER, D1 + "\n")])),
        None,
        "not a digest",
    ),
    "no digest": (raw(index(manifests=[descriptor(media.OCI_MANIFEST, "")])), None, "not a digest"),
    "a huge config": (
        raw(manifest(config=descriptor(media.OCI_CONFIG, D1, 5 << 20))),
        None,
        "its config has 5242880 bytes, at most 4194304",
    ),
    "ten thousand layers": (
        raw(manifest(layers=[descriptor(LAYER)] * 10_000)),
        None,
        "an image of 10000 layers, at most 5000",
    ),
    "an index of a thousand manifests": (
        raw(index(*["linux/amd64"] * 1000)),
        None,
        "an index of 1000 manifests, at most 500",
    ),
    "a foreign layer": (
        raw(manifest(layers=[descriptor(sorted(media.FOREIGN_LAYERS)[0], urls=["http://192.0.2.1/"])])),
        None,
        "is a foreign one",
    ),
    "an encrypted layer": (raw(manifest(layers=[descriptor(LAYER + "+encrypted")])), None, "is encrypted"),
    "an unknown layer": (
        raw(manifest(layers=[descriptor("application/x-erofs")])),
        None,
        "unknown media type 'application/x-erofs'",
    ),
    "annotations that are no text": (raw(manifest(annotations={"a": 1})), None, r"at `\$.annotations"),
}


@pytest.mark.parametrize("name", NO_MANIFEST)
def test_what_is_no_image_is_refused_with_the_reason(name: str) -> None:
    data, said, reason = NO_MANIFEST[name]
    with pytest.raises(InvalidInput, match=f"(?s)read manifest of x: .*{reason}"):
        decode_manifest(data, said, what="manifest of x")


NO_CONFIG: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not JSON"),
    "no rootfs": (raw({"architecture": "amd64", "os": "linux"}), "missing required field `rootfs`"),
    "other rootfs": (raw(config(rootfs={"type": "snapshot", "diff_ids": [D1]})), "rootfs.type is 'snapshot'"),
    "too few diff_ids": (
        raw(config(rootfs={"type": "layers", "diff_ids": []})),
        "it has 0 diff_ids, its manifest 1",
    ),
    "no diff_ids": (
        raw(config(rootfs={"type": "layers", "diff_ids": None})),
        "it has 0 diff_ids, its manifest 1",
    ),
    "too many diff_ids": (raw(config(rootfs={"type": "layers", "diff_ids": [D1, D2]})), "it has 2 diff_ids"),
    "a diff_id that is a path": (
        raw(config(rootfs={"type": "layers", "diff_ids": ["sha256:../x"]})),
        "not a digest",
    ),
    "a diff_id of sha512": (
        raw(config(rootfs={"type": "layers", "diff_ids": ["sha512:" + "a" * 128]})),
        "only sha256 is supported",
    ),
    "an Env that is no list": (raw(config(config={"Env": "A=b"})), r"at `\$.config.Env`"),
    "a null byte in a command": (raw(config(config={"Cmd": ["a\0b"]})), "config.Cmd: a null byte"),
    "a null byte in the user": (raw(config(config={"User": "0\0"})), "config.User: a null byte"),
    "a null byte in a label": (raw(config(config={"Labels": {"a\0": "b"}})), "a null byte"),
    "many volumes": (
        raw(config(config={"Volumes": {f"/{n}": {} for n in range(501)}})),
        "501 entries of volumes",
    ),
    "a long history": (raw(config(history=[{}] * 5001)), "5001 entries of history"),
    # deeper than functions of Python are; from 3.12 on, what reads JSON goes deeper
    **{
        f"a volume of {depth} in one another": (
            raw(config()).replace(
                b'"os"', b'"config": {"Volumes": {"/a": %b1%b}}, "os"' % (b'{"a":' * depth, b"}" * depth)
            ),
            "nested too deeply",
        )
        for depth in (1500, 9000, 200_000)
    },
    "a volume twice": (
        raw(config()).replace(b'"os"', b'"config": {"Volumes": {"/a": {}, "/a": {}}}, "os"'),
        "twice",
    ),
}


@pytest.mark.parametrize("name", NO_CONFIG)
def test_what_is_no_config_is_refused_with_the_reason(name: str) -> None:
    data, reason = NO_CONFIG[name]
    with pytest.raises(InvalidInput, match=f"(?s)read config of x: .*{reason}|(?s:digest .*{reason})"):
        decode_config(data, layers=1, what="config of x")


def test_limits_can_be_raised() -> None:
    document = raw(manifest(layers=[descriptor(LAYER, f"sha256:{number:064x}") for number in range(5001)]))
    with pytest.raises(InvalidInput, match="5001 layers"):
        decode_manifest(document)
    found = decode_manifest(document, limits=Limits(layers=5001))
    assert isinstance(found, Manifest)
    assert len(found.layers) == 5001


# -- what is written -------------------------------------------------------------------------------------------


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
NAME = st.text("abcdef.-", min_size=1, max_size=8)
NOTHING = st.none()
ANNOTATIONS = NOTHING | st.dictionaries(NAME, TEXT, min_size=1, max_size=3)
DIGEST = st.from_regex(r"\Asha256:[0-9a-f]{64}\Z")
PLATFORM = st.builds(
    PlatformField,
    architecture=st.sampled_from(["amd64", "arm64", "arm"]),
    os=st.just("linux"),
    variant=st.none() | st.just("v7"),
    os_version=st.none() | NAME,
    os_features=st.none() | st.tuples(NAME),
)


def descriptors(*types: str, platform: Any = NOTHING, largest: int = 2**40) -> Any:
    return st.builds(
        Descriptor,
        media_type=st.sampled_from(types),
        digest=DIGEST,
        size=st.integers(0, largest),
        annotations=ANNOTATIONS,
        platform=platform,
    )


MANIFEST = st.builds(
    Manifest,
    config=descriptors(media.OCI_CONFIG, largest=4 << 20),
    layers=st.lists(descriptors(*media.LAYERS), min_size=1, max_size=3).map(tuple),
    media_type=st.none() | st.just(media.OCI_MANIFEST),
    artifact_type=st.none() | st.just("application/vnd.example"),
    subject=st.none() | descriptors(media.OCI_MANIFEST),
    annotations=ANNOTATIONS,
)
INDEX = st.builds(
    Index,
    manifests=st.lists(descriptors(media.OCI_MANIFEST, platform=st.none() | PLATFORM), max_size=3).map(tuple),
    media_type=st.none() | st.just(media.OCI_INDEX),
    annotations=ANNOTATIONS,
)
WORDS = st.none() | st.lists(TEXT, max_size=3)
RUN = st.builds(
    RunConfig,
    user=st.none() | st.text("abc019:", min_size=1, max_size=8),
    exposed_ports=st.none() | st.dictionaries(st.just("80/tcp"), st.just({}), min_size=1),
    env=st.none() | st.lists(TEXT, min_size=1, max_size=3),
    entrypoint=WORDS,
    cmd=WORDS,
    volumes=st.none() | st.dictionaries(NAME, st.just({}), min_size=1, max_size=2),
    working_dir=st.none() | st.just("/x"),
    labels=ANNOTATIONS,
    stop_signal=st.none() | st.just("SIGINT"),
    healthcheck=st.none()
    | st.builds(Healthcheck, test=st.lists(TEXT, max_size=2), interval=st.integers(0, 2**40)),
    shell=WORDS,
    on_build=st.none() | st.lists(TEXT, min_size=1, max_size=2),
)
CONFIG = st.builds(
    ImageConfig,
    rootfs=st.builds(RootFS, type=st.just("layers"), diff_ids=st.lists(DIGEST, max_size=3)),
    architecture=st.sampled_from(["amd64", "arm64"]),
    os=st.just("linux"),
    variant=st.none() | st.just("v8"),
    created=st.none() | st.just("2026-01-02T03:04:05.000000006Z"),
    author=st.none() | TEXT,
    config=st.none() | RUN,
    history=st.none()
    | st.lists(
        st.builds(
            History,
            created_by=st.none() | TEXT,
            comment=st.none() | TEXT,
            empty_layer=st.none() | st.just(True),
        ),
        max_size=2,
    ),
)


@given(st.one_of(MANIFEST, INDEX))
def test_what_is_written_is_valid_and_read_back(document: Index | Manifest) -> None:
    data = encode(document)
    VALID[type(document)].validate(json.loads(data))
    assert decode_manifest(data) == document
    assert encode(decode_manifest(data)) == data


@given(CONFIG)
def test_a_config_that_is_written_is_valid_and_read_back(document: ImageConfig) -> None:
    data = encode_config(document)
    VALID[ImageConfig].validate(json.loads(data))
    assert decode_config(data) == document


@given(RUN)
def test_a_record_of_a_config_becomes_that_config(run: RunConfig) -> None:
    image = ImageConfig(RootFS("layers", []), config=run)
    assert run_config(config_run(image)) == run


def test_the_validators_refuse_something() -> None:
    """Or every test above would pass with schemas that are not found."""
    for kind, document in (
        (Index, index(manifests=[{"mediaType": "x/y"}])),
        (Manifest, manifest(config={"mediaType": "x/y"})),
        (Manifest, manifest(layers=[])),
        (Manifest, manifest(mediaType="no type")),
        (Manifest, manifest(annotations={"a": 1})),
        (ImageConfig, config(rootfs={})),
        (ImageConfig, config(config={"Volumes": {"/a": 1}})),
    ):
        with pytest.raises(jsonschema.ValidationError):
            VALID[kind].validate(document)


def test_the_same_content_is_the_same_bytes() -> None:
    one = Manifest(Descriptor(media.OCI_CONFIG, D1, 1), (), annotations={"b": "1", "a": "2"})
    other = Manifest(Descriptor(media.OCI_CONFIG, D1, 1), (), annotations={"a": "2", "b": "1"})
    layers = (Descriptor(LAYER, D2, 2),)
    assert encode(Manifest(one.config, layers, annotations=one.annotations)) == encode(
        Manifest(other.config, layers, annotations=other.annotations)
    )


def test_what_is_no_image_is_not_written() -> None:
    with pytest.raises(InvalidInput, match="at least one layer"):
        encode(Manifest(Descriptor(media.OCI_CONFIG, D1, 1), ()))
    with pytest.raises(InvalidInput, match="architecture and os"):
        encode_config(ImageConfig(RootFS("layers", [D1])))
    said = ImageConfig(RootFS("layers", [D1]), "amd64", "linux", config=RunConfig(labels={"a": "\ud800"}))
    with pytest.raises(InvalidInput, match=r"config\.Labels\.a: '.ud800' is not UTF-8"):
        encode_config(said)


@pytest.mark.parametrize("depth", [100, 900, 990, 100_000])
def test_how_deep_a_config_is_nested_is_no_matter(depth: int) -> None:
    ports = '{"a":' * depth + "{}" + "}" * depth
    data = f'{{"rootfs":{{"type":"layers","diff_ids":[]}},"config":{{"ExposedPorts":{ports}}}}}'.encode()
    try:
        decode_config(data)
    except InvalidInput as error:
        assert "nested too deeply" in str(error)


# -- anything else ---------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | TEXT
    | st.sampled_from([D1, LAYER]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "rootfs"]
            )
            | TEXT,
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(
    st.binary(max_size=60)
    | JSON.map(raw)
    | JSON.map(lambda found: raw({"schemaVersion": 2, "layers": [found]}))
)
def test_any_bytes_are_a_document_or_refused(data: bytes) -> None:
    for read in (decode_manifest, decode_config):
        try:
            read(data)
        except InvalidInput:
            pass
