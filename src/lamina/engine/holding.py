"""Holding a container of which nothing runs any more: for its removal, and for what is done with its changes."""

from __future__ import annotations

import time

from lamina.engine.recover import end_processes, end_unnoted
from lamina.errors import Conflict, Corrupt, KernelError, LaminaError, NotFound
from lamina.store.containers import PAUSED, RESTARTING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine.container import Container
    from lamina.store.containers import Home

# how long a forced removal waits for the engine of a killed container to let go
PATIENCE = 50.0
# how long the record of what runs is believed meanwhile: it may say too little to name a process any more
TRUST = 1.0


class Held:
    """Holds the container's lock, having made sure that nothing of it runs any more."""

    def __init__(self, home: Home, verb: str, *, kill: bool = False, settle: bool = True) -> None:
        """With *kill* it is killed if it runs; with *settle* what was left half done with its states is finished."""
        self._home, self._verb, self._kill, self._settle = home, verb, kill, settle

    def __enter__(self) -> None:
        from lamina.engine.settling import LETTING_GO, SYNCING, hold, lives

        home = self._home
        try:
            # who would end it anyhow does not wait long for one of which only a damaged record says that it has ended
            held = hold(home, LETTING_GO if self._kill else SYNCING)
        except Corrupt:  # how it ended, while somebody looks after it
            held = False
        if not held:
            if not self._kill:
                raise _in_use(home, self._verb)
            self._end()
        try:
            asked, state = home.read("container") or {}, home.read("state")
            if state is not None and home.read("exit") is None:  # its engine was killed
                if not self._kill and asked.get("detached") and lives(state):
                    raise _in_use(
                        home, self._verb
                    )  # it lives on, and the next command finds it another supervisor
                end_processes(asked, state)
            elif state is not None or home.is_in_hand():  # who starts it has the mark before anything else
                end_unnoted(asked)
        except Corrupt:
            asked = {}
            _end_unknown(home)
        except BaseException:
            home.release()
            raise
        if self._settle and (asked.get("freezing") or asked.get("rewinding")):  # engine/chains.py
            self._finish()

    def _finish(self) -> None:
        """Finish what somebody began with its states who was killed."""
        from lamina.engine.freezing import settle
        from lamina.store.snapshots import turn

        try:
            with turn(self._home):
                settle(self._home, living=False)
        except BaseException:
            self._home.release()
            raise

    def _end(self) -> None:
        """Kill it, and wait until whoever runs it has written that down."""
        from lamina.engine.life import thaw, wake
        from lamina.engine.stuck import end_supervisor, free

        home, deadline = self._home, time.monotonic() + PATIENCE
        state = None
        woken, trusted = False, time.monotonic() + TRUST
        looked = 0
        while True:
            try:
                if not woken:
                    woken = True
                    try:
                        wake(home)
                    except KernelError:  # no room on the disk to say so: nobody may start it again meanwhile
                        end_supervisor(home)
                thaw(home)
                state = home.read("state")
                if state is not None:
                    from lamina.engine.recover import kill_and_wait

                    kill_and_wait(int(state["pid"]), state)
                    if time.monotonic() > trusted:  # what it names is not what runs
                        _end_unknown(home)
            except Corrupt:
                _end_unknown(home)
            if home.hold():
                return
            if time.monotonic() > trusted + looked:
                looked += 1
                free(home, self._verb, state, last=looked > 1)
            if time.monotonic() > deadline:
                raise Conflict(f"{self._verb} container {home.shown}: its engine does not let go of it")
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self._home.release()


def _in_use(home: Home, verb: str) -> Conflict:
    from lamina.engine.settling import lives

    try:
        state = home.state(lives)
    except Corrupt:
        state = ""
    said, remedy = "running, or in use by another command", "wait for its end, or remove it with --force"
    if state == PAUSED:
        said, remedy = "paused", "unpause and stop it, or remove it with --force"
    elif state == RESTARTING:
        said, remedy = "restarting", "stop it, or remove it with --force"
    return Conflict(f"{verb} container {home.shown}: it is {said}", remedy=remedy)


def _end_unknown(home: Home) -> None:
    """Kill what runs of a container whose records do not say what that is: by its control group, or its root."""
    from lamina.engine.strays import kill_strays

    try:
        asked = home.read("container") or {}
    except Corrupt:
        asked = {}
    end_processes(asked, {})
    kill_strays(home.id)


def removed_after(container: Container, failure: BaseException | None) -> None:
    """Remove it, whether it runs or not, at the end of a `with`. It may be gone already. A failure to do so is noted at
    the *failure* of the block, if there is one, or raised.
    """
    try:
        try:
            container.remove(force=True, volumes=True)
        except KeyboardInterrupt:  # somebody has waited long enough; nothing is left behind all the same
            container.remove(force=True, volumes=True)
            raise
    except NotFound:
        pass
    except (LaminaError, OSError) as second:
        if failure is None:
            raise
        failure.add_note(f"while removing container {container.short_id}: {second}")
