"""What it costs to make a layer's files, against `tar`, which is the floor of a program that is started for it.

The layers are the files of the Python that runs this, some thousands, as two archives of gzip. All trees are made on a
file system of the benchmark's own (disk.py).
"""

from __future__ import annotations

import io
import os
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from disk import on_disk
from measure import Case, Worker
from stage import REPOSITORY, Stage

SHARES = 2


def cases(stage: Stage, stack: ExitStack) -> Iterator[Case]:
    """One layer, two at once, and the way back."""

    def repeat(worker: Worker) -> Callable[[], float]:
        stack.callback(worker.close)
        return worker.once

    def worker(what: str, *paths: Path) -> Callable[[], float]:
        argv = [stage.python, str(REPOSITORY / "bench/workers/layers.py"), what, str(place), *map(str, paths)]
        return repeat(Worker(argv, stage.env))

    place = on_disk(stage.directory / "layers")
    layers = _layers(stage.directory)
    first = layers[0]
    yield Case("unpack one gzip layer, both digests", worker("unpack", first), "tar xzf, one layer", 1.0)
    yield Case("tar xzf, one layer", worker("tar", first))
    yield Case("unpack two layers at once", worker("unpack", *layers), "tar xzf, two layers one by one", 1.0)
    yield Case("tar xzf, two layers one by one", worker("tar", *layers))
    yield Case("pack one layer, with its digest", worker("pack", first), "tar cf, one layer")
    yield Case("tar cf, one layer", worker("tar-c", first))


def _layers(directory: Path) -> list[Path]:
    top = Path(sysconfig.get_path("stdlib"))
    found = sorted(path for path in top.rglob("*") if "site-packages" not in path.parts and path.is_file())
    made = []
    for share in range(SHARES):
        place = directory / f"layer-{share}.tar.gz"
        with tarfile.open(place, "w:gz", format=tarfile.PAX_FORMAT) as archive:
            for path in found[share::SHARES]:
                member = archive.gettarinfo(path, f"usr/lib/python/{path.relative_to(top)}")
                member.uid = member.gid = 0
                archive.addfile(member, io.BytesIO(path.read_bytes()) if member.isreg() else None)
        made.append(place)
    os.sync()
    return made
