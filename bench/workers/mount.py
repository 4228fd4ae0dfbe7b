"""Mounts the same read-only stack of layers again for every line it reads; only the mount is timed."""

import os
import subprocess
import sys
import time

from lamina.overlay.mount import mount

from lamina.overlay.spec import MountSpec


def main() -> None:
    """Arguments: where to mount, then a directory that contains the layers' directories."""
    target, above = (os.fsencode(word) for word in sys.argv[1:])
    spec = MountSpec(tuple(sorted(os.path.join(above, name) for name in os.listdir(above))))
    for _ in sys.stdin:
        begin = time.perf_counter_ns()
        mount(spec, target)
        took = time.perf_counter_ns() - begin
        subprocess.run(["umount", target], check=True)
        print(took, flush=True)


if __name__ == "__main__":
    main()
