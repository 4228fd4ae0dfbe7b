"""Images that run: busybox and a few files, made straight into a store, or as a directory."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lamina.store import images, layers
from lamina.store.blobs import write_blob
from lamina.store.images import ImageRecord
from lamina.store.layers import Layer
from lamina.store.leases import Lease, lease
from lamina.store.root import Store
from support.image_archives import tree_tar
from support.rootless import Rootless

APPLETS = """
ash cat chmod chown cp cut date dd df echo env expr false find grep head hostname id kill ln ls mkdir mkfifo mknod mount
mv nc printf ps pwd readlink realpath rm rmdir sed seq sh sleep sort stat su tail tar test touch tr true umount uname wc
which whoami xargs
""".split()  # noqa: SIM905
PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/usr/sbin:/bin/false\nann:x:1000:100::/home/ann:/bin/sh\n"
)
GROUP = "root:x:0:\ndaemon:x:1:\nbin:x:2:root,ann\nusers:x:100:\ntape:x:26:ann\n"

Fill = Callable[[Path], None]


def busybox_tree(place: Path) -> None:
    """A root file system of one program: fills the directory *place*."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    for name in ("bin", "etc", "home/ann", "root", "tmp", "usr/bin", "var"):
        (place / name).mkdir(parents=True, exist_ok=True)
        (place / name).chmod(0o755)
    (place / "tmp").chmod(0o1777)
    shutil.copy(busybox, place / "bin/busybox")
    (place / "bin/busybox").chmod(0o755)
    for name in APPLETS:
        (place / "bin" / name).symlink_to("busybox")
    for name, text in (("passwd", PASSWD), ("group", GROUP), ("image", "busybox\n")):
        (place / "etc" / name).write_text(text)
        (place / "etc" / name).chmod(0o644)


def make_layer(store: Store, fill: Fill, held: Lease) -> Layer:
    """A frozen layer that *fill* fills."""
    with layers.stage(store, None, held) as stage:
        place = Path(os.fsdecode(stage.path))
        fill(place)
        found = [path.lstat() for path in place.rglob("*")]  # no link is followed: some lead to /proc
        size = sum(status.st_size for status in found if stat.S_ISREG(status.st_mode))
        return stage.commit(None, size, len(found) + 1)


def small_image(
    root: Path | Store,
    *more: Fill,
    names: tuple[str, ...] = ("docker.io/library/tiny:latest",),
    architecture: str = "",
    **run: Any,
) -> ImageRecord:
    """An image of busybox with further layers on top, in the store at *root*. *run* is of the record's `run`."""
    store = root if isinstance(root, Store) else Store(root)
    run = {"env": ["PATH=/bin:/usr/bin"], "cmd": ["sh"], **run}
    with lease(store) as held:
        made = [make_layer(store, fill, held) for fill in (busybox_tree, *more)]
        ids = [layer.id for layer in made]
        config = write_blob(store, json.dumps([ids, run], default=str).encode(), held)
        record = ImageRecord(
            id=config.partition(":")[2],
            config=config,
            layers=tuple(ids),
            blobs=(config,),
            run=run,
            size=sum(layer.size for layer in made),
            os="linux",
            architecture=architecture,
        )
        return images.put(store, record, names=names, lease=held)


def import_tiny(user: Rootless, dress: Callable[[Path], object] = lambda tree: None) -> None:
    """Have *user* import `busybox_tree` as the image `tiny`; *dress* is given the tree before."""
    with tempfile.TemporaryDirectory() as place:
        busybox_tree(Path(place))
        Path(place).chmod(0o755)
        dress(Path(place))
        archive = user.tmp / "tiny.tar"
        archive.write_bytes(tree_tar(Path(place)))
    user.give(archive)
    user.ok("import", archive, "tiny")
