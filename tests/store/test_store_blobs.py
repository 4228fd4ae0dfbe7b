"""Blobs: verified while they stream, resumed where they broke off, under their name whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import Corrupt, InvalidInput, KernelError, NotFound
from lamina.store import blobs
from lamina.store.blobs import BlobWriter
from lamina.store.digest import check_digest, digest_of, hasher, hex_of, is_digest
from lamina.store.leases import lease
from lamina.store.root import Store
from support.stores import entries

DATA = bytes(range(256)) * 4096
DIGEST = digest_of(DATA)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s")


def partial(store: Store) -> list[str]:
    return entries(store.blobs + b"/partial")


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", "sha256", "sha256:" + "a" * 63, "sha256:" + "A" * 64, "sha256:" + "g" * 64, "md5:" + "a" * 32,
     "sha256:../../../../etc/passwd", "sha256:" + "a" * 64 + "\n", " sha256:" + "a" * 64, "sha256:" + "a" * 62 + "/.",
     "sha512:" + "a" * 64, "SHA256:" + "a" * 64, "sha256:" + "٣" * 64, None, 7, b"sha256:" + b"a" * 64],
)  # fmt: skip
def test_what_is_no_digest_is_never_a_path(store: Store, text: object) -> None:
    """CVE-2024-3727: a digest from a manifest, taken as a path."""
    assert not is_digest(text)
    with pytest.raises(InvalidInput, match="not a digest"):
        check_digest(text)
    functions: list[Any] = [blobs.has, blobs.open_blob, blobs.place_of, blobs.size_of, blobs.verify]
    for function in functions:
        with pytest.raises(InvalidInput):
            function(store, text)
    with lease(store) as held:
        with pytest.raises(InvalidInput):
            held.add_blob(text)  # type: ignore[arg-type]
        if text is not None:
            with pytest.raises(InvalidInput):
                BlobWriter(store, text, None, held)  # type: ignore[arg-type]


@given(st.binary(max_size=100), st.sampled_from(["sha256", "sha512"]))
def test_digests_are_those_of_hashlib(data: bytes, algorithm: str) -> None:
    digest = digest_of(data, algorithm)
    assert hex_of(digest) == hashlib.new(algorithm, data).hexdigest()
    hashed = hasher(digest)
    hashed.update(data)
    assert check_digest(f"{algorithm}:{hashed.hexdigest()}") == digest


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_blob_is_what_was_written(store: Store, algorithm: str) -> None:
    digest = digest_of(DATA, algorithm)
    with lease(store) as held, BlobWriter(store, digest, len(DATA), held) as writer:
        assert not blobs.has(store, digest)
        for start in range(0, len(DATA), 100_000):
            writer.write(memoryview(DATA)[start : start + 100_000])
        assert writer.commit() == digest
    assert blobs.read_blob(store, digest, len(DATA)) == DATA
    assert blobs.size_of(store, digest) == len(DATA)
    assert list(blobs.identities(store)) == [digest]
    assert partial(store) == []
    assert os.stat(blobs.place_of(store, digest)).st_mode & 0o777 == 0o600
    with blobs.open_blob(store, digest) as opened:
        assert os.read(opened, 10) == DATA[:10]


def test_a_digest_that_is_not_known_is_found_out(store: Store) -> None:
    with lease(store) as held, BlobWriter(store, None, None, held) as writer:
        writer.write(DATA)
        assert writer.commit() == DIGEST
        assert f"blob {DIGEST}" in Path(os.fsdecode(held.path)).read_text()
    assert blobs.has(store, DIGEST)


def test_what_broke_off_is_resumed(store: Store) -> None:
    with lease(store) as held, BlobWriter(store, DIGEST, len(DATA), held) as writer:
        writer.write(DATA[:1000])
    assert not blobs.has(store, DIGEST)
    with lease(store) as held, BlobWriter(store, DIGEST, len(DATA), held) as writer:
        assert writer.offset == 1000
        writer.write(DATA[1000:])
        writer.commit()
    assert blobs.read_blob(store, DIGEST, len(DATA)) == DATA


def test_a_source_that_begins_again_may(store: Store) -> None:
    with lease(store) as held, BlobWriter(store, DIGEST, None, held) as writer:
        writer.write(b"something else")
        writer.restart()
        writer.write(DATA)
        assert writer.commit() == DIGEST


def test_what_cannot_be_resumed_is_not_kept(store: Store) -> None:
    with lease(store) as held:
        with BlobWriter(store, None, None, held) as writer:
            writer.write(DATA)
        with BlobWriter(store, DIGEST, None, held):
            pass
    assert partial(store) == []


def test_an_attempt_that_was_longer_than_the_blob_is_forgotten(store: Store) -> None:
    with lease(store) as held:
        with BlobWriter(store, DIGEST, None, held) as writer:
            writer.write(DATA + b"more")
        with BlobWriter(store, DIGEST, len(DATA), held) as writer:
            assert writer.offset == 0


def test_other_bytes_are_refused_and_forgotten(store: Store) -> None:
    with lease(store) as held:
        with BlobWriter(store, DIGEST, len(DATA), held) as writer:
            writer.write(DATA[:-1] + b"x")
            with pytest.raises(Corrupt, match="what came has the digest"):
                writer.commit()
        assert partial(store) == [] and not blobs.has(store, DIGEST)
        with BlobWriter(store, DIGEST, len(DATA), held) as writer:
            assert writer.offset == 0


def test_more_than_the_size_is_refused_at_once(store: Store) -> None:
    with lease(store) as held, BlobWriter(store, DIGEST, 100, held) as writer:
        writer.write(DATA[:100])
        with pytest.raises(Corrupt, match="more than the 100 bytes"):
            writer.write(b"x")
        assert partial(store) == []


def test_less_than_the_size_is_refused_and_kept(store: Store) -> None:
    with lease(store) as held, BlobWriter(store, DIGEST, len(DATA), held) as writer:
        writer.write(DATA[:7])
        with pytest.raises(Corrupt, match="7 of 1048576 bytes came"):
            writer.commit()
    assert len(partial(store)) == 1


def test_two_who_write_the_same_blob_do_not_mix(store: Store) -> None:
    with (
        lease(store) as held,
        BlobWriter(store, DIGEST, len(DATA), held) as first,
        BlobWriter(store, DIGEST, len(DATA), held) as second,
    ):
        assert first.path != second.path
        first.write(DATA[:5])
        second.write(DATA)
        second.commit()
        first.write(DATA[5:])
        first.commit()
    assert blobs.read_blob(store, DIGEST, len(DATA)) == DATA
    assert partial(store) == []


def test_damage_is_found_when_it_is_read(store: Store) -> None:
    with lease(store) as held:
        blobs.write_blob(store, DATA, held)
    with open(blobs.place_of(store, DIGEST), "r+b") as file:
        file.write(b"damaged")
    for read in (lambda: blobs.read_blob(store, DIGEST, 1 << 30), lambda: blobs.verify(store, DIGEST)):
        with pytest.raises(Corrupt, match="damaged on the disk"):
            read()


def test_what_is_too_large_is_not_read(store: Store) -> None:
    with lease(store) as held:
        blobs.write_blob(store, DATA, held)
    with pytest.raises(InvalidInput, match="at most 10 are read"):
        blobs.read_blob(store, DIGEST, 10)


def test_links_and_directories_are_no_blobs(store: Store, tmp_path: Path) -> None:
    place = blobs.place_of(store, DIGEST)
    os.symlink("/etc/passwd", place)
    with pytest.raises(Corrupt, match="symbolic link"):
        blobs.open_blob(store, DIGEST)
    os.unlink(place)
    os.mkdir(place)
    with pytest.raises(Corrupt, match="no file"):
        blobs.open_blob(store, DIGEST)
    os.rmdir(place)
    with pytest.raises(NotFound):
        blobs.open_blob(store, DIGEST)


@pytest.mark.root
def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    from support.namespaces import in_mount_namespace

    def write() -> tuple[str, bool, int]:
        from lamina.linux.mount import mount

        mount("tmpfs", tmp_path, "tmpfs", 0, "size=1m")
        store = Store(tmp_path / "s")
        said = ""
        data = os.urandom(4 << 20)
        digest = digest_of(data)
        with lease(store) as held:
            try:
                with BlobWriter(store, digest, len(data), held) as writer:
                    for start in range(0, len(data), 1 << 16):
                        writer.write(data[start : start + (1 << 16)])
            except KernelError as error:
                said = str(error)
            with BlobWriter(
                store, digest, len(data), held
            ) as writer:  # what came is taken up, and nothing but that
                return said, blobs.has(store, digest), writer.offset

    said, there, offset = in_mount_namespace(write)
    assert "No space left on device" in said and "free some space" in said
    assert not there and 0 < offset <= 1 << 20
