"""What it costs to get an image: pull into an empty store, load, a second image over the same layers, push, df and gc.

`docker-registry` serves an image of Debian and Python (layered.py) on loopback. podman, docker, skopeo and umoci are
those of the peers root (scripts/peers); *tar* is `tar xzf` of the same layers in turn, which neither transfers nor
verifies anything, and syncs nothing. Each begins with an empty store in a directory of its own on a file system that
the benchmark made (disk.py), after a sync; what it made is removed outside the measurement. *in memory* the same is
done on one whose file lies in memory, so that nobody waits for the disk. *processor* is the time of everybody who
worked for it, the registry and the disk's driver apart.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

from disk import in_memory, on_disk
from layered import SECOND, TAG, blobs_of, layout
from measure import Case, Failed, Missing
from shares import own_share
from stage import REPOSITORY, Stage

sys.path.insert(0, str(REPOSITORY / "tests"))

from support.peers import ENVIRONMENT, PeerRoot, location
from support.registries import DockerRegistry

WARM_UP = 0  # rounds that are not counted: everything lies in the page cache from having been written
PODMAN, TAR, MEMORY = "podman pull", "tar xzf, layers in turn", ", in memory"


class Place:
    """Where all of it happens: the registries, the peers root, an empty directory for each time."""

    def __init__(self, stage: Stage, stack: ExitStack) -> None:
        self.stage, self.layout = stage, layout()
        self._numbers = count()
        if not location().is_dir():
            raise Missing("podman, docker, skopeo and umoci are those of the peers root: run scripts/peers")
        self.disk, self.memory = on_disk(stage.directory / "disk"), in_memory(stage.directory / "memory")
        shown = [stage.directory, self.disk, self.memory, self.layout]
        self.root = PeerRoot(stage.directory / "peers", shown, network="host")
        stack.callback(self.root.close)
        own_share(os.getpid(), "measured", stack)
        self.registry = stack.enter_context(DockerRegistry(stage.directory / "registry"))
        if self.registry.pid is not None:
            own_share(self.registry.pid, "registry", stack)
        policy = 'mkdir -p /etc/containers; echo \'{"default": [{"type": "insecureAcceptAnything"}]}\''
        self.root.run(["sh", "-c", f"{policy} >/etc/containers/policy.json"], check=True)
        for tag in (TAG, SECOND):
            self.peer("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{self.layout}:{tag}",
                      f"docker://{self.name(tag)}")  # fmt: skip
        self.docker = self._start_docker()

    def name(self, tag: str = TAG) -> str:
        return f"{self.registry.host}/bench/python:{tag}"

    def _start_docker(self) -> dict[str, str]:
        place = self.disk / "docker"
        place.mkdir()
        address = {"DOCKER_HOST": f"unix://{place}/socket"}
        words = ["dockerd", f"--host={address['DOCKER_HOST']}", f"--data-root={place / 'data'}", "--bridge=none",
                 "--iptables=false", "--storage-driver=overlay2"]  # fmt: skip

        def ready() -> bool:
            return self.root.run(["docker", "version"], env=address).returncode == 0

        self.root.start_daemon(words, ready=ready, log=place / "log")
        return address

    def empty(self, where: Path) -> Path:
        """A new directory of the file system *where*, after what others wrote has gone to the disk."""
        place = where / f"{next(self._numbers)}-{os.urandom(4).hex()}"
        place.mkdir()
        os.sync()
        return place

    # -- doing it, measured: seconds of the clock and of processors ---------------------------------------------

    def ours(self, store: Path, *words: str, rss: list[int] | None = None) -> tuple[float, float]:
        """`lamina ...` with that store."""
        env = {**self.stage.env, "LAMINA_ROOT": str(store)}
        return timed([self.stage.lamina, *words], env, rss)

    def peer(self, *words: str | Path, env: dict[str, str] | None = None) -> tuple[float, float]:
        """A program of the peers root, and whoever works for it there."""
        before = self.root.processor_time()
        took, _ = timed(self.root.argv(words, env=env), {**ENVIRONMENT})
        return took, self.root.processor_time() - before

    def podman(self, store: Path, *words: str | Path) -> tuple[float, float]:
        engine = ["podman", f"--root={store / 'graph'}", f"--runroot={store / 'run'}", "--storage-driver=overlay",
                  "--cgroup-manager=cgroupfs"]  # fmt: skip
        return self.peer(*engine, *words)


def timed(argv: list[str], env: dict[str, str], rss: list[int] | None = None) -> tuple[float, float]:
    """Wait for a command that must succeed: (seconds, seconds of processors of it and those it waited for)."""
    log = os.memfd_create("log")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    streams = [(os.POSIX_SPAWN_DUP2, old, new) for old, new in ((null, 0), (log, 1), (log, 2))]
    try:
        begin = time.perf_counter()
        pid = os.posix_spawn(argv[0] if "/" in argv[0] else shutil.which(argv[0]) or argv[0], argv, env,
                             file_actions=streams)  # fmt: skip
        done = threading.Event()
        watcher = threading.Thread(target=watch, args=(pid, done, rss)) if rss is not None else None
        if watcher:
            watcher.start()
        _, status, usage = os.wait4(pid, 0)
        took = time.perf_counter() - begin
        done.set()
        if watcher:
            watcher.join()
        if status:
            said = os.pread(log, 4000, 0).decode(errors="replace")
            raise Failed(
                f"{' '.join(map(str, argv))}: exit status {os.waitstatus_to_exitcode(status)}: {said}"
            )
    finally:
        os.close(log)
        os.close(null)
    return took, usage.ru_utime + usage.ru_stime


def watch(pid: int, done: threading.Event, rss: list[int]) -> None:
    """Append the most memory that *pid* and its descendants had at once, in bytes: looked at 200 times a second."""
    most = 0
    while not done.wait(0.005):
        most = max(most, sum(map(_resident, _tree(pid))))
    rss.append(most)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield from _tree(int(child))


def _resident(pid: int) -> int:
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def cases(stage: Stage, stack: ExitStack) -> Iterator[Case]:
    """All of them; the first half is about pulling."""
    place = Place(stage, stack)

    def case(
        name: str,
        do: Callable[[Path], tuple[float, float]],
        reference: str = "",
        limit: float | None = None,
        *,
        where: Path = place.disk,
        beside: tuple[tuple[str, float | None], ...] = (),
    ) -> Case:
        def once() -> float:
            store = place.empty(where)
            try:
                took, processor = do(store)
            finally:
                _clear(place, store)
            made.processor.append(processor)
            return took

        made = Case(name, once, reference, limit, beside=beside)
        return made

    yield from pulls(place, case)
    yield from others(place, case)
    yield from large_store(place, case)


def _clear(place: Place, store: Path) -> None:
    subprocess.run(["umount", "-q", store / "graph" / "overlay"], check=False, capture_output=True)
    shutil.rmtree(store)


def pulls(place: Place, case: Callable[..., Case]) -> Iterator[Case]:
    """Into an empty store, by each; the floor; memory."""
    quiet = ("pull", "-q", "--tls-verify=false")

    def docker(store: Path) -> tuple[float, float]:
        took = place.peer("docker", "pull", "-q", place.name(), env=place.docker)
        place.root.run(["docker", "rmi", "-f", place.name()], env=place.docker, check=True)
        return took

    def umoci(store: Path) -> tuple[float, float]:
        script = f"skopeo copy -q --src-tls-verify=false docker://{place.name()} oci:{store}/image:1 && " \
                 f"umoci unpack --image {store}/image:1 {store}/bundle"  # fmt: skip
        return place.peer("sh", "-c", script)

    def tar(store: Path) -> tuple[float, float]:
        each = " && ".join(f"tar -C {store} -xzpf {blob}" for blob in blobs_of(place.layout))
        return timed(["/bin/sh", "-c", each], place.stage.env)

    def ours(store: Path) -> tuple[float, float]:
        return place.ours(store, "pull", "-q", place.name())

    def podman(store: Path) -> tuple[float, float]:
        return place.podman(store, *quiet, place.name())

    yield case("lamina pull", ours, PODMAN, 0.6, beside=((TAR, 1.0),))
    yield case(PODMAN, podman)
    yield case("docker pull", docker, PODMAN)
    yield case("skopeo copy, umoci unpack", umoci, PODMAN)
    yield case(TAR, tar, PODMAN)
    there = place.memory
    yield case(f"lamina pull{MEMORY}", ours, PODMAN + MEMORY, 0.6, beside=((TAR + MEMORY, 1.0),), where=there)
    yield case(PODMAN + MEMORY, podman, where=there)
    yield case(TAR + MEMORY, tar, PODMAN + MEMORY, where=there)

    def memory() -> float:
        store = place.empty(place.disk)
        rss: list[int] = []
        place.ours(store, "pull", "-q", place.name(), rss=rss)
        _clear(place, store)
        return float(rss[0])

    yield Case("lamina pull, memory", memory, unit="MB", reach="100 MB")


def others(place: Place, case: Callable[..., Case]) -> Iterator[Case]:
    """`load`, a second image, `push`."""
    archive, pulled, graph = (place.disk / name for name in ("image.tar", "pulled", "graph-pulled"))
    place.ours(pulled, "pull", "-q", place.name())
    place.podman(graph, "pull", "-q", "--tls-verify=false", place.name())
    place.ours(pulled, "save", "-q", "-o", str(archive), place.name())

    yield case(
        "lamina load", lambda store: place.ours(store, "load", "-q", "-i", str(archive)), "podman load"
    )
    yield case("podman load", lambda store: place.podman(store, "load", "-q", "-i", archive))

    def second(_: Path) -> tuple[float, float]:
        took = place.ours(pulled, "pull", "-q", place.name(SECOND))
        place.ours(pulled, "rmi", place.name(SECOND))
        return took

    def podmans_second(_: Path) -> tuple[float, float]:
        took = place.podman(graph, "pull", "-q", "--tls-verify=false", place.name(SECOND))
        place.podman(graph, "rmi", place.name(SECOND))
        return took

    yield case("lamina pull, second image", second, "podman pull, second image")
    yield case("podman pull, second image", podmans_second)

    def pushing(do: Callable[[str], tuple[float, float]]) -> Callable[[Path], tuple[float, float]]:
        """Into a registry that is new each time: both would take from another repository what is there already."""

        def once(empty: Path) -> tuple[float, float]:
            with DockerRegistry(empty / "registry") as registry:
                return do(f"{registry.host}/pushed:1")

        return once

    def push(name: str) -> tuple[float, float]:
        place.ours(pulled, "tag", place.name(), name)
        took = place.ours(pulled, "push", "-q", name)
        place.ours(pulled, "rmi", name)
        return took

    def podmans_push(name: str) -> tuple[float, float]:
        return place.podman(graph, "push", "-q", "--tls-verify=false", place.name(), f"docker://{name}")

    yield case("lamina push", pushing(push), "podman push")
    yield case("podman push", pushing(podmans_push))


MANY = """
import os, sys
from lamina.store import blobs, images, layers
from lamina.store.images import ImageRecord
from lamina.store.leases import lease
from lamina.store.root import Store
store = Store(sys.argv[1])
for image in range(50):
    with lease(store) as held:
        ids = []
        for number in range(20):
            with layers.stage(store, None, held) as stage:
                for file in range(10):
                    with open(os.path.join(stage.path, b"%d" % file), "wb") as out:
                        out.write(b"x" * 1000)
                ids.append(stage.commit(None, 10_000, 11).id)
        config = blobs.write_blob(store, b"%d" % image, held)
        record = ImageRecord(id=config.partition(":")[2], config=config, layers=tuple(ids), blobs=(config,),
                             run={}, size=200_000, os="linux", architecture="amd64")
        images.put(store, record, names=(f"docker.io/library/many:{image}",), lease=held)
"""


def large_store(place: Place, case: Callable[..., Case]) -> Iterator[Case]:
    """`system df` and `gc` of a store of 1,000 layers; *find* has seen each file."""
    many = place.disk / "many"
    place.stage.run(place.stage.python, "-c", MANY, str(many))
    reference = "find, 1,000 layers"
    words = ["/usr/bin/find", str(many), "-printf", ""]
    yield case("lamina system df, 1,000 layers", lambda _: place.ours(many, "system", "df"), reference)
    yield case("lamina gc, 1,000 layers", lambda _: place.ours(many, "gc"), reference)
    yield case(reference, lambda _: timed(words, place.stage.env))
