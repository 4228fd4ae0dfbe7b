"""Work for a container engine, at random but reproducible; and somebody who kills its processes meanwhile.

    python -m support.stress SEED WORKER COUNT FACE FIRE

is one worker: COUNT verbs, on containers of its own, whose states it knows, and on some that all workers fight for.
FACE is "api", or the command line of a `lamina`. It prints what was not as it must be, one JSON object a line, then
what it did. FIRE, where it is not empty, says that processes are being killed meanwhile: then an outcome may be that of
a killed one, and no other; and it is the file that appears when enough were killed, before which nobody rests. Once all
workers have done their verbs nobody is killed any more (`quiet`): only then they clean up.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

IMAGE = "tiny"
TOKEN = "LAMINA_STRESS_TOKEN"  # in the environment of every process that may be killed
PATIENCE = 120.0
MOST = 20  # times as many verbs as asked for, while too few were killed
# says that it is there, and ends with a status of its own when it is asked to
LIVES = "trap 'exit {status}' TERM; echo up; sleep 1000 & wait"
SHARED = ("shared-0", "shared-1", "shared-2")
# what befalls a command whose supervisor, launcher or container's first process is killed, or which is itself; 1 is
# said by verbs that take several names
OF_THE_KILLED = (1, 125, 137, 255, -signal.SIGKILL)

Outcome = tuple[int, str, str]
Face = Callable[..., Outcome]


def main() -> None:
    """One worker; see above."""
    seed, number, count, face, fire = sys.argv[1:]
    worker = Worker(f"{seed}/{number}", int(number), face_of(face), fire != "")
    while worker.done < int(count) or (fire and worker.done < MOST * int(count) and not os.path.exists(fire)):
        worker.step()
    if fire:
        await_quiet(Path(fire), number)
    worker.clean_up()
    print(json.dumps({"worker": int(number), "done": worker.done, "upset": worker.upset}), flush=True)


def rests(enough: Path, number: int | str) -> Path:
    """The file by which a worker says that it has done its verbs."""
    return enough.with_name(f"{enough.name}.rests-{number}")


def quiet(enough: Path) -> Path:
    """The file that is there once nobody is killed any more."""
    return enough.with_name(f"{enough.name}.quiet")


def await_quiet(enough: Path, number: str) -> None:
    """Else nobody could say how often what is removed may fail."""
    rests(enough, number).touch()
    end = time.monotonic() + PATIENCE
    while not quiet(enough).exists() and time.monotonic() < end:
        time.sleep(0.05)


def face_of(name: str) -> Face:
    """What executes a command line of `lamina`."""
    if name == "api":
        return through_the_api

    def execute(*words: str) -> Outcome:
        done = subprocess.run(
            [*shlex.split(name), *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
        return done.returncode, done.stdout, done.stderr

    return execute


class Box:
    """A container that nobody else knows: what it must be now. `status` is that of its end, if it is asked to."""

    def __init__(self, name: str, status: int) -> None:
        self.name, self.status = name, status
        self.state, self.starts, self.ended = "running", 1, 0


class Worker:
    """Does one verb after another and compares."""

    def __init__(self, seed: str, number: int, face: Face, fire: bool) -> None:
        self.random, self.number, self.face, self.fire = Random(seed), number, face, fire
        self.boxes: list[Box] = []
        self.lost: set[str] = set()  # of these it is unknown how they are, for something was killed
        self.done = self.upset = self.serial = 0

    def step(self) -> None:
        """One verb."""
        self.done += 1
        if not self.boxes:
            what: Callable[[], None] = self.random.choice([self.run, self.detach, self.detach])
        else:
            acts = [self.execute, self.logs, self.stop, self.start, self.kill, self.remove, self.pause]
            what = self.random.choice([self.run, self.detach, self.contend, self.look, *acts, *acts])
        what()

    def clean_up(self) -> None:
        """Remove what is its own. What was killed may need another attempt, never a third."""
        for name in [*(box.name for box in self.boxes), *sorted(self.lost)]:
            for _ in range(2 if self.fire else 1):
                code, _, err = self.face("rm", "-f", name)
                if code == 0:
                    break
            if code not in (0, -signal.SIGKILL) and not (self.fire and "no such container" in err):
                self.complain("rm -f", (code, "", err), 0)

    # -- what it does

    def run(self) -> None:
        status, text = self.random.randrange(126), f"w{self.number}-{self.done}"
        words = ["run", "--rm", IMAGE, "sh", "-c", f"echo {text}; echo {text} >&2; exit {status}"]
        self.expect(self.face(*words), status, f"{text}\n", None, words)

    def detach(self) -> None:
        if len(self.boxes) > 2:
            return
        self.serial += 1
        box = Box(f"w{self.number}-{self.serial}", self.random.randrange(126))
        self.boxes.append(box)
        words = ["run", "-d", "--name", box.name, IMAGE, "sh", "-c", LIVES.format(status=box.status)]
        if self.expect(self.face(*words), 0, None, box, words):
            self.until_up(box)

    def until_up(self, box: Box) -> None:
        """Until it said that it is there: its trap is set."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            code, out, err = self.face("logs", box.name)
            if code == 0 and out == "up\n" * box.starts:
                return
            if code != 0 or (out and not ("up\n" * box.starts).startswith(out)):
                break
            if self.fire and not self.lives(box):  # it cannot say so any more
                break
            time.sleep(0.05)
        self.expect((code, out, err), 0, "up\n" * box.starts, box, ["logs", box.name])

    def lives(self, box: Box) -> bool:
        _, out, _ = self.face("ps", "-a", "--format", "{{.Names}} {{.State}}")
        return f"{box.name} running" in out.splitlines()

    def execute(self) -> None:
        box, status = self.random.choice(self.boxes), self.random.randrange(1, 124)
        words = ["exec", box.name, "sh", "-c", f"echo hi; exit {status}"]
        if box.state == "running":
            self.expect(self.face(*words), status, "hi\n", box, words)
        else:
            self.expect(self.face(*words), 125, "", box, words)

    def logs(self) -> None:
        box = self.random.choice(self.boxes)
        self.expect(self.face("logs", box.name), 0, "up\n" * box.starts, box, ["logs"])

    def stop(self) -> None:
        box = self.random.choice(self.boxes)
        if not self.expect(self.face("stop", box.name), 0, None, box, ["stop", box.state]):
            return
        if box.state != "exited":
            box.state, box.ended = "exited", box.status
        self.expect(self.face("wait", box.name), 0, f"{box.ended}\n", box, ["wait", "after stop"])

    def kill(self) -> None:
        box = self.random.choice(self.boxes)
        if box.state == "exited":
            self.expect(self.face("kill", box.name), (1, 125), None, box, ["kill", box.state])
            return
        if not self.expect(self.face("kill", box.name), 0, None, box, ["kill", box.state]):
            return
        box.state, box.ended = "exited", 137
        self.expect(self.face("wait", box.name), 0, "137\n", box, ["wait", "after kill"])

    def start(self) -> None:
        box = self.random.choice(self.boxes)
        right = (1, 125) if box.state == "paused" else 0
        if self.expect(self.face("start", box.name), right, None, box, ["start", box.state]) and (
            box.state == "exited"
        ):
            box.state, box.starts = "running", box.starts + 1
            self.until_up(box)

    def pause(self) -> None:
        box = self.random.choice(self.boxes)
        verb, state, wanted = (
            ("unpause", "running", "paused") if box.state == "paused" else ("pause", "paused", "running")
        )
        right = 0 if box.state == wanted else (1, 125)
        if self.expect(self.face(verb, box.name), right, None, box, [verb, box.state]) and right == 0:
            box.state = state

    def remove(self) -> None:
        box = self.random.choice(self.boxes)
        words, right = ["rm", box.name], (0,) if box.state == "exited" else (1, 125)
        if self.random.random() < 0.5:
            words, right = ["rm", "-f", box.name], (0,)
        if self.expect(self.face(*words), right, None, box, [*words, box.state]) and right == (0,):
            self.boxes.remove(box)

    def look(self) -> None:
        code, out, err = self.face("ps", "-a", "--format", "{{.Names}} {{.State}}")
        if not self.expect((code, out, err), 0, None, None, ["ps"]):
            return
        found = dict(line.split() for line in out.splitlines())
        for box in self.boxes:
            state = found.get(box.name, "gone")
            if state != box.state:
                self.expect((code, state, err), 0, box.state, box, ["ps"])

    def contend(self) -> None:
        """On a name that all want: anybody may be faster, but nobody may break."""
        name, shell = self.random.choice(SHARED), ["sh", "-c", LIVES.format(status=3)]
        words = self.random.choice(
            [
                ["run", "-d", "--name", name, IMAGE, *shell], ["run", "-d", "--name", name, IMAGE, *shell],
                ["run", "--rm", "--name", name, IMAGE, "true"], ["exec", name, "true"], ["stop", name],
                ["start", name], ["kill", name], ["logs", name], ["rm", "-f", name], ["rm", name],
            ]
        )  # fmt: skip
        outcome = self.face(*words)
        right = {0, 1, 3, 125, 137, 143, 255, *(OF_THE_KILLED if self.fire else ())}
        if outcome[0] not in right or "Traceback" in outcome[2]:
            self.complain(shlex.join(words), outcome, "no accident")

    # -- whether it is right

    def expect(
        self,
        outcome: Outcome,
        right: int | tuple[int, ...],
        text: str | None,
        box: Box | None,
        words: list[str],
    ) -> bool:
        """Whether it is. If not, it is complained about, unless somebody may have been killed: then it is lost."""
        code, out, err = outcome
        rights = right if isinstance(right, tuple) else (right,)
        if code in rights and (text is None or out == text) and "Traceback" not in err:
            return True
        if not self.fire or "Traceback" in err or (code not in rights and code not in OF_THE_KILLED):
            self.complain(shlex.join(words), outcome, (rights, text))
        self.upset += 1
        if box in self.boxes:
            self.boxes.remove(box)
            self.lost.add(box.name)
        return False

    def complain(self, words: str, outcome: Outcome, right: object) -> None:
        said = {"worker": self.number, "step": self.done, "words": words, "outcome": outcome, "right": right}
        print(json.dumps(said, default=str), flush=True)


# -- the Python API as a face


def through_the_api(*words: str) -> Outcome:
    """The same verbs as the command's, by the functions of `lamina`."""
    from lamina import Engine
    from lamina.errors import LaminaError

    try:
        code, out = _call(Engine(), *words)
        return code, out, ""
    except LaminaError as error:
        return error.exit_code, "", str(error)
    except BaseException:
        import traceback

        return 1, "", traceback.format_exc()


def _call(engine: Any, verb: str, *words: str) -> tuple[int, str]:
    if verb == "run":
        options = list(words[: words.index(IMAGE)])
        command = words[words.index(IMAGE) + 1 :]
        name = {"name": options[options.index("--name") + 1]} if "--name" in options else {}
        if "-d" in options:
            return 0, str(engine.start(IMAGE, command, **name).id)
        done = engine.run(IMAGE, command, rm=True, capture_output=True, text=True, **name)
        return done.returncode, done.stdout
    if verb == "ps":
        return 0, "".join(_line(one) for one in engine.containers(all=True))
    name_of = next(word for word in words if not word.startswith("-"))
    box = engine.container(name_of)
    if verb == "exec":
        done = box.exec(list(words[1:]), capture_output=True, text=True)
        return done.returncode, done.stdout
    if verb == "logs":
        return 0, b"".join(entry.data for entry in box.logs() if entry.stream == "stdout").decode()
    if verb == "wait":
        return 0, f"{box.wait()}\n"
    if verb == "rm":
        box.remove(force="-f" in words)
    else:
        getattr(box, verb)()
    return 0, ""


def _line(box: Any) -> str:
    from lamina.errors import NotFound

    try:
        return f"{box.name} {box.state}\n"
    except NotFound:  # somebody removed it
        return ""


# -- who kills


def victims(token: str) -> Iterator[int]:
    """Processes with that token in their environment: clients, launchers, supervisors, a warm process."""
    mark = f"{TOKEN}={token}".encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark not in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                continue
            if b"support.stress" in Path(f"/proc/{name}/cmdline").read_bytes():
                continue
        except OSError:
            continue
        yield int(name)


def confessions(root: Path, over: Event) -> list[str]:
    """What supervisors said that failed instead of being killed, until it is *over*."""
    found: dict[str, str] = {}
    while not over.wait(0.05):
        for path in (root / "containers").glob("*/supervisor.error"):
            try:
                found[str(path)] = path.read_text()
            except OSError:
                continue
    return list(found.values())


def fire(
    random: Random, token: str, pause: float, over: Event, enough: tuple[int, Path], workers: int
) -> dict[str, int]:
    """Kill one of the victims after another until it is *over*, or all *workers* have done their verbs; how many of
    which program. The file of *enough* appears when that many were killed.
    """
    killed: dict[str, int] = {}
    while not over.wait(random.random() * 2 * pause):
        if all(rests(enough[1], number).exists() for number in range(workers)):
            quiet(enough[1]).touch()
            break
        found = list(victims(token))
        if not found:
            continue
        pid = random.choice(found)
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
        killed[name] = killed.get(name, 0) + 1
        if sum(killed.values()) == enough[0]:
            enough[1].touch()
    return killed


if __name__ == "__main__":
    main()
