"""64 processes do random verbs on one store: nothing that is used goes, and in the end the store checks clean.

LAMINA_CROWD_SECONDS=60 for the long run; LAMINA_CROWD_SEED for another one.
"""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from pathlib import Path

import pytest

from lamina.store import blobs, burial, containers, garbage, images, layers
from lamina.store.check import DAMAGED, check
from lamina.store.prune import prune_images
from lamina.store.root import Store
from support.store_workers import Worker, work
from support.stores import entries, in_memory

SECONDS = float(os.environ.get("LAMINA_CROWD_SECONDS") or 4)
SEED = int(os.environ.get("LAMINA_CROWD_SEED") or random.randrange(10**6))


@pytest.mark.timeout(SECONDS * 4 + 600)
def test_a_crowd(tmp_path: Path) -> None:
    in_memory(crowd, tmp_path)


def crowd(place: Path) -> None:
    done: dict[str, int] = {}
    wanted = {verb.__name__ for verb, _ in Worker(place / "s", 0, 0).verbs}
    for more in range(20):  # in so many seconds a machine that is busy may not come to each verb
        for verb, times in work(place / "s", 64, SECONDS, SEED + more).items():
            done[verb] = done.get(verb, 0) + times
        if done.keys() == wanted:
            break
    print(f"LAMINA_CROWD_SEED={SEED}:", done)
    assert done.keys() == wanted, (SEED, done)
    store = Store(place / "s")
    burial.bury_all(store)
    garbage.collect(store)
    assert (SEED, check(store, rehash=True).findings) == (SEED, ())
    prune_images(store, everything=True)
    garbage.collect(store)
    assert layers.identities(store) == list(blobs.identities(store)) == images.identities(store) == []
    assert entries(store.tmp) == entries(store.leases) == entries(store.claims) == []


def test_a_crowd_of_which_some_are_killed(tmp_path: Path) -> None:
    in_memory(killed_crowd, tmp_path)


def killed_crowd(place: Path) -> None:
    """Nobody cleans up after himself; whoever is left goes on, and nothing is damaged."""
    end = time.monotonic() + 3600
    children = []
    for number in range(12):
        pid = os.fork()
        if not pid:
            try:
                Worker(place / "s", SEED + number, end).run()
            except BaseException:
                (place / f"said-{number}").write_text(traceback.format_exc())
            finally:
                os._exit(1)
        children.append(pid)
    dice = random.Random(SEED)
    for pid in children:
        time.sleep(dice.random() * 0.2)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert (SEED, [said.read_text() for said in place.glob("said-*")]) == (SEED, [])
    store = Store(place / "s")
    damaged = [found for found in check(store).findings if found.severity == DAMAGED]
    assert (SEED, damaged) == (SEED, [])
    for home in (*containers.abandoned(store), *containers.unfinished(store)):
        home.discard(None)
    burial.bury_all(store)
    garbage.collect(store)
    assert (SEED, check(store, rehash=True).findings) == (SEED, ())
