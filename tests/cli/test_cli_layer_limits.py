"""What a layer may have at most: every limit is an error that names its option, and the option raises it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.engine import Engine
from lamina.errors import InvalidInput, KernelError
from lamina.image.compression import _zstd
from lamina.image.platform import current
from lamina.image.tar.limits import Limits
from lamina.testing.registry import FakeRegistry
from support.image_archives import ImageSource, old_docker, tar
from support.rootless import Rootless

Lamina = Callable[..., subprocess.CompletedProcess[str]]

MIB = 1 << 20


def sparse_tar(pieces: int) -> bytes:
    """A file of GNU's format 1.0 with that many pieces of data."""
    chart = "".join(f"{number * 8192}\n512\n" for number in range(pieces))
    head = f"{pieces}\n{chart}".encode()
    head += bytes(-len(head) % 512)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("sparse")
        entry.size = len(head) + pieces * 512
        entry.pax_headers = {
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse",
            "GNU.sparse.realsize": str(pieces * 8192),
        }  # fmt: skip
        archive.addfile(entry, io.BytesIO(head + b"x" * (pieces * 512)))
    return out.getvalue()


def attributed_tar(size: int) -> bytes:
    """A file with an extension header of that size."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("a")
        entry.pax_headers = {"comment": "x" * size}
        archive.addfile(entry, io.BytesIO())
    return out.getvalue()


def wide_zstd(data: bytes) -> bytes:
    """Compressed so that it takes 32 MiB to decompress."""
    zstd = _zstd()
    parameter = zstd.CompressionParameter
    compressor = zstd.ZstdCompressor(options={parameter.window_log: 25, parameter.compression_level: 1})
    packed: bytes = compressor.compress(data) + compressor.flush()
    return packed


def wide_xz(data: bytes) -> bytes:
    return lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 32 * MIB}])


# what is too much, the limit that is set, what the error says, and a value that is enough
CASES: dict[str, tuple[Callable[[], bytes], str, str, str]] = {
    "entries": (lambda: tar({f"f{n}": b"" for n in range(30)}), "20", "it has more entries", "100"),
    "size": (lambda: tar({"f": bytes(3 * MIB)}), "2m", "bytes or more", "4m"),
    "depth": (lambda: tar({"/".join("d" * 12): b""}), "10", "a path 12 levels deep", "20"),
    "name": (lambda: tar({"n" * 90: b""}), "80", "a path of 90 bytes", "4095"),
    "extensions": (lambda: attributed_tar(9000), "8k", "extension headers of 9", "1m"),
    "segments": (lambda: sparse_tar(12), "10", "a sparse file in", "20"),
    "ratio": (lambda: gzip.compress(tar({"f": bytes(4 * MIB)})), "100", "decompress to", "2000"),
    "free": (lambda: gzip.compress(tar({"f": bytes(4 * MIB)})), "1m", "decompress to", "8m"),
    "window": (lambda: wide_zstd(tar({"f": os.urandom(40 * MIB)})), "8m", "want more memory", "64m"),
    "window of xz": (lambda: wide_xz(tar({"f": b"x"})), "8m", "want more memory", "64m"),
}
BESIDE = {"ratio": ["--layer-limit", "free=1m"], "free": ["--layer-limit", "ratio=2"]}


def test_every_limit_is_tried() -> None:
    assert {name.partition(" ")[0] for name in CASES} == set(Limits.__annotations__)


@pytest.mark.root
@pytest.mark.parametrize("case", CASES)
def test_an_import_names_the_option_which_raises_it(lamina: Lamina, tmp_path: Path, case: str) -> None:
    make, low, said, enough = CASES[case]
    name = case.partition(" ")[0]
    (tmp_path / "rootfs.tar").write_bytes(make())
    beside = BESIDE.get(name, [])
    done = lamina("import", *beside, "--layer-limit", f"{name}={low}", tmp_path / "rootfs.tar")
    assert done.returncode == 125
    limit = 2 if name == "free" else _bytes(low)
    assert said in done.stderr and f"the limit is {limit}\n" in done.stderr
    named = "ratio" if name == "free" else name  # of the two that belong together
    assert f"hint: if you trust it, --layer-limit {named}=N allows more" in done.stderr
    done = lamina("import", *beside, "--layer-limit", f"{name}={enough}", tmp_path / "rootfs.tar")
    assert done.returncode == 0, done.stderr


def _bytes(text: str) -> int:
    units = {"k": 1 << 10, "m": 1 << 20}
    return int(text.rstrip("km")) * units.get(text[-1], 1)


def test_a_name_that_the_kernel_does_not_take(lamina: Lamina, tmp_path: Path) -> None:
    (tmp_path / "rootfs.tar").write_bytes(tar({"/".join(["n" * 200] * 25): b""}))
    done = lamina("import", "--layer-limit", "name=1m", tmp_path / "rootfs.tar")
    assert "the limit is 4095\nhint: the kernel takes no longer one" in done.stderr


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        registry.add_image("team/tool", "1", {f"f{n}": b"x" for n in range(30)}, platform=str(current()))
        yield registry


@pytest.mark.root
def test_each_verb_has_it(lamina: Lamina, fake: FakeRegistry, tmp_path: Path) -> None:
    tree = {f"f{n}": b"x" for n in range(30)}
    (tmp_path / "images.tar").write_bytes(tar(*old_docker((ImageSource(tar(tree)), ["loaded:1"]))))
    (tmp_path / "rootfs.tar").write_bytes(tar(tree))
    (tmp_path / "tree").mkdir()
    for name in tree:
        (tmp_path / "tree" / name).touch()
    image = f"{fake.host}/team/tool:1"
    verbs: tuple[tuple[list[str | Path], int], ...] = (
        (["pull", image], 0),
        (["run", "--rm", image, "/nothing"], 127),
        (["load", "-i", tmp_path / "images.tar"], 0),
        (["import", tmp_path / "rootfs.tar"], 0),
        (["image", "from-dir", tmp_path / "tree"], 0),
    )
    for argv, status in verbs:
        verb = argv[:2] if argv[0] == "image" else argv[:1]
        rest = argv[len(verb) :]
        done = lamina(*verb, "--layer-limit", "entries=20", *rest)
        assert done.returncode == 125, argv
        assert (
            "it has more entries, the limit is 20" in done.stderr and "--layer-limit entries=N" in done.stderr
        )
        done = lamina(*verb, "--layer-limit", "depth=5,entries=20", "--layer-limit", "entries=200", *rest)
        assert done.returncode == status, done.stderr
        lamina("system", "prune", "-af")


def test_a_limit_that_is_none(lamina: Lamina, tmp_path: Path) -> None:
    (tmp_path / "rootfs.tar").write_bytes(tar({"a": b""}))
    for word, said in (
        ("sizes=5", "there is no such limit\nhint: did you mean size? they are entries, size, depth"),
        ("size=much", "'much' is no number"),
        ("size", "not NAME=NUMBER"),
    ):
        done = lamina("import", "--layer-limit", word, tmp_path / "rootfs.tar")
        assert done.returncode == 125 and said in done.stderr


@pytest.mark.root
def test_the_variable_is_the_default_and_the_option_comes_before_it(
    lamina: Lamina, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rootfs.tar").write_bytes(tar({f"f{n}": b"" for n in range(30)}))
    monkeypatch.setenv("LAMINA_LAYER_LIMITS", "entries=20,depth=50")
    assert lamina("import", tmp_path / "rootfs.tar").returncode == 125
    assert lamina("import", "--layer-limit", "entries=40", tmp_path / "rootfs.tar").returncode == 0


@pytest.mark.root
def test_a_program_gives_them_by_name(store_root: Path, fake: FakeRegistry, tmp_path: Path) -> None:
    engine = Engine(store_root)
    image = f"{fake.host}/team/tool:1"
    with pytest.raises(InvalidInput, match="more entries, the limit is 20"):
        engine.pull(image, limits={"entries": 20})
    with pytest.raises(InvalidInput, match="no such limit"):
        engine.pull(image, limits={"entry": 20})
    assert engine.pull(image, limits={"entries": "1k"}) == image
    engine.remove_image(image)
    engine.storage.collect()
    with pytest.raises(InvalidInput, match="more entries"):
        engine.run(image, ["/x"], layer_limits={"entries": 3})


# -- archives that have to be kept before they are read ----------------------------------------------------------


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


def bomb() -> bytes:
    """An archive of images with 40 MiB of nothing in it."""
    return tar({"manifest.json": b"[]", "nothing": bytes(40 * MIB)})


@pytest.mark.parametrize("kind", COMPRESSIONS)
@pytest.mark.parametrize("verb", ["load", "import"])
@pytest.mark.parametrize("limit", ["ratio=20,free=1m", "size=8m"])
@pytest.mark.root
def test_a_bomb_fills_no_disk(
    lamina: Lamina, store_root: Path, tmp_path: Path, kind: str, verb: str, limit: str
) -> None:
    (tmp_path / "bomb").write_bytes(COMPRESSIONS[kind](bomb()))
    assert lamina("images").returncode == 0
    done = lamina(*([verb, "-i"] if verb == "load" else [verb]), tmp_path / "bomb", "--layer-limit", limit)
    assert done.returncode == 125
    assert "decompress" in done.stderr or "bytes or more" in done.stderr
    assert f"--layer-limit {limit.partition('=')[0]}=N" in done.stderr
    assert list((store_root / "tmp").iterdir()) == []


def test_the_most_that_is_kept_of_a_bomb(
    store_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default: 128 MiB, or 250 bytes for each one that came."""
    written = 0
    from lamina.image.archive import members

    def count(descriptor: int, data: bytes) -> None:
        nonlocal written
        written += len(data)

    monkeypatch.setattr(members, "write_all", count)
    path = tmp_path / "bomb"
    with gzip.open(path, "wb", compresslevel=9) as file, tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("nothing")
        entry.size = 600 * MIB
        with open("/dev/zero", "rb") as zeros:
            archive.addfile(entry, zeros)
    with pytest.raises(InvalidInput, match="decompress to"):
        Engine(store_root).load(path)
    assert written <= max(128 * MIB, 250 * path.stat().st_size) + MIB


@pytest.mark.root
@pytest.mark.parametrize("verb", ["load", "import"])
def test_a_disk_that_is_full_is_an_error_and_nothing_is_left(
    tmp_path: Path, verb: str, lamina: Lamina
) -> None:
    """A real one, of 12 MiB."""
    (tmp_path / "in.gz").write_bytes(
        gzip.compress(tar({"manifest.json": b"[]", "f": os.urandom(20 * MIB)}), 1)
    )
    (tmp_path / "disk").mkdir()
    script = (
        'mount -t tmpfs -o size=12m none "$1" && export LAMINA_ROOT="$1/store" && shift && '
        '{ "$@"; echo "status $?"; find "$LAMINA_ROOT/tmp" "$LAMINA_ROOT/leases" -mindepth 1; }'
    )
    import sys

    argv = [verb, *(["-i"] if verb == "load" else []), str(tmp_path / "in.gz")]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", tmp_path / "disk", sys.executable, "-m", "lamina", *argv],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.stdout == "status 125\n", done.stdout
    assert "no space left" in done.stderr.lower() and "Traceback" not in done.stderr


# -- downloads that are kept ---------------------------------------------------------------------------------------


def claiming(fake: FakeRegistry, size: int) -> str:
    """An image whose layer is said to have *size* bytes."""
    import json

    found = json.loads(fake.manifests["team/tool"][fake.tags["team/tool"]["1"]][0])
    found["layers"][0]["size"] = size
    fake.add_manifest("team/tool", found, found["mediaType"], "huge")
    return f"{fake.host}/team/tool:huge"


@pytest.mark.root
@pytest.mark.parametrize("keep_blobs", [False, True])
def test_a_layer_that_is_said_to_be_huge_is_not_fetched(
    store_root: Path, fake: FakeRegistry, keep_blobs: bool
) -> None:
    name = claiming(fake, 1 << 50)
    with pytest.raises(InvalidInput, match=r"has \d+ bytes, compressed, the limit is") as caught:
        Engine(store_root).pull(name, keep_blobs=keep_blobs)
    assert "--layer-limit size=N" in caught.value.remedy
    assert [path for path in fake.asked("GET", "blobs") if "config" not in path][1:] == []


@pytest.mark.root
def test_layers_that_do_not_fit_on_the_disk_are_not_fetched(store_root: Path, fake: FakeRegistry) -> None:
    name = claiming(fake, 1 << 50)
    with pytest.raises(KernelError, match="are free") as caught:
        Engine(store_root).pull(name, keep_blobs=True, limits={"size": "4096t"})
    assert caught.value.remedy
    assert len(fake.asked("GET", "blobs")) == 1, "the config alone"


@pytest.mark.userns
def test_without_root_what_is_kept_is_bounded_too(rootless: Rootless, fake: FakeRegistry) -> None:
    done = rootless.lamina("pull", claiming(fake, 1 << 50))
    assert done.returncode == 125 and "--layer-limit size=N" in done.stderr
    archive = rootless.home / "rootfs.tar"
    archive.write_bytes(tar({"f": os.urandom(3 * MIB)}))
    rootless.give(archive)
    done = rootless.lamina("import", "--layer-limit", "size=1m", archive)
    assert done.returncode == 125 and "compressed, the limit is 1048576" in done.stderr
    done = rootless.lamina("import", "--layer-limit", "size=4m", archive)
    assert done.returncode == 0, done.stderr
