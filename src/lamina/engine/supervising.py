"""What a supervisor does: one container from its start to its end, and to its next start, in one thread.

It holds the container's lock, is the parent of its first process, keeps its streams, and writes down how it ended. When
it is killed, the container lives on (unless it is its owner's), and the next command has another supervisor adopt it.
"""

from __future__ import annotations

import os
from select import POLLIN
from time import monotonic, time_ns

from lamina.engine.adopted import Adopted, process_of
from lamina.engine.discard import discard
from lamina.engine.idling import Kept, fall_asleep, patience
from lamina.engine.logging import writer
from lamina.engine.restarting import UNKNOWN, is_restarted, pause_after
from lamina.engine.settling import WAKE, hold, is_kept, lives, wake_supervisor
from lamina.errors import Conflict, KernelError, LaminaError, NotFound
from lamina.linux.fd import Fd
from lamina.runtime.identity import age, identity_of
from lamina.store.containers import KEPT_MARK, LIVING, PAUSED_MARK, STOPPED_MARK, Home
from lamina.store.events import about, ending, note
from lamina.store.trace import point
from lamina.supervisor.foreground import LOOK_AGAIN as NEXT_LOOK
from lamina.supervisor.pump import Watch
from lamina.supervisor.signals import Catcher, Deliverer
from lamina.supervisor.streams import LATE, Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import SIG_UNBLOCK, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR2, pthread_sigmask
    from typing import Any, Protocol

    from lamina.engine.options import Options
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
_CAUGHT = (WAKE, SIGUSR2, SIGHUP, SIGINT, SIGQUIT, SIGTERM)
# seconds after which the guard of a container that has ended looks whether it is still there, if nobody says so
LOOK_AGAIN = 60.0
ENDS = b"/ends"


class Supervisor:
    """Looks after one container."""

    def __init__(self, store: Store, identity: str, attached: int = -1) -> None:
        self.home = Home(store, identity)
        self.attached = attached
        self.process: Process | None = None
        self.streams: Streams | None = None
        self.deliverer: Deliverer | None = None
        self.catcher = Catcher(_CAUGHT)
        self.owner: Fd | None = None
        self.pausing = False  # between an end and the next start
        self.restarts, self.pause, self.began = 0, 0.0, monotonic()
        self.timed_out = self.orphaned = False
        self.asked: dict[str, Any] = {}
        self.patience = patience()  # how long it stays awake while nothing happens

    # -- the beginning

    def start(self) -> dict[str, Any]:
        """Start it. Raises what the start raised, Conflict, NotFound."""
        if not hold(self.home):
            if self.home.state() in LIVING:
                return {"already": True}
            raise Conflict(
                f"start container {self.home.short_id}: another command is busy with it", remedy="try again"
            )
        point("start: held")
        self._read()
        if self._is_running():  # what looked after it was killed
            return {**self.adopt(held=True), "already": True}
        self.home.drop_mark(STOPPED_MARK)
        self.home.drop_mark(PAUSED_MARK)
        if not self.asked.get("detached"):
            self._take_over()
        point("start: mark")
        self.home.mark(str(self.asked["name"]))
        point("start: marked")
        before = self.home.read("state")
        warnings = self._launch()
        self.home.drop_mark(KEPT_MARK)
        if before is not None and self.owner is not None:
            wake_supervisor(before)
        state = self.home.read("state") or {}
        return {"started": state, "warnings": warnings}

    def _take_over(self) -> None:
        """It was run by a command that stayed with it: from now on it is like others."""
        from lamina.engine.design import cgroup_path

        path = cgroup_path(self.home.id)
        self.asked = self.home.change_asked(lambda asked: {**asked, "detached": True, "cgroup": path})

    def _read(self) -> None:
        self.asked = self.home.asked()
        if self.asked.get("owner"):
            self.owner = process_of(self.asked["owner"])
            if self.owner is None:
                raise Conflict(
                    f"start container {self.home.short_id}: the process that owned it has ended",
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

    def _launch(self) -> list[str]:
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
        point("start: drop exit record")
        home.drop_record("exit")
        home.drop_record("failed")
        point("start: done")
        streams.started(running.pty)
        note(home.store, about(self.asked, "start"))
        return start.warnings

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
            adopt=adopted,
        )

    def _deliver(self, signal: int) -> None:
        """A client hands a signal on."""
        if self.deliverer is not None and self.process is not None:
            if self.options.init:  # which does something about every signal
                self.process.kill(signal)
            else:
                self.deliverer.send(signal)

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
        self.restarts, self.pause = int(state.get("restarts") or 0), float(state.get("pause") or 0)
        if end is not None:
            self.pausing = True
            return {"adopted": True}
        self.process = Adopted(state)
        self.began = monotonic() - age(state)
        point("adopt: write state record")
        self.home.write("state", {**state, "supervisor": identity_of(os.getpid())})
        point("adopt: streams")
        self.streams = self._streams(adopted=True)
        self.streams.listen()
        return {"adopted": True}

    def awake(self, kept: Kept) -> None:
        """Go on where `_sleep` ended: with the descriptors that were kept, and everything else from the records."""
        home = self.home
        home.inherit(kept.lock)
        self.asked = home.asked()
        state = home.read("state") or {}
        self.restarts, self.pause, self.patience = kept.restarts, kept.pause, kept.patience
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
        pthread_sigmask(SIG_UNBLOCK, _CAUGHT)

    def _sleep(self, process: Process, deadline: float | None) -> None:
        """Nothing has happened for a while: let a smaller program wait. Returns where that cannot be."""
        streams = self.streams
        if streams is None or not streams.may_rest or self.patience is None or not streams.rest():
            return
        # what is waited for must stay open, also where it is opened anew afterwards
        inputs = [streams.input] if streams.input >= 0 else []
        kept = Kept(
            lock=self.home.lock_fd,
            pidfd=int(process.pidfd),
            owner=-1 if self.owner is None else int(self.owner),
            listener=streams.listener,
            pty=streams.pty,
            others=(*streams.outputs, *inputs),
            child=not isinstance(process, Adopted),
            has_input=bool(inputs),
            restarts=self.restarts,
            pause=self.pause,
            patience=self.patience,
        )
        waking = [kept.pidfd, kept.listener, *streams.outputs, *([kept.owner] if kept.owner >= 0 else [])]
        left = None if deadline is None else deadline - monotonic()
        fall_asleep(self.home.store.path, self.home.id, kept, waking, left, _CAUGHT)
        self.patience = None  # not on this machine

    def abandon(self, failure: BaseException) -> None:
        """The start failed: note why, or remove what was to be removed at its end."""
        home = self.home
        try:
            if self.process is not None:
                self.process.kill(SIGKILL)
                self.process.wait()
                self.process.close()
            if home.held and home.read("state") is None and self.asked.get("rm"):
                discard(home, str(self.asked.get("name") or ""), self.asked)
                note(home.store, about(self.asked, "destroy"))
            elif home.held and isinstance(failure, LaminaError) and self.asked:
                self._note_failure(failure)
                if self.owner is None:
                    home.unmark()
        except (OSError, LaminaError) as second:
            failure.add_note(f"while cleaning up: {second}")
        finally:
            home.release()

    def _note_failure(self, failure: LaminaError) -> None:
        self.home.write("failed", {"status": failure.exit_code, "message": failure.message, "at": time_ns()})

    # -- its life

    def run(self) -> None:
        """Until it has ended and is not started again."""
        while True:
            if self.process is not None:
                status = self._attend(self.process)
                again = self._record_end(self.process, status)
                self.process = None
                if not again:
                    break
            if not self._wait() or not self._again():
                break
        self._finish()
        if self.owner is not None and not self.orphaned:
            self._guard()

    def _attend(self, process: Process) -> int:
        """Its exit status, once it has ended and all of its output was handed on."""
        assert self.streams is not None
        watch, ended = Watch(), False

        def on_end(_events: int) -> None:
            nonlocal ended
            ended = True
            watch.drop(process.pidfd)

        watch.set(process.pidfd, POLLIN, on_end)
        self._listen(watch)
        self.streams.arm(watch)
        seconds = self.options.timeout
        deadline = None if seconds is None else self.began + seconds
        self.deliverer = deliverer = Deliverer(process)
        while not ended:
            left = None if deadline is None else max(0.0, deadline - monotonic())
            if deliverer.unsure:
                left = NEXT_LOOK if left is None else min(left, NEXT_LOOK)
            if self.streams.late_looks:
                left = LATE if left is None else min(left, LATE)
            quiet = self.patience
            if quiet is not None and (left is None or quiet < left):
                happened = watch.wait(quiet)
                if not happened and not deliverer.unsure:
                    self._sleep(process, deadline)
            else:
                watch.wait(left)
            self.streams.let_late_readers_in()
            if deliverer.unsure and not ended:
                deliverer.look_again()
            late = deadline is not None and monotonic() >= deadline
            if (late or self.orphaned) and not ended:
                self.timed_out, deadline = late, None
                process.kill(SIGKILL)
                if self.home.is_marked(PAUSED_MARK):
                    from lamina.engine.pausing import thaw

                    thaw(self.home)
        self.streams.finish(watch)
        status = process.wait()
        if deliverer.carried_out is not None and status == 128 + SIGKILL:
            status = 128 + deliverer.carried_out
        return status

    def _listen(self, watch: Watch) -> None:
        """For signals, and for the end of the owner."""
        watch.set(self.catcher.fd, POLLIN, self._woken)
        owner = self.owner
        if owner is not None and not self.orphaned:

            def orphan(_events: int) -> None:
                self.orphaned = True
                watch.drop(owner)

            watch.set(owner, POLLIN, orphan)

    def _woken(self, _events: int) -> None:
        """Whatever it is about, it is to be seen in the markers."""
        self.catcher.take()

    def _record_end(self, process: Process, status: int) -> bool:
        """Write down how it ended; whether it is started again."""
        home = self.home
        point("end: remove cgroup")
        cgroup = process.cgroup
        oom = 0
        if cgroup is not None:
            oom = cgroup.oom_kills()
            if not cgroup.remove_unused():
                cgroup.kill()
        process.close()
        stopped = home.is_marked(STOPPED_MARK)
        carried = home.mark_text(STOPPED_MARK)
        if carried.isdigit() and status == 128 + SIGKILL:
            status = 128 + int(carried)  # its default action, carried out by us
        unknown = status == UNKNOWN and isinstance(process, Adopted) and process.unknown
        end: dict[str, Any] = {
            "status": status,
            "finished": time_ns(),
            "oom_kills": oom,
            "timed_out": self.timed_out,
        }
        if unknown:
            end["unknown"] = True
        return self._ended(end, stopped=stopped)

    def _ended(self, end: dict[str, Any], *, stopped: bool) -> bool:
        home, status = self.home, int(end["status"])
        self.asked = home.asked()  # it may have been renamed, or have another policy
        again = not self.orphaned and is_restarted(
            self.options.restart, status, self.restarts, stopped=stopped
        )
        end["restarts"] = self.restarts
        if again:
            end["restarting"] = True
        point("end: write exit record")
        home.write("exit", end)
        point("end: tell")
        note(home.store, *ending({**self.asked, "rm": False}, status, int(end["oom_kills"])))
        append(home.path + ENDS, b"%d\n" % status)
        home.drop_mark(PAUSED_MARK)
        if self.streams is not None:
            self.streams.ended(status)
            self.streams.close()
            self.streams = None
        if again:
            self.pause = pause_after(self.pause, monotonic() - self.began)
        return again

    def _wait(self) -> bool:
        """The pause before the next start; False when somebody stops it meanwhile."""
        watch, until = Watch(), monotonic() + self.pause
        self._listen(watch)
        while not self.orphaned and not self.home.is_marked(STOPPED_MARK):
            left = until - monotonic()
            if left <= 0:
                point("again: start")
                return True
            watch.wait(left)
        end = self.home.read("exit") or {}
        point("again: given up")
        self.home.write("exit", {key: given for key, given in end.items() if key != "restarting"})
        return False

    def _again(self) -> bool:
        """Start it once more; whether there is something to look after. A start that fails counts as an end."""
        while True:
            self.restarts += 1
            try:
                self.asked = self.home.asked()
                self._launch()
                return True
            except (OSError, LaminaError) as error:
                failure = error if isinstance(error, LaminaError) else KernelError("start", error.errno or 0)
                end = {"status": failure.exit_code, "finished": time_ns(), "oom_kills": 0, "timed_out": False}
                self._note_failure(failure)
                self.began = monotonic()
                if not self._ended(end, stopped=self.home.is_marked(STOPPED_MARK)) or not self._wait():
                    return False

    def _finish(self) -> None:
        """It has ended for good: nobody looks after it any more, or it is removed."""
        home = self.home
        try:
            asked = home.asked()
            point("end: finish")
            if (asked.get("rm") and not is_kept(home)) or self.orphaned:
                discard(home, asked["name"], asked, volumes=True)
                note(home.store, about(asked, "destroy"))
            else:
                home.make_durable()
                point("end: unmark")
                if self.owner is None and not asked.get("rm"):
                    home.unmark()
                point("end: release")
        finally:
            home.release()

    def _guard(self) -> None:
        """It has ended before its owner: stay, without holding it, until that ends as well; then remove it. Who starts
        it again looks after it instead.
        """
        watch, home = Watch(), self.home
        self._listen(watch)
        while not self.orphaned:
            if (
                not home.exists()
                or ((home.read("state") or {}).get("supervisor") or {}).get("pid") != os.getpid()
            ):
                return
            watch.wait(LOOK_AGAIN)
        try:
            if hold(home):
                self._finish()
        except NotFound:
            pass  # somebody was faster


def _make_anew(path: bytes) -> None:
    """Another file of that name, empty: who reads the old one goes on with that."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def append(path: bytes, data: bytes) -> None:
    """Append *data* to the file *path*, made if it is missing, by one write. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
