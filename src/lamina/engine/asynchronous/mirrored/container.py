"""What a thread does of `Container`: made by scripts/mirror from engine/container.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.image import AsyncImage
from lamina.engine.asynchronous.mirrored.file_verbs import MirroredFileVerbs
from lamina.engine.asynchronous.mirrored.process_verbs import MirroredProcessVerbs
from lamina.engine.asynchronous.mirrored.reviewed import MirroredReviewed
from lamina.engine.asynchronous.mirrored.state_verbs import MirroredStateVerbs
from lamina.engine.asynchronous.mirrored.view_verbs import MirroredViewVerbs
from lamina.engine.asynchronous.threads import in_thread, told_by_loop, transfer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Any, Unpack

    from lamina.engine.container import Container
    from lamina.engine.health.examining import Examined
    from lamina.engine.image_verbs import LayerLimits
    from lamina.engine.progress import Tell
    from lamina.engine.updating import Limits
    from lamina.engine.usage import Usage
    from lamina.store.root import Store


class MirroredContainer(
    MirroredProcessVerbs, MirroredFileVerbs, MirroredStateVerbs, MirroredReviewed, MirroredViewVerbs
):
    """The verbs of `Container` that a thread does."""

    if TYPE_CHECKING:
        _sync: Container

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self._sync.id

    @property
    def short_id(self) -> str:
        """The first 12 of them, as people read it."""
        return self._sync.short_id

    @property
    def record(self) -> dict[str, Any]:
        """What was asked, as it is written down; empty when the record is damaged."""
        return self._sync.record

    @property
    def name(self) -> str:
        """The name; "" when the record is damaged, as for all that follow."""
        return self._sync.name

    @property
    def image(self) -> str:
        """The image it was made from, as it was asked for."""
        return self._sync.image

    @property
    def image_id(self) -> str:
        """The id that this image has now, see `Image.id`; "" over the host."""
        return self._sync.image_id

    @property
    def store(self) -> Store:
        """The store that it is in."""
        return self._sync.store

    @property
    def command(self) -> list[str]:
        """What it executes."""
        return self._sync.command

    @property
    def labels(self) -> dict[str, str]:
        """What was noted with `--label`."""
        return self._sync.labels

    @property
    def created(self) -> float:
        """When it was made, seconds since 1970."""
        return self._sync.created

    @property
    def status(self) -> Awaitable[str]:
        """ "created", "running", "paused", "restarting", "exited", or "dead" (its engine was killed)."""
        return in_thread(self._do(lambda: self._sync.status))

    @property
    def state(self) -> Awaitable[str]:
        """The `status`, as `docker ps` and `lamina ps` call it."""
        return in_thread(self._do(lambda: self._sync.state))

    @property
    def ports(self) -> Awaitable[dict[str, list[str]]]:
        """Where its ports are published on this host now: {"80/tcp": ["0.0.0.0:8080"]}."""
        return in_thread(self._do(lambda: self._sync.ports))

    @property
    def networks(self) -> Awaitable[list[str]]:
        """The networks that it is in, or will be when it is started; where it has no link of its own "none", "host",
        "container:NAME" or "ns:PATH".
        """
        return in_thread(self._do(lambda: self._sync.networks))

    @property
    def health(self) -> Awaitable[str]:
        """ "starting", "healthy", "unhealthy" (also one that has ended, as in docker), or "none" without a check."""
        return in_thread(self._do(lambda: self._sync.health))

    async def check_health(self) -> Examined:
        """Do its health check now, beside those that are done in time, and wait for it: what it came to.

        Raises Unsupported where it has none, Conflict where it does not run or is paused.
        """
        return await transfer(self._do(lambda: self._sync.check_health()))

    @property
    def is_alive(self) -> Awaitable[bool]:
        """Whether it runs, is paused, or is about to be started again."""
        return in_thread(self._do(lambda: self._sync.is_alive))

    @property
    def restarts(self) -> Awaitable[int]:
        """How often its restart policy has started it again since somebody started it."""
        return in_thread(self._do(lambda: self._sync.restarts))

    @property
    def failure(self) -> Awaitable[str]:
        """Why its last start failed; "" if it did not."""
        return in_thread(self._do(lambda: self._sync.failure))

    @property
    def exit_code(self) -> Awaitable[int | None]:
        """The exit status, 128 + n after signal n; None while there is none."""
        return in_thread(self._do(lambda: self._sync.exit_code))

    @property
    def started(self) -> Awaitable[float | None]:
        """When its command started, seconds since 1970; None if it did not."""
        return in_thread(self._do(lambda: self._sync.started))

    @property
    def finished(self) -> Awaitable[float | None]:
        """When it ended, seconds since 1970; None while it has not."""
        return in_thread(self._do(lambda: self._sync.finished))

    async def inspect(self) -> dict[str, Any]:
        """Everything known of it, in the words of `docker inspect`."""
        return await in_thread(self._do(lambda: self._sync.inspect()))

    @property
    def attrs(self) -> Awaitable[dict[str, Any]]:
        """What `inspect` gives, in docker-py's word for it; read anew each time."""
        return in_thread(self._do(lambda: self._sync.attrs))

    async def reload(self) -> None:
        """Forget what was read of it, such as its name. Raises NotFound when it was removed."""
        await in_thread(self._do(lambda: self._sync.reload()))

    @property
    def first_process(self) -> Awaitable[dict[str, Any] | None]:
        """What is written down of its first process: `pid` and what tells it from others; None if it never ran."""
        return in_thread(self._do(lambda: self._sync.first_process))

    async def commit(
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
    ) -> AsyncImage:
        """Make an image of its files, without its volumes, and of what it was asked to be; under *name*, if there is
        one. *changes* are as in a Dockerfile.

        No file is copied: what it wrote becomes a layer where it is. The image's digests are made when it is pushed or
        saved, or *now*; then it gets the id that it has everywhere. *consistency* is what is done about processes that
        hold files open for writing, as of `snapshot`; "copy", *limits* of the layer (as of `Engine.pull`), and, while
        it runs, *pause* False, which lets it go on meanwhile, have its files copied. *on_warning* is told who kept
        files from staying where they are, so that they were copied.

        Raises Unsupported (over the host; nothing that can be paused), InvalidInput, Conflict, NotFound, KernelError.
        """
        tell_on_warning = told_by_loop(on_warning)
        return AsyncImage(
            await transfer(
                self._do(
                    lambda: self._sync.commit(
                        name,
                        author=author,
                        changes=changes,
                        message=message,
                        pause=pause,
                        limits=limits,
                        now=now,
                        consistency=consistency,
                        on_warning=tell_on_warning,
                    )
                )
            )
        )

    async def update(self, **limits: Unpack[Limits]) -> list[str]:
        """Change its limits or restart policy, at once and for later starts; warnings. Parameters as of `Engine.run`:
        memory, memory_swap, cpus, cpu_shares, pids_limit, restart; 0 lifts a limit.

        Raises InvalidInput, Unsupported where it runs in no control group of the controller, KernelError.
        """
        return await in_thread(self._do(lambda: self._sync.update(**limits)))

    async def top(self, ps_options: Sequence[str] = ()) -> dict[str, Any]:
        """Its processes as this machine sees them: {"Titles": [...], "Processes": [[...], ...]}.

        *ps_options* are `-ef` (the default), `aux`, or `-o` with columns. Raises Conflict where it does not run.
        """
        return await in_thread(self._do(lambda: self._sync.top(ps_options)))

    async def stats(self) -> Usage:
        """What it uses now, and has used so far; nothing where it does not run."""
        return await in_thread(self._do(lambda: self._sync.stats()))

    async def start(self) -> list[str]:
        """Start its command, unless it runs; warnings that are new. It lives on when this program ends.

        Raises Conflict for one that is paused, or was `run` in the foreground; and what `Engine.run` raises.
        """
        return await in_thread(self._do(lambda: self._sync.start()))

    async def pause(self) -> None:
        """Stop every process in it. Raises Conflict where it does not run or is paused already, Unsupported where it
        is in no control group that can be frozen.
        """
        await in_thread(self._do(lambda: self._sync.pause()))

    async def unpause(self) -> None:
        """Let what was paused go on. Raises Conflict where it is not paused."""
        await in_thread(self._do(lambda: self._sync.unpause()))

    async def rename(self, name: str) -> None:
        """Call it *name*. Raises Conflict where another has that name."""
        await in_thread(self._do(lambda: self._sync.rename(name)))

    async def remove(
        self, force: bool = False, volumes: bool = False, *, progress: Tell | None = None
    ) -> None:
        """Remove it and discard what it did; with *volumes* also those that are its own, without a name.

        Raises Conflict when it runs; with *force* it is killed then, and it is no error that somebody else, such as who
        looks after one that goes at its end, has removed it.
        """
        tell_progress = told_by_loop(progress)
        await in_thread(self._do(lambda: self._sync.remove(force, volumes, progress=tell_progress)))
