"""Lamina reads a stack as the kernel mounts it, byte for byte and attribute for attribute; changes lead from one to
the other.

Stacks are drawn at random, written to a disk and mounted; or operations drawn at random are done in a mount. Each
property runs in one child with a mount (and user) namespace of its own. LAMINA_EXAMPLES says how many examples.
What these found is kept as named tests in the other files of this directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lamina.overlay.apply import Target
from lamina.overlay.changes import Change
from lamina.overlay.spec import MountSpec
from lamina.overlay.stack import Overlay
from lamina.overlay.tree import Tree
from lamina.values import replace
from support.namespaces import in_mount_namespace, in_user_namespace
from support.operations import Operation, operations, perform
from support.snapshots import (
    Inodes,
    beside_broken,
    broken,
    copy_tree,
    differences,
    snapshot,
    snapshot_tree,
    without_aliases,
    without_stale,
)
from support.stacks import Kit, Node, layers, mounted, scratch, write_layer

ROOT, USER = Kit(), Kit(root=False)
# lowers without forged marks, as programs are run over
PLAIN, PLAIN_USER = Kit(redirects=False, metacopies=False), Kit(root=False, redirects=False, metacopies=False)
DENSE = Kit(dense=True)
OPTIONS = (
    (("redirect_dir", "on"), ("metacopy", "on")),
    (("redirect_dir", "on"),),
    (("redirect_dir", "nofollow"),),
    (),
)
# what a mount with an upper directory changes in it by itself (trusted.overlay.origin and so on)
CTIME = frozenset({"ctime"})
# a plain copy: its own inodes; and a forged metacopy has another size than its content
COPIED = frozenset({"ctime", "nlink", "size"})

pytestmark = pytest.mark.timeout(0 if settings().max_examples > 1000 else 300)


def within(place: Path, kit: Kit, test: Callable[[bytes], None]) -> None:
    """Run a property as root, or as root of a user namespace of its own."""
    run = in_mount_namespace if kit.root else in_user_namespace
    run(test, os.fsencode(place), timeout=100_000)


def specification(kit: Kit, count: int, *, upper: bool, data: int = 0, options: object = ()) -> MountSpec:
    names = [b"l%d" % i for i in range(count)]
    lowers = names[1:] if upper else names
    return MountSpec(
        lowerdirs=tuple(lowers[: len(lowers) - data]),
        datadirs=tuple(lowers[len(lowers) - data :]),
        upperdir=names[0] if upper else None,
        workdir=b"work" if upper else None,
        userxattr=not kit.root,
        volatile=upper,
        options=tuple(options) if kit.root else (),  # type: ignore[arg-type]
    )


def write(stack: list[Node], kit: Kit) -> None:
    for number, layer in enumerate(stack):
        write_layer(b"l%d" % number, layer, kit)


def examples(divisor: int) -> settings:
    """A share of twice what LAMINA_EXAMPLES asks for: together they are thousands in CI."""
    return settings(max_examples=max(2 * settings().max_examples // divisor, 10))


def stacks(least: int, most: int) -> st.SearchStrategy[list[Node]]:
    """Everything there is, or little of it that often meets."""
    return st.one_of(layers(ROOT, least, most), layers(DENSE, least, most))


def same_as_mounted(spec: MountSpec) -> None:
    with Overlay(spec).open() as tree:
        ours = snapshot_tree(tree)
    os.mkdir(b"merged")
    inodes: Inodes = {}
    with mounted(spec, b"merged"):
        theirs = snapshot(b"merged", beside_broken(ours), inodes)
    ours, theirs = without_aliases(*without_stale(ours, theirs), inodes)
    wrong = differences(ours, theirs, CTIME if spec.upperdir else frozenset())
    assert not wrong, "\n".join(wrong)


def inode_groups(tree: Tree) -> dict[bytes, tuple[int, int, int]]:
    """(layer, device, inode) of everything but directories."""
    found = {}
    for directory, _, others in tree.walk():
        for name in others:
            node = directory / name
            status = node.lstat()
            found[node.path[1:]] = node.sources()[0][0], status.st_dev, status.st_ino
    return found


def applied_is_merged(spec: MountSpec) -> None:
    overlay = Overlay(spec)
    leads_from_one_to_the_other(overlay.open_below(), overlay.open(), overlay.changes, 1)


def leads_from_one_to_the_other(
    before: Tree, after: Tree, changes: Callable[[], Iterable[Change]], common: int
) -> None:
    """*changes*, applied to a copy of *before*, make it what *after* is. *common*: from which layer on both are one."""
    with before as below, after as merged:
        wanted = snapshot_tree(merged)
        # what a mount cannot show cannot be copied either
        assume(not broken(wanted) and not broken(snapshot_tree(below)))
        copy_tree(below, b"copy")
        found = list(changes())
        assert [change.path for change in found] == sorted({change.path for change in found})
        with Target(os.open(b"copy", os.O_RDONLY | os.O_DIRECTORY)) as target:
            for change in found:
                target.apply(change, merged)
            target.finish()
        wrong = differences(snapshot(b"copy"), wanted, COPIED)
        assert not wrong, "\n".join([*wrong, *map(str, found)])
        links_are_kept(below, merged, {change.path for change in found}, common)


def links_are_kept(below: Tree, merged: Tree, changed: set[bytes], common: int) -> None:
    """Names of one file in the upper, or in another layer before *common*, are names of one file in the copy.

    Nothing else is, but what was linked before and did not change: a mount's copy-up breaks such links without
    anybody having wanted it, and a file system without layers would not have.
    """
    after = inode_groups(merged)
    # a forged redirect shows one file of one name at two places: nobody linked these
    several = {path for path in after if (merged / path).lstat().st_nlink > 1}
    linked = by_file(after, lambda path: after[path][0] < common and path in several)
    copied = by_file({path: os.lstat(b"copy/" + path).st_ino for path in after})
    for names in linked:
        assert any(names <= together for together in copied), f"{names} are names of one file"
    may_be = linked + by_file(inode_groups(below), lambda path: path not in changed)
    may_be += by_file(after, lambda path: after[path][0] >= common)  # moved with a directory
    for together in copied:
        assert together <= connected(min(together), may_be), f"{together} are not names of one file"


def by_file(
    files: Mapping[bytes, object], which: Callable[[bytes], bool] = lambda _: True
) -> list[set[bytes]]:
    found: dict[object, set[bytes]] = {}
    for path, inode in files.items():
        if which(path):
            found.setdefault(inode, set()).add(path)
    return list(found.values())


def connected(path: bytes, groups: list[set[bytes]]) -> set[bytes]:
    found = {path}
    while more := set().union(*(group for group in groups if group & found)) - found:
        found |= more
    return found


# -- drawn stacks ----------------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("upper", [False, True], ids=["read-only", "with upper"])
def test_a_drawn_stack_reads_as_it_is_mounted(tmp_path: Path, upper: bool) -> None:
    @examples(2)
    @given(stacks(2, 6), st.sampled_from(OPTIONS))
    def check(stack: list[Node], options: object) -> None:
        with scratch(os.fsencode(tmp_path)) as place:
            os.chdir(place)
            write(stack, ROOT)
            same_as_mounted(specification(ROOT, len(stack), upper=upper, options=options))
            os.chdir("/")

    within(tmp_path, ROOT, lambda _: check())


@pytest.mark.root
def test_a_file_that_the_kernel_takes_for_another_is_none_of_the_differences(tmp_path: Path) -> None:
    """What was drawn once: a metacopy's redirect to a file that shows beside it."""
    content = Node("file", b"", 0o644)
    stack = [
        Node("dir", children=((b"a", Node("file", b"one", 0o644, redirect=b"c", metacopy=True)),)),
        Node("dir", children=((b"c", content), (b"d", replace(content, content=b"two")))),
    ]

    def check(place: bytes) -> None:
        with scratch(place):
            os.chdir(place)
            write(stack, ROOT)
            same_as_mounted(specification(ROOT, len(stack), upper=True, options=OPTIONS[0]))
            os.chdir("/")

    within(tmp_path, ROOT, check)


@pytest.mark.root
def test_a_drawn_stack_with_data_only_layers_reads_as_it_is_mounted(tmp_path: Path) -> None:
    @examples(4)
    @given(stacks(4, 6), st.integers(1, 2))
    def check(stack: list[Node], data: int) -> None:
        with scratch(os.fsencode(tmp_path)) as place:
            os.chdir(place)
            write(stack, ROOT)
            same_as_mounted(specification(ROOT, len(stack), upper=False, data=data, options=OPTIONS[0]))
            os.chdir("/")

    within(tmp_path, ROOT, lambda _: check())


@pytest.mark.root
def test_a_drawn_stack_on_the_disk_reads_as_it_is_mounted(tmp_path: Path) -> None:
    """As above, on whatever file system the tests' directory is on instead of a tmpfs."""

    @examples(20)
    @given(stacks(2, 4))
    def check(stack: list[Node]) -> None:
        with scratch(os.fsencode(tmp_path), disk=True) as place:
            os.chdir(place)
            write(stack, ROOT)
            same_as_mounted(specification(ROOT, len(stack), upper=True, options=OPTIONS[0]))
            os.chdir("/")

    within(tmp_path, ROOT, lambda _: check())


@pytest.mark.userns
@pytest.mark.parametrize("upper", [False, True], ids=["read-only", "with upper"])
def test_a_drawn_stack_in_a_user_namespace_reads_as_it_is_mounted(tmp_path: Path, upper: bool) -> None:
    @examples(4)
    @given(layers(USER, 2, 5))
    def check(stack: list[Node]) -> None:
        with scratch(os.fsencode(tmp_path)) as place:
            os.chdir(place)
            write(stack, USER)
            same_as_mounted(specification(USER, len(stack), upper=upper))
            os.chdir("/")

    within(tmp_path, USER, lambda _: check())


@pytest.mark.root
def test_applying_the_changes_of_a_drawn_stack_to_its_lowers_gives_the_merged_tree(tmp_path: Path) -> None:
    @examples(2)
    @given(stacks(2, 5), st.sampled_from(OPTIONS))
    def check(stack: list[Node], options: object) -> None:
        with scratch(os.fsencode(tmp_path)) as place:
            os.chdir(place)
            write(stack, ROOT)
            try:
                applied_is_merged(specification(ROOT, len(stack), upper=True, options=options))
            finally:
                os.chdir("/")

    within(tmp_path, ROOT, lambda _: check())


@pytest.mark.root
def test_applying_what_several_layers_did_to_the_others_gives_the_merged_tree(tmp_path: Path) -> None:
    @examples(10)
    @given(stacks(3, 6), st.integers(2, 4), st.booleans(), st.sampled_from(OPTIONS))
    def check(stack: list[Node], above: int, upper: bool, options: object) -> None:
        with scratch(os.fsencode(tmp_path)) as place:
            os.chdir(place)
            write(stack, ROOT)
            try:
                overlay = Overlay(specification(ROOT, len(stack), upper=upper, options=options))
                above = min(above, len(overlay.spec.lowerdirs))
                below, merged = overlay.open_below(above), overlay.open()
                leads_from_one_to_the_other(below, merged, lambda: overlay.changes(above=above), above)
            finally:
                os.chdir("/")

    within(tmp_path, ROOT, lambda _: check())


@pytest.mark.root
def test_applying_what_differs_between_two_drawn_stacks_leads_from_one_to_the_other(tmp_path: Path) -> None:
    """Each side's own layers, the upper among them or not, over common ones, or with nothing in common."""

    @examples(4)
    @given(stacks(3, 7), st.integers(0, 2), st.integers(0, 3), st.booleans(), st.sampled_from(OPTIONS))
    def check(stack: list[Node], left: int, right: int, upper: bool, options: object) -> None:
        with scratch(os.fsencode(tmp_path)) as place:
            os.chdir(place)
            write(stack, ROOT)
            try:
                two_stacks(len(stack), left, right, upper, options)
            finally:
                os.chdir("/")

    within(tmp_path, ROOT, lambda _: check())


def two_stacks(count: int, left: int, right: int, upper: bool, options: object) -> None:
    """The first *left* of *count* layers are one side's, the next *right* the other's, the rest is under both."""
    spec = specification(ROOT, count, upper=False, options=options)
    right = min(right, count - left)
    names, common = spec.lowerdirs, spec.lowerdirs[left + right :]
    before = replace(spec, lowerdirs=names[:left] + common or names[:1])
    own = names[left : left + right]
    if upper and own and own[1:] + common:
        after = replace(spec, lowerdirs=own[1:] + common, upperdir=own[0], workdir=b"work", volatile=True)
    else:
        after = replace(spec, lowerdirs=own + common or names[:1])
    first, second = Overlay(before), Overlay(after)
    first_common = len(own) + (0 if after.upperdir is not None else 1)
    leads_from_one_to_the_other(
        first.open(), second.open(), lambda: first.changes_to(second), first_common if common else 100
    )


# -- operations in a mount -------------------------------------------------------------------------------------


def after_operations(
    place: bytes,
    kit: Kit,
    lowers: list[Node],
    programs: list[list[Operation]],
    options: object,
    disk: bool = False,
) -> None:
    """Each program runs in a mount of its own, so that the next one finds what overlayfs left of the one before."""
    with scratch(place, disk=disk) as where:
        os.chdir(where)
        try:
            write(lowers, kit)
            os.rename(b"l0", b"l%d" % len(lowers))
            os.mkdir(b"l0")
            os.mkdir(b"mounted")
            spec = specification(kit, len(lowers) + 1, upper=True, options=options)
            for program in programs:
                with mounted(spec, b"mounted"):
                    perform(b"mounted", program)
            same_as_mounted(spec)
            applied_is_merged(spec)
        finally:
            os.chdir("/")


def programs(kit: Kit) -> st.SearchStrategy[list[list[Operation]]]:
    return st.lists(operations(kit), min_size=1, max_size=3)


@pytest.mark.root
def test_what_programs_leave_reads_as_it_is_mounted_and_can_be_applied(tmp_path: Path) -> None:
    @examples(2)
    @given(layers(PLAIN, 1, 3), programs(ROOT), st.sampled_from(OPTIONS))
    def check(lowers: list[Node], programs: list[list[Operation]], options: object) -> None:
        after_operations(os.fsencode(tmp_path), ROOT, lowers, programs, options)

    within(tmp_path, ROOT, lambda _: check())


@pytest.mark.root
def test_what_programs_leave_on_the_disk_reads_as_it_is_mounted_and_can_be_applied(tmp_path: Path) -> None:
    @examples(20)
    @given(layers(PLAIN, 1, 2), programs(ROOT), st.sampled_from(OPTIONS))
    def check(lowers: list[Node], programs: list[list[Operation]], options: object) -> None:
        after_operations(os.fsencode(tmp_path), ROOT, lowers, programs, options, disk=True)

    within(tmp_path, ROOT, lambda _: check())


@pytest.mark.userns
def test_what_programs_leave_in_a_user_namespace_reads_as_it_is_mounted_and_can_be_applied(
    tmp_path: Path,
) -> None:
    @examples(4)
    @given(layers(PLAIN_USER, 1, 3), programs(USER))
    def check(lowers: list[Node], programs: list[list[Operation]]) -> None:
        after_operations(os.fsencode(tmp_path), USER, lowers, programs, ())

    within(tmp_path, USER, lambda _: check())
