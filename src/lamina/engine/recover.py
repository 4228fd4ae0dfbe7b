"""Cleaning up after engines that were killed.

The kernel has done most of it: a container dies with its engine, and its mounts with its last process. What is left
are directories, control groups, and in the worst moment a process that had not yet asked to die with us. Every
verb calls `recover` first; it looks at containers that are looked after, or should be, and at nothing else.
"""

from __future__ import annotations

import os
import select
from errno import ESRCH

from lamina.engine.discard import discard, finish_burials, unplug
from lamina.errors import Corrupt, KernelError, LaminaError
from lamina.linux.process import pidfd_open, pidfd_send_signal
from lamina.runtime.identity import same_process
from lamina.store import containers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from lamina.store.containers import Home
    from lamina.store.root import Store

SIGKILL = 9
# a process that was killed may sit in a system call for a while (a disk, NFS)
PATIENCE = 10.0
LOOKS, BETWEEN_LOOKS = 5, 0.02


def recover(store: Store, *, thorough: bool = False) -> set[str]:
    """Clean up after killed engines; the ids of the containers that somebody looks after. *thorough* looks at every
    container, also at those that rest.

    What cannot be cleaned up (a process that does not die, a file that cannot be removed) stays for the next time.
    """
    looked_after: set[str] = set()
    for home in containers.abandoned(store, looked_after):
        try:
            _settle(home)
        except (OSError, LaminaError):
            pass
        finally:
            home.release()
    if thorough:
        discard_unfinished(store)
    finish_burials(store)
    return looked_after


def discard_unfinished(store: Store, identities: Iterable[str] | None = None) -> None:
    """Remove those, of *identities* or of all, that were never written down because their maker died."""
    for home in containers.unfinished(store, identities):
        try:
            discard(home, None, None)
        except (OSError, LaminaError):
            pass


def abandon(store: Store) -> None:
    """Let go of everything that this process has in its hands, and remove what it was making. It is about to end:
    threads that are still at work find that the ground is gone. What others are making is theirs. Raises OSError.
    """
    from time import sleep

    from lamina.engine.pausing import let_all_go_on
    from lamina.store import lock
    from lamina.store.garbage import tidy

    let_all_go_on()
    lock.unlock_all()
    tidy(store)
    for _ in range(LOOKS):
        finish_burials(store)
        if not os.listdir(store.tmp):
            return
        sleep(BETWEEN_LOOKS)  # somebody else's, or a thread has just made another file in it


def _settle(home: Home) -> None:
    """One container whose engine was killed; its lock is held."""
    try:
        asked = home.read("container")
        state = home.read("state")
    except Corrupt:
        return  # it stays as it is, for somebody to look at; `remove` takes it away
    if asked is not None and asked.get("detached"):
        from lamina.engine.resuming import resume

        resume(home, asked, state)
        return
    if state is not None or (asked is not None and asked.get("cgroup")):
        end_processes(asked or {}, state or {})
    if asked is not None and home.is_marked(containers.GROUPED_MARK):
        from lamina.engine.grouping import end_unwritten

        end_unwritten(home)
    unplug(home)
    ended = os.path.lexists(home.path + b"/exit.json")
    if asked is None or asked.get("rm") or (state is None and not ended):
        discard(home, asked.get("name") if asked else None, asked)
    else:
        home.unmark()


def end_unnoted(asked: dict[str, Any]) -> None:
    """Remove the control groups of a start whose maker was killed before it wrote down that there was one, and end who
    is in them. Raises KernelError.
    """
    from lamina.runtime.cgroups import find

    if asked.get("cgroup") and ":" not in asked["cgroup"]:  # a scope ends with what is in it
        cgroup = find(str(asked["cgroup"]), own_parent=True)
        if cgroup.paths:
            cgroup.kill(timeout=PATIENCE)
            cgroup.remove()


def end_processes(asked: dict[str, Any], state: dict[str, Any]) -> None:
    """Kill what is left of a container, wait until it is gone, and remove its control groups. Raises KernelError."""
    from lamina.runtime.cgroups import find, reopen

    cgroup = None
    if state.get("cgroup"):
        cgroup = reopen(state["cgroup"])
    elif asked.get("cgroup") and ":" not in asked["cgroup"]:  # a scope ends with what is in it
        # the engine died before it wrote down what it had made
        cgroup = find(str(asked["cgroup"]), own_parent=True)
    pid = state.get("pid")
    if isinstance(pid, int) and same_process(pid, state):
        if cgroup is not None and cgroup.frozen:  # paused: then nothing of it dies
            cgroup.thaw()
        kill_and_wait(pid, state)
    if cgroup is not None:
        cgroup.kill(timeout=PATIENCE)
        cgroup.remove()
    if asked.get("detached") and (cgroup is None or not cgroup.paths):
        from lamina.engine.strays import kill_strays

        kill_strays(str(asked["id"]))


def kill_and_wait(pid: int, state: dict[str, Any]) -> None:
    """Kill the process of *state*, if it is still the same, and wait for its end."""
    try:
        with pidfd_open(pid) as held:
            if not same_process(pid, state):  # looked at again, now that the number cannot change hands
                return
            pidfd_send_signal(held, SIGKILL)
            _await_end(held, PATIENCE)
    except KernelError as error:
        if error.errno != ESRCH:  # gone already
            raise


def _await_end(pidfd: int, seconds: float) -> None:
    """Not by select(2), which knows only the first 1024 descriptors of a program."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(seconds * 1000)
