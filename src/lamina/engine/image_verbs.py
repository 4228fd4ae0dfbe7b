"""The verbs of an engine for images: from and to registries and archives, and what there is."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike
    from typing import Any

    from lamina.engine.container import Container
    from lamina.engine.images import Image, Step
    from lamina.engine.parameters import Source
    from lamina.image.registry.search import Repository
    from lamina.store.root import Store

    LayerLimits = Mapping[str, int | str]  # {"size": "1t"}


class ImageVerbs:
    """What `Engine` does with images."""

    if TYPE_CHECKING:

        @property
        def store(self) -> Store: ...
        def container(self, reference: str) -> Container: ...

    def pull(
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
        from lamina.engine.pulling import pull

        return pull(
            self.store, name, platform, on_event, keep_blobs=keep_blobs, tls_verify=tls_verify, limits=limits
        )[1]

    def pull_all(
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
        from lamina.engine.pulling import pull_all

        return pull_all(
            self.store, name, platform, on_event, keep_blobs=keep_blobs, tls_verify=tls_verify, limits=limits
        )

    def push(self, name: str, *, tls_verify: bool = True, on_event: Callable[..., None] | None = None) -> str:
        """Send the image *name* to where the name says; its digest there. Events as of `pull`.

        Raises NotFound, InvalidReference, RegistryError.
        """
        from lamina.engine.pulling import push

        return push(self.store, name, on_event, tls_verify=tls_verify)

    def push_all(
        self, name: str, *, tls_verify: bool = True, on_event: Callable[..., None] | None = None
    ) -> list[tuple[str, str]]:
        """Send every image that has a tag in the repository *name* to it: pairs of a name and its digest there.

        Raises as `push`.
        """
        from lamina.engine.pulling import push_all

        return push_all(self.store, name, on_event, tls_verify=tls_verify)

    def search(self, text: str, *, limit: int = 25, tls_verify: bool = True) -> list[Repository]:
        """At most *limit* repositories of a registry for "[REGISTRY/]TERM", the registry's best first.

        Raises InvalidInput, RegistryError, Unsupported for a registry that cannot be searched.
        """
        from lamina.engine.pulling import search

        return search(text, limit, tls_verify=tls_verify)

    def tags(self, name: str, *, tls_verify: bool = True) -> list[str]:
        """The tags that the repository *name* has in its registry, in the registry's order.

        Raises NotFound, InvalidReference, RegistryError.
        """
        from lamina.engine.pulling import tags

        return tags(name, tls_verify=tls_verify)

    def images(self) -> list[Image]:
        """All images, the youngest first."""
        from lamina.engine.images import list_images

        return list_images(self.store)

    def image(self, reference: str) -> Image:
        """The image with that name, id, or unique beginning of an id. Raises NotFound, InvalidInput."""
        from lamina.engine.images import image

        return image(self.store, reference)

    def tag(self, source: str, target: str) -> None:
        """Let the name *target* stand for the image *source* as well. Raises NotFound, InvalidReference."""
        from lamina.engine.images import tag

        tag(self.store, source, target)

    def remove_image(
        self, reference: str, *, force: bool = False, prune: bool = True
    ) -> list[tuple[str, str]]:
        """Take the name away, and with the last one remove the image and (*prune*) the layers that nothing else needs.

        What was done: pairs of "Untagged" or "Deleted", and what. Raises NotFound, Conflict.
        """
        from lamina.engine.images import remove

        return remove(self.store, reference, force=force, prune=prune)

    def prune_images(
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
        from lamina.engine.images import prune

        return prune(
            self.store, everything=everything, until=until, labels=labels, without_labels=without_labels
        )

    def history(self, reference: str) -> list[Step]:
        """How the image came about, the youngest step first. Raises NotFound, Corrupt."""
        from lamina.engine.images import history

        return history(self.store, reference)

    def inspect_image(self, reference: str) -> dict[str, Any]:
        """Everything known of the image, in the words of `docker image inspect`. Raises NotFound, Corrupt."""
        from lamina.engine.images import inspect

        return inspect(self.store, reference)

    def login(self, server: str | None, username: str, password: str, *, tls_verify: bool = True) -> None:
        """Try the password at the registry *server* (None: docker.io), and keep it. Raises RegistryError."""
        from lamina.engine.pulling import login

        login(server, username, password, tls_verify=tls_verify)

    def logout(self, server: str | None = None) -> str:
        """Forget the password of the registry; its name."""
        from lamina.engine.pulling import logout

        return logout(server)

    # -- archives

    def load(
        self,
        source: Source,
        *,
        platform: str | None = None,
        limits: LayerLimits | None = None,
        on_event: Callable[..., None] | None = None,
    ) -> list[Image]:
        """Read every image of an archive, a file object or descriptor of one, or of an OCI layout directory.

        *limits*: see `pull`; they bound a compressed archive as well. Raises InvalidInput for what is none, Corrupt for
        what is damaged.
        """
        from lamina.engine.archives import load

        return load(self.store, source, platform, on_event, limits)

    def save(
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
        from lamina.engine.archives import save

        names = [references] if isinstance(references, str) else list(references)
        save(self.store, names, target, form, on_event)

    def import_(
        self,
        source: Source,
        name: str | None = None,
        *,
        changes: Sequence[str] = (),
        message: str = "",
        platform: str | None = None,
        limits: LayerLimits | None = None,
        on_event: Callable[..., None] | None = None,
    ) -> Image:
        """Make an image of one layer from a tar archive of a root file system. *changes* as in a Dockerfile; *limits*:
        see `pull`.

        Raises InvalidInput, Corrupt.
        """
        from lamina.engine.archives import import_

        return import_(self.store, source, name, changes, message, platform, on_event, limits)

    def from_directory(
        self,
        directory: str | PathLike[str],
        name: str | None = None,
        *,
        changes: Sequence[str] = (),
        message: str = "",
        platform: str | None = None,
        limits: LayerLimits | None = None,
    ) -> Image:
        """Make an image of one layer from a directory with a root file system; *limits*: see `pull`.

        Raises InvalidInput, KernelError.
        """
        from lamina.engine.archives import from_directory

        return from_directory(self.store, directory, name, changes, message, platform, limits)

    def export(self, reference: str, target: Source) -> None:
        """Write the files of a container over an image as one flat tar archive, without its volumes.

        Raises NotFound, Unsupported (over the host), KernelError.
        """
        from lamina.engine.archives import export

        export(self.container(reference), target)
