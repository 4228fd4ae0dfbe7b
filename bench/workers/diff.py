"""Asks what an upper did to its lower, for every line it reads."""

import os
import sys
import time

from lamina.overlay.changes import changes
from lamina.overlay.spec import MountSpec


def main() -> None:
    """Arguments: lower, upper, and how many changes there are."""
    lower, upper, expected = sys.argv[1:]
    spec = MountSpec((os.fsencode(lower),), os.fsencode(upper))
    for _ in sys.stdin:
        begin = time.perf_counter_ns()
        count = sum(
            1 for change in changes(spec) if not os.path.isdir(os.path.join(os.fsencode(upper), change.path))
        )
        took = time.perf_counter_ns() - begin
        assert count == int(expected), f"{count} changes, not {expected}"
        print(took, flush=True)


if __name__ == "__main__":
    main()
