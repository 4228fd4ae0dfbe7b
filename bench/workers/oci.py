"""Runs an OCI bundle, or a further process in its container, again for every line it reads."""

import os
import sys
import time
from collections.abc import Callable

from lamina.runtime.container import Container, Joining, Wishes, execute, run


def main() -> None:
    """Arguments: run, the state's root, a bundle; or exec, the state's root, a container."""
    verb, root, name = sys.argv[1:]
    null = os.open(os.devnull, os.O_RDWR)
    once = runner(os.fsencode(root), name, null) if verb == "run" else executor(os.fsencode(root), name, null)
    for _ in sys.stdin:
        begin = time.perf_counter_ns()
        status = once()
        took = time.perf_counter_ns() - begin
        assert status == 0, status
        print(took, flush=True)


def runner(root: bytes, bundle: str, null: int) -> Callable[[], int]:
    """Creates, starts, waits for and deletes a container."""
    wishes = Wishes(bundle=os.fsencode(bundle), streams=(null, null, null))
    return lambda: run(root, "warm", wishes)


def executor(root: bytes, identity: str, null: int) -> Callable[[], int]:
    """Runs `true` in a container that runs."""
    joining = Joining(streams=(null, null, null))

    def once() -> int:
        container = Container.find(root, identity)
        process = {**container.spec()["process"], "args": ["true"]}
        return execute(container, process, joining).wait()

    return once


if __name__ == "__main__":
    main()
