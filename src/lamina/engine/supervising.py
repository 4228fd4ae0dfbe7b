"""What a supervisor does: one container from its start to its end, and to its next start, in one thread.

It holds the container's lock, is the parent of its first process, keeps its streams, and writes down how it ended. When
it is killed, the container lives on (unless it is its owner's), and the next command has another supervisor adopt it.
"""

from __future__ import annotations

import os
from select import POLLIN
from time import monotonic, time_ns

from lamina.engine.adopted import Adopted
from lamina.engine.beginning import CAUGHT, ENDS, Beginning
from lamina.engine.discard import discard, unplug
from lamina.engine.idling import WORTH, Kept, fall_asleep
from lamina.engine.options import NO
from lamina.engine.restarting import UNKNOWN, is_restarted, pause_after
from lamina.engine.settling import ended_by, hold, is_kept
from lamina.errors import Corrupt, KernelError, LaminaError, NotFound, Unsupported
from lamina.store.containers import AGAIN_MARK, CARRIED_MARK, GROUPED_MARK, PAUSED_MARK, STOPPED_MARK
from lamina.store.events import about, ending, note
from lamina.store.trace import point
from lamina.supervisor.foreground import LOOK_AGAIN as NEXT_LOOK
from lamina.supervisor.pump import Watch
from lamina.supervisor.signals import Deliverer
from lamina.supervisor.streams import LATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import SIGKILL
    from typing import Any

    from lamina.engine.beginning import Process
    from lamina.engine.health.examiner import Examiner
    from lamina.store.containers import Home
    from lamina.store.events import Event
else:
    from _signal import SIGKILL

# seconds after which the guard of a container that has ended looks whether it is still there, if nobody says so
LOOK_AGAIN = 60.0


class Supervisor(Beginning):
    """Looks after one container."""

    deadline: float | None = None  # when it is killed, of time.monotonic()
    stopping = False  # it was asked to end, and the deadline is that
    examiner: Examiner | None = None

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
        self.deadline = None if seconds is None else self.began + seconds
        self.stopping = False
        self.deliverer = deliverer = Deliverer(process)
        self.examiner = self._examiner(process, watch)
        while not ended:
            self._pause(process, watch)
            self.streams.let_late_readers_in()
            if ended:
                break
            if deliverer.unsure:
                deliverer.look_again()
            if self.examiner is not None:
                self.examiner.look()
            self._end_in_time(process)
        if self.examiner is not None:
            self.examiner.stop()
        self.streams.finish(watch)
        status = process.wait()
        if deliverer.carried_out is not None and status == 128 + SIGKILL:
            status = 128 + deliverer.carried_out
        return status

    def _pause(self, process: Process, watch: Watch) -> None:
        """Wait until there is something to do; asleep, if that is far."""
        examiner = self.examiner
        examining = examiner is not None and examiner.is_busy
        left = self._left()
        if self.patience is not None and not examining and not self._is_ending:
            quiet = max(0.0, self.quiet_since + self.patience - monotonic())
            if left is None or quiet + min(WORTH, self.patience) < left:
                if watch.wait(quiet) or (self.deliverer is not None and self.deliverer.unsure):
                    self.quiet_since = monotonic()
                else:
                    self._sleep(process, self._left())
                    self.quiet_since = monotonic()  # it could not
                return
        # what happens while it is examined belongs to that, or is soon followed by more
        if watch.wait(left) and not examining:
            self.quiet_since = monotonic()

    @property
    def _is_ending(self) -> bool:
        """Whether something was done to end it. What that was is known to nobody else, so this is no time to sleep."""
        carried = self.deliverer is not None and self.deliverer.carried_out is not None
        ill = self.examiner is not None and self.examiner.is_ending
        return self.stopping or self.timed_out or self.orphaned or carried or ill

    def _left(self) -> float | None:
        """The seconds until there is something to do, None where that is unknown."""
        assert self.streams is not None
        wanted = [] if self.deadline is None else [max(0.0, self.deadline - monotonic())]
        if self.deliverer is not None and self.deliverer.unsure:
            wanted.append(NEXT_LOOK)
        if self.streams.late_looks:
            wanted.append(LATE)
        if self.examiner is not None and (left := self.examiner.left) is not None:
            wanted.append(left)
        return min(wanted, default=None)

    def _end_in_time(self, process: Process) -> None:
        """Kill what has lived long enough, or lost its owner."""
        late = self.deadline is not None and monotonic() >= self.deadline
        if not late and not self.orphaned:
            return
        self.timed_out, self.deadline = late and not self.stopping, None
        process.kill(SIGKILL)
        if self.home.is_marked(PAUSED_MARK):
            from lamina.engine.pausing import thaw

            thaw(self.home)

    def _examiner(self, process: Process, watch: Watch) -> Examiner | None:
        """Who looks whether it is well, if somebody wants to know that."""
        if not (self.asked.get("health") or {}).get("command"):
            return None
        from lamina.engine.health.examiner import Examiner

        examiner = Examiner(
            self.home, self.asked, lambda action: self._act(process, action), due=self.next_check
        )
        examiner.arm(watch)
        return examiner

    def _act(self, process: Process, action: str) -> None:
        """It is unhealthy, and this is to be done about that."""
        from lamina.engine.health.checks import KILL, STOP
        from lamina.engine.life import STOP_TIMEOUT, stop_signal

        if action == KILL:
            process.kill(SIGKILL)
            return
        try:  # before the signal: whoever comes after us, killed here, must know what it was for
            self.home.set_mark(STOPPED_MARK if action == STOP else AGAIN_MARK)
        except LaminaError:
            pass  # a disk that is full: then its policy decides
        if action == STOP:
            note(self.home.store, about(self.asked, "stop"))
        self._deliver(stop_signal(self.asked))
        grace = float(self.asked.get("stop_timeout", STOP_TIMEOUT))
        if grace >= 0:
            self.stopping = True
            end = monotonic() + grace
            self.deadline = end if self.deadline is None else min(self.deadline, end)

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
        """Whatever it is about, it is to be seen in the markers, and in the records."""
        self.catcher.take()
        if self.examiner is not None:
            self.examiner.wake()

    def _sleep(self, process: Process, left: float | None) -> None:
        """Nothing has happened for a while: let a smaller program wait, for *left* seconds at most (None: for ever).
        Returns where that cannot be.
        """
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
            check=None if self.examiner is None else self.examiner.due,
        )
        waking = [kept.pidfd, kept.listener, *streams.outputs, *([kept.owner] if kept.owner >= 0 else [])]
        fall_asleep(self.home.store.path, self.home.id, kept, waking, left, CAUGHT)
        self.patience = None  # not on this machine

    def _record_end(self, process: Process, status: int) -> bool:
        """Write down how it ended; whether it is started again."""
        home = self.home
        point("end: remove cgroup")
        oom = _end_groups(home, process)
        point("end: give addresses and ports back")
        said = self._note_links()
        unplug(home)
        note(home.store, *said)
        stopped = home.is_marked(STOPPED_MARK)
        status = ended_by(home, status)
        home.drop_mark(CARRIED_MARK)
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

    def _note_links(self) -> list[Event]:
        """What is to be told when it has them no more."""
        said: list[Event] = []
        if self.home.has("network"):
            from lamina.engine.network_events import disconnected
            from lamina.engine.plugging import links_of

            said = disconnected(self.home)

            try:
                self.links = links_of(self.home)
            except (OSError, LaminaError):  # they go by themselves, mostly
                self.links = []
        return said

    def see_links_go(self) -> None:
        """It looks after nobody any more: see that the links of its container go."""
        if self.links:
            from lamina.engine.plugging import see_go

            see_go(self.links)

    def _policy(self) -> tuple[str, int]:
        """Its restart policy, as of now. None, where the record is damaged or a newer Lamina's: how it ended is written
        down all the same.
        """
        try:
            self.asked = self.home.asked()  # it may have been renamed, or have another policy
            return self.options.restart
        except (Corrupt, Unsupported):
            return NO, 0

    def _ended(self, end: dict[str, Any], *, stopped: bool) -> bool:
        home, status = self.home, int(end["status"])
        policy = self._policy()
        wanted = home.is_marked(AGAIN_MARK) or (self.examiner is not None and self.examiner.wants_restart)
        again = not self.orphaned and (
            is_restarted(policy, status, self.restarts, stopped=stopped) or (wanted and not stopped)
        )
        self.examiner = None
        end["restarts"] = self.restarts
        if again:
            end["restarting"] = True
        point("end: write exit record")
        home.write("exit", end)
        point("end: tell")
        note(home.store, *ending({**self.asked, "rm": False}, status, int(end["oom_kills"])))
        append(home.path + ENDS, b"%d\n" % status)
        home.drop_mark(PAUSED_MARK)
        home.drop_mark(AGAIN_MARK)  # it is in the record of the end now
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
                self.launch()
                return True
            except (OSError, LaminaError) as error:
                failure = error if isinstance(error, LaminaError) else KernelError("start", error.errno or 0)
                end = {"status": failure.exit_code, "finished": time_ns(), "oom_kills": 0, "timed_out": False}
                self.note_failure(failure)
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


def _end_groups(home: Home, process: Process) -> int:
    """Let go of it and remove its control groups, with whoever is left in them; kills by the kernel for want of memory.

    Never raises: how it ended counts for more than a group that stays, which the next start or `rm` removes.
    """
    oom, cgroup = 0, process.cgroup
    try:
        if cgroup is not None:
            oom = cgroup.oom_kills()
            if not cgroup.remove_unused():
                cgroup.kill()
    except (OSError, LaminaError):
        pass
    try:
        if home.is_marked(GROUPED_MARK):  # some were made for it while it ran
            from lamina.engine.grouping import ungroup

            oom = max(oom, ungroup(home))
            home.drop_mark(GROUPED_MARK)
    except (OSError, LaminaError):
        pass
    try:
        process.close()
    except (OSError, LaminaError):
        pass
    return oom


def append(path: bytes, data: bytes) -> None:
    """Append *data* to the file *path*, made if it is missing, by one write. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
