"""Runs the same container again for every line it reads, from a process that has everything imported."""

import os
import sys
import time
from typing import Any

from lamina import Engine


def main() -> None:
    """Arguments: megabytes of memory to own, threads to keep busy, then options of `Engine.run` as name=value."""
    megabytes, threads, *words = sys.argv[1:]
    ballast = bytearray(os.urandom(4096) * (int(megabytes) * 256))
    for _ in range(int(threads)):
        import threading

        threading.Thread(target=spin, daemon=True).start()
    options = dict(word.split("=", 1) for word in words)
    engine = Engine()
    for _ in sys.stdin:
        begin = time.perf_counter_ns()
        done = engine.run("host", ["true"], rm=True, network="none", **convert(options))
        took = time.perf_counter_ns() - begin
        assert done.returncode == 0
        print(took, flush=True)
    del ballast


def convert(options: dict[str, str]) -> dict[str, Any]:
    """Numbers as numbers."""
    kinds = {"cpus": float, "pids_limit": int}
    return {name: kinds.get(name, str)(text) for name, text in options.items()}


def spin() -> None:
    """Keep the interpreter's lock busy."""
    while True:
        sum(range(1000))


if __name__ == "__main__":
    main()
