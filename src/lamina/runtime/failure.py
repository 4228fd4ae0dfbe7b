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
from lamina.runtime.meaning import meaning_of

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
    refused: bool = False,
    bundle: Bundle | None = None,
) -> StepFailed:
    """Step *index* of the start of *bundle* failed with errno *number*, or with 0 because of its *result*. *refused*:
    an earlier execve(2) of the same command was not permitted.
    """
    step = steps[index]
    if step.call in EXECUTING:
        # a command that is there but not for us counts for more than one that is not there
        return command_failure(repr(step), index, command_name(step), EACCES if refused else number)
    if bundle is not None and number and (meaning := meaning_of(bundle, step, number)) is not None:
        return StepFailed(repr(step), number, index=index, message=meaning.message, remedy=meaning.remedy)
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
    )


def command_failure(step: str, index: int, name: str, number: int, *, init: bool = False) -> StepFailed:
    """The command cannot be executed, by us or by the launcher; *init*: below one."""
    kind: type[StepFailed] = CommandNotFound if number == ENOENT else CommandNotExecutable
    hint = remedy = ""
    if kind is CommandNotFound:
        hint = "no such command in the container"
        if "/" in name:
            hint += ", or no such interpreter as its first line names"
    elif number == ENOEXEC:
        hint = "neither a program for this machine nor a script with a #! line"
    elif number == E2BIG:
        hint = (
            "the kernel takes no argument or variable of 128 KiB, and a quarter of the stack's limit in all"
        )
        remedy = "hand large inputs over as a file, or on standard input"
    elif number == EAGAIN and init:
        kind, hint = StepFailed, "the limit of processes leaves no room for an init and the command"
        remedy = "allow 2 with --pids-limit, or leave --init away"
    message = f"execute {name}: {os.strerror(number)}"
    return kind(step, number, index=index, message=message, hint=hint, remedy=remedy)


def command_name(step: Step) -> str:
    """What a step executes, or looks for."""
    if step.call == "faccessat2":
        path = step.args[1]
        assert isinstance(path, bytes)
        return path.rpartition(b"/")[2].decode(errors="replace")
    argv = next(arg for arg in step.args if isinstance(arg, Strings))
    return argv[step.call == "execveat"].decode(errors="replace")
