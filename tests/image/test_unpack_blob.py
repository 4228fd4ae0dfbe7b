"""From a compressed stream to a layer of the store and back to the very same archive."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import Corrupt, InvalidInput, KernelError, NotFound
from lamina.image import layer as layer_module
from lamina.image.apply import recipe as recipe_module
from lamina.image.compression import writer
from lamina.image.layer import fill_from_file, unpack_blob
from lamina.image.pack import has_recipe, repack
from lamina.image.tar import Limits
from lamina.store import blobs, layers
from lamina.store.leases import Lease, lease
from lamina.store.root import Store
from support.archives import END, archive, directory, file, hard_link, long_name, pax, symlink

pytestmark = pytest.mark.root


@pytest.fixture(params=["as it is asked for", "ahead, in a thread"])
def store(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store; layers are decompressed in both ways."""
    if request.param.startswith("ahead"):
        monkeypatch.setattr(layer_module, "_WORTH", 0)
        monkeypatch.setattr(layer_module._active, "_processors", 1000)
    else:
        monkeypatch.setattr(layer_module._active, "_processors", 0)
    return Store(tmp_path / "store")


@pytest.fixture
def held(store: Store) -> Iterator[Lease]:
    with lease(store) as found:
        yield found


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def compressed(data: bytes, kind: str = "gzip") -> bytes:
    made = writer(kind)  # type: ignore[arg-type]
    return made.compress(data) + made.flush()


SMALL = archive(
    directory(b"d", mtime=5), file(b"d/f", b"content"), symlink(b"s", b"d/f"), hard_link(b"h", b"d/f")
)


@pytest.mark.parametrize("kind", ["none", "gzip", "zstd"])
def test_a_stream_becomes_a_layer(store: Store, held: Lease, kind: str) -> None:
    data = compressed(SMALL, kind)
    counted: list[int] = []
    layer = unpack_blob(
        store,
        io.BytesIO(data),
        digest(SMALL),
        held,
        digest=digest(data),
        size=len(data),
        progress=counted.append,
    )
    assert layer.id == hashlib.sha256(SMALL).hexdigest() and layer.diff_id == digest(SMALL)
    assert (layer.size, layer.inodes) == (7, 4)
    assert layer.extra == {"archive": len(SMALL), "recipe": True}
    assert sum(counted) == len(data)
    with open(layer.path + b"/h", "rb") as opened:
        assert opened.read() == b"content"
    assert layers.find(store, layer.id) == layer


@pytest.mark.parametrize("kind", ["none", "gzip"])
def test_a_stream_with_another_digest_than_its_layer(store: Store, held: Lease, kind: str) -> None:
    """The diff_id is a sha256, whatever the blob is called; and what is not compressed may have another one as well."""
    data = compressed(SMALL, kind)
    named = f"sha512:{hashlib.sha512(data).hexdigest()}"
    layer = unpack_blob(store, io.BytesIO(data), digest(SMALL), held, digest=named, size=len(data))
    assert layer.diff_id == digest(SMALL)
    for wrong in (digest(b"other"), f"sha512:{hashlib.sha512(b'other').hexdigest()}"):
        with pytest.raises(Corrupt, match="has the digest"):
            unpack_blob(store, io.BytesIO(data), None, held, digest=wrong)
    with pytest.raises(Corrupt, match="promises the diff_id"):
        unpack_blob(store, io.BytesIO(data), digest(b"other"), held)


def test_a_blob_of_the_store_becomes_a_layer(store: Store, held: Lease) -> None:
    data = compressed(SMALL)
    kept = blobs.write_blob(store, data, held)
    assert unpack_blob(store, kept, None, held).diff_id == digest(SMALL)
    with pytest.raises(NotFound):
        unpack_blob(store, digest(b"nothing"), None, held)


def test_what_is_there_is_not_unpacked_again(store: Store, held: Lease) -> None:
    first = unpack_blob(store, io.BytesIO(SMALL), digest(SMALL), held)

    class Untouchable:
        def read(self, _: int) -> bytes:
            raise AssertionError("read")

    assert unpack_blob(store, Untouchable(), digest(SMALL), held) == first


def test_several_at_once(store: Store, held: Lease) -> None:
    """The same layer by four threads, another by four more: each is unpacked once."""
    other = archive(*[file(b"f%d" % n, bytes([n]) * 5000) for n in range(200)])
    found: list[str] = []

    def unpack(data: bytes) -> None:
        found.append(unpack_blob(store, io.BytesIO(compressed(data)), digest(data), held).id)

    threads = [threading.Thread(target=unpack, args=(data,)) for data in (SMALL, other) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted([hashlib.sha256(d).hexdigest() for d in (SMALL, other)] * 4)
    assert sorted(layers.identities(store)) == sorted(set(found))


def test_a_second_thread_reads_ahead_as_soon_as_a_processor_has_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = layer_module._active
    monkeypatch.setattr(active, "_processors", 2)
    data = archive(*[file(b"f%d" % n, b"x" * 500_000) for n in range(40)])
    readers: list[str] = []

    class Stream(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            readers.append(threading.current_thread().name)
            if self.tell() > len(data) // 2 and active._count == 2:
                active.change(-1)  # somebody else's layer is done
            return super().read(size)

    active.change(1)
    store = Store(tmp_path / "store")
    with lease(store) as held:
        assert unpack_blob(store, Stream(data), digest(data), held).inodes == 41
    assert active._count == 0
    here = readers.count(threading.current_thread().name)
    assert len(readers) // 2 <= here < len(readers) - 5
    assert readers == [threading.current_thread().name] * here + ["lamina-decompress"] * (len(readers) - here)


def nothing_is_left(store: Store) -> None:
    assert layers.identities(store) == []
    assert [name for name in os.listdir(store.tmp) if not name.startswith(b".")] == []


def test_bytes_that_are_not_what_was_promised(store: Store, held: Lease) -> None:
    data = compressed(SMALL)
    wrong = digest(b"wrong")
    cases: list[dict[str, object]] = [{"digest": wrong}, {"size": len(data) + 1}, {"size": len(data) - 1}]
    for words in cases:
        with pytest.raises(Corrupt):
            unpack_blob(store, io.BytesIO(data), digest(SMALL), held, **words)  # type: ignore[arg-type]
    with pytest.raises(Corrupt, match="diff_id"):
        unpack_blob(store, io.BytesIO(data), wrong, held)
    for short in (data[:-4], data[: len(data) // 2]):
        with pytest.raises(Corrupt):
            unpack_blob(store, io.BytesIO(short), digest(SMALL), held)
    nothing_is_left(store)


@pytest.mark.parametrize(
    "data",
    [
        b"<html><body>404</body></html>",
        b"{}",
        b"\0" * 100,
        b"x" * 5000,
        b"\x1f\x8b" + b"x" * 50,
        b"PK\3\4" + b"0" * 600,
    ],
)
def test_what_is_no_layer(store: Store, held: Lease, data: bytes) -> None:
    with pytest.raises((InvalidInput, Corrupt)):
        unpack_blob(store, io.BytesIO(data), None, held)
    nothing_is_left(store)


def test_errors_of_the_stream_reach_the_caller(store: Store, held: Lease) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 100:
                raise ConnectionResetError("gone")
            return super().read(min(size or 100, 101))

    with pytest.raises(ConnectionResetError):
        unpack_blob(store, Breaking(SMALL), None, held)
    nothing_is_left(store)
    assert not [t for t in threading.enumerate() if t.name == "lamina-decompress"]


def test_an_entry_that_fails_ends_the_reading(store: Store, held: Lease) -> None:
    data = file(b"../x") + b"".join(file(b"f%d" % n, b"x" * 100_000) for n in range(300)) + END
    stream = io.BytesIO(data)
    with pytest.raises(InvalidInput):
        unpack_blob(store, stream, None, held)
    assert stream.tell() < len(data) // 2
    assert not [t for t in threading.enumerate() if t.name == "lamina-decompress"]


def test_limits_are_passed_on(store: Store, held: Lease) -> None:
    with pytest.raises(InvalidInput, match="entries=N"):
        unpack_blob(store, io.BytesIO(SMALL), None, held, limits=Limits(entries=2))


def test_somewhere_else(store: Store, held: Lease) -> None:
    """As in a user namespace: a function of a module, and arguments that can be sent there."""
    import pickle

    calls: list[object] = []

    def within(work: object, *args: object, **words: object) -> object:
        calls.append(work)
        work, args, words = pickle.loads(pickle.dumps((work, args, words)))
        return work(*args, **words)  # type: ignore[operator]

    kept = blobs.write_blob(store, compressed(SMALL), held)
    assert unpack_blob(store, kept, digest(SMALL), held, within=within).size == 7  # type: ignore[arg-type]
    assert calls == [fill_from_file]


# -- the same archive again

ODD = [
    SMALL,
    SMALL + bytes(10240 - len(SMALL) % 10240),
    SMALL + b"rubbish behind the end" * 1000,
    SMALL[:-1024],
    b"",
    END,
    archive(file(b"f", b"first"), file(b"f", b"second"), file(b"f", b"third")),
    archive(file(b"f", b"first" * 1000), hard_link(b"h", b"f"), file(b"f", b"second")),
    archive(file(b"d/e/f", b"deep"), file(b"d/g", b"beside"), file(b"d", b"now a file"), directory(b"other")),
    archive(
        file(b"d/f", b"1"), file(b"d/f", b"22"), file(b"d", b"333"), directory(b"d"), file(b"d/f", b"4444")
    ),
    archive(file(b"a/x", b"1"), symlink(b"l", b"a"), file(b"l/x", b"22"), file(b"l/y", b"333")),
    archive(
        file(b".wh.gone", b"with content"),
        file(b".wh..wh.aufs", b"so has this"),
        file(b"x/.wh..wh..opq", b"!"),
    ),
    archive(
        directory(b".wh..wh.plnk"), file(b".wh..wh.plnk/1", b"linked"), hard_link(b"n", b".wh..wh.plnk/1")
    ),
    archive(long_name(b"n" * 200), file(b"short", b"x" * 600), pax((b"mtime", b"1.5")), file(b"p", b"y")),
    archive(
        pax(
            (b"GNU.sparse.size", b"5000000"),
            (b"GNU.sparse.map", b"0,5,4000000,600"),
            (b"GNU.sparse.name", b"s"),
        ),
        file(b"x", b"begin" + b"m" * 600),
    ),
    archive(*[file(b"d%d/f" % (n % 90), b"%d" % n) for n in range(1000)]),
]


@pytest.mark.parametrize("number", range(len(ODD)))
def test_the_same_archive_again(store: Store, held: Lease, number: int) -> None:
    layer = unpack_blob(store, io.BytesIO(compressed(ODD[number])), digest(ODD[number]), held)
    out = io.BytesIO()
    assert has_recipe(layer)
    packed = repack(layer, out)
    assert out.getvalue() == ODD[number]
    assert packed.diff_id == packed.digest == layer.diff_id
    again = io.BytesIO()
    assert repack(layer, again, compression="gzip").diff_id == layer.diff_id
    assert compressed(ODD[number]) == again.getvalue()


def test_files_that_were_changed_are_noticed(store: Store, held: Lease) -> None:
    layer = unpack_blob(store, io.BytesIO(SMALL), None, held)
    for content in (b"CONTENT", b"short", None):
        if content is None:
            os.unlink(layer.path + b"/d/f")
        else:
            with open(layer.path + b"/d/f", "wb") as opened:
                opened.write(content)
        with pytest.raises(Corrupt):
            repack(layer, io.BytesIO())


def test_a_recipe_that_is_damaged(store: Store, held: Lease) -> None:
    layer = unpack_blob(store, io.BytesIO(SMALL), None, held)
    place = os.path.dirname(layer.path) + b"/recipe.zst"
    with open(place, "rb") as opened:
        whole = opened.read()
    for data in (
        b"",
        whole[:-3],
        compressed(b"?", "zstd"),
        compressed(b"F\xff", "zstd"),
        compressed(b"R" + b"\xff" * 9, "zstd"),
    ):
        with open(place, "wb") as opened:
            opened.write(data)
        with pytest.raises(Corrupt):
            repack(layer, io.BytesIO())
    os.unlink(place)
    assert not has_recipe(layer)
    with pytest.raises(NotFound):
        repack(layer, io.BytesIO())


def test_a_layer_without_recipe(store: Store, held: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = unpack_blob(store, io.BytesIO(SMALL), None, held, keep_recipe=False)
    assert not has_recipe(layer) and layer.extra["recipe"] is False
    cases = [("MOST_LOST", 10), ("MOST_LOSSES", 1), ("MOST_BYTES", 20)]
    for number, (name, most) in enumerate(cases):
        with monkeypatch.context() as patched:
            patched.setattr(recipe_module, name, most)
            parts = [
                file(b"f", b"%d" % number * 8),
                file(b"f", b"2" * 8),
                file(b"f", b"3"),
                file(b"d/x", b"4"),
                file(b"d", b"5"),
            ]
            layer = unpack_blob(store, io.BytesIO(archive(*parts)), None, held)
        assert layer.extra["recipe"] is False
        assert sorted(os.listdir(os.path.dirname(layer.path))) == [b"fs", b"layer.json"]
        assert sorted(os.listdir(layer.path)) == [b"d", b"f"]


# -- memory and room


@pytest.mark.timeout(900)  # the disk may be slow
def test_memory_does_not_grow_with_the_layer(tmp_path: Path) -> None:
    """Half a gigabyte, with a large file and many small ones, in a process that may not have 400 MB of addresses."""
    program = """
import io, os, resource, sys
sys.path[:0] = sys.argv[2:]
from lamina.store.root import Store
from lamina.store.leases import lease
from lamina.image.layer import unpack_blob
from support.archives import END, block, file
def parts():
    yield block(b"large", size=300 << 20)
    for _ in range(300): yield os.urandom(1 << 10) * 1024
    for n in range(3000): yield file(b"d%d/f%d" % (n % 100, n), b"x" * 60_000)
    yield END
class Stream:
    parts, rest = parts(), b""
    def read(self, size):
        while len(self.rest) < size and (more := next(self.parts, b"")): self.rest += more
        found, self.rest = self.rest[:size], self.rest[size:]
        return found
store = Store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
with lease(store) as held: print(unpack_blob(store, Stream(), None, held).size)
# not ru_maxrss, which begins with what the process was forked from
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "store"), *sys.path],
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    size, peak = map(int, done.stdout.split())
    assert size == (300 << 20) + 3000 * 60_000
    assert peak < 100 << 10  # in KiB


def test_no_room(store: Store, held: Lease) -> None:
    """A file may not grow beyond a limit: as on a full disk, the error says so and nothing is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    data = compressed(archive(file(b"f", os.urandom(1 << 10) * 3000)), "none")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(KernelError):
            unpack_blob(store, io.BytesIO(data), None, held)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    nothing_is_left(store)
