"""What went wrong in a new process, in words: which step, on what, why, and what to do."""

from __future__ import annotations

import os
from errno import E2BIG, EACCES, EAGAIN, ELOOP, ENOENT, ENOEXEC, ENOSPC, EPERM

from lamina.errors import (
    CommandNotExecutable,
    CommandNotFound,
    KernelError,
    LaminaError,
    StepFailed,
    Unsupported,
)
from lamina.linux.program import Step, Strings
from lamina.runtime.meaning import meaning_of, overlay_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.runtime.bundle import Bundle

EXECUTING = ("execve", "execveat", "faccessat2")


def clone_failure(error: OSError, mapped: bool) -> LaminaError:
    """clone3(2) itself failed; *mapped*: a user namespace was asked for."""
    number = error.errno or 0
    if mapped and number in (EPERM, ENOSPC):
        return Unsupported(
            f"create user namespace: {os.strerror(number)}",
            remedy="`lamina doctor` names what forbids it on this host and the remedy",
        )
    if number == EPERM:
        return Unsupported(
            "create namespaces: Operation not permitted", remedy="run as root, or see `lamina doctor`"
        )
    return KernelError("clone3", number, remedy="see `lamina doctor`")


def step_failure(
    steps: Sequence[Step],
    index: int,
    number: int,
    *,
    result: int = 0,
    bundle: Bundle | None = None,
) -> StepFailed:
    """Step *index* of the start of *bundle* failed with errno *number*, or with 0 because of its *result*."""
    step = steps[index]
    if step.call in EXECUTING:
        return command_failure(repr(step), index, command_name(steps, index), number)
    refused = bundle is not None and number and step.call in ("fsconfig", "mount")
    place = overlay_of(bundle, step)[0] if bundle is not None and refused else None
    if bundle is not None and number and (meaning := meaning_of(bundle, step, number)) is not None:
        return StepFailed(
            repr(step), number, index=index, message=meaning.message, remedy=meaning.remedy, place=place
        )
    hint = "a link is in the way of one of the container's own file systems" if number == ELOOP else ""
    text = f"step {index + 1} of {len(steps)} of the start failed: {step!r}"
    cause = os.strerror(number) if number else f"unexpected result {result}"
    return StepFailed(
        repr(step),
        number,
        index=index,
        message=f"{text}: {cause}",
        hint=hint,
        remedy="" if hint else "see `lamina doctor`",
        place=place,
    )


def command_failure(
    step: str, index: int, name: str, number: int, *, init: bool = False, path: str = ""
) -> StepFailed:
    """The command cannot be executed, by us or by the launcher; *init*: below one. *path*: the container's PATH.

    Engines look for the kernel's words in the message, so of a path they stay.
    """
    kind: type[StepFailed] = CommandNotFound if number == ENOENT else CommandNotExecutable
    cause, remedy = os.strerror(number), ""
    if number == ENOENT and "/" in name:
        cause += " in the container, or no such interpreter as its first line names"
        remedy = "name a file that is there for the container"
    elif number == ENOENT:
        cause = "no such command in the container"
        remedy = (
            f"it is looked for along PATH={path}" if path else "it is looked for along the container's PATH"
        )
        if " " in name:
            remedy += "; it is one word here, of which no shell makes several"
    elif number == EACCES:
        cause += ": it is a directory, or its mode or file system does not let this user execute it"
        remedy = "chmod +x it, or have its interpreter read it: sh FILE"
    elif number == ENOEXEC:
        cause += ": it is neither a program for this machine nor a script with a #! line"
        remedy = "put #!/bin/sh on its first line, or have its interpreter read it: sh FILE"
    elif number == E2BIG:
        cause += (
            ": the kernel takes no argument or variable of 128 KiB, and a quarter of the stack's limit in all"
        )
        remedy = "hand large inputs over as a file, or on standard input"
    elif number == EAGAIN and init:
        kind = StepFailed
        cause += ": the limit of processes leaves no room for an init and the command"
        remedy = "allow 2 with --pids-limit, or leave --init away"
    return kind(step, number, index=index, message=f"execute {name}: {cause}", remedy=remedy)


def command_name(steps: Sequence[Step], index: int) -> str:
    """What the step *index* executes, or looks for so that the last one can execute it."""
    step = steps[-1] if steps[index].call == "faccessat2" else steps[index]
    argv = next(arg for arg in step.args if isinstance(arg, Strings))
    return argv[step.call == "execveat"].decode(errors="replace")
