"""What mounting a stack of 1, 10, 100 and 400 layers costs a warm process; mount(8) for what fits into its page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

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
        places = [stage.directory / f"stack-{count}" / name for name in ("merged", "upper", "work")]
        for place in places:
            place.mkdir()
        target, upper, work = map(str, places)
        argv = [stage.python, str(REPOSITORY / "bench/workers/mount.py"), target, str(layers), upper, work]
        worker = Worker(argv, stage.env)
        stack.callback(worker.close)
        name = f"{count} layer{'s' if count > 1 else ''}"
        yield Case(name, worker.once, REFERENCE if count > 1 else "", 8 if count == 400 else None)
        if count in (1, 10):
            options = (
                f"lowerdir={':'.join(map(str, sorted(layers.iterdir())))},upperdir={upper},workdir={work}"
            )
            yield Case(f"mount(8), {name}", _mount_and_unmount(stage, options, target), REFERENCE)


def _mount_and_unmount(stage: Stage, options: str, target: str) -> Callable[[], float]:
    mount = command(["/usr/bin/mount", "-t", "overlay", "overlay", "-o", options, target], stage.env)
    unmount = command(["/usr/bin/umount", target], stage.env)

    def once() -> float:
        took = mount()
        unmount()
        return took

    return once
