"""A stack as steps of a plan: every way that a kernel may need, walked on this one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.errors import InvalidInput, KernelError, Unsupported
from lamina.linux.constants import AT_FDCWD, FSCONFIG_SET_STRING, MOUNT_ATTR_NODEV, MOVE_MOUNT_F_EMPTY_PATH
from lamina.linux.program import Reg, Step, assemble
from lamina.overlay.mount import mount, takes_layers_one_by_one
from lamina.overlay.page import OPTION_PAGE
from lamina.overlay.spec import LONGEST_STRING, MountSpec
from lamina.overlay.steps import overlay_steps
from lamina.values import replace
from support.namespaces import in_mount_namespace

TREE = Reg("tree")
ways = pytest.mark.parametrize("one_by_one", [True, False], ids=["fsconfig", "mount2"])


def long_place(below: Path, length: int) -> Path:
    """A new directory below *below* whose path has at least *length* bytes, with odd characters in it."""
    place = below
    while len(os.fsencode(place)) < length:
        place /= "a:b,c\\d " + "x" * 80
    place.mkdir(parents=True)
    return place


def layers(place: Path, count: int) -> MountSpec:
    """*count* layers, each with a file of its number, under an upper; all below *place*."""
    lowers = []
    for number in range(count):
        layer = place / f"layer{number}"
        layer.mkdir()
        (layer / f"file{number}").write_text(str(number))
        lowers.append(os.fsencode(layer))
    for name in ("upper", "work"):
        (place / name).mkdir()
    return MountSpec(tuple(lowers), os.fsencode(place / "upper"), os.fsencode(place / "work"))


@pytest.mark.root
@pytest.mark.parametrize("attached", [True, pytest.param(False, marks=pytest.mark.kernel("6.15"))])
def test_a_lowest_layer_that_contains_the_others(tmp_path: Path, attached: bool) -> None:
    """As this machine's root contains the store: overlayfs by itself refuses that (ELOOP)."""
    (tmp_path / "store").mkdir()
    spec = replace(layers(tmp_path / "store", 2), nested=True)
    spec = replace(spec, lowerdirs=(*spec.lowerdirs, os.fsencode(tmp_path)))
    (tmp_path / "below").write_text("below")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    wanted = {"below": "below", "file0": "0", "file1": "1"}

    def by_steps() -> dict[str, str]:
        steps = overlay_steps(spec, TREE, scratch=os.fsencode(scratch) if attached else b"")
        steps.append(Step("move_mount", TREE, b"", AT_FDCWD, os.fsencode(scratch), MOVE_MOUNT_F_EMPTY_PATH))
        outcome = assemble(steps).walk()
        assert outcome.failed is None, (steps[outcome.failed], outcome.errno)
        # one mount is there, and of those that it took nothing is
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        assert mounts.count(str(scratch)) == 1
        return {path.name: path.read_text() for path in scratch.iterdir() if path.is_file()}

    def by_calls() -> dict[str, str]:
        mount(spec, scratch)
        (scratch / "written").write_text("x")
        return {path.name: path.read_text() for path in scratch.iterdir() if path.is_file()}

    assert in_mount_namespace(by_steps) == wanted
    if not attached:
        assert in_mount_namespace(by_calls) == {**wanted, "written": "x"}
        assert (tmp_path / "store/upper/written").exists()
        with pytest.raises(KernelError):
            in_mount_namespace(lambda: mount(replace(spec, nested=False), scratch))


def shown(spec: MountSpec, scratch: Path, *, one_by_one: bool) -> dict[str, str]:
    """The files of the stack, mounted by its steps in a private namespace; and "written" is written to it."""
    if one_by_one and not takes_layers_one_by_one():
        pytest.skip("this kernel has no lowerdir+ (Linux 6.8)")
    steps = overlay_steps(
        spec, TREE, attributes=MOUNT_ATTR_NODEV, lowerdir_plus=one_by_one, scratch=os.fsencode(scratch)
    )
    steps.append(Step("move_mount", TREE, b"", AT_FDCWD, os.fsencode(scratch), MOVE_MOUNT_F_EMPTY_PATH))

    def work() -> dict[str, str]:
        outcome = assemble(steps).walk()
        assert outcome.failed is None, (steps[outcome.failed], outcome.errno)
        if spec.upperdir is not None:
            (scratch / "written").write_text("x")
        return {path.name: path.read_text() for path in scratch.iterdir()}

    return in_mount_namespace(work)


@pytest.mark.root
@ways
@pytest.mark.parametrize("length", [100, LONGEST_STRING + 1, 1500])
def test_paths_of_any_length(tmp_path: Path, one_by_one: bool, length: int) -> None:
    spec = layers(long_place(tmp_path, length), 3)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    wanted = {"file0": "0", "file1": "1", "file2": "2", "written": "x"}
    assert shown(spec, scratch, one_by_one=one_by_one) == wanted
    assert spec.upperdir is not None
    assert os.listdir(spec.upperdir) == [b"written"]


@pytest.mark.root
@ways
def test_a_store_far_down_over_another_file_system(tmp_path: Path, one_by_one: bool) -> None:
    """With mount(2) only the writable part has a directory in common, as in a container over this machine."""
    lower = tmp_path / "lower"
    lower.mkdir()
    (lower / "file").write_text("lower")
    spec = layers(long_place(tmp_path / "store", 1990), 0)
    assert len(spec.upperdir or b"") + len(spec.workdir or b"") > OPTION_PAGE - 120
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    stack = replace(spec, lowerdirs=(os.fsencode(lower),))
    assert shown(stack, scratch, one_by_one=one_by_one) == {"file": "lower", "written": "x"}


def options_of(spec: MountSpec) -> list[tuple[str, tuple[object, ...]]]:
    steps = overlay_steps(spec, TREE, lowerdir_plus=False, scratch=b"/scratch")
    return [(step.call, step.args) for step in steps]


def test_names_are_short_only_where_they_must_be() -> None:
    spec = MountSpec((b"/a/1", b"/a/2"), b"/s/upper", b"/s/work")
    (call, arguments), *_ = options_of(spec)
    assert (call, arguments[-1]) == ("mount", b"lowerdir=/a/1:/a/2,upperdir=/s/upper,workdir=/s/work")


def test_names_are_relative_to_what_most_of_them_are_below() -> None:
    base = b"/" + b"b" * 90
    spec = MountSpec(tuple(base + b"/%d:" % n for n in range(60)), b"/s/upper", b"/s/work")
    (call, here), (_, mounted), *_ = options_of(spec)
    assert (call, here) == ("chdir", (base,))
    assert bytes(mounted[-1]).startswith(rb"lowerdir=0\::1\::")  # type: ignore[call-overload]
    assert bytes(mounted[-1]).endswith(b",upperdir=/s/upper,workdir=/s/work")  # type: ignore[call-overload]


def test_a_lower_layer_is_never_an_empty_name() -> None:
    long = b"/" + b"x" * 240
    spec = MountSpec((long * 9,), long * 9 + b"/upper", long * 9 + b"/work")
    (call, here), (_, mounted), *_ = options_of(spec)
    assert (call, here) == ("chdir", (long * 8,))
    assert bytes(mounted[-1]).startswith(b"lowerdir=xxx")  # type: ignore[call-overload]


def test_what_no_name_makes_short_enough_is_refused() -> None:
    spec = MountSpec(tuple(b"/%d" % n + b"x" * 90 for n in range(60)))
    with pytest.raises(Unsupported, match="mount\\(2\\) carries 4095"):
        overlay_steps(spec, TREE, lowerdir_plus=False, scratch=b"/scratch")


def test_a_long_path_is_named_by_the_working_directory() -> None:
    long = b"/" + b"x" * 255
    steps = overlay_steps(MountSpec((b"/short", long)), TREE)
    at = next(number for number, step in enumerate(steps) if step.call == "chdir")
    assert steps[at].args == (long,)
    assert steps[at + 1].args[1:4] == (FSCONFIG_SET_STRING, b"lowerdir+", b".")
    assert steps[at - 1].args[3] == b"/short"


@pytest.mark.parametrize("path", [b"a", b"", b"./a"])
def test_a_relative_path_means_nothing_to_a_plan(path: bytes) -> None:
    with pytest.raises(InvalidInput, match="not an absolute path"):
        overlay_steps(MountSpec((b"/a", path)), TREE)
