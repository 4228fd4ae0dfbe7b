"""Mounts for a container whose own user namespace could not make them, by a helper in a mount namespace of its own.

Two kinds of containers need one. A container of root's with ids of its own: its layers belong to the ids that the image
says, and are to be seen as those of its user namespace. So the helper takes each directory through an id-mapped mount
(mount_setattr(2), MOUNT_ATTR_IDMAP; as layers of an overlay since Linux 5.19), the upper as well: what the container
writes as its user 0 is user 0's on disk, and nothing else of Lamina need know that ids were mapped. And a container of
an ordinary user whose namespace lacks that user: it could not even reach the store. The helper makes its mounts in a
namespace that has all of the user's ids.

The overlay is made by somebody whom both sides of the mapping have, or the kernel could not make its work directory:
in the first case the helper's file system ids become the container's root, with the helper's capabilities kept. What is
mounted is attached nowhere when it is handed over; the helper ends, and its mount namespace with it.
"""

from __future__ import annotations

import os
from errno import EINVAL, EOVERFLOW

from lamina.errors import LaminaError, Unsupported
from lamina.linux.constants import (
    AT_FDCWD,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    CLONE_VM,
    MOVE_MOUNT_F_EMPTY_PATH,
    MS_PRIVATE,
    MS_REC,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    PR_SET_SECUREBITS,
    SECBIT_NO_SETUID_FIXUP,
)
from lamina.linux.descriptors import SOCK_STREAM, duplicate, socketpair
from lamina.linux.fd import Fd
from lamina.linux.program import Out, Reg, Step, assemble
from lamina.overlay.spec import MountSpec, renamed
from lamina.overlay.steps import overlay_steps
from lamina.runtime.id_maps import write_id_maps
from lamina.runtime.plan.mounts import clone_steps, recursion
from lamina.runtime.plan.paths import ROOT, idmap_step
from lamina.runtime.plan.waits import hand_over_step
from lamina.runtime.waits import GO, dismiss, reap, receive_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lamina.linux.packed import Child
    from lamina.runtime.bundle import Bundle, Wiring
    from lamina.runtime.plan.mounts import Place

    Stacks = tuple[tuple[Reg, MountSpec], ...]

CHANNEL = Reg("channel")
KERNEL = (5, 19)  # overlayfs over id-mapped layers


def stacks_of(bundle: Bundle) -> Stacks:
    """The stacks that *bundle* consists of, by the registers in which a plan has them."""
    every = ((ROOT, bundle.rootfs), *_further(bundle))
    return tuple((name, stack) for name, stack in every if isinstance(stack, MountSpec))


def _further(bundle: Bundle) -> Iterable[tuple[Reg, MountSpec]]:
    return ((Reg(f"overlay{number}"), stack) for number, (_, stack) in enumerate(bundle.overlays))


def mapped_stacks(
    bundle: Bundle, namespace: int, owner: tuple[int, int], known: Wiring
) -> list[tuple[str, Fd]]:
    """The stacks of *bundle*, by register, with their ids mapped as the user namespace *namespace* (a descriptor) does.

    *owner* are the ids, of this machine, of the container's root. Raises StepFailed, Unsupported.
    """
    if known.release < KERNEL:
        raise Unsupported(
            f"run in a user namespace: overlayfs maps the ids of layers from Linux {KERNEL[0]}.{KERNEL[1]} on",
            remedy="leave --userns out, or use a newer kernel",
        )
    stacks = stacks_of(bundle)
    steps = mapped_steps(stacks, bundle.merged, namespace, owner, plus=known.lowerdir_plus)
    return _made(bundle, steps, [str(name) for name, _ in stacks])


def mapped_steps(
    stacks: Stacks, scratch: bytes, namespace: int, owner: tuple[int, int], *, plus: bool
) -> list[Step]:
    """What the helper does for `mapped_stacks`; *scratch* is an empty directory."""
    steps = [
        *_numbers_taken(),
        Step("mount", None, b"/", None, MS_REC | MS_PRIVATE, None, note="nothing we mount reaches the host"),
        Step("mount", b"tmpfs", scratch, b"tmpfs", 0, b"mode=0700", note="room for mount points"),
        Step("mkdirat", AT_FDCWD, scratch + b"/old", 0o700),
    ]
    names: dict[bytes, bytes] = {}
    for path in _directories(stacks):
        place = names[path] = scratch + b"/%d" % len(names)
        tree = Reg(f"layer{len(names)}")
        mapped = idmap_step(tree, namespace)
        mapped.note = f"map the ids of {os.fsdecode(path)}"
        steps += [
            Step("mkdirat", AT_FDCWD, place, 0o700),
            Step("open_tree", AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, save=tree),
            mapped,
            Step("move_mount", tree, b"", AT_FDCWD, place, MOVE_MOUNT_F_EMPTY_PATH),
            Step("close", tree),
        ]
    uid, gid = owner
    steps += [
        Step(
            "prctl",
            PR_SET_SECUREBITS,
            SECBIT_NO_SETUID_FIXUP,
            0,
            0,
            0,
            note="stay capable as the container's root",
        ),
        Step("setfsgid", gid),
        Step("setfsuid", uid),
    ]

    def name(path: bytes) -> bytes:
        if path in names:
            return names[path]
        return names[os.path.dirname(path)] + b"/" + os.path.basename(path)

    for register, stack in stacks:
        steps += overlay_steps(renamed(stack, name), register, lowerdir_plus=plus, scratch=scratch + b"/old")
    return steps + _hand_over(register for register, _ in stacks)


def _directories(stacks: Stacks) -> list[bytes]:
    """What is taken through mounts of its own: each lower layer, and the directory in which upper and work directory
    lie, for the kernel wants these two on one mount.
    """
    found: dict[bytes, None] = {}
    for _, stack in stacks:
        found.update(dict.fromkeys((*stack.lowerdirs, *stack.datadirs)))
        if stack.upperdir is not None:
            found[os.path.dirname(stack.upperdir)] = None
    return list(found)


def outer_trees(bundle: Bundle, places: Sequence[Place], known: Wiring) -> list[tuple[str, Fd]]:
    """The stacks and bind mounts of *bundle*, by register, made in a user namespace with the maps `bundle.outer`.

    Raises StepFailed, Unsupported.
    """
    stacks = stacks_of(bundle)
    given = dict(bundle.given)
    bound = [
        place for place in places if place.bound and not place.options.remount and place.path not in given
    ]
    steps = outer_steps(stacks, bound, bundle.merged, plus=known.lowerdir_plus)
    return _made(bundle, steps, [*(str(name) for name, _ in stacks), *(str(place.save) for place in bound)])


def outer_steps(stacks: Stacks, bound: Sequence[Place], scratch: bytes, *, plus: bool) -> list[Step]:
    """What the helper does for `outer_trees`."""
    steps = [
        *_numbers_taken(),
        Step("read", CHANNEL, Out(8), 1, want=1, note="wait for the id maps"),
        Step("setresgid", 0, 0, 0),
        Step("setresuid", 0, 0, 0),
        Step("mount", None, b"/", None, MS_REC | MS_PRIVATE, None, note="nothing we mount reaches the host"),
    ]
    for place in bound:
        steps += clone_steps(place.source, place.save, recursion(place), place.part)
    for register, stack in stacks:
        steps += overlay_steps(stack, register, lowerdir_plus=plus, scratch=scratch)
    return steps + _hand_over([*(register for register, _ in stacks), *(place.save for place in bound)])


def _numbers_taken() -> list[Step]:
    """The caller may have none of the standard streams: then no mount gets their numbers either."""
    return [Step("dup3", CHANNEL, number, 0) for number in range(3)]


def _hand_over(registers: Iterable[Reg]) -> list[Step]:
    """Each in a message of its own, which must say a number: 0."""
    steps = []
    for register in registers:
        steps += [Step("dup3", register, 0, 0), hand_over_step(CHANNEL, 0, note=f"hand over {register}")]
    return steps


def _made(bundle: Bundle, steps: list[Step], names: list[str]) -> list[tuple[str, Fd]]:
    """Have the helper do it, and take what it hands over."""
    ours, theirs = map(Fd, socketpair(SOCK_STREAM))
    spawned: list[Child] = []
    found: list[tuple[str, Fd]] = []
    try:
        with theirs, Fd(duplicate(theirs, 3)) as channel:
            program = assemble(steps, (CHANNEL,)).fill({str(CHANNEL): int(channel)}, {})
            flags = CLONE_NEWNS | CLONE_VM | (CLONE_NEWUSER if bundle.outer is not None else 0)
            try:
                program.spawn(flags, noted=spawned)
            except OSError as error:
                from lamina.runtime.failure import clone_failure

                raise clone_failure(error, bundle.outer is not None) from error
        child = spawned[0]
        if bundle.outer is not None:
            write_id_maps(child.pid, bundle.outer)
            os.write(ours, GO)
        for name in names:
            if not (received := receive_descriptors(ours, child)):
                break
            found.append((name, received[0]))
        reap(child.pidfd)
        if (failed := child.failure()) is not None:
            raise _failure(bundle, steps, *failed)
        if len(found) < len(names):
            raise LaminaError("mount the container's layers: the helper ended before it was done")
        return found
    except BaseException:
        for _, fd in found:
            fd.close()
        raise
    finally:
        ours.close()
        for child in spawned:
            dismiss(child)


def _failure(bundle: Bundle, steps: Sequence[Step], index: int, number: int) -> LaminaError:
    step = steps[index]
    if step.call == "mount_setattr" and number in (EINVAL, EOVERFLOW):
        return Unsupported(
            f"{step.note}: {os.strerror(number)}: its file system does not map ids, or is mapped already",
            remedy="keep the store on ext4, xfs, btrfs, tmpfs or another file system that does (--root), or leave "
            "--userns out",
        )
    from lamina.runtime.failure import step_failure

    return step_failure(steps, index, number, bundle=bundle)
