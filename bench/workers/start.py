"""Runs the same container again for every line it reads, from a process that has everything imported."""

import json
import os
import sys
import threading
import time

from lamina import Engine

wanted = threading.Event()


def main() -> None:
    """Arguments: megabytes of memory to own, threads that compute meanwhile, options of `Engine.run` as JSON."""
    megabytes, threads, options = (json.loads(word) for word in sys.argv[1:])
    ballast = os.urandom(4096) * (megabytes * 256)
    for _ in range(threads):
        threading.Thread(target=compute, daemon=True).start()
    engine = Engine()
    for _ in sys.stdin:
        wanted.set()
        begin = time.perf_counter_ns()
        done = engine.run("host", ["true"], rm=True, network="none", **options)
        took = time.perf_counter_ns() - begin
        wanted.clear()
        assert done.returncode == 0
        print(took, flush=True)
    assert len(ballast) == megabytes << 20


def compute() -> None:
    """Want the interpreter's lock all the time, but only while something is measured."""
    while wanted.wait():
        sum(range(1000))


if __name__ == "__main__":
    main()
