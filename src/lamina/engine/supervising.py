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
from lamina.engine.discard import discard
from lamina.engine.idling import Kept, fall_asleep
from lamina.engine.restarting import UNKNOWN, is_restarted, pause_after
from lamina.engine.settling import hold, is_kept
from lamina.errors import KernelError, LaminaError, NotFound
from lamina.store.containers import PAUSED_MARK, STOPPED_MARK
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
else:
    from _signal import SIGKILL

# seconds after which the guard of a container that has ended looks whether it is still there, if nobody says so
LOOK_AGAIN = 60.0


class Supervisor(Beginning):
    """Looks after one container."""

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
        fall_asleep(self.home.store.path, self.home.id, kept, waking, left, CAUGHT)
        self.patience = None  # not on this machine

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


def append(path: bytes, data: bytes) -> None:
    """Append *data* to the file *path*, made if it is missing, by one write. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
