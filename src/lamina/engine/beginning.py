"""How a supervisor comes to its container: it starts it, adopts it after another was killed, or wakes up beside it.

What it does from then on is in `supervising`.
"""

from __future__ import annotations

import os
from time import monotonic, time_ns

from lamina.engine.adopted import Adopted, process_of
from lamina.engine.discard import discard, unplug
from lamina.engine.idling import Kept, patience
from lamina.engine.logging import writer
from lamina.engine.settling import WAKE, hold, lives, wake_supervisor
from lamina.errors import Conflict, KernelError, LaminaError
from lamina.linux.fd import Fd
from lamina.runtime.identity import age, identity_of
from lamina.store.containers import (
    AGAIN_MARK,
    CARRIED_MARK,
    GROUPED_MARK,
    KEPT_MARK,
    LIVING,
    PAUSED_MARK,
    STOPPED_MARK,
    Home,
)
from lamina.store.events import about, note
from lamina.store.trace import point
from lamina.supervisor.signals import Catcher, Deliverer
from lamina.supervisor.streams import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import SIG_UNBLOCK, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR2, pthread_sigmask
    from typing import Any, Protocol

    from lamina.engine.options import Options
    from lamina.linux.rtnetlink import Link
    from lamina.runtime.cgroups import Cgroup
    from lamina.store.root import Store

    class Process(Protocol):
        """The first process of a container: a child (runtime.launch.Running), or adopted."""

        pid: int

        @property
        def pidfd(self) -> int: ...
        @property
        def cgroup(self) -> Cgroup | None: ...
        def kill(self, signal: int) -> None: ...
        def wait(self) -> int: ...
        def close(self) -> None: ...

else:
    from _signal import SIG_UNBLOCK, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR2, pthread_sigmask

# what else than WAKE a supervisor is sent it only wakes up from
CAUGHT = (WAKE, SIGUSR2, SIGHUP, SIGINT, SIGQUIT, SIGTERM)
ENDS = b"/ends"


class Beginning:
    """A supervisor until its container runs. Made anew for each process that becomes one, and after each sleep."""

    def __init__(self, store: Store, identity: str, attached: int = -1) -> None:
        self.home = Home(store, identity)
        self.attached = attached
        self.process: Process | None = None
        self.streams: Streams | None = None
        self.deliverer: Deliverer | None = None
        self.catcher = Catcher(CAUGHT)
        self.owner: Fd | None = None
        self.pausing = False  # between an end and the next start
        self.restarts, self.pause, self.began = 0, 0.0, monotonic()
        self.timed_out = self.orphaned = False
        self.cut_short = False  # it ran, and nobody could look after it
        self.adopting = False  # somebody else has started it
        self.asked: dict[str, Any] = {}
        self.links: list[Link] = []  # this host's ends, of what has ended
        self.patience = patience()  # how long it stays awake while nothing happens
        self.quiet_since = monotonic()
        self.next_check: float | None = None  # kept over a sleep

    # -- the beginning

    def start(self) -> dict[str, Any]:
        """Start it. Raises what the start raised, Conflict, NotFound."""
        if not hold(self.home):
            if self.home.state() in LIVING:
                return {"already": True}
            raise Conflict(
                f"start container {self.home.shown}: another command is busy with it", remedy="try again"
            )
        point("start: held")
        self._read()
        if self._is_running():  # what looked after it was killed
            return {**self.adopt(held=True), "already": True}
        if self.owner is None and self.home.marked_name() is not None:
            self._clear_away()
        for marker in (STOPPED_MARK, CARRIED_MARK, PAUSED_MARK, AGAIN_MARK):
            self.home.drop_mark(marker)
        self.home.drop_mark(GROUPED_MARK)  # of a run in the foreground
        if not self.asked.get("detached"):
            self._take_over()
        point("start: mark")
        self.home.mark(str(self.asked["name"]))
        point("start: marked")
        before = self.home.read("state")
        warnings = self.launch()
        self.home.drop_mark(KEPT_MARK)
        if before is not None and self.owner is not None:
            wake_supervisor(before)
        state = self.home.read("state") or {}
        return {"started": state, "warnings": warnings}

    def _clear_away(self) -> None:
        """Whoever held it before was killed, and no command has seen that yet: of a start that was cut short there may
        be processes that no record knows. (With an owner they are gone with who started them.)
        """
        from lamina.engine.recover import end_processes

        end_processes(self.asked, self.home.read("state") or {})
        unplug(self.home)

    def _take_over(self) -> None:
        """It was run by a command that stayed with it: from now on it is like others."""
        from lamina.engine.design import cgroup_path, manager_of

        path = cgroup_path(self.home.id, manager_of(self.options))
        self.asked = self.home.change_asked(lambda asked: {**asked, "detached": True, "cgroup": path})

    def _read(self) -> None:
        self.asked = self.home.asked()
        if self.asked.get("owner"):
            self.owner = process_of(self.asked["owner"])
            if self.owner is None:
                raise Conflict(
                    f"start container {self.home.shown}: the process that owned it has ended",
                    remedy="it is removed by the next command",
                )

    @property
    def options(self) -> Options:
        """What was asked of it."""
        from lamina.engine.keeping import options_of

        return options_of(self.asked)

    def _is_running(self) -> bool:
        state = self.home.read("state")
        ended = os.path.lexists(self.home.path + b"/exit.json")
        return state is not None and not ended and lives(state)

    def launch(self) -> list[str]:
        """One start; the warnings that are new. Raises, then nothing of it runs."""
        from lamina.engine.starting import Start

        home = self.home
        streams, self.streams = None, None
        try:
            _make_anew(home.path + ENDS)
            self.streams = streams = self._streams()
            if self.attached >= 0:
                attached, self.attached = self.attached, -1
                streams.join(attached)
            streams.listen()
            start = Start(
                home,
                self.asked,
                streams.child,
                dependent=self.asked.get("owner") is not None,
                size=streams.size,
            )
            state = {"supervisor": identity_of(os.getpid()), "restarts": self.restarts, "pause": self.pause}
            running = start.run(state)
        except BaseException:
            if streams is not None:
                streams.close()
            raise
        self.asked = start.asked
        self.process, self.began, self.timed_out = running, monotonic(), False
        try:
            point("start: drop exit record")
            home.drop_record("exit")
            home.drop_record("failed")
            self._begin_health()
            point("start: done")
            streams.started(running.pty)
            said = [about(self.asked, "start")]
            if start.attachments:
                from lamina.engine.network_events import connected

                said[:0] = connected(home, start.attachments)
            note(home.store, *said)
        except BaseException as failure:
            streams.close()
            try:
                self._end_at_once()
            except (OSError, LaminaError) as second:
                failure.add_note(f"while cleaning up: {second}")
            raise
        return start.warnings

    def _end_at_once(self) -> None:
        """What has just been started cannot be looked after: it ends here. Raises KernelError."""
        process, self.process = self.process, None
        if process is None:
            return
        self.cut_short = True
        process.kill(SIGKILL)
        status = process.wait()
        process.close()
        unplug(self.home)
        end = {"status": status, "finished": time_ns(), "oom_kills": 0, "timed_out": False}
        self.home.write("exit", {**end, "interrupted": True})

    def _begin_health(self) -> None:
        """Of a container that has just been started, nothing is known yet."""
        self.next_check = None
        if self.asked.get("health") is not None:
            from lamina.engine.health.results import begin

            try:
                begin(self.home, self.asked)
            except KernelError:  # a disk that is full: what was known of the run before must not count
                self.home.drop_record("health")

    def _streams(self, *, adopted: bool = False, has_input: bool = True) -> Streams:
        options, asked = self.options, self.asked
        env = [
            *((asked.get("config") or {}).get("env") or ()),
            *(f"{name}={text}" for name, text in options.env),
        ]
        return Streams(
            self.home.path,
            interactive=options.interactive and has_input,
            once=bool(asked.get("stdin_once")),
            tty=options.tty,
            log=writer(self.home.path, self.home.id, options, env),
            deliver=self._deliver,
            type_=self._type,
            adopt=adopted,
        )

    def _deliver(self, signal: int) -> None:
        """A client hands a signal on."""
        if self.deliverer is not None and self.process is not None:
            if self.options.init:  # which does something about every signal
                self.process.kill(signal)
            else:
                self.deliverer.send(signal)

    def _type(self, terminal: int, keys: bytes) -> int:
        """A client has typed."""
        if self.deliverer is None or self.options.init:
            return os.write(terminal, keys)
        return self.deliverer.type(terminal, keys)

    def adopt(self, *, held: bool = False) -> dict[str, Any]:
        """Look after a container whose supervisor was killed. {"already": True} when there is nothing to do."""
        if not held and not self.home.hold():
            return {"already": True}
        point("adopt: held")
        if not held:
            self._read()
        end, state = self.home.read("exit"), self.home.read("state")
        if state is None or (end is not None and not end.get("restarting")):
            self.home.release()
            return {"already": True}
        self.adopting = True
        self.restarts, self.pause = int(state.get("restarts") or 0), float(state.get("pause") or 0)
        if end is not None:
            self.pausing = True
            return {"adopted": True}
        point("adopt: write state record")
        with self.home.turn():  # who makes control groups for it (grouping) writes the same record
            state = self.home.read("state") or state
            self.home.write("state", {**state, "supervisor": identity_of(os.getpid())})
        self.process = Adopted(state)
        self.began = monotonic() - age(state)
        point("adopt: streams")
        self.streams = self._streams(adopted=True)
        self.streams.listen()
        return {"adopted": True}

    def awake(self, kept: Kept) -> None:
        """Go on where a sleep ended: with the descriptors that were kept, and everything else from the records."""
        home = self.home
        home.inherit(kept.lock)
        self.asked = home.asked()
        state = home.read("state") or {}
        self.restarts, self.pause, self.patience = kept.restarts, kept.pause, kept.patience
        self.next_check = kept.check
        if kept.is_due:  # nothing else has happened: back to sleep afterwards
            self.quiet_since = kept.since - kept.patience
        if kept.owner >= 0:
            self.owner = Fd(kept.owner)
        pidfd = Fd(kept.pidfd)
        if kept.child:
            from lamina.runtime.cgroups import reopen
            from lamina.runtime.launch import Running

            group = reopen(state["cgroup"]) if state.get("cgroup") else None
            self.process = Running(int(state["pid"]), pidfd, None, group, ())
        else:
            self.process = Adopted(state, pidfd)
        self.began = monotonic() - age(state)
        self.streams = streams = self._streams(adopted=True, has_input=kept.has_input)
        streams.listen(kept.listener)
        if kept.pty >= 0:
            streams.started(kept.pty)
        for number in kept.others:  # until now, when they have been opened anew, the fifos had to stay open
            os.close(number)
        pthread_sigmask(SIG_UNBLOCK, CAUGHT)

    def abandon(self, failure: BaseException) -> None:
        """The start failed: note why, or remove what was to be removed at its end. What could not be adopted lives on,
        as if we had been killed, and the next command has somebody try again.
        """
        home = self.home
        try:
            if self.adopting:
                return
            self._end_at_once()
            never = home.read("state") is None
            if home.held and self.asked.get("rm") and (never or self.cut_short):
                discard(home, str(self.asked.get("name") or ""), self.asked)
                note(home.store, about(self.asked, "destroy"))
            elif home.held and isinstance(failure, LaminaError) and self.asked:
                self.note_failure(failure)
                if self.owner is None:
                    home.unmark()
        except (OSError, LaminaError) as second:
            failure.add_note(f"while cleaning up: {second}")
        finally:
            home.release()

    def note_failure(self, failure: LaminaError) -> None:
        """Write down why it could not be started."""
        self.home.write("failed", {"status": failure.exit_code, "message": failure.message, "at": time_ns()})


def _make_anew(path: bytes) -> None:
    """Another file of that name, empty: who reads the old one goes on with that."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
