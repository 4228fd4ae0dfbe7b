"""Signals in the middle of a pull, load, import, push, save: the verb ends by them at once, and leaves nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.image.platform import current
from lamina.store.check import check
from lamina.store.root import Store
from lamina.testing.registry import FakeRegistry, Fault
from support.image_archives import ImageSource, old_docker, tar
from support.rootless import Rootless

WORDS = {signal.SIGHUP: "hung up", signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
FILES = {f"etc/{number}": b"x" * 5000 for number in range(30)}
MORE = {"usr/large": os.urandom(2_000_000), "usr/small": b"y"}
MOMENTS = 6
AT_ONCE = 50  # seconds; less than any patience of the client's, which are for 60 and more
PATIENCE = 100  # for what comes about at once on an idle machine
VERBS = (
    "pull",
    "pull --keep-blobs",
    "load",
    "load <",
    "import",
    "import <",
    "push",
    "image from-dir",
    "run",
)

Lamina = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        registry.add_image("team/tool", "1", FILES, MORE, platform=str(current()))
        yield registry


class Stage:
    """A store in which *verb* can be done again and again, and how it is done."""

    def __init__(self, verb: str, lamina: Lamina, fake: FakeRegistry, tmp: Path) -> None:
        self.verb, self.root, self.fake = verb, tmp / "lamina-store", fake
        self.lamina, self.kept = lamina, tmp / "kept"
        self.stdin: Path | None = None
        source = ImageSource(tar(FILES), tar(MORE))
        (tmp / "images.tar").write_bytes(tar(*old_docker((source, [f"{fake.host}/new/tool:1"]))))
        (tmp / "rootfs.tar").write_bytes(tar({**FILES, **MORE}))
        (tmp / "tree").mkdir()
        for name, content in FILES.items():
            (tmp / "tree" / Path(name).name).write_bytes(content)
        self.target = tmp / "saved"
        self.target.mkdir()
        name = f"{fake.host}/team/tool:1"
        self.argv: list[str | Path] = {
            "pull": ["pull", name],
            "pull --keep-blobs": ["pull", "--keep-blobs", name],
            "load": ["load", "-i", tmp / "images.tar"],
            "load <": ["load"],
            "import": ["import", tmp / "rootfs.tar", "flat:1"],
            "import <": ["import", "-", "flat:1"],
            "push": ["push", f"{fake.host}/new/tool:1"],
            "save": ["save", "-o", self.target / "out.tar", f"{fake.host}/new/tool:1"],
            "image from-dir": ["image", "from-dir", tmp / "tree", "flat:1"],
            "run": ["run", "--rm", name, "/nothing"],
        }[verb]  # type: ignore[assignment]
        if verb.endswith("<"):
            self.stdin = tmp / ("images.tar" if verb == "load <" else "rootfs.tar")
        if verb in ("push", "save"):
            assert lamina("load", "-q", "-i", tmp / "images.tar").returncode == 0
        else:
            assert lamina("images").returncode == 0
        shutil.copytree(self.root, self.kept, symlinks=True)

    def reset(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self.kept, self.root, symlinks=True)
        for repository in ("new/tool",):
            self.fake.blobs.pop(repository, None)

    def do(self, trace: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **({"LAMINA_STORE_TRACE": trace} if trace else {})}
        if self.stdin is None:
            return self.lamina(*self.argv, env=environment)
        with self.stdin.open("rb") as file:  # a pipe: it cannot be read again
            feeder = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
            try:
                return self.lamina(*self.argv, env=environment, stdin=feeder.stdout)
            finally:
                assert feeder.stdout is not None
                feeder.stdout.close()
                feeder.wait()

    def steps(self, log: Path) -> int:
        self.do(f"log:{log}")
        self.reset()
        return len(log.read_text().splitlines())


def left_behind(root: Path) -> list[str]:
    """What is in the store and nobody could use; names are relative."""
    nameless = [path for path in (root / "blobs/partial").iterdir() if not re.match(r"sha\d+-", path.name)]
    places = [path for place in ("tmp", "leases", "claims") for path in (root / place).iterdir()]
    return sorted(str(path.relative_to(root)) for path in (*nameless, *places))


def verify_ended(done: subprocess.CompletedProcess[str], verb: str, number: signal.Signals) -> None:
    assert done.returncode == 128 + number, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == f"lamina: {verb.partition(' -')[0].removesuffix(' <')}: {WORDS[number]}", done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("lamina: ") - done.stderr.count("unable") == 1


@pytest.mark.parametrize("verb", VERBS)
def test_a_signal_at_any_step_ends_the_verb_and_leaves_nothing(
    lamina: Lamina, fake: FakeRegistry, tmp_path: Path, verb: str
) -> None:
    stage = Stage(verb, lamina, fake, tmp_path)
    steps = stage.steps(tmp_path / "log")
    assert steps >= 2
    moments = sorted({1 + number * (steps - 1) // (MOMENTS - 1) for number in range(MOMENTS)})
    ended = 0
    for moment, number in zip(moments, [*WORDS] * MOMENTS, strict=False):
        done = stage.do(f"signal:{moment}:{int(number)}")
        if verb == "run" and done.returncode == 127:
            continue  # it was pulled by then: what a signal does to a container is another test's
        verify_ended(done, verb, number)
        ended += 1
        assert left_behind(stage.root) == [], f"{number.name} at step {moment} of {steps}"
        assert os.listdir(stage.target) == []
        found = check(Store(stage.root)).findings  # what is whole is of use for the next attempt
        assert {(one.severity, one.problem) for one in found} <= {("left over", "nothing refers to it")}
        if number is signal.SIGTERM:  # what is there now is of use, or not in the way
            assert stage.do().returncode == (127 if verb == "run" else 0)
            for path in stage.target.iterdir():
                path.unlink()
        stage.reset()
    assert ended >= 2


class Started:
    """The verb as a process, and what it has said so far."""

    def __init__(self, *argv: str | Path, stdin: int = subprocess.DEVNULL, **options: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lamina", *argv], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, **options,  # type: ignore[call-overload]
        )  # fmt: skip

    def end(self, number: signal.Signals) -> subprocess.CompletedProcess[str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=AT_ONCE)
        return subprocess.CompletedProcess([], self.process.returncode, out, err)


@pytest.mark.parametrize(
    ("verb", "fault"),
    [
        ("pull", Fault("stall", path="/manifests/")),
        ("pull", Fault("stall", path="/blobs/", after=30, times=4)),
        ("pull --keep-blobs", Fault("stall", path="/blobs/", after=30, times=4)),
        ("run", Fault("stall", path="/blobs/", after=30, times=4)),
        ("push", Fault("stall", method="PUT")),
        ("push", Fault("stall", method="HEAD", path="/blobs/", times=4)),
    ],
    ids=lambda one: f"{one.method or 'GET'} {one.path}" if isinstance(one, Fault) else one,
)
def test_a_registry_that_says_nothing_more_keeps_nobody(
    lamina: Lamina, fake: FakeRegistry, tmp_path: Path, verb: str, fault: Fault
) -> None:
    stage = Stage(verb, lamina, fake, tmp_path)
    for number in WORDS:
        fake.stalled.clear()
        fake.faults[:] = [fault]
        started = Started(*stage.argv)
        assert fake.stalled.wait(PATIENCE), number
        verify_ended(started.end(number), verb, number)
        assert left_behind(stage.root) == [], number
        stage.reset()


@pytest.mark.parametrize("whose", ["manifests", "blobs"])
def test_who_waits_for_another_attempt_stops_waiting(
    lamina: Lamina, fake: FakeRegistry, tmp_path: Path, whose: str
) -> None:
    stage = Stage("pull", lamina, fake, tmp_path)
    fake.faults.append(
        Fault("status", path=f"/{whose}/", status=429, headers=(("Retry-After", "60"),), times=9)
    )
    started = Started(*stage.argv)
    assert started.process.stdout is not None
    said = next(line for line in started.process.stdout if "Retrying in" in line)
    assert re.search(r"Retrying in 6\d seconds \(.*too many requests", said)
    verify_ended(started.end(signal.SIGTERM), "pull", signal.SIGTERM)
    assert left_behind(stage.root) == []


@pytest.mark.parametrize("number", WORDS, ids=lambda number: number.name)
@pytest.mark.parametrize("verb", ["load", "import"])
def test_a_pipe_from_which_nothing_comes_keeps_nobody(
    lamina: Lamina, fake: FakeRegistry, tmp_path: Path, verb: str, number: signal.Signals
) -> None:
    stage = Stage(f"{verb} <", lamina, fake, tmp_path)
    reading, writing = os.pipe()
    try:
        started = Started(*stage.argv, stdin=reading)
        assert stage.stdin is not None
        data = stage.stdin.read_bytes()[:1_000_000]
        os.set_blocking(writing, True)
        feeder = threading.Thread(target=lambda: os.write(writing, data))
        feeder.start()
        feeder.join(PATIENCE)  # all of it was taken out of the pipe but for its last piece
        assert not feeder.is_alive()
        verify_ended(started.end(number), verb, number)
    finally:
        os.close(reading)
        os.close(writing)
    assert left_behind(stage.root) == []


@pytest.mark.parametrize("number", WORDS, ids=lambda number: number.name)
def test_a_reader_who_reads_nothing_keeps_nobody(
    lamina: Lamina, fake: FakeRegistry, tmp_path: Path, number: signal.Signals
) -> None:
    stage = Stage("save", lamina, fake, tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    started = Started("save", "-o", fifo, stage.argv[-1])
    with fifo.open("rb", buffering=0) as reading:
        assert reading.read(1), "it has begun, and soon the pipe is full"
        verify_ended(started.end(number), "save", number)
    assert left_behind(stage.root) == []


def test_a_hangup_that_is_ignored_ends_nothing(lamina: Lamina, fake: FakeRegistry, tmp_path: Path) -> None:
    """nohup lamina pull ..."""
    stage = Stage("pull", lamina, fake, tmp_path)
    fake.faults.append(Fault("stall", path="/blobs/", after=30, times=4))
    started = Started(*stage.argv, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert fake.stalled.wait(PATIENCE)
    started.process.send_signal(signal.SIGHUP)
    verify_ended(started.end(signal.SIGTERM), "pull", signal.SIGTERM)


def test_impatience_changes_nothing(lamina: Lamina, fake: FakeRegistry, tmp_path: Path) -> None:
    """Ctrl-C again and again."""
    stage = Stage("pull", lamina, fake, tmp_path)
    fake.faults.append(Fault("stall", path="/blobs/", after=30, times=4))
    started = Started(*stage.argv)
    assert fake.stalled.wait(PATIENCE)
    for _ in range(20):
        started.process.send_signal(signal.SIGINT)
    verify_ended(started.end(signal.SIGINT), "pull", signal.SIGINT)
    assert left_behind(stage.root) == []


@pytest.mark.userns
@pytest.mark.parametrize("verb", ["pull", "load"])
def test_somebody_without_root_leaves_nothing_either(
    rootless: Rootless, fake: FakeRegistry, tmp_path: Path, verb: str
) -> None:
    name = f"{fake.host}/team/tool:1"
    archive = rootless.home / "images.tar"
    archive.write_bytes(tar(*old_docker((ImageSource(tar(FILES), tar(MORE)), ["tool:1"]))))
    rootless.give(archive)
    argv = ["pull", name] if verb == "pull" else ["load", "-i", archive]
    root = Path(rootless.env["XDG_DATA_HOME"]) / "lamina"
    assert rootless.lamina("images").returncode == 0
    log = rootless.home / "log"
    assert rootless.lamina(*argv, env={**rootless.env, "LAMINA_STORE_TRACE": f"log:{log}"}).returncode == 0
    steps = len(log.read_text().splitlines())
    for part in range(MOMENTS):
        assert rootless.lamina("system", "prune", "-af").returncode == 0
        moment = 1 + part * (steps - 1) // MOMENTS
        trace = f"signal:{moment}:{int(signal.SIGTERM)}"
        done = rootless.lamina(*argv, env={**rootless.env, "LAMINA_STORE_TRACE": trace})
        verify_ended(done, verb, signal.SIGTERM)
        assert left_behind(root) == [], f"at step {moment} of {steps}"
    assert rootless.lamina(*argv).returncode == 0


HALF_MADE = """
import os, signal, sys
from lamina.cli.ending import CleanEnd
from lamina.engine import Engine

class Answer:  # as http.client.HTTPResponse: what closes it needs what __init__ had not come to
    def __init__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        self.fp = None

    def __del__(self):
        self.fp

with CleanEnd("pull", Engine(sys.argv[1])):
    Answer()
"""


def test_what_a_signal_catches_half_made_does_not_complain(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HALF_MADE, tmp_path / "store"], capture_output=True, text=True, timeout=200
    )
    assert "terminated" in done.stderr.splitlines()[-1] and "AttributeError" not in done.stderr
