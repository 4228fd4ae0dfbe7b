"""Images of more layers than overlayfs stacks, of more than anybody believes, and of the same layer again and again."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamina.errors import InvalidInput
from lamina.image.documents import media
from lamina.image.documents.reading import check_layers
from lamina.image.layer import unpack_blob
from lamina.image.platform import current
from lamina.overlay.spec import MountSpec, top_first
from lamina.overlay.stack import Overlay
from lamina.store import layers
from lamina.store.leases import lease
from lamina.store.root import Store
from lamina.testing.registry import FakeRegistry
from support.image_archives import ImageSource, old_docker, tar, tree_tar
from support.leaks import Leaks
from support.rootless import Rootless
from support.small_images import busybox_tree
from support.snapshots import differences, snapshot_tree

Lamina = Callable[..., subprocess.CompletedProcess[str]]

MANY = 600  # OVL_MAX_STACK is 500
REFUSED, REMEDY = "an image of 10000 layers, at most 5000 are allowed", "podman build --squash-all"


@pytest.fixture
def base(tmp_path: Path) -> bytes:
    place = tmp_path / "tree"
    place.mkdir()
    busybox_tree(place)
    return tree_tar(place)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


def image_of(base: bytes, count: int) -> ImageSource:
    """An image of *count* layers, each of which has a file of its own and one that they all have; the topmost deletes
    the 300th.
    """
    tops = [
        tar({"many/": b"", f"many/{number}": b"", "last": b"%d\n" % number}) for number in range(1, count - 1)
    ]
    last = {"many/": b"", f"many/{count - 1}": b"", "many/.wh.300": b"", "last": b"%d\n" % (count - 1)}
    tops.append(tar(last))
    return ImageSource(
        base,
        *tops,
        config={"Cmd": ["sh", "-c", "ls /many | wc -l; cat /last; echo mine >/mine"], "Env": ["PATH=/bin"]},
    )


def few_descriptors() -> None:
    """What most people may open."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def archive(place: Path, source: ImageSource, name: str) -> Path:
    path = place / "images.tar"
    path.write_bytes(tar(*old_docker((source, [name]))))
    return path


@pytest.mark.root
@pytest.mark.peer("busybox")
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_image_of_more_layers_than_can_be_stacked(
    lamina: Lamina, fake: FakeRegistry, base: bytes, tmp_path: Path, untouched_host: Leaks
) -> None:
    """It is loaded, pulled, run, committed upon and exported as any other."""
    source = image_of(base, MANY)
    fake.add_image(
        "team/many", "1", *source.layers, platform=str(current()), config=json.loads(source.config)["config"]
    )
    done = lamina("load", "-q", "-i", archive(tmp_path, source, "many:1"), timeout=800)
    assert done.returncode == 0, done.stderr
    done = lamina("run", "--name", "it", "many:1", preexec_fn=few_descriptors)
    assert done.stdout == f"{MANY - 2}\n{MANY - 1}\n", done.stderr
    pulled = f"{fake.host}/team/many:1"
    for name in ("many:1", pulled):
        if name == pulled:  # nothing of it is unpacked again
            assert lamina("pull", "-q", name).returncode == 0
        assert lamina("image", "inspect", "-f", "{{len .RootFS.Layers}}", name).stdout == f"{MANY}\n"
    done = lamina("run", "--rm", "--read-only", "many:1", "test", "!", "-e", "/many/300")
    assert done.returncode == 0, done.stderr
    done = lamina("export", "-o", tmp_path / "flat.tar", "it")
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "flat.tar") as flat:
        found = {name for name in flat.getnames() if name.startswith("many/")}
    assert found == {f"many/{number}" for number in range(1, MANY) if number != 300}
    committed = lamina("commit", "it", "more:1")
    assert committed.returncode == 0, committed.stderr
    assert lamina("image", "inspect", "-f", "{{len .RootFS.Layers}}", "more:1").stdout == f"{MANY + 1}\n"
    assert lamina("run", "--rm", "more:1", "cat", "/last", "/mine").stdout == f"{MANY - 1}\nmine\n"
    assert lamina("rm", "it").returncode == 0
    checked = lamina("system", "check")
    assert checked.returncode == 0, checked.stdout


def test_an_image_of_ten_thousand_is_refused_before_anything_is_fetched(
    lamina: Lamina, fake: FakeRegistry, store_root: Path
) -> None:
    found = fake.add_image("team/many", "1", {"f": b"x"}, platform=str(current()))
    document = json.loads(fake.manifests["team/many"][found][0])
    document["layers"] *= 10_000
    fake.add_manifest("team/many", document, media.OCI_MANIFEST, "1")
    for verb in (["pull"], ["run", "--rm"]):
        done = lamina(*verb, f"{fake.host}/team/many:1")
        assert done.returncode == 125
        assert REFUSED in done.stderr and REMEDY in done.stderr
    assert fake.asked("GET", "/blobs/") == []
    assert layers.identities(Store(store_root)) == []


def test_an_archive_of_ten_thousand_is_refused_before_anything_is_unpacked(
    lamina: Lamina, store_root: Path, tmp_path: Path
) -> None:
    layer = tar({"base": b""})
    done = lamina("load", "-i", archive(tmp_path, ImageSource(*[layer] * 10_000), "many:1"))
    assert done.returncode == 125
    assert REFUSED in done.stderr and REMEDY in done.stderr
    assert layers.identities(Store(store_root)) == []


def test_what_is_counted() -> None:
    check_layers([f"sha256:{number}" for number in range(5000)], "image")
    with pytest.raises(InvalidInput, match="5001 layers, at most 5000"):
        check_layers([str(number) for number in range(5001)], "image")
    with pytest.raises(InvalidInput, match="6000 layers, at most 5000"):
        check_layers(["same"] * 6000, "image")


# -- the same layer several times --------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.peer("busybox")
def test_an_image_may_have_a_layer_twice(
    lamina: Lamina, base: bytes, tmp_path: Path, untouched_host: Leaks
) -> None:
    """Empty ones are in many images, one for each step that changed nothing."""
    empty, one, two = tar({}), tar({"a": b"1\n"}), tar({"a": b"2\n", "b": b"2\n"})
    source = ImageSource(
        base, empty, one, empty, two, one, empty, config={"Cmd": ["cat", "/a", "/b"], "Env": ["PATH=/bin"]}
    )
    assert lamina("load", "-q", "-i", archive(tmp_path, source, "same:1")).returncode == 0
    done = lamina("run", "--name", "it", "same:1")
    assert done.stdout == "1\n2\n", done.stderr
    assert lamina("run", "--rm", "--read-only", "same:1").stdout == "1\n2\n"
    assert lamina("export", "-o", tmp_path / "out.tar", "it").returncode == 0
    assert lamina("save", "-q", "-o", tmp_path / "again.tar", "same:1").returncode == 0
    assert lamina("rm", "it").returncode == 0 and lamina("rmi", "same:1").returncode == 0
    assert lamina("load", "-i", tmp_path / "again.tar").stdout == "Loaded image: same:1\n"
    assert lamina("images", "-q", "--no-trunc").stdout == f"sha256:{source.id}\n"


@pytest.mark.userns
@pytest.mark.peer("busybox")
def test_so_may_one_of_somebody_without_root(rootless: Rootless, base: bytes) -> None:
    one = tar({"a": b"1\n"})
    source = ImageSource(
        base, one, tar({}), one, tar({}), config={"Cmd": ["cat", "/a"], "Env": ["PATH=/bin"]}
    )
    path = archive(rootless.home, source, "same:1")
    rootless.give(path)
    assert rootless.lamina("load", "-q", "-i", path).returncode == 0
    done = rootless.lamina("run", "--rm", "same:1")
    assert done.stdout == "1\n", done.stderr


NAMES = (
    "a",
    "b",
    "a/x",
    "a/y",
    "a/x/z",
    "b/x",
    ".wh.a",
    ".wh.b",
    "a/.wh.x",
    "a/.wh..wh..opq",
    "b/.wh..wh..opq",
)
LAYERS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(["file", "directory"])), max_size=4, unique=True
    ),
    min_size=2,
    max_size=4,
)


def layer_tar(entries: list[tuple[str, str]], number: int) -> bytes:
    """Names once, files before what would lie below them left out."""
    kinds = dict(entries)
    found = {}
    for name in sorted(kinds):
        parts = name.split("/")
        if any(kinds.get("/".join(parts[:end])) == "file" for end in range(1, len(parts))):
            continue
        marks = parts[-1].startswith(".wh.")
        is_file = marks or kinds[name] == "file"
        found[name if is_file else name + "/"] = b"" if marks or not is_file else b"%d" % number
    return tar(found)


@pytest.mark.root
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(LAYERS, st.lists(st.integers(0, 3), min_size=2, max_size=7))
def test_a_layer_counts_where_it_is_topmost(
    tmp_path_factory: pytest.TempPathFactory, made: list[list[tuple[str, str]]], order: list[int]
) -> None:
    """Against the same stack, in which each further occurrence is a copy (a merged directory has one link)."""
    place = tmp_path_factory.mktemp("repeated")
    try:
        store = Store(place / "store")
        trees = []
        with lease(store) as held:
            for number, entries in enumerate(made):
                layer = unpack_blob(store, io.BytesIO(layer_tar(entries, number)), None, held)
                trees.append(layer.path)
            chain = [trees[number % len(trees)] for number in order]
            copies = []
            for number, tree in enumerate(chain):
                copy = place / f"copy{number}"
                subprocess.run(["cp", "-a", os.fsdecode(tree), copy], check=True)
                copies.append(os.fsencode(copy))
            once, again = top_first(chain), tuple(reversed(copies))
            assert len(once) == len(set(chain))
            with Overlay(MountSpec(once)).open() as short, Overlay(MountSpec(again)).open() as long:
                found = differences(snapshot_tree(short), snapshot_tree(long), frozenset({"ctime", "nlink"}))
                assert found == []
    finally:
        shutil.rmtree(place)
