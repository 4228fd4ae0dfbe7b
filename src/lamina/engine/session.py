"""What is in hand of one container, from what was asked until its end is written down.

Whatever happens on the way, afterwards there is either a container whose end is recorded, or nothing.
"""

from __future__ import annotations

from time import time_ns

from lamina.engine.container_record import record_of
from lamina.engine.design import CGROUPFS, design, manager_of, maps_record, usual_ids
from lamina.engine.layers import furnish, unfurnish, unmark
from lamina.engine.options import by_others, is_linked
from lamina.engine.picture import Lessons
from lamina.engine.translate import joinable
from lamina.errors import (
    KernelError,
    LaminaError,
    TimeoutExpired,
    Unsupported,
)
from lamina.runtime.identity import identity_of
from lamina.runtime.launch import launch
from lamina.store.containers import GROUPED_MARK, PAUSED_MARK
from lamina.store.root import raise_storage_error
from lamina.supervisor.signals import Undisturbed
from lamina.supervisor.stdio import Stdio
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.engine.completed import Completed
    from lamina.engine.design import Design
    from lamina.engine.id_maps import IdMaps
    from lamina.engine.options import Io, Options
    from lamina.engine.run import Hooks
    from lamina.network.model import Attachment
    from lamina.runtime.launch import Running
    from lamina.store.containers import Home
    from lamina.store.images import Held, ImageRecord
    from lamina.store.leases import Lease
    from lamina.store.lock import Lock
    from lamina.store.root import Store
    from lamina.supervisor.foreground import Attendance, Companion, Ended
    from lamina.supervisor.logs import Writer
    from lamina.supervisor.signals import Catcher

SIGKILL = 9
# a scope was asked for by name, so there is one, whatever else is asked
EVERYTHING = ("freezer", "memory", "pids", "cpu", "cpuacct")


def _load_the_rest() -> None:
    """What is needed when the command has ended: imported while it runs, not later, when the files may be others."""
    import lamina.engine.completed
    import lamina.engine.discard
    import lamina.store.events
    import lamina.supervisor.foreground  # noqa: F401


class Session:
    """What one call of `run` holds, or one of `create` until the container is written down. Its container's lock is
    held by `home`; `held` keeps the image until the container's record does.
    """

    def __init__(
        self,
        store: Store,
        home: Home,
        name: str,
        image: str,
        held: Held | None,
        options: Options,
        io: Io,
        hooks: Hooks,
        further: dict[str, Any] | None = None,
    ) -> None:
        """*further* goes into the record of a container that is to be started, perhaps often, by a supervisor."""
        self.further = further
        self.store, self.home, self.name, self.image, self.held = store, home, name, image, held
        self.options, self.io, self.hooks = options, io, hooks
        self.ids: IdMaps | None = None
        self.shown: ImageRecord | None = None
        self.lease: Lease | None = None
        self.drawn: Design | None = None
        self.running: Running | None = None
        self.stdio: Stdio | None = None
        self.log: Writer | None = None
        self.catcher: Catcher | None = None
        self.told: set[str] = set()
        self.made: list[str] = []
        self.record: dict[str, Any] | None = None
        self.recorded = False
        self.attachments: list[Attachment] = []

    def prepare(self, command: tuple[str, ...]) -> None:
        """Everything but the start: afterwards the container's record is there. Raises as `run` does."""
        if is_linked(self.options.network):  # said now, not at the first start
            self._check_network()
        lessons = Lessons(over_host=self.held is None)
        while True:
            try:
                drawn = self._draw(command, lessons.refused, grouped=True)
                self._prepare(drawn)
                self._tell(drawn)
                return
            except OSError as error:
                if not lessons.learn(error):
                    raise_storage_error(error, "create", self.home.path)
                    raise
                self._close()
                unfurnish(self.home.path)

    def _check_network(self) -> None:
        if by_others(self.options.network):
            from lamina.engine.foreign_networks import check

            check(self.options)
            return
        from lamina.engine.networking import joined_by
        from lamina.engine.networks import find

        for joined in joined_by(self.options):
            find(self.store, joined.network)

    def begin(self, command: tuple[str, ...]) -> None:
        """Start it."""
        if self.hooks.created is not None:
            self.hooks.created(self.home.id)
        try:
            self.drawn, running = self._launch(command)
            _load_the_rest()
            self._record_start(self.drawn, running)
            if self.options.rm:
                unmark(self.drawn.layers)
        except OSError as error:
            raise_storage_error(error, "run", self.home.path)

    def attend(self) -> Ended:
        """Stay with it until it has ended."""
        from lamina.supervisor.foreground import attend

        assert self.running is not None and self.stdio is not None
        timeout, init = self.io.timeout, self.options.init
        try:
            return attend(
                self.running,
                self.stdio,
                timeout=timeout,
                catcher=self.catcher,
                init=init,
                companion=self.companion,
            )
        except OSError as error:
            raise_storage_error(error, "run", self.home.path)

    @property
    def companion(self) -> Callable[[Attendance], Companion] | None:
        """Makes who looks whether it is well, if somebody wants to know that."""
        if self.record is None or not (self.record.get("health") or {}).get("command"):
            return None
        from lamina.engine.health.examiner import beside

        home, record = self.home, self.record
        return lambda attendance: beside(home, record, attendance)

    def conclude(self, ended: Ended) -> Completed:
        """It has ended: write that down, or remove it. Raises TimeoutExpired, KernelError (its output could not be
        written).
        """
        assert self.drawn is not None
        if ended.status == 128 + SIGKILL:
            from lamina.engine.settling import ended_by

            ended = replace(ended, status=ended_by(self.home, ended.status))
        self._record_end(ended)
        return self._result(self.drawn, ended)

    def _launch(self, command: tuple[str, ...]) -> tuple[Design, Running]:
        """Start it; with file systems read-only of which the kernel turns out not to take them as a lower layer."""
        lessons = Lessons(over_host=self.held is None)
        while True:
            try:
                drawn = self._draw(command, lessons.refused)
                if drawn.bundle.networked and not self.attachments:
                    from lamina.engine.plugging import exposed_by, take

                    self.attachments = take(self.home, self.name, self.options, exposed_by(drawn.base.config))
                self._prepare(drawn)
                return drawn, self._start(drawn)
            except OSError as error:
                if not lessons.learn(error):
                    raise
                self._close()
                if self.attachments:  # whoever made its links is told of their end before they are made again
                    from lamina.engine.discard import unplug

                    unplug(self.home)
                    self.attachments = []
                unfurnish(self.home.path)

    def _draw(
        self, command: tuple[str, ...], refused: dict[bytes, str] | None = None, *, grouped: bool = False
    ) -> Design:
        return design(
            self.store,
            self.home.id,
            self.home.path,
            self._image(),
            command,
            self.options,
            self.io.stdin,
            refused,
            grouped=grouped,
            ids=self._ids(),
        )

    def _ids(self) -> IdMaps | None:
        """Its ids where they are not the usual ones; a range of its own is claimed once."""
        further = self.options.further
        if self.ids is None and further is not None and (further.userns or further.uidmap or further.gidmap):
            from lamina.engine.user_namespaces import choose, parse

            asked = parse(further.userns)
            self.ids = choose(self.store, self.home.id, asked, further.uidmap, further.gidmap)
        return self.ids

    def _image(self) -> ImageRecord | None:
        """The image as the container sees it, None for the host."""
        if self.shown is None and self.held is not None:
            self.shown = self.held.record
            ids = self._ids()
            usual = None if ids is None else usual_ids()
            if ids is not None and usual is not None:
                from lamina.engine.shifting import shifted
                from lamina.store.leases import Lease

                self.lease = Lease(self.store)
                layers = shifted(self.store, self.shown.layers, usual, ids, self.lease, self.hooks.warn)
                self.shown = replace(self.shown, layers=layers)
        return self.shown

    def _tell(self, drawn: Design) -> None:
        """Every warning once, and before the command can write anything."""
        if self.hooks.warn is not None:
            for warning in drawn.warnings:
                if warning not in self.told:
                    self.hooks.warn(warning)
                    self.told.add(warning)

    def _prepare(self, drawn: Design) -> None:
        furnish(drawn.layers)
        if drawn.bundle.outer is not None:
            from lamina.engine.user_namespaces import entrust

            entrust(drawn)
        locks = self._ready(drawn) if drawn.volumes else []
        try:
            if drawn.files:
                self._write_files(drawn)
            self.record = record_of(self, drawn, self._health(dict(drawn.base.config.rest)))
            self.home.write("container", self.record)
        finally:
            for lock in locks:
                lock.release()
        if self.held is not None:
            self.held.touch()
            self.held.release()
        if self.lease is not None:
            self.lease.close()

    def _write_files(self, drawn: Design) -> None:
        from lamina.engine.own_files import write

        over_host = not drawn.base.id
        write(self.home, drawn.hostname, self.options, self.attachments, self.name, over_host=over_host)

    def _ready(self, drawn: Design) -> list[Lock]:
        from lamina.engine.mounted import ready

        maps = drawn.reach
        return ready(
            self.store,
            self.home.path,
            drawn,
            lambda: maps_record(maps),
            rootless=drawn.layers.rootfs.userxattr,
            tell=self._warn,
        )

    def _warn(self, text: str) -> None:
        """Something that the design did not know yet."""
        self.made.append(text)
        if self.hooks.warn is not None:
            self.hooks.warn(text)

    def _health(self, config: dict[str, Any]) -> dict[str, Any] | None:
        """What is to be done to see whether it is well, with an image's *config*."""
        if self.options.health is None and not config.get("healthcheck"):
            return None
        from lamina.engine.health.checks import RESTART, combined

        found, warning = combined(self.options.health, config.get("healthcheck"), config.get("shell"))
        if found is not None and found["on_failure"] == RESTART and self.further is None:
            raise Unsupported(
                "run: health_on_failure restart: nobody starts a container again that is run in the foreground",
                remedy="Engine.start() leaves it to a supervisor",
            )
        if warning and warning not in self.made:
            self._warn(warning)
        return found

    def _start(self, drawn: Design) -> Running:
        if self.options.log is not None or not self.options.rm:
            from lamina.engine.logging import writer

            self.log = writer(self.home.path, self.home.id, self.options, drawn.spec["process"]["env"])
        io, tty = self.io, self.options.tty
        self.stdio = stdio = Stdio(io.stdin, io.stdout, io.stderr, data=io.data, log=self.log, tty=tty)
        uid = drawn.spec["process"]["user"]["uid"]
        if uid or drawn.has_own_ids:
            stdio.give_to(uid if drawn.maps is None else drawn.maps.outside(uid))
        if io.forward_signals:  # before there is anybody to forward to: one that comes in between waits
            from lamina.supervisor.signals import Catcher

            self.catcher = Catcher()
        self._tell(drawn)
        bundle = drawn.bundle
        if self.attachments:
            from lamina.engine.plugging import connected

            def told(found: list[Attachment]) -> None:
                self.attachments = found
                self._write_files(drawn)

            bundle = connected(bundle, self.home, self.attachments, self.options, told)
        manager = manager_of(self.options)
        with Undisturbed():  # or a Ctrl-C in this moment would leave a container that nobody knows of
            try:
                self.running = running = launch(
                    bundle,
                    stdin=stdio.child[0],
                    stdout=stdio.child[1],
                    stderr=stdio.child[2],
                    seccomp=drawn.seccomp(self.store),
                    die_with_parent=True,
                    cache=self.store.cache + b"/plans",
                    groups=() if manager == CGROUPFS else EVERYTHING,
                    manager=manager,
                )
            finally:
                drawn.let_go()
        running.let_die = self._let_go_on
        stdio.started(running.pty)
        return running

    def _let_go_on(self) -> None:
        """What is frozen by cgroup v1 does not even die."""
        if self.home.is_marked(PAUSED_MARK):
            from lamina.engine.pausing import thaw

            thaw(self.home)

    def _record_start(self, drawn: Design, running: Running) -> None:
        state = identity_of(running.pid)
        state["started"] = time_ns()
        state["joining"] = joinable(drawn.spec, self.options, drawn.base.config, drawn.bounding)
        if running.cgroup is not None:
            state["cgroup"] = running.cgroup.record()
        if running.notes:
            state["notes"] = list(running.notes)
        self.home.write("state", state)
        assert self.record is not None
        if self.record.get("health"):
            from lamina.engine.health.results import begin

            begin(self.home, self.record)
        from lamina.store.events import about, note

        said = [about(self.record, "create"), about(self.record, "start")]
        if self.attachments:
            from lamina.engine.network_events import connected

            said[1:1] = connected(self.home, self.attachments)
        note(self.store, *said)
        if not self.options.rm:
            self.home.write("spec", drawn.written_spec())

    def _record_end(self, ended: Ended) -> None:
        """Write down how it ended and let go; after this the container is nobody's."""
        assert self.running is not None and self.stdio is not None
        running, home = self.running, self.home
        self.name = self._called()
        oom = running.cgroup.oom_kills() if running.cgroup is not None else 0
        if home.is_marked(GROUPED_MARK):
            from lamina.engine.grouping import ungroup

            oom = max(oom, ungroup(home))
        if running.cgroup is not None and self.options.further is not None and self.options.further.pid:
            running.cgroup.kill()  # no end of a pid namespace does that
        running.close()
        self._close()
        from lamina.store.events import ending, note

        if self.attachments:
            from lamina.engine.discard import unplug
            from lamina.engine.network_events import disconnected

            said = disconnected(home)
            unplug(home)
            note(self.store, *said)

        assert self.record is not None
        self.record["name"] = self.name
        note(self.store, *ending(self.record, ended.status, oom))
        if self.options.rm:
            from lamina.engine.discard import discard

            discard(home, self.name, self.record)
        else:
            end = {
                "status": ended.status,
                "finished": time_ns(),
                "oom_kills": oom,
                "timed_out": ended.timed_out,
            }
            home.write("exit", end)
            home.make_durable()
            home.unmark()
            home.release()
        self.recorded = True

    def _called(self) -> str:
        """Its name now: it may have been renamed meanwhile."""
        return self.home.marked_name() or self.name

    def _result(self, drawn: Design, ended: Ended) -> Completed:
        from lamina.engine.completed import Completed

        assert self.stdio is not None and self.running is not None
        out, err = self.stdio.captured(1), self.stdio.captured(2)
        if ended.timed_out:
            said = f"run {' '.join(drawn.words)}: not ended within {self.io.timeout:g} s, and killed"
            words = list(drawn.words)
            raise TimeoutExpired(said, cmd=words, timeout=self.io.timeout, stdout=out, stderr=err)
        if ended.errors:
            error = ended.errors[0]
            raise KernelError("write the output of the container", error.errno or 5)
        return Completed(
            list(drawn.words),
            ended.status,
            out,
            err,
            container=self.home.id,
            name=self.name,
            warnings=(*drawn.warnings, *self.made, *self.running.notes),
        )

    def _close(self) -> None:
        """Let go of everything but the container."""
        for held in (self.stdio, self.log, self.catcher, self.lease):
            if held is not None:
                held.close()

    def abandon(self, failure: BaseException) -> None:
        """Something was raised: end what runs, and leave nothing behind, except a container that really ran."""
        if self.recorded:
            return
        from lamina.engine.discard import discard, unplug

        status = None
        try:
            if self.running is not None:
                self.running.kill(9)
                status = self.running.wait()
                if self.home.is_marked(GROUPED_MARK):
                    from lamina.engine.grouping import ungroup

                    ungroup(self.home)
                self.running.close()
        except (OSError, LaminaError) as second:
            failure.add_note(f"while ending the container: {second}")
        try:
            self._close()
            if status is not None and not self.options.rm:  # also where its groups do not go
                self.home.write("exit", {"status": status, "finished": time_ns(), "interrupted": True})
            if self.running is None or self.options.rm:
                discard(self.home, self._called(), self.record)
            else:
                unplug(self.home)
                self.home.unmark()
        except (OSError, LaminaError) as second:
            failure.add_note(f"while cleaning up: {second}")
        finally:
            self.home.release()
