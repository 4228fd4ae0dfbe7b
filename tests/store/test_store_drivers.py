"""Both drivers keep the contract; and copies are turned into layers and back without loss, whatever is in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from lamina.errors import KernelError
from lamina.overlay.spec import MountSpec, steady_options
from lamina.overlay.stack import Overlay
from lamina.store import layers, trace
from lamina.store.check import check
from lamina.store.drivers.contract import Driver
from lamina.store.drivers.freezing import copy, freeze
from lamina.store.drivers.overlay2 import Overlay2
from lamina.store.drivers.vfs import Vfs
from lamina.store.leases import lease
from lamina.store.root import Store
from lamina.testing.drivers import DriverContract, different, fill, snapshot
from lamina.values import replace
from support.namespaces import in_mount_namespace
from support.snapshots import differences, snapshot_tree
from support.stacks import Kit, Node, scratch, write_layer
from support.stacks import layers as stacks


class _Apart(DriverContract):
    def apart(self, test: Callable[[], None]) -> None:
        in_mount_namespace(test)


@pytest.mark.root
class TestOverlay2(_Apart):
    def driver(self, store: Store) -> Driver:
        return Overlay2(store)


@pytest.mark.root
class TestVfs(_Apart):
    def driver(self, store: Store) -> Driver:
        return Vfs(store)


@pytest.mark.root
def test_the_suite_finds_a_driver_that_forgets(tmp_path: Path) -> None:
    """A contract that anything passes is none."""

    class Forgetful(Vfs):
        def commit(self, place, held, identity=None):
            os.chmod(place + b"/fs", 0o777)
            for name in os.listdir(place + b"/fs"):
                if not os.path.isdir(place + b"/fs/" + name):
                    os.utime(place + b"/fs/" + name, follow_symlinks=False)
            return super().commit(place, held, identity)

    class Suite(_Apart):
        def driver(self, store: Store) -> Driver:
            return Forgetful(store)

    with pytest.raises(AssertionError):
        Suite().test_what_was_written_becomes_a_layer(tmp_path)


@pytest.mark.root
@pytest.mark.parametrize("kind", [Overlay2, Vfs])
def test_let_down_at_every_step(tmp_path: Path, kind: type[Overlay2] | type[Vfs]) -> None:
    """The state is as it was, or the layer is there; never neither, and what is left can be removed."""
    place = os.fsencode(tmp_path / "place")
    for number in range(1, 100):
        store = Store(tmp_path / str(number))
        driver = kind(store)
        with lease(store) as held:
            with layers.stage(store, None, held) as stage:
                fill(stage.path)
                base = stage.commit(None, 1, 1)
            identity, done = layers.new_id(), False
            trace.hook = trace.parse(f"fail:{number}:28")
            try:
                root = driver.prepare(place, [base.id])
                written = root.directory or place + b"/layer/fs"
                with open(written + b"/mine", "w") as file:
                    file.write("x")
                done = True
                driver.commit(place, held, identity)
                break
            except KernelError as error:
                assert error.errno == 28
            finally:
                trace.hook = None
            if done and not layers.is_there(store, identity):
                assert driver.mounts(place)
                assert (
                    tmp_path / ("place/fs" if kind is Vfs else "place/layer/fs") / "mine"
                ).read_text() == "x"
            if done and os.path.lexists(place + b"/state.json"):
                assert b"mine" in os.listdir(driver.commit(place, held, identity).path)
            driver.remove(place)
            assert not os.path.lexists(place)
            assert [found for found in check(store).findings if found.severity == "damaged"] == []
        shutil.rmtree(tmp_path / str(number))
    else:
        raise AssertionError("it never went well")
    assert number > 8


PLAIN = Kit(redirects=False, metacopies=False)
# a plain copy has its own inodes and changes
COPIED = frozenset({"ctime", "nlink"})


@pytest.mark.root
@pytest.mark.timeout(300)
def test_freeze_is_the_inverse_of_copy(tmp_path: Path) -> None:
    """copy(stack), frozen over the stack without its top layer, is a top layer that shows the same."""

    @given(stacks(PLAIN, 1, 4))
    @settings(max_examples=max(settings().max_examples // 2, 10))
    def test(drawn: list[Node]) -> None:
        with scratch(os.fsencode(tmp_path)) as place:
            paths = [place + b"/layer-%d" % number for number in range(len(drawn))]
            for path, layer in zip(paths, drawn, strict=True):
                write_layer(path, layer, PLAIN)
            for name in (b"empty", b"copy", b"upper", b"work"):
                os.mkdir(place + b"/" + name)
            whole = MountSpec(lowerdirs=tuple(paths), options=steady_options(False))
            below = replace(whole, lowerdirs=whole.lowerdirs[1:] or (place + b"/empty",))
            copy(whole, place + b"/copy")
            freeze(place + b"/copy", below, place + b"/upper")
            again = replace(below, upperdir=place + b"/upper", workdir=place + b"/work")
            with Overlay(whole).open() as ours, Overlay(again).open() as theirs:
                assert differences(snapshot_tree(ours), snapshot_tree(theirs), COPIED) == []

    in_mount_namespace(test, timeout=100_000)


def test_freezing_what_did_not_change_gives_nothing(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("devices need root")
    for name in ("layer", "copy", "upper"):
        (tmp_path / name).mkdir()
    fill(os.fsencode(tmp_path / "layer"))
    spec = MountSpec(lowerdirs=(os.fsencode(tmp_path / "layer"),), options=steady_options(False))
    copy(spec, os.fsencode(tmp_path / "copy"))
    assert (
        different(snapshot(os.fsencode(tmp_path / "copy")), snapshot(os.fsencode(tmp_path / "layer"))) == []
    )
    freeze(os.fsencode(tmp_path / "copy"), spec, os.fsencode(tmp_path / "upper"))
    assert list((tmp_path / "upper").iterdir()) == []
