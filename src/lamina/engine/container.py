"""A container that exists: what it is, what it did, and what becomes of that."""

from __future__ import annotations

from lamina.engine.file_verbs import FileVerbs
from lamina.engine.holding import Held
from lamina.engine.process_verbs import ProcessVerbs
from lamina.engine.reviewed import Reviewed
from lamina.engine.state_verbs import StateVerbs
from lamina.engine.view_verbs import ViewVerbs
from lamina.errors import Corrupt, LaminaError, NotFound
from lamina.store.events import about, note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Any, Self, Unpack

    from lamina.engine.attaching import Wanted
    from lamina.engine.health.examining import Examined
    from lamina.engine.image_verbs import LayerLimits
    from lamina.engine.images import Image
    from lamina.engine.progress import Tell
    from lamina.engine.updating import Limits
    from lamina.engine.usage import Usage
    from lamina.engine.viewing import View
    from lamina.store.containers import Home
    from lamina.store.root import Store
    from lamina.supervisor.client import Attached
    from lamina.supervisor.logs import LogEntry


class Container(ProcessVerbs, FileVerbs, StateVerbs, Reviewed, ViewVerbs):
    """One container. What can change is read when it is asked for; what cannot, and the name, once (see `reload`).

    At the end of a `with` one that came from `Engine.create` or `Engine.start` is killed and removed, with its volumes
    that have no name, whatever happened in the block. One that was looked up (`Engine.container`, `Engine.containers`)
    is somebody else's, and stays as it is. NotFound is raised by whatever needs a container that was removed meanwhile.
    """

    def __init__(self, home: Home, *, made: bool = False) -> None:
        self._home, self._made = home, made
        self._asked: dict[str, Any] | None = None

    def __repr__(self) -> str:
        try:
            name = self.name
        except (LaminaError, OSError):  # removed meanwhile, or not to be read
            name = ""
        return f"<Container {name}{' ' if name else ''}{self._home.short_id}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Container):
            return NotImplemented
        return (self.id, self.store.path) == (other.id, other.store.path)

    def __hash__(self) -> int:
        return hash((self.id, self.store.path))

    def __reduce__(self) -> tuple[object, ...]:
        """To another process goes which one it is; who made it stays who removes it."""
        return _looked_up, (self.store.path, self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._made:
            from lamina.engine.holding import removed_after

            removed_after(self, error)

    # -- what it is

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self._home.id

    @property
    def short_id(self) -> str:
        """The first 12 of them, as people read it."""
        return self._home.short_id

    @property
    def _record(self) -> dict[str, Any]:
        if self._asked is None:
            try:
                self._asked = self._home.asked()
            except Corrupt:
                self._asked = {}
        return self._asked

    @property
    def record(self) -> dict[str, Any]:
        """What was asked, as it is written down; empty when the record is damaged."""
        return self._record

    @property
    def name(self) -> str:
        """The name; "" when the record is damaged, as for all that follow."""
        return str(self._record.get("name", ""))

    @property
    def image(self) -> str:
        """The image it was made from, as it was asked for."""
        return str(self._record.get("image", ""))

    @property
    def image_id(self) -> str:
        """The id that this image has now, see `Image.id`; "" over the host."""
        from lamina.store.successors import now_called

        return now_called(self._home.store, str(self._record.get("image_id") or ""))

    @property
    def store(self) -> Store:
        """The store that it is in."""
        return self._home.store

    @property
    def command(self) -> list[str]:
        """What it executes."""
        return [str(word) for word in self._record.get("command", ())]

    @property
    def labels(self) -> dict[str, str]:
        """What was noted with `--label`."""
        return dict(self._record.get("labels") or {})

    @property
    def created(self) -> float:
        """When it was made, seconds since 1970."""
        return int(self._record.get("created", 0)) / 1e9

    @property
    def status(self) -> str:
        """ "created", "running", "paused", "restarting", "exited", or "dead" (its engine was killed)."""
        from lamina.engine.settling import state_of

        return state_of(self._home)

    @property
    def state(self) -> str:
        """The `status`, as `docker ps` and `lamina ps` call it."""
        return self.status

    @property
    def ports(self) -> dict[str, list[str]]:
        """Where its ports are published on this host now: {"80/tcp": ["0.0.0.0:8080"]}."""
        if not self._home.has("network"):
            return {}
        from lamina.engine.network_facts import ports_of

        return ports_of(self._home)

    @property
    def networks(self) -> list[str]:
        """The networks that it is in, or will be when it is started; where it has no link of its own "none", "host",
        "container:NAME" or "ns:PATH".
        """
        if self._home.has("network"):
            from lamina.engine.network_record import Ledger

            return [one.network.name for one in Ledger.of(self._home).attachments]
        from lamina.engine.keeping import networks_said

        return networks_said(self._home.read("container") or {})

    @property
    def health(self) -> str:
        """ "starting", "healthy", "unhealthy" (also one that has ended, as in docker), or "none" without a check."""
        if not self._record.get("health"):
            return "none"
        from lamina.engine.health.results import health_of

        return health_of(self._home, self._record, self.state)

    def check_health(self) -> Examined:
        """Do its health check now, beside those that are done in time, and wait for it: what it came to.

        Raises Unsupported where it has none, Conflict where it does not run or is paused.
        """
        from lamina.engine.health.examining import examine

        return examine(self._home)

    @property
    def is_alive(self) -> bool:
        """Whether it runs, is paused, or is about to be started again."""
        from lamina.store.containers import LIVING

        return self.state in LIVING

    @property
    def restarts(self) -> int:
        """How often its restart policy has started it again since somebody started it."""
        found = self._home.read("exit") or self._home.read("state") or {}
        return int(found.get("restarts") or 0)

    @property
    def failure(self) -> str:
        """Why its last start failed; "" if it did not."""
        return str((self._home.read("failed") or {}).get("message", ""))

    @property
    def exit_code(self) -> int | None:
        """The exit status, 128 + n after signal n; None while there is none."""
        end = self._home.read("exit") or self._home.read("failed")
        return None if end is None else int(end["status"])

    @property
    def started(self) -> float | None:
        """When its command started, seconds since 1970; None if it did not."""
        state = self._home.read("state")
        return None if state is None else int(state.get("started") or 0) / 1e9

    @property
    def finished(self) -> float | None:
        """When it ended, seconds since 1970; None while it has not."""
        end = self._home.read("exit")
        return None if end is None else int(end.get("finished") or 0) / 1e9

    def inspect(self) -> dict[str, Any]:
        """Everything known of it, in the words of `docker inspect`."""
        from lamina.engine.inspect import inspect

        self._record  # noqa: B018  a damaged or missing record is said first
        return inspect(self._home, self._home.asked())

    @property
    def attrs(self) -> dict[str, Any]:
        """What `inspect` gives, in docker-py's word for it; read anew each time."""
        return self.inspect()

    def reload(self) -> None:
        """Forget what was read of it, such as its name. Raises NotFound when it was removed."""
        self._asked = None
        self._home.asked()

    # -- its files

    def _view(self) -> View:
        from lamina.engine.viewing import view_container

        return view_container(self._home, self._whole_record())

    @property
    def first_process(self) -> dict[str, Any] | None:
        """What is written down of its first process: `pid` and what tells it from others; None if it never ran."""
        return self._home.read("state")

    def commit(
        self,
        name: str | None = None,
        *,
        author: str = "",
        changes: Sequence[str] = (),
        message: str = "",
        pause: bool = True,
        limits: LayerLimits | None = None,
        now: bool = False,
        consistency: str = "auto",
        on_warning: Callable[[str], None] | None = None,
    ) -> Image:
        """Make an image of its files, without its volumes, and of what it was asked to be; under *name*, if there is
        one. *changes* are as in a Dockerfile.

        No file is copied: what it wrote becomes a layer where it is. The image's digests are made when it is pushed or
        saved, or *now*; then it gets the id that it has everywhere. *consistency* is what is done about processes that
        hold files open for writing, as of `snapshot`; "copy", *limits* of the layer (as of `Engine.pull`), and, while
        it runs, *pause* False, which lets it go on meanwhile, have its files copied. *on_warning* is told who kept
        files from staying where they are, so that they were copied.

        Raises Unsupported (over the host; nothing that can be paused), InvalidInput, Conflict, NotFound, KernelError.
        """
        from lamina.engine.committing import commit

        return commit(
            self,
            self._home,
            name,
            author=author,
            changes=changes,
            message=message,
            pause=pause,
            limits=limits,
            now=now,
            consistency=consistency,
            on_warning=on_warning,
        )

    # -- being attached to it

    def attach(self, wanted: Wanted | None = None) -> Attached:
        """Show here what it writes, and let it read what is typed here, until it ends or the detach keys are typed. For
        the main thread of a command: its terminal and its signals are the container's meanwhile.
        """
        from lamina.engine.attaching import Wanted, attach

        return attach(self._home, wanted or Wanted())

    def start_attached(
        self, wanted: Wanted | None = None, on_warnings: Callable[[list[str]], None] | None = None
    ) -> Attached:
        """Start it, attached from before its first instruction on. As `attach`."""
        from lamina.engine.attaching import Wanted, start_attached

        return start_attached(self._home, wanted or Wanted(), on_warnings)

    # -- what it may use

    def update(self, **limits: Unpack[Limits]) -> list[str]:
        """Change its limits or restart policy, at once and for later starts; warnings. Parameters as of `Engine.run`:
        memory, memory_swap, cpus, cpu_shares, pids_limit, restart; 0 lifts a limit.

        Raises InvalidInput, Unsupported where it runs in no control group of the controller, KernelError.
        """
        from lamina.engine.updating import update

        self._asked = None
        return update(self._home, limits)

    # -- its processes

    def top(self, ps_options: Sequence[str] = ()) -> dict[str, Any]:
        """Its processes as this machine sees them: {"Titles": [...], "Processes": [[...], ...]}.

        *ps_options* are `-ef` (the default), `aux`, or `-o` with columns. Raises Conflict where it does not run.
        """
        from lamina.engine.processes import top

        return top(self._home, ps_options)

    def stats(self) -> Usage:
        """What it uses now, and has used so far; nothing where it does not run."""
        from lamina.engine.usage import usage

        return usage(self._home)

    # -- what it wrote

    def logs(
        self,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Iterator[LogEntry]:
        """What it wrote, oldest first, or the last *tail* lines of it; with *follow* also what it still writes, until
        it ends. *since* and *until* are seconds since 1970.

        Raises Unsupported where its driver keeps nothing, NotFound where its log is gone, Corrupt.
        """
        from lamina.engine.logging import log_of

        log = log_of(self._home, self._home.asked())

        def goes_on() -> bool:
            try:
                return self.is_alive
            except NotFound:  # it has ended, and with that it was removed
                return False

        return log.read(goes_on if follow else None, since=since, until=until, tail=tail)

    # -- its life

    def start(self) -> list[str]:
        """Start its command, unless it runs; warnings that are new. It lives on when this program ends.

        Raises Conflict for one that is paused, or was `run` in the foreground; and what `Engine.run` raises.
        """
        from lamina.engine.life import start

        return start(self._home)

    def stop(self, timeout: float | None = None, signal: str | int | None = None) -> None:
        """Ask its command to end, with *signal* (default: its stop signal), and kill everything of it after *timeout*
        seconds (default: its own, else 10; negative: never). Nothing happens where it does not run.
        """
        from lamina.engine.life import stop

        stop(self._home, timeout, signal)

    def kill(self, signal: str | int = "KILL") -> None:
        """Send *signal* to its first process. Raises Conflict where it does not run."""
        from lamina.engine.life import kill

        kill(self._home, signal)

    def pause(self) -> None:
        """Stop every process in it. Raises Conflict where it does not run or is paused already, Unsupported where it
        is in no control group that can be frozen.
        """
        from lamina.engine.pausing import pause

        pause(self._home)

    def unpause(self) -> None:
        """Let what was paused go on. Raises Conflict where it is not paused."""
        from lamina.engine.pausing import unpause

        unpause(self._home)

    def restart(self, timeout: float | None = None, signal: str | int | None = None) -> list[str]:
        """Stop it, if it runs, and start it; warnings that are new."""
        from lamina.engine.life import restart

        return restart(self._home, timeout, signal)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; its exit status, 0 for one that never ran. Raises TimeoutExpired after *timeout*
        seconds, and NotFound; it goes on then.
        """
        from lamina.engine.life import wait

        return wait(self._home, seconds=timeout)

    def rename(self, name: str) -> None:
        """Call it *name*. Raises Conflict where another has that name."""
        from lamina.engine.life import rename

        rename(self._home, name)
        self._asked = None

    # -- its end

    def remove(self, force: bool = False, volumes: bool = False, *, progress: Tell | None = None) -> None:
        """Remove it and discard what it did; with *volumes* also those that are its own, without a name.

        Raises Conflict when it runs; with *force* it is killed then, and it is no error that somebody else, such as who
        looks after one that goes at its end, has removed it.
        """
        try:
            self._remove(force, volumes, progress)
        except NotFound:
            if not force or self._home.exists():
                raise

    def _remove(self, force: bool, volumes: bool, progress: Tell | None) -> None:
        from lamina.engine.discard import discard
        from lamina.engine.settling import wake_supervisor

        with Held(self._home, "remove", kill=force, settle=False):
            self._asked = None  # it may have been renamed
            state = self._home.read("state") if self._record.get("owner") else None
            discard(self._home, self.name or None, self._record, volumes=volumes, progress=progress)
            if state is not None:  # there may be somebody who waits for its owner's end to remove it
                wake_supervisor(state)
            note(self.store, about({"id": self.id, **self._record}, "destroy"))


def _looked_up(root: bytes, identity: str) -> Container:
    from lamina.store.containers import Home
    from lamina.store.root import Store

    return Container(Home(Store(root), identity))
