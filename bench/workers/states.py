"""Does one thing with the states of a container again for every line it reads, from a process that has everything
imported; what it leaves is undone outside of what is timed.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lamina import Container, Engine, Snapshot

SMALL, MANY = 1, 10_000
PIECE = 1 << 20


def main() -> None:
    """Arguments: what to do, the name of the container, and for whatever begins with an upper what is in it."""
    verb, name, *words = sys.argv[1:]
    engine = Engine()
    if verb == "lookup":
        return lookups(engine, name, *words)
    box = prepared(engine, name, words[0] if words else "1")
    once: Callable[[], float] = {
        "snapshot": lambda: frozen(box, lambda: box.snapshot()),
        "commit": lambda: frozen(box, lambda: box.commit("committed")),
        "rewind": lambda: rewound(box),
        "fork": lambda: forked(box, 1, start=False),
        "fork-first": lambda: first(lambda: forked(box, 1, start=True)),
        "fork-start": lambda: forked(box, 1, start=True) and forked(box, 1, start=True),
        "fork-64": lambda: forked(box, 64, start=True),
        "diff": lambda: timed(lambda: list(box.changes())),
        "explain": lambda: timed(lambda: box.explain("/d/0/0")),
    }[verb]
    for _ in sys.stdin:
        print(int(once() * 1e9), flush=True)


def prepared(engine: Engine, name: str, what: str) -> Container:
    """A container of its own that sleeps when it is started, and does not run; in its upper is *what*: so many files,
    or MiB with an "m".
    """
    box = engine.create("box", ["sleep", "100000"], name=name, network="none", stop_timeout=0)
    top = os.path.join(upper_of(box), "d")
    os.mkdir(top)
    if what.endswith("m"):
        with open(os.path.join(top, "large"), "wb") as file:
            for _ in range(int(what[:-1])):
                file.write(os.urandom(PIECE))
    else:
        for number in range(int(what)):
            if number % 100 == 0:
                os.mkdir(os.path.join(top, str(number // 100)))
            with open(os.path.join(top, str(number // 100), str(number % 100)), "wb") as file:
                file.write(b"content\n")
    os.sync()
    return box


def upper_of(box: Container) -> str:
    """Its upper directory, as it is now."""
    spec = box.overlays()[0][1]
    assert spec.upperdir is not None
    return os.fsdecode(spec.upperdir)


def timed(work: Callable[[], object]) -> float:
    """In seconds."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def frozen(box: Container, work: Callable[[], object]) -> float:
    """What *work* takes, which freezes the upper. It is put back afterwards, so that it need not be written again."""
    with as_before(box):
        return timed(work)


@contextmanager
def as_before(box: Container) -> Iterator[None]:
    """At the end its record and its upper are what they were: the layer that was made of it becomes the upper again."""
    home = os.fsdecode(box.store.containers) + "/" + box.id
    upper = upper_of(box)
    with open(f"{home}/container.json", "rb") as file:
        record = file.read()
    known = set(box.record.get("layers") or ())
    yield
    box.reload()
    engine = Engine()
    for image in engine.images():
        if any(tag.endswith("committed:latest") for tag in image.tags):
            image.remove(force=True)
    [new] = [layer for layer in box.record["layers"] if layer not in known] or [None]
    if new is not None:
        for entry in os.listdir(home):
            if entry.startswith(("upper-", "work-")):
                shutil.rmtree(f"{home}/{entry}")
        os.rename(f"{os.fsdecode(box.store.layers)}/{new}/fs", upper)
        os.mkdir(upper.replace("/upper-", "/work-"), 0o700)
    with open(f"{home}/container.json.back", "wb") as file:
        file.write(record)
    os.rename(f"{home}/container.json.back", f"{home}/container.json")
    box.reload()
    shutil.rmtree(f"{home}/snapshots", ignore_errors=True)
    engine.storage.collect()


def rewound(box: Container) -> float:
    """From the state with everything in it to the empty one: nothing is deleted, the snapshots stay."""
    found = {snapshot.name: snapshot for snapshot in box.snapshots()}
    if not found:
        large = box.snapshot("large")
        found = {"large": large, "empty": emptied(box)}
    box.rewind(found["large"])
    return timed(lambda: box.rewind(found["empty"]))


def emptied(box: Container) -> Snapshot:
    """A snapshot in which what was written is gone."""
    upper = upper_of(box)
    os.mknod(os.path.join(upper, "d"), 0o600 | 0o020000, 0)  # a whiteout
    return box.snapshot("empty")


def forked(box: Container, count: int, *, start: bool) -> float:
    """*count* forks of a snapshot, which are removed again."""
    [snapshot, *_] = box.snapshots() or [box.snapshot("large")]
    begin = time.perf_counter()
    made = snapshot.fork(count, start=start)
    took = time.perf_counter() - begin
    for child in made:
        child.remove(force=True)
    return took


def first(work: Callable[[], float]) -> float:
    """*work* in a program that has not started any for a while: nothing is there that has imported what that takes."""
    from lamina.engine.nursery import let_go

    let_go()
    return work()


def lookups(engine: Engine, name: str, snapshots: str, kind: str) -> None:
    """How long it takes to look names up in a container with so many *snapshots*, each of which wrote to /work: in
    /bin, "elsewhere"; in /work "again"; or there for the "first" time.
    """
    box = engine.create("box", ["sleep", "100000"], name=name, network="none", stop_timeout=0)
    for number in range(500):
        written(box, number)
    for number in range(int(snapshots)):
        written(box, number % 500)
        box.snapshot()
    engine.storage.collect()
    box.start()
    pid = box.inspect()["State"]["Pid"]
    root = f"/proc/{pid}/root/" + ("bin" if kind == "elsewhere" else "work")
    names = [f"{root}/{entry}" for entry in os.listdir(root)] + [
        f"{root}/none-{number}" for number in range(1000)
    ]
    for _ in sys.stdin:
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("2\n")
        if kind == "again":
            found = [os.path.lexists(path) for path in names]
            assert len(found) == len(names)
        begin = time.perf_counter()
        for path in names:
            os.path.lexists(path)
        print(time.perf_counter_ns() - int(begin * 1e9), flush=True)
    box.remove(force=True)


def written(box: Container, number: int) -> None:
    """A file in /work is another one."""
    os.makedirs(os.path.join(upper_of(box), "work"), exist_ok=True)
    with open(os.path.join(upper_of(box), "work", str(number)), "w") as file:
        file.write(f"{number}\n")


if __name__ == "__main__":
    main()
