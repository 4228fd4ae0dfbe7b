"""What a thread does of `ImageVerbs`: made by scripts/mirror from engine/image_verbs.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.image import AsyncImage
from lamina.engine.asynchronous.mirror import Mirrored
from lamina.engine.asynchronous.threads import Stoppable, in_thread, transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike
    from typing import Any

    from lamina.engine.image_verbs import ImageVerbs, LayerLimits
    from lamina.engine.images import Step
    from lamina.engine.parameters import Source
    from lamina.image.registry.search import Repository


class MirroredImageVerbs(Mirrored):
    """The verbs of `ImageVerbs` that a thread does."""

    if TYPE_CHECKING:
        _sync: ImageVerbs

    async def pull(
        self,
        name: str,
        *,
        platform: str | None = None,
        keep_blobs: bool = False,
        tls_verify: bool = True,
        limits: LayerLimits | None = None,
        on_event: Callable[..., None] | None = None,
    ) -> str:
        """Fetch the image *name* from its registry, unpack it and give it that name, whose full form is returned.

        *platform* is such as "linux/arm64"; this machine's unless given. *keep_blobs*: the compressed layers are kept
        as well. *tls_verify* False: whoever answers is believed. *limits* are of each layer, {"size": "1t"}: see
        docs/layers.md for their names. *on_event* is called with a word and facts by name,
        from several threads but one at a time: see `lamina.image.transfer.events`. Raises NotFound,
        InvalidReference, RegistryError.
        """
        events = Stoppable(on_event)
        return await transfer(
            self._do(
                lambda: self._sync.pull(
                    name,
                    platform=platform,
                    keep_blobs=keep_blobs,
                    tls_verify=tls_verify,
                    limits=limits,
                    on_event=events,
                )
            ),
            stop=events.stop,
        )

    async def pull_all(
        self,
        name: str,
        *,
        platform: str | None = None,
        keep_blobs: bool = False,
        tls_verify: bool = True,
        limits: LayerLimits | None = None,
        on_event: Callable[..., None] | None = None,
    ) -> list[str]:
        """Fetch every tag of the repository *name*, as `pull`; their full names."""
        events = Stoppable(on_event)
        return await transfer(
            self._do(
                lambda: self._sync.pull_all(
                    name,
                    platform=platform,
                    keep_blobs=keep_blobs,
                    tls_verify=tls_verify,
                    limits=limits,
                    on_event=events,
                )
            ),
            stop=events.stop,
        )

    async def push(
        self, name: str, *, tls_verify: bool = True, on_event: Callable[..., None] | None = None
    ) -> str:
        """Send the image *name* to where the name says; its digest there. Events as of `pull`.

        Raises NotFound, InvalidReference, RegistryError.
        """
        events = Stoppable(on_event)
        return await transfer(
            self._do(lambda: self._sync.push(name, tls_verify=tls_verify, on_event=events)), stop=events.stop
        )

    async def push_all(
        self, name: str, *, tls_verify: bool = True, on_event: Callable[..., None] | None = None
    ) -> list[tuple[str, str]]:
        """Send every image that has a tag in the repository *name* to it: pairs of a name and its digest there.

        Raises as `push`.
        """
        events = Stoppable(on_event)
        return await transfer(
            self._do(lambda: self._sync.push_all(name, tls_verify=tls_verify, on_event=events)),
            stop=events.stop,
        )

    async def search(self, text: str, *, limit: int = 25, tls_verify: bool = True) -> list[Repository]:
        """At most *limit* repositories of a registry for "[REGISTRY/]TERM", the registry's best first.

        Raises InvalidInput, RegistryError, Unsupported for a registry that cannot be searched.
        """
        return await transfer(self._do(lambda: self._sync.search(text, limit=limit, tls_verify=tls_verify)))

    async def tags(self, name: str, *, tls_verify: bool = True) -> list[str]:
        """The tags that the repository *name* has in its registry, in the registry's order.

        Raises NotFound, InvalidReference, RegistryError.
        """
        return await transfer(self._do(lambda: self._sync.tags(name, tls_verify=tls_verify)))

    async def images(self) -> list[AsyncImage]:
        """All images, the youngest first."""
        return [AsyncImage(one) for one in await in_thread(self._do(lambda: self._sync.images()))]

    async def image(self, reference: str) -> AsyncImage:
        """The image with that name, id, or unique beginning of an id. Raises NotFound, InvalidInput."""
        return AsyncImage(await in_thread(self._do(lambda: self._sync.image(reference))))

    async def tag(self, source: str, target: str) -> None:
        """Let the name *target* stand for the image *source* as well. Raises NotFound, InvalidReference."""
        await in_thread(self._do(lambda: self._sync.tag(source, target)))

    async def remove_image(
        self, reference: str, *, force: bool = False, prune: bool = True
    ) -> list[tuple[str, str]]:
        """Take the name away, and with the last one remove the image and (*prune*) the layers that nothing else needs.

        What was done: pairs of "Untagged" or "Deleted", and what. Raises NotFound, Conflict.
        """
        return await in_thread(self._do(lambda: self._sync.remove_image(reference, force=force, prune=prune)))

    async def prune_images(
        self,
        *,
        everything: bool = False,
        until: float | None = None,
        labels: Sequence[str] = (),
        without_labels: Sequence[str] = (),
    ) -> tuple[list[tuple[str, str]], int]:
        """Remove the images without a name, with *everything* all that no container uses; what was done, as of
        `remove_image`, and how many bytes became free. Only those made before *until* (seconds since 1970), that have
        all of *labels* ("KEY" or "KEY=VALUE") and none of *without_labels*.
        """
        return await in_thread(
            self._do(
                lambda: self._sync.prune_images(
                    everything=everything, until=until, labels=labels, without_labels=without_labels
                )
            )
        )

    async def history(self, reference: str) -> list[Step]:
        """How the image came about, the youngest step first. Raises NotFound, Corrupt."""
        return await in_thread(self._do(lambda: self._sync.history(reference)))

    async def inspect_image(self, reference: str) -> dict[str, Any]:
        """Everything known of the image, in the words of `docker image inspect`. Raises NotFound, Corrupt."""
        return await in_thread(self._do(lambda: self._sync.inspect_image(reference)))

    async def login(
        self, server: str | None, username: str, password: str, *, tls_verify: bool = True
    ) -> None:
        """Try the password at the registry *server* (None: docker.io), and keep it. Raises RegistryError."""
        await transfer(self._do(lambda: self._sync.login(server, username, password, tls_verify=tls_verify)))

    async def logout(self, server: str | None = None) -> str:
        """Forget the password of the registry; its name."""
        return await in_thread(self._do(lambda: self._sync.logout(server)))

    async def load(
        self,
        source: Source,
        *,
        platform: str | None = None,
        limits: LayerLimits | None = None,
        on_event: Callable[..., None] | None = None,
    ) -> list[AsyncImage]:
        """Read every image of an archive, a file object or descriptor of one, or of an OCI layout directory.

        *limits*: see `pull`; they bound a compressed archive as well. Raises InvalidInput for what is none, Corrupt for
        what is damaged.
        """
        events = Stoppable(on_event)
        return [
            AsyncImage(one)
            for one in await transfer(
                self._do(lambda: self._sync.load(source, platform=platform, limits=limits, on_event=events)),
                stop=events.stop,
            )
        ]

    async def save(
        self,
        references: str | Sequence[str],
        target: Source,
        *,
        form: str = "docker-archive",
        on_event: Callable[..., None] | None = None,
    ) -> None:
        """Write images to an archive: "docker-archive" (an OCI layout as well), "oci-archive", or "oci-dir".

        A file of that path appears when it is whole. Raises NotFound, Corrupt, KernelError.
        """
        events = Stoppable(on_event)
        await transfer(
            self._do(lambda: self._sync.save(references, target, form=form, on_event=events)),
            stop=events.stop,
        )

    async def import_(
        self,
        source: Source,
        name: str | None = None,
        *,
        changes: Sequence[str] = (),
        message: str = "",
        platform: str | None = None,
        limits: LayerLimits | None = None,
        on_event: Callable[..., None] | None = None,
    ) -> AsyncImage:
        """Make an image of one layer from a tar archive of a root file system. *changes* as in a Dockerfile; *limits*:
        see `pull`.

        Raises InvalidInput, Corrupt.
        """
        events = Stoppable(on_event)
        return AsyncImage(
            await transfer(
                self._do(
                    lambda: self._sync.import_(
                        source,
                        name,
                        changes=changes,
                        message=message,
                        platform=platform,
                        limits=limits,
                        on_event=events,
                    )
                ),
                stop=events.stop,
            )
        )

    async def from_directory(
        self,
        directory: str | PathLike[str],
        name: str | None = None,
        *,
        changes: Sequence[str] = (),
        message: str = "",
        platform: str | None = None,
        limits: LayerLimits | None = None,
    ) -> AsyncImage:
        """Make an image of one layer from a directory with a root file system; *limits*: see `pull`.

        Raises InvalidInput, KernelError.
        """
        return AsyncImage(
            await transfer(
                self._do(
                    lambda: self._sync.from_directory(
                        directory, name, changes=changes, message=message, platform=platform, limits=limits
                    )
                )
            )
        )

    async def export(self, reference: str, target: Source) -> None:
        """Write the files of a container over an image as one flat tar archive, without its volumes.

        Raises NotFound, Unsupported (over the host), KernelError.
        """
        await transfer(self._do(lambda: self._sync.export(reference, target)))
