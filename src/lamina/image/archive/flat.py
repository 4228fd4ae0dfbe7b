"""An image of one layer, from a tar archive of a root file system."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lamina.errors import InvalidInput
from lamina.image.archive.instructions import changed
from lamina.image.archive.load import Unpacking, record_of, unpack
from lamina.image.compression import OF_ARCHIVES
from lamina.image.documents import History, ImageConfig, RootFS, encode_config, run_config
from lamina.image.platform import Platform, current
from lamina.store import images
from lamina.store.blobs import write_blob
from lamina.store.leases import lease

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lamina.image.layer import Stream
    from lamina.store.images import ImageRecord
    from lamina.store.root import Store

    Events = Callable[..., object]


def import_(
    store: Store,
    source: Stream,
    name: str | None,
    *,
    changes: Sequence[str] = (),
    message: str = "",
    platform: Platform | None = None,
    events: Events | None = None,
    unpacking: Unpacking = Unpacking(),  # noqa: B008  a frozen value
    before: Callable[[], object] | None = None,
) -> ImageRecord:
    """Make an image of the archive *source*, under the canonical *name* if there is one. *changes* are instructions.
    *before* is called when everything is unpacked, and nothing is made of it yet: it may raise.

    Raises InvalidInput (no archive, instructions that are none), Corrupt, KernelError.
    """
    run = changed({}, changes)  # first: nothing is unpacked for a slip of the pen
    tell = events or (lambda kind, **facts: None)
    with lease(store) as held:
        tell("layer", id="archive", total=None)
        layer = unpack(
            store, source, None, held, unpacking, allowed=OF_ARCHIVES,
            progress=lambda count: tell("progress", id="archive", bytes=count),
        )  # fmt: skip
        if before is not None:
            before()
        if layer.extra.get("archive") == 0:  # what was to write into the pipe has failed
            raise InvalidInput("import: there is nothing to import", remedy="the archive has no bytes at all")
        tell("done", id="archive")
        assert layer.diff_id is not None
        config = _config(run, layer.diff_id, message, platform or current())
        data = encode_config(config)
        blob = write_blob(store, data, held)
        record = record_of(data, config, [layer], blobs=(blob,))
        return images.put(store, record, names=() if name is None else (name,), lease=held)


def _config(run: dict[str, Any], diff_id: str, message: str, platform: Platform) -> ImageConfig:
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return ImageConfig(
        rootfs=RootFS(type="layers", diff_ids=[diff_id]),
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant or None,
        created=now,
        config=run_config(run),
        history=[History(created=now, comment=message or "Imported from an archive")],
    )
