"""Unpacks or packs layers, for every line it reads: with Lamina's own, or with tar."""

import os
import shutil
import subprocess
import sys
import threading
import time

from lamina.image.layer import fill
from lamina.image.pack import pack_layer


class Nowhere:
    """Takes an archive and keeps nothing."""

    def write(self, data: bytes) -> None:
        """Take it."""


def unpack(layer: str, place: str) -> None:
    """As a pull does."""
    os.makedirs(f"{place}/fs")
    with open(layer, "rb", buffering=0) as file:
        fill(file.read, os.fsencode(f"{place}/fs"), userxattr=False)


def all_at_once(layers: list[str], places: list[str]) -> None:
    """Each in a thread of its own."""
    threads = [threading.Thread(target=unpack, args=pair) for pair in zip(layers, places, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    """Arguments: what to do, where, and the layers."""
    what, top, *layers = sys.argv[1:]
    packed = f"{top}/packed-{what}"
    if what in ("pack", "tar-c"):
        unpack(layers[0], packed)
    for _ in sys.stdin:
        places = [f"{top}/{os.urandom(8).hex()}" for _ in layers]
        if what == "tar":
            for place in places:
                os.mkdir(place)
        begin = time.perf_counter_ns()
        if what == "unpack":
            all_at_once(layers, places)
        elif what == "tar":
            for layer, place in zip(layers, places, strict=True):
                subprocess.run(["tar", "-xzf", layer, "-C", place], check=True)
        elif what == "pack":
            directory = os.open(f"{packed}/fs", os.O_RDONLY)
            pack_layer(directory, Nowhere())
            os.close(directory)
        else:
            subprocess.run(f"tar -cf - -C {packed}/fs . | cat >/dev/null", shell=True, check=True)
        print(time.perf_counter_ns() - begin, flush=True)
        for place in places:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
