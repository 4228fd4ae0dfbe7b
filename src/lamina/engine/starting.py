"""A container that was made before, started: drawn up anew from its record, with the uppers that it has."""

from __future__ import annotations

import os
from time import time_ns

from lamina.engine.chains import chain_of, pending, redrawn
from lamina.engine.design import design, manager_of, maps_record
from lamina.engine.discard import remover, unplug
from lamina.engine.keeping import ids_of, image_of, options_of
from lamina.engine.layers import furnish, record_of, uppers_of
from lamina.engine.picture import Lessons
from lamina.engine.translate import joinable
from lamina.errors import StepFailed, Unsupported
from lamina.runtime.identity import boot_id, identity_of
from lamina.runtime.launch import launch
from lamina.store.record import encode
from lamina.store.trace import point
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from typing import Any

    from lamina.engine.design import Design
    from lamina.network.model import Attachment
    from lamina.runtime.launch import Running
    from lamina.store.containers import Home

# every container that outlives its command can be frozen, counted and killed as a whole, where the host allows that
GROUPS = ("freezer", "memory", "pids", "cpu", "cpuacct", "blkio")
DIRECTORY = b"/snapshots"  # of those with states: store/snapshots.py


class Start:
    """One start of the container at *home*, whose lock is held and whose record is *asked*.

    After `run` the command runs, and there is a new state record; until the exit record of the run before is gone as
    well, it counts as ended. `warnings` are those which its record does not have.
    """

    def __init__(
        self,
        home: Home,
        asked: dict[str, Any],
        child: tuple[int, int, int],
        *,
        dependent: bool,
        size: tuple[int, int] | None = None,
    ) -> None:
        """*child* are its standard streams; *dependent*: it dies with this process; *size* is its terminal's, in rows
        and columns.
        """
        self.home, self.asked, self.child, self.dependent = home, asked, child, dependent
        self.size = size
        self.image = image_of(asked)
        self.options = replace(options_of(asked), entrypoint=())  # it is among the words of the command
        self.warnings: list[str] = []
        self.attachments: list[Attachment] = []

    def run(self, state: dict[str, Any]) -> Running:
        """Start it; *state* is what else the state record shall say. Raises what `Engine.run` raises."""
        try:
            with self._turn():
                drawn, running = self._launch()
            try:
                self._record(drawn, running, state)
            except BaseException:
                running.kill(9)
                running.wait()
                running.close()
                raise
        except BaseException:
            unplug(self.home)
            raise
        return running

    def _turn(self) -> AbstractContextManager[object]:
        """What it stands on does not change while it is drawn up and mounted; what was left half done is finished."""
        from contextlib import nullcontext

        home = self.home
        if not os.path.lexists(home.path + DIRECTORY):
            return nullcontext()
        from lamina.store.snapshots import turn

        held = turn(home)
        try:
            self.asked = home.asked()
            if pending(self.asked):
                from lamina.engine.freezing import settle

                settle(home, living=False)
                self.asked = home.asked()
        except BaseException:
            held.release()
            raise
        return held

    def _launch(self) -> tuple[Design, Running]:
        """With file systems read-only of which the kernel turns out not to take them as a lower layer."""
        lessons = Lessons(over_host=self.image is None)
        while True:
            try:
                drawn = self._draw(lessons.refused)
                if self.size is not None and self.options.tty:
                    rows, columns = self.size
                    drawn.spec["process"]["consoleSize"] = {"height": rows, "width": columns}
                if drawn.bundle.networked and not self.attachments:
                    from lamina.engine.plugging import exposed_by, take

                    point("start: take addresses and ports")
                    title = str(self.asked["name"])
                    self.attachments = take(self.home, title, self.options, exposed_by(drawn.base.config))
                self._prepare(drawn)
                return drawn, self._start(drawn)
            except OSError as error:
                place = error.place if isinstance(error, StepFailed) else None
                if place is not None and chain_of(self.asked).get(place):
                    raise Unsupported(
                        f"start container {self.asked['name']}: what it wrote at {os.fsdecode(place)} cannot be shown: "
                        f"{error.strerror}",
                        remedy=f"'lamina diff {self.asked['name']}' shows what that is, 'lamina apply' does it",
                    ) from error
                if not lessons.learn(error):
                    raise
                if self.attachments:  # whoever made its links is told of their end before they are made again
                    unplug(self.home)
                    self.attachments = []

    def _warn_of_ports(self) -> None:
        """They are the container's, also while it is in no network: `network disconnect` leaves them."""
        wanted = self.options.networking
        if self.options.network == "none" and wanted is not None and (wanted.published or wanted.publish_all):
            self.warnings.append(
                "its ports are not published, for it is in no network: 'lamina network connect' publishes them"
            )

    def _draw(self, refused: dict[bytes, str]) -> Design:
        return design(
            self.home.store,
            self.home.id,
            self.home.path,
            self.image,
            tuple(self.asked["command"]),
            self.options,
            None,
            refused,
            grouped=True,
            kept=uppers_of(self.asked.get("overlays") or []),
            frozen=chain_of(self.asked),
            ids=ids_of(self.asked),
        )

    def _prepare(self, drawn: Design) -> None:
        home = self.home
        point("start: furnish")
        furnish(drawn.layers, remover(self.asked))
        if drawn.bundle.outer is not None:
            from lamina.engine.user_namespaces import entrust

            entrust(drawn)
        if drawn.files:
            self._write_files(drawn)
        if drawn.volumes:
            from lamina.engine.mounted import ready

            maps = drawn.reach
            locks = ready(
                home.store,
                home.path,
                drawn,
                lambda: maps_record(maps),
                rootless=drawn.layers.rootfs.userxattr,
                tell=self.warnings.append,
            )
            for lock in locks:  # its record names them already, which keeps them
                lock.release()
        drawn_up = record_of(drawn.layers)

        def change(asked: dict[str, Any]) -> dict[str, Any] | None:
            overlays = redrawn(asked, drawn_up)
            same = _in_order(asked.get("overlays") or ()) == _in_order(overlays)
            return None if same else {**asked, "overlays": overlays}

        self.asked = home.change_asked(change)

    def _write_files(self, drawn: Design) -> None:
        from lamina.engine.own_files import write

        title, over_host = str(self.asked["name"]), not drawn.base.id
        write(self.home, drawn.hostname, self.options, self.attachments, title, over_host=over_host)

    def _start(self, drawn: Design) -> Running:
        known = {*(self.asked.get("warnings") or ()), *self.warnings}
        self.warnings += [warning for warning in drawn.warnings if warning not in known]
        if self.options.volatile and self._was_cut_off():
            self.warnings.append(
                "the machine went down while it ran, with --durability none: what it wrote may be lost, or half there"
            )
        self._warn_of_ports()
        store = self.home.store
        bundle = drawn.bundle
        if self.attachments:
            from lamina.engine.plugging import connected

            point("start: connect")

            def told(found: list[Attachment]) -> None:
                self.attachments = found
                self._write_files(drawn)

            bundle = connected(bundle, self.home, self.attachments, self.options, told)
        point("start: launch")
        try:
            return launch(
                bundle,
                stdin=self.child[0],
                stdout=self.child[1],
                stderr=self.child[2],
                seccomp=drawn.seccomp(store),
                die_with_parent=self.dependent,
                cache=store.cache + b"/plans",
                groups=GROUPS,
                manager=manager_of(self.options),
            )
        finally:
            drawn.let_go()

    def _was_cut_off(self) -> bool:
        """Whether nobody saw the end of its last run, and the machine was started anew since."""
        state, end = self.home.read("state"), self.home.read("exit") or {}
        return state is not None and (not end or "unknown" in end) and state.get("boot") != boot_id()

    def _record(self, drawn: Design, running: Running, state: dict[str, Any]) -> None:
        point("start: launched")
        # without the seccomp profile, which takes longer to read than all else: `joining` says which one it is
        self.home.write("spec", drawn.spec)
        found = {**identity_of(running.pid), "started": time_ns(), **state}
        found["joining"] = joinable(drawn.spec, self.options, drawn.base.config, drawn.bounding)
        if running.cgroup is not None:
            found["cgroup"] = running.cgroup.record()
        if running.notes:
            found["notes"] = list(running.notes)
        point("start: write state record")
        with (
            self.home.turn()
        ):  # who is making control groups for the run before (grouping) writes the same record
            self.home.write("state", found)


def _in_order(overlays: Iterable[dict[str, Any]]) -> str:
    """Those of a record, whatever order they were written down in."""
    return encode([dict(sorted(entry.items())) for entry in overlays])
