"""Many processes that do random verbs on one store: the load of the test of concurrency.

Each worker has random numbers of its own and knows nothing of the others. What a verb may answer, because somebody else
was quicker, is in `ALLOWED`; anything else ends the worker with a traceback.
"""

from __future__ import annotations

import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from lamina.errors import Conflict, NotFound
from lamina.store import blobs, burial, claims, containers, garbage, images, layers, tags, volumes
from lamina.store.containers import Home
from lamina.store.layers import Layer
from lamina.store.leases import Lease, lease
from lamina.store.prune import enforce, prune_images
from lamina.store.references import ContainerUses
from lamina.store.root import Store
from lamina.store.usage import df
from support.stores import diff_id, make_layer, record_of

ALLOWED = (NotFound, Conflict)
TEXTS = "abcdefgh"
NAMES = tuple(f"docker.io/library/n{number}:latest" for number in range(12))
VOLUMES = tuple(f"volume-{number}" for number in range(16))


class Worker:
    """One process. `run` until the time *end* (time.monotonic)."""

    def __init__(self, place: Path, number: int, end: float) -> None:
        self.store, self.end = Store(place), end
        self.random = random.Random(number)
        self.mine: list[Home] = []
        self.done: dict[str, int] = {}
        self.verbs: tuple[tuple[Callable[[], None], int], ...] = (
            (self.pull, 6), (self.start, 8), (self.stop, 7), (self.tag, 4), (self.untag, 3), (self.remove, 2),
            (self.collect, 2), (self.prune, 1), (self.limit, 1), (self.freeze, 2), (self.look, 2), (self.volume, 2),
        )  # fmt: skip

    def run(self) -> dict[str, int]:
        """How often each verb was done to its end."""
        verbs, weights = zip(*self.verbs, strict=True)
        while time.monotonic() < self.end:
            verb = self.random.choices(verbs, weights)[0]
            try:
                verb()
            except ALLOWED:
                continue
            self.done[verb.__name__] = self.done.get(verb.__name__, 0) + 1
        for home in self.mine:
            home.discard(None)
        return self.done

    def pull(self) -> None:
        """Layers in any order, claimed or not; a download of which half is there already; then the record."""
        texts = self.random.sample(TEXTS, self.random.randint(1, 4))
        with lease(self.store) as held:
            found = {}
            for text in self.random.sample(texts, len(texts)):
                if self.random.random() < 0.5:
                    with claims.claim(self.store, diff_id(text)):
                        found[text] = self.layer(text, held)
                else:
                    found[text] = self.layer(text, held)
            config = blobs.write_blob(self.store, f"config of {texts}".encode(), held)
            record = record_of(config, [found[text] for text in texts], (config,))
            names = self.random.sample(NAMES, self.random.randint(0, 2))
            kept = images.put(self.store, record, names, lease=held)
            assert kept.layers == record.layers

    def layer(self, text: str, held: Lease) -> Layer:
        known = layers.layer_id(diff_id(text))
        if held.add_layer(known):
            found = layers.find(self.store, known)
            assert found is not None, "a layer that the lease found is gone"
            return found
        return make_layer(self.store, text, held)

    def start(self) -> None:
        """A container over an image, whose layers must all be there, now and as long as it is."""
        identity = self.random.choice(images.identities(self.store) or ["0" * 64])
        volume = self.random.choice(VOLUMES)
        with images.hold(self.store, identity) as held, volumes.hold(self.store, volume, create=True):
            self.whole(held.record.layers)
            time.sleep(self.random.random() * 0.05)  # others remove and collect meanwhile
            self.whole(held.record.layers)
            home, name = containers.create(self.store, None)
            home.write("container", {
                "id": home.id, "name": name, "image": "x", "command": [], "created": 1,
                "image_id": identity, "layers": list(held.record.layers),
                "volumes": [{"name": volume}] if self.random.random() < 0.1 else [],
            })  # fmt: skip
            held.touch()
        home.unmark()
        self.whole(held.record.layers)
        self.mine.append(home)

    def stop(self) -> None:
        """The end of a container; until then its layers were there."""
        if not self.mine:
            return
        home = self.mine.pop(self.random.randrange(len(self.mine)))
        asked = home.asked()
        self.whole(asked["layers"])
        for volume in asked["volumes"]:
            assert volumes.find(self.store, volume["name"]) is not None, "a volume that is used is gone"
        home.discard(None)

    def whole(self, wanted: object) -> None:
        assert isinstance(wanted, list | tuple)
        for layer in wanted:
            assert os.listdir(layers.tree_of(self.store, layer)) == [b"file"], "a layer that is used is gone"

    def tag(self) -> None:
        identity = self.random.choice(images.identities(self.store) or ["0" * 64])
        tags.tag(self.store, self.random.choice(NAMES), identity)

    def untag(self) -> None:
        tags.untag(self.store, self.random.choice(NAMES))

    def remove(self) -> None:
        identity = self.random.choice(images.identities(self.store) or ["0" * 64])
        forced = self.random.random() < 0.5
        images.remove(self.store, identity, unless_used=None if forced else ContainerUses(self.store))

    def collect(self) -> None:
        garbage.collect(self.store, explain=self.random.random() < 0.3)
        burial.bury_all(self.store)

    def prune(self) -> None:
        prune_images(self.store, everything=self.random.random() < 0.5)

    def limit(self) -> None:
        enforce(self.store, self.random.choice((0, 200, 1000)))

    def freeze(self) -> None:
        with lease(self.store) as held:
            layer = make_layer(self.store, "frozen", held, frozen=True)
            config = blobs.write_blob(self.store, layer.id.encode(), held)
            images.put(self.store, record_of(config, [layer], (config,)), lease=held)

    def look(self) -> None:
        for name in tags.list_names(self.store):
            record = images.get(self.store, name.id)
            assert record is None or record.id == name.id
        df(self.store)

    def volume(self) -> None:
        volumes.remove(self.store, self.random.choice(VOLUMES), unless_used=ContainerUses(self.store))


def work(place: Path, count: int, seconds: float, seed: int) -> dict[str, int]:
    """*count* processes for *seconds*; how often each verb was done. Raises AssertionError with what they said."""
    children = {}
    end = time.monotonic() + seconds
    for number in range(count):
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reading)
            _child(place, seed * 1000 + number, end, writing)
        os.close(writing)
        children[pid] = reading
    done: dict[str, int] = {}
    said = []
    for pid, reading in children.items():
        with open(reading) as pipe:
            text = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            said.append(text)
            continue
        for line in text.splitlines():
            name, _, times = line.partition(" ")
            done[name] = done.get(name, 0) + int(times)
    assert not said, f"{len(said)} of {count} workers failed; the first said:\n{said[0]}"
    return done


def _child(place: Path, seed: int, end: float, writing: int) -> None:
    status = 1
    try:
        with open(writing, "w") as pipe:
            try:
                done = Worker(place, seed, end).run()
                pipe.writelines(f"{name} {times}\n" for name, times in done.items())
                status = 0
            except BaseException:
                traceback.print_exc(file=pipe)
    finally:
        sys.stderr.flush()
        os._exit(status)
