"""The store's directory: made safely, recognised, and never mistaken for somebody else's."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.errors import Corrupt, InvalidInput, KernelError, LaminaError, Unsupported
from lamina.store import blobs, images, layers, volumes
from lamina.store.check import check
from lamina.store.root import DIRECTORIES, Store, default_root
from support.rootless import Rootless
from support.stores import make_image


def mode(path: str | bytes | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_only_the_owner_can_enter_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = Store(tmp_path / "s")
    finally:
        os.umask(before)
    assert mode(tmp_path / "s") == 0o700
    assert {mode(p) for p in (tmp_path / "s").iterdir() if p.is_dir() and p.name not in ("empty",)} == {0o700}
    assert mode(store.empty) == 0o755
    assert (tmp_path / "s" / "version").read_text() == "2\n"


def test_opening_does_not_change_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        Store(tmp_path / "s")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_a_store_that_was_opened_up_is_closed_again(tmp_path: Path) -> None:
    Store(tmp_path)
    tmp_path.chmod(0o755)
    Store(tmp_path)
    assert mode(tmp_path) == 0o700


def test_parents_are_made(tmp_path: Path) -> None:
    assert Store(tmp_path / "a" / "b" / "c").path == os.fsencode((tmp_path / "a" / "b" / "c").resolve())


def test_paths_are_absolute_and_free_of_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    store = Store("link")
    monkeypatch.chdir("/")
    assert store.containers == os.fsencode((tmp_path / "real" / "containers").resolve())
    assert os.path.isdir(store.containers)


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/st\xffre: a,b\n"
    assert Store(path).path == os.path.realpath(path)


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(InvalidInput, match="not a store of Lamina's"):
        Store(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_one_whose_making_was_interrupted_is_finished(tmp_path: Path) -> None:
    (tmp_path / "containers").mkdir()
    (tmp_path / "version.123.abcd").write_text("")
    Store(tmp_path)
    assert (tmp_path / "version").read_text() == "2\n"


def test_a_newer_store_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("3\n")
    with pytest.raises(Unsupported, match="newer"):
        Store(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["version"]


def schema_1(place: Path) -> None:
    """A store as Lamina wrote it before it knew images."""
    place.mkdir(mode=0o700)
    for name in ("containers", "names", "running", "empty", "merged", "cache", "tmp"):
        (place / name).mkdir(mode=0o700)
    (place / "version").write_text("1\n")


def test_a_store_of_the_first_schema_gets_what_is_missing(tmp_path: Path) -> None:
    schema_1(tmp_path / "s")
    (tmp_path / "s/containers" / ("0" * 64)).mkdir()
    before = os.umask(0)
    try:
        store = Store(tmp_path / "s")
    finally:
        os.umask(before)
    assert (tmp_path / "s/version").read_text() == "2\n"
    assert {mode(store.path + b"/" + name) for name in DIRECTORIES if name not in (b"empty", b"merged")} == {
        0o700
    }
    assert os.listdir(store.containers) == [b"0" * 64]
    assert check(store).findings[1:] == ()  # the first says that `empty` is closed: it is 0755 today
    make_image(store, "a")


@pytest.mark.parametrize("left", [("blobs",), ("blobs", "blobs/sha256", "images", "version.1.x")])
def test_a_migration_that_was_interrupted_is_finished(tmp_path: Path, left: tuple[str, ...]) -> None:
    schema_1(tmp_path / "s")
    for name in left:
        (tmp_path / "s" / name).mkdir(mode=0o700)
    make_image(Store(tmp_path / "s"), "a")
    assert (tmp_path / "s/version").read_text() == "2\n"


def test_many_migrate_at_once(tmp_path: Path) -> None:
    schema_1(tmp_path / "s")
    code = f"from lamina.store.root import Store; Store({str(tmp_path / 's')!r})"
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(6)]
    assert [process.wait(200) for process in started] == [0] * 6
    assert sorted(p.name for p in (tmp_path / "s").iterdir() if p.name.startswith("version")) == ["version"]


@pytest.mark.root
def test_cve_2021_41103_other_users_reach_nothing_below(tmp_path: Path) -> None:
    """Layers keep their own modes, set-uid programs and all: nobody else may get as far as them."""
    tmp_path.chmod(0o755)
    store = Store(tmp_path / "s")
    image = make_image(store, "a")
    program = layers.tree_of(store, image.layers[0]) + b"/file"
    os.chmod(program, 0o4755)
    volume = volumes.create(store, "v")
    paths = [
        program,
        os.path.dirname(program),
        images.place_of(store, image.id),
        blobs.place_of(store, image.config),
    ]
    paths += [volume.path, store.layers, store.blobs, store.images, store.volumes, store.leases, store.claims]
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            reached = [path for path in paths if os.path.lexists(path)]
            os._exit(1 if reached else 0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_damaged_version_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("one")
    with pytest.raises(Corrupt):
        Store(tmp_path)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    for path in (tmp_path / "f", tmp_path / "f" / "below"):
        with pytest.raises(KernelError) as raised:
            Store(path)
        assert "Not a directory" in str(raised.value)


@pytest.mark.parametrize("root", ["", "a\0b"])
def test_what_is_no_path_is_refused(root: str) -> None:
    with pytest.raises(LaminaError):
        Store(root)


@pytest.mark.root
def test_another_users_store_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "s")
    os.chown(tmp_path / "s", 12345, 12345)
    with pytest.raises(InvalidInput, match="belongs to uid 12345"):
        Store(tmp_path / "s")


def test_the_default_is_asked_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_ROOT", "/x/y")
    assert default_root() == b"/x/y"
    monkeypatch.delenv("LAMINA_ROOT")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_root() == b"/var/lib/lamina"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/u/data")
    assert default_root() == b"/home/u/data/lamina"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")  # counts as none
    monkeypatch.setenv("HOME", "/home/u")
    assert default_root() == b"/home/u/.local/share/lamina"


@pytest.mark.userns
def test_an_ordinary_user_has_a_store_of_their_own(rootless: Rootless) -> None:
    done = rootless.python("from lamina.store.root import Store; print(Store().path)")
    assert done.stdout.strip() == repr(os.fsencode(rootless.tmp / "data" / "lamina"))


def test_many_open_a_new_store_at_once(tmp_path: Path) -> None:
    code = f"from lamina.store.root import Store; Store({str(tmp_path / 's')!r})"
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(6)]
    assert [process.wait(200) for process in started] == [0] * 6
    assert sorted(p.name for p in (tmp_path / "s").iterdir() if p.name.startswith("version")) == ["version"]
