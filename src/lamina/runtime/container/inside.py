"""Hooks that run in a container's namespaces."""

from __future__ import annotations

from lamina.runtime.container.birth import Birth
from lamina.runtime.container.compiling import packed
from lamina.runtime.container.recipe import Recipe
from lamina.runtime.hooks import words
from lamina.runtime.plan.created import helper_steps
from lamina.runtime.talk import Numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.fd import Fd
    from lamina.runtime.hooks import Hook, Starter


def inside_starter(pidfd: int, flags: int, directory: bytes) -> Starter:
    """Starts hooks in the namespaces *flags* of the process behind *pidfd*, in *directory*."""

    def start(hook: Hook, streams: tuple[int, int, int]) -> Fd:
        path, args, env = words(hook)
        birth = Birth(Numbers())
        try:
            number = birth.give(pidfd)
            steps = helper_steps(path, args, env, birth.numbers, number, flags, directory)
            making, first = packed(steps, birth.shape, own=flags)
            birth.begin(Recipe(making), lambda: (first, steps), stdio=streams)
            birth.hear()
        except BaseException:
            birth.abandon()
            raise
        birth.close()
        assert birth.pidfd is not None
        return birth.pidfd

    return start


def inner_pid(pid: int) -> int:
    """The number of process *pid* in its own pid namespace: proc_pid_status(5), NSpid."""
    with open(f"/proc/{pid}/status", "rb", buffering=0) as status:
        for line in status.readall().splitlines():  # all its groups come before that
            if line.startswith(b"NSpid:"):
                return int(line.split()[-1])
    return pid
