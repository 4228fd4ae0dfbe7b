"""Mounts the same stack of layers under a writable one again for every line it reads; only the mount is timed."""

import os
import shutil
import subprocess
import sys
import time

from lamina.overlay.mount import mount
from lamina.overlay.spec import MountSpec


def main() -> None:
    """Arguments: where to mount, a directory that contains the layers' directories, upper and work."""
    target, above, upper, work = (os.fsencode(word) for word in sys.argv[1:])
    layers = tuple(sorted(os.path.join(above, name) for name in os.listdir(above)))
    spec = MountSpec(layers, upper, work, volatile=True)
    for _ in sys.stdin:
        begin = time.perf_counter_ns()
        mount(spec, target)
        took = time.perf_counter_ns() - begin
        subprocess.run(["umount", target], check=True)
        shutil.rmtree(work)  # in it is the mark of a volatile mount, which must not be mounted again
        os.mkdir(work)
        print(took, flush=True)


if __name__ == "__main__":
    main()
