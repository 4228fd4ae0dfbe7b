"""A store where somebody else could exchange it is no store: each directory on the way must be nobody else's."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.errors import InvalidInput
from lamina.store.root import Store
from support.leaks import Leaks

MALLORY = 61299
LAMINA = [sys.executable, "-m", "lamina"]

pytestmark = pytest.mark.root


def lamina(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LAMINA_ROOT": str(root)}
    return subprocess.run(
        [*LAMINA, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        stdin=subprocess.DEVNULL,
    )


def owned(path: Path, uid: int, mode: int) -> Path:
    path.mkdir()
    path.chmod(mode)
    os.chown(path, uid, uid)
    return path


def given_by_acl(path: Path) -> None:
    """Mallory may write, and the mode shows it as a right of the group, which is root's."""
    # struct posix_acl_xattr_header and _entry (linux/posix_acl_xattr.h): tag, permissions, id
    nobody = 0xFFFFFFFF
    entries = ((1, 7, nobody), (2, 7, MALLORY), (4, 5, nobody), (16, 7, nobody), (32, 5, nobody))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", acl)
    assert path.stat().st_mode & 0o777 == 0o775


def given_by_group(path: Path) -> None:
    os.chown(path, 0, MALLORY)
    path.chmod(0o775)


MAKE_UNSAFE: dict[str, Callable[[Path], object]] = {
    "of another user": lambda path: os.chown(path, MALLORY, MALLORY),
    "of another group": given_by_group,
    "open to all": lambda path: path.chmod(0o777),
    "open to one by an ACL": given_by_acl,
}


@pytest.mark.parametrize("how", MAKE_UNSAFE)
@pytest.mark.parametrize("existing", [False, True])
def test_a_store_that_others_could_exchange_is_refused(tmp_path: Path, how: str, existing: bool) -> None:
    """Whoever may rename the store puts another one there, between any two steps of root's."""
    above = owned(tmp_path / "above", 0, 0o755)
    store = owned(above / "between", 0, 0o755) / "store"
    if existing:
        Store(store)
    MAKE_UNSAFE[how](above)
    done = lamina(store, "ps")
    assert done.returncode == 125
    assert str(above) in done.stderr and "could" in done.stderr
    assert store.exists() == existing
    done = lamina(tmp_path / "missing/.." / store.relative_to(tmp_path), "ps")
    assert done.returncode == 125


def test_a_link_that_another_user_made_is_not_followed(tmp_path: Path) -> None:
    """In /tmp anybody can make one: root's store would be furnished, and closed, wherever it points."""
    common = owned(tmp_path / "common", 0, 0o1777)
    target = owned(tmp_path / "target", 0, 0o755)
    (common / "store").symlink_to(target)
    os.chown(common / "store", MALLORY, MALLORY, follow_symlinks=False)
    done = lamina(common / "store", "ps")
    assert done.returncode == 125
    assert str(common / "store") in done.stderr
    assert (list(target.iterdir()), target.stat().st_mode & 0o777) == ([], 0o755)
    (common / "deeper").symlink_to(target)
    os.chown(common / "deeper", MALLORY, MALLORY, follow_symlinks=False)
    assert lamina(common / "deeper/below/../store", "ps").returncode == 125
    assert list(target.iterdir()) == []


def test_ordinary_places_are_fine(tmp_path: Path, untouched_host: Leaks) -> None:
    common = owned(tmp_path / "common", 0, 0o1777)
    group = owned(tmp_path / "group", 0, 0o775)
    os.chown(group, 0, os.getegid())
    (tmp_path / "link").symlink_to("group/../common")
    for place in (common / "store", group / "a/b/store", tmp_path / "link/other", tmp_path / "link/../third"):
        assert lamina(place, "ps").returncode == 0
    assert Store(tmp_path / "link/other").path == os.fsencode(common / "other")
    assert Store(tmp_path / "link/../third").path == os.fsencode(tmp_path / "third")


def test_endless_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert lamina(tmp_path / "a/store", "ps").returncode == 125


@pytest.mark.parametrize("mask", [0, 0o002, 0o077])
def test_cve_2024_25621_what_is_made_on_the_way_is_ours_alone(tmp_path: Path, mask: int) -> None:
    """With an open umask the directories above the store were anybody's, to rename the store away."""
    before = os.umask(mask)
    try:
        Store(tmp_path / "a/b/store")
    finally:
        os.umask(before)
    for made in (tmp_path / "a", tmp_path / "a/b"):
        assert made.stat().st_mode & 0o022 == 0


def test_a_store_of_another_user_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "store")
    os.chown(tmp_path / "store", MALLORY, MALLORY)
    with pytest.raises(InvalidInput, match="belongs to uid 61299"):
        Store(tmp_path / "store")
