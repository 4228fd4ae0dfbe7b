"""What mounting a stack of 1, 10, 100 and 400 layers costs, from a warm process; mount(8) for what it can carry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from measure import Case, Worker, command
from stage import REPOSITORY, Stage

REFERENCE = "1 layer"


def cases(stage: Stage, stack: ExitStack) -> Iterator[Case]:
    """One stack each; every layer contains a file of its own and one that all have."""
    for count in (1, 10, 100, 400):
        # as long as the paths of a real store are
        layers = stage.directory / f"stack-{count}" / "layers" / ("0123456789abcdef" * 4)
        for number in range(count):
            layer = layers / f"{number:03}"
            layer.mkdir(parents=True)
            (layer / f"own-{number}").touch()
            (layer / "shared").write_text(f"{number}\n")
        target = stage.directory / f"stack-{count}" / "merged"
        target.mkdir()
        worker = Worker(
            [stage.python, str(REPOSITORY / "bench/workers/mount.py"), str(target), str(layers)], stage.env
        )
        stack.callback(worker.close)
        name = f"{count} layer{'s' if count > 1 else ''}"
        yield Case(name, worker.once, REFERENCE if count > 1 else "", 8 if count == 400 else None)
        if count == 1:
            yield Case(
                "mount(8) and umount(8), 1 layer", _mount_and_unmount(stage, layers, target), REFERENCE
            )


def _mount_and_unmount(stage: Stage, layers: Path, target: Path) -> Callable[[], float]:
    options = f"lowerdir={layers / '000'}:{stage.directory / 'empty'}"
    (stage.directory / "empty").mkdir()
    mount = command(["/usr/bin/mount", "-t", "overlay", "overlay", "-o", options, str(target)], stage.env)
    unmount = command(["/usr/bin/umount", str(target)], stage.env)

    def once() -> float:
        took = mount()
        unmount()
        return took

    return once
