"""What networks made by programs that are not ours have left over, or lack: for `system check`, by `network_check`."""

from __future__ import annotations

import os

from lamina.engine import cni, foreign_networks
from lamina.engine.network_record import RECORD, Ledger
from lamina.engine.unreleased import has_ended
from lamina.errors import Conflict, LaminaError
from lamina.linux.process import pidfd_open
from lamina.runtime.identity import same_process
from lamina.store.containers import PAUSED, RUNNING, Home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.network.model import Attachment
    from lamina.store.root import Store

ADDED, BROKEN = "cni", "broken"
PROBLEMS = {
    ADDED: "its plugins were not told that the container has ended",
    BROKEN: "the container's network is not as it should be",
}


def found(store: Store) -> set[tuple[str, str]]:
    """(kind, what) of everything; the last word is the container's id."""
    every = {(ADDED, f"{name} {owner}") for owner, name in cni.added(store) if _is_over(Home(store, owner))}
    for entry in os.listdir(store.running):
        home = Home(store, os.fsdecode(entry))
        try:
            for attachment in Ledger.of(home).attachments:
                if attachment.network.maker:
                    every |= _of(home, attachment)
        except LaminaError:  # it has just gone, or is damaged, which others find
            continue
    return every


def _is_over(home: Home) -> bool:
    """Whether it is gone, or has ended: then its plugins said no at its end."""
    return not home.has(RECORD) or has_ended(home)


def _of(home: Home, attachment: Attachment) -> set[tuple[str, str]]:
    from lamina.engine.settling import state_of

    runs = bool(attachment.addresses) and state_of(home) in (RUNNING, PAUSED)
    if runs and foreign_networks.complaint(home, attachment, _pid(home)):
        return {(BROKEN, f"{attachment.title} {attachment.network.name} {home.id}")}
    return set()


def words_of(store: Store, kind: str, what: str) -> tuple[str, str]:
    """What is said of it: the problem, and what to do about that where it is not mended here ("" for what is usual)."""
    if kind != BROKEN:
        return PROBLEMS[kind], ""
    home = Home(store, what.rpartition(" ")[2])
    try:
        for attachment in Ledger.of(home).attachments:
            complaint = foreign_networks.complaint(home, attachment, _pid(home))
            if attachment.network.maker == cni.CNI:
                return complaint, "restart the container, or say disableCheck in the configuration"
            return complaint, ""
    except LaminaError:  # it has just gone
        pass
    return PROBLEMS[kind], ""


def _pid(home: Home) -> int:
    return int((home.read("state") or {}).get("pid") or 0)


def repair(store: Store, kind: str, what: str) -> None:
    """Raises LaminaError, KernelError for what cannot be mended."""
    home = Home(store, what.rpartition(" ")[2])
    if kind == ADDED:
        _tell_of_end(home)
    else:
        state = home.read("state") or {}
        pid = int(state.get("pid") or 0)
        with pidfd_open(pid):
            if same_process(pid, state):
                for attachment in Ledger.of(home).attachments:
                    foreign_networks.mend(home, attachment, pid)


def _tell_of_end(home: Home) -> None:
    if not home.exists():
        cni.withdraw(home)
        return
    from lamina.engine.plugging import release

    if not home.hold():
        raise Conflict(f"container {home.shown}: somebody is busy with it", remedy="try again")
    try:
        release(home)
        cni.withdraw(home)  # of one that is damaged
    finally:
        home.release()
