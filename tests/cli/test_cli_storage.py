"""The verbs of what is kept: df, prune, check, gc, pin, volume."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.store import containers, images, layers
from lamina.store.leases import lease
from lamina.store.root import Store
from support.stores import make_image, make_layer

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]
NAME = "docker.io/library/one:1"


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def store(store_root: Path) -> Store:
    return Store(store_root)


def ended(store: Store, name: str, image: images.ImageRecord, **more: object) -> None:
    home, _ = containers.create(store, name)
    record = {
        "id": home.id,
        "name": name,
        "image": "one:1",
        "image_id": image.id,
        "layers": list(image.layers),
    }
    home.write("container", {**record, "command": ["true"], "created": 10**9, "options": {}, **more})
    home.write("state", {"pid": 1, "started": 10**9})
    home.write("exit", {"status": 0, "finished": 10**9})
    home.unmark()
    home.release()


def test_df_counts_and_lists(lamina: Lamina, store: Store) -> None:
    image = make_image(store, "a", "b", names=(NAME,), size=10**6)
    make_image(store, "a", "c", size=10**7)
    ended(store, "brave", image)
    ok(lamina("volume", "create", "data"))
    lines = [line.split() for line in ok(lamina("system", "df")).splitlines()]
    assert lines[0] == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "INODES", "RECLAIMABLE", "INODES"]
    assert lines[1] == ["Images", "2", "1", "12MB", "3", "10MB", "(83%)", "1"]
    assert [line[:3] for line in lines[2:]] == [
        ["Containers", "1", "0"],
        ["Volumes", "1", "0"],
        ["Blobs", "5", "3"],
    ]
    told = ok(lamina("system", "df", "-v"))
    assert "one:1" in told and "brave" in told and layers.layer_id(f"sha256:{image.layers[0]}")[:12] in told
    found = json.loads(ok(lamina("system", "df", "--format", "json", "--fast")))
    assert found["totals"][0]["amount"] == {"bytes": 12 * 10**6, "inodes": 3} and found["volumes"] == []
    assert {image["names"][0] for image in found["images"] if image["names"]} == {"one:1"}


def test_gc_says_why(lamina: Lamina, store: Store) -> None:
    image = make_image(store, "a", names=(NAME,))
    with lease(store) as held:
        lonely = make_layer(store, "z", held, size=1000)
    dry = ok(lamina("gc", "--dry-run", "--explain"))
    assert f"would remove layer {lonely.id[:12]}" in dry and f"named {NAME}" in dry
    assert layers.is_there(store, lonely.id)
    assert ok(lamina("gc")).splitlines() == [f"removed layer {lonely.id[:12]}", "Total reclaimed space: 1kB"]
    found = json.loads(ok(lamina("gc", "--explain", "--format", "json")))
    assert found["layers"] == [] and {kept["kind"] for kept in found["kept"]} == {"image", "layer", "blob"}
    assert images.get(store, image.id) is not None


def test_a_limit_evicts_what_is_not_pinned(lamina: Lamina, store: Store) -> None:
    one, other = make_image(store, "a", names=(NAME,), size=10**6), make_image(store, "b", size=10**6)
    assert ok(lamina("pin", "one:1", other.id[:12])).splitlines() == [
        f"sha256:{one.id}",
        f"sha256:{other.id}",
    ]
    ok(lamina("unpin", other.id))
    told = ok(lamina("--store-limit", "1m", "gc"))
    assert f"evicted image {other.id[:12]}" in told and one.id[:12] not in told
    assert images.identities(store) == [one.id]
    assert images.is_pinned(store, one.id)
    wrong = lamina("--store-limit", "much", "gc")
    assert (
        wrong.returncode == 125
        and "store limit 'much': not a size" in wrong.stderr
        and "200g" in wrong.stderr
    )
    env = {**os.environ, "LAMINA_STORE_LIMIT": "0"}
    ok(lamina("unpin", "one:1"))
    assert "evicted image" in ok(lamina("gc", env=env))


def test_prune_asks_and_removes(lamina: Lamina, store: Store) -> None:
    image = make_image(store, "a", names=(NAME,), size=500)
    nameless = make_image(store, "b", size=500)
    ended(store, "brave", image)
    anonymous = ok(lamina("volume", "create")).strip()
    ok(lamina("volume", "create", "data"))
    asked = lamina("system", "prune")
    assert asked.returncode == 125 and "no terminal to ask on" in asked.stderr
    told = ok(lamina("system", "prune", "-f", "--volumes")).splitlines()
    assert told[told.index("Deleted Containers:") + 1] == "brave"
    assert told[told.index("Deleted Volumes:") + 1] == anonymous
    assert told[told.index("Deleted Images:") + 1] == nameless.id[:12]
    assert told[-1].startswith("Total reclaimed space: ")
    assert images.identities(store) == [image.id] and containers.identities(store) == []
    assert "one:1" in ok(lamina("system", "prune", "-af"))
    assert layers.identities(store) == []


def test_check_finds_and_mends(lamina: Lamina, store: Store) -> None:
    image = make_image(store, "a", names=(NAME,))
    assert ok(lamina("system", "check")).endswith("Everything is whole.\n")
    assert "1 layer sealed" in ok(lamina("system", "check", "--rehash"))
    Path(os.fsdecode(layers.tree_of(store, image.layers[0])), "file").write_text("x")
    done = lamina("system", "check", "--rehash")
    assert done.returncode == 1 and "damaged: layer" in done.stdout and "--repair" in done.stdout
    found = json.loads(lamina("system", "check", "--rehash", "--format", "json").stdout)
    assert [one["kind"] for one in found["findings"]] == ["layer"] and not found["clean"]
    assert "(repaired)" in ok(lamina("system", "check", "--rehash", "--repair"))
    assert ok(lamina("system", "check")).endswith("Everything is whole.\n")


def test_an_unpacked_archive_is_proved_by_its_digest(lamina: Lamina, store: Store, tmp_path: Path) -> None:
    """Also the first time: nobody has sealed anything yet."""
    archive = tmp_path / "root.tar"
    with tarfile.open(archive, "w") as file:
        entry = tarfile.TarInfo("file")
        entry.size = 5
        file.addfile(entry, io.BytesIO(b"right"))
    ok(lamina("import", str(archive), "flat:1"))
    (identity,) = layers.identities(store)
    Path(os.fsdecode(layers.tree_of(store, identity)), "file").write_text("wrong")
    done = lamina("system", "check", "--rehash")
    assert done.returncode == 1 and "damaged: layer" in done.stdout


def test_volumes(lamina: Lamina, store: Store) -> None:
    assert ok(lamina("volume", "create", "--label", "a=b", "data")) == "data\n"
    assert ok(lamina("volume", "create", "data")) == "data\n"
    ok(lamina("volume", "create", "other"))
    ended(store, "brave", make_image(store, "a"), volumes=[{"name": "other", "target": "/x"}])
    assert ok(lamina("volume", "ls", "-q")) == "data\nother\n"
    assert ok(lamina("volume", "ls", "-q", "-f", "dangling=true")) == "data\n"
    assert ok(lamina("volume", "ls", "-q", "-f", "label=a=b")) == "data\n"
    assert ok(lamina("volume", "ls", "--format", "{{.Name}}:{{.Users}}")) == "data:\nother:brave\n"
    assert "brave" in ok(lamina("volume", "ls"))
    assert json.loads(ok(lamina("volume", "ls", "--format", "json")).splitlines()[0])["Labels"] == "a=b"
    found = json.loads(ok(lamina("volume", "inspect", "data")))
    assert found[0]["Labels"] == {"a": "b"} and found[0]["Mountpoint"].endswith("/volumes/data/_data")
    assert lamina("volume", "inspect", "none").returncode == 1
    used = lamina("volume", "rm", "other", "data")
    assert (used.returncode, used.stdout) == (1, "data\n") and "in use by brave" in used.stderr
    assert lamina("volume", "rm", "data").returncode == 1
    assert ok(lamina("volume", "rm", "-f", "data")) == "data\n"
    assert ok(lamina("volume", "prune", "-af")).startswith("Total reclaimed space")
    ok(lamina("rm", "brave"))
    assert ok(lamina("volume", "prune", "-af")).startswith("Deleted Volumes:\nother\n\n")


@pytest.mark.parametrize("verb", ["system", "volume"])
def test_verbs_of_two_words_help(lamina: Lamina, verb: str) -> None:
    assert f"lamina {verb} VERB" in ok(lamina(verb, "--help"))


@pytest.mark.root
def test_what_comes_takes_the_place_of_what_was_unused_for_longest(
    lamina: Lamina, store: Store, tmp_path: Path
) -> None:
    old = make_image(store, "a", names=(NAME,), size=10**6)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").write_text("x" * 1000)
    told = lamina("--store-limit", "100k", "image", "from-dir", str(tmp_path / "root"), "new:1")
    ok(told)
    assert images.identities(store) != [old.id] and len(images.identities(store)) == 1
    warned = lamina(
        "--store-limit", "10", "import", "-", "newer:1", input=tar_of(tmp_path / "root"), text=False
    )
    assert warned.returncode == 0, warned.stderr
    assert "above its limit" in str(warned.stderr) and len(images.identities(store)) == 1


def tar_of(directory: Path) -> bytes:
    return subprocess.run(["tar", "-C", str(directory), "-c", "."], capture_output=True, check=True).stdout
