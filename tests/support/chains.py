"""What a running container stands on, replaced by hand: what the engine does of it, without its records."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

from lamina import Container
from lamina.engine.layers import resemble, stacks_of
from lamina.engine.restacking import Restacked, restack
from lamina.values import replace


class Chain:
    """The stacks of *box*: each `freeze` has its uppers become lower directories."""

    def __init__(self, box: Container) -> None:
        self.home = box._home
        self.stacks = stacks_of(self.home.asked()["overlays"], self.home.path)
        self.layers: list[Path] = []

        self._number = 1000

    def freeze(self, **options: Any) -> Restacked:
        """What was written until now becomes a layer, the last of `layers`."""
        after = [(at, self._next(spec)) for at, spec in self.stacks]

        def ready() -> None:
            for (_, old), (_, new) in zip(self.stacks, after, strict=True):
                if new is not old:
                    assert old.upperdir is not None
                    os.mkdir(new.workdir)
                    os.mkdir(new.upperdir)
                    resemble(new.upperdir, old.upperdir, userxattr=new.userxattr)

        done = restack(self.home, self.stacks, after, ready=ready, **options)
        if done.swapped:
            moved = {}
            for (_, old), (_, new) in zip(self.stacks, after, strict=True):
                if new is not old:
                    assert old.upperdir is not None
                    frozen = old.upperdir.replace(b"/upper-", b"/frozen-")
                    os.rename(old.upperdir, frozen)
                    moved[old.upperdir] = frozen
                    self.layers.append(Path(os.fsdecode(frozen)))
            self.stacks = [
                (at, replace(spec, lowerdirs=tuple(moved.get(one, one) for one in spec.lowerdirs)))
                for at, spec in after
            ]
        return done

    def upper(self) -> Path:
        """Where it writes now, at its root."""
        upper = self.stacks[0][1].upperdir
        assert upper is not None
        return Path(os.fsdecode(upper))

    def _next(self, spec: Any) -> Any:
        if spec.upperdir is None or not os.listdir(spec.upperdir):
            return spec
        self._number += 1
        return replace(
            spec,
            lowerdirs=(spec.upperdir, *spec.lowerdirs),
            upperdir=self.home.path + b"/upper-%d" % self._number,
            workdir=self.home.path + b"/work-%d" % self._number,
        )


def digest(tree: Path) -> str:
    """Of everything in it: names, kinds, modes, owners, times, content."""
    found = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        about = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_size,
            status.st_mtime_ns,
            status.st_nlink,
        )
        found.update(os.fsencode(path) + repr(about).encode())
        if stat.S_ISREG(status.st_mode):
            found.update(path.read_bytes())
        elif stat.S_ISLNK(status.st_mode):
            found.update(os.fsencode(os.readlink(path)))
    return found.hexdigest()
