"""A place where commands may leave warm processes: an installation, and a mount namespace with a /run of its own.

Everything that lives in that namespace is ended with it.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lamina.linux.constants import CLONE_NEWNS
from lamina.linux.namespaces import setns
from lamina.warm.request import HEAD, MOST_DESCRIPTORS, VERSION
from support.sources import REPOSITORY, SRC

CLIENT = REPOSITORY / "src/lamina/cli/client.c"
OPTIONS = "-Os -Wall -Wextra -Werror -std=gnu11 -ffreestanding -fno-stack-protector -fno-pie -static -nostdlib -no-pie"
PATIENCE = 100.0
# of the client's (cli/warm_place.h), so much that it does by itself only what it is to do by itself, however busy the
# machine is: for a worker's answer, for the end of a command until a warm process is started, and started again
PATIENT = f"-DPATIENCE={PATIENCE * 1000:.0f} -DHOLD_OFF={PATIENCE * 1000:.0f} -DNOT_AGAIN=10000"
# for `python -I -S -c`: what isolated.py does before anything of ours is imported
ISOLATED = f"""
import sys
sys.path.append({str(SRC)!r})
try:
    from lamina.bytecode.finder import Site
except ImportError:
    from lamina.isolated import Site
sys.meta_path.append(Site)
"""


def compile_client(target: Path, further: str = PATIENT) -> Path:
    """The client, as setup.py makes it, with *further* options."""
    compiler = shutil.which("cc") or shutil.which("gcc") or "cc"
    words = [compiler, *OPTIONS.split(), *further.split(), str(CLIENT), "-o", str(target)]
    subprocess.run(words, check=True, timeout=200)
    return target


def install(prefix: Path, client: Path) -> Path:
    """An installation at *prefix* with this suite's Python and sources; its command."""
    (prefix / "bin").mkdir(parents=True)
    shutil.copy(client, prefix / "bin/lamina")
    script = prefix / "bin/lamina-python"
    script.write_text(f"#!{sys.executable}\nraise SystemExit('the script was executed')\n")
    script.chmod(0o755)
    packages = prefix / "lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    (packages / "lamina").symlink_to(SRC / "lamina")
    return prefix / "bin/lamina"


def until(what: Callable[[], Any], why: str, patience: float = PATIENCE) -> Any:
    """What *what* answers as soon as that is true."""
    end = time.monotonic() + patience
    while not (found := what()):
        assert time.monotonic() < end, why
        time.sleep(0.005)
    return found


class House:
    """Commands of the installation at `command`, done warm or cold, as root or as somebody else."""

    def __init__(self, tmp: Path, command: Path) -> None:
        self.tmp, self.command = tmp, command
        (tmp / "config").mkdir()
        self.env = {
            **{key: value for key, value in os.environ.items() if key != "LAMINA_WARM"},
            "XDG_CONFIG_HOME": str(tmp / "config"),
            "LAMINA_ROOT": str(tmp / "store"),
        }
        script = "mount -t tmpfs -o mode=755 tmpfs /run && echo ready && exec sleep 3600"
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"ready\n"
        self.namespace = os.open(f"/proc/{self.holder.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self.run_directory = Path(f"/proc/{self.holder.pid}/root/run/lamina")

    def close(self) -> None:
        """End everything that lives here, or was left behind by a command of this installation."""
        quiet = 0
        while quiet < 3:  # one may be forking
            ours = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_ours(pid)]
            for pid in ours:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    continue
            quiet = 0 if ours else quiet + 1
            time.sleep(0.005)
        self.holder.kill()
        self.holder.wait()
        assert self.holder.stdout is not None
        self.holder.stdout.close()
        os.close(self.namespace)

    def _is_ours(self, pid: int) -> bool:
        if pid in (self.holder.pid, os.getpid()) or not alive(pid):
            return False
        try:
            inside = os.stat(f"/proc/{pid}/ns/mnt").st_ino == os.fstat(self.namespace).st_ino
            return inside or os.fsencode(self.command.parent) in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def _enter(self, cwd: str) -> None:
        setns(self.namespace, CLONE_NEWNS)
        os.chdir(cwd)

    def argv(self, *words: str | bytes | Path, wrap: Sequence[str] = ()) -> list[str | bytes | Path]:
        """The command line; *wrap* is what executes it."""
        return [*wrap, self.command, *words]

    def popen(
        self,
        *words: str | bytes | Path,
        way: str = "warm",
        env: dict[Any, Any] | None = None,
        cwd: Path | None = None,
        wrap: Sequence[str] = (),
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start the command; *way* is "warm" or "cold"."""
        place = str(cwd or self.tmp)
        return subprocess.Popen(
            self.argv(*words, wrap=wrap),
            env={**self.env, **({"LAMINA_WARM": "0"} if way == "cold" else {}), **(env or {})},
            preexec_fn=lambda: self._enter(place),
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def run(
        self, *words: str | bytes | Path, input: bytes | None = None, **options: Any
    ) -> tuple[int, bytes, bytes]:
        """The command's exit status, output and errors."""
        if input is not None:
            options["stdin"] = subprocess.PIPE
        with self.popen(*words, **options) as process:
            try:
                out, err = process.communicate(input, timeout=PATIENCE * 2)
            except BaseException:
                process.kill()
                raise
            return process.returncode, out, err

    def ask(self, *data: bytes, wrap: Sequence[str] = ()) -> bytes:
        """What the one warm process answers a client in here that speaks for itself, or *data*; in a line."""
        (name,) = self.sockets()
        words = [f"/run/lamina/{name.name}", *(text.hex() for text in data)]
        done = subprocess.run(
            [*wrap, sys.executable, "-m", "support.warm", *words],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"]},
            preexec_fn=lambda: self._enter(str(REPOSITORY / "tests")),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE * 2,
        )
        assert done.returncode == 0, done
        return done.stdout

    # -- the warm process

    def sockets(self) -> list[Path]:
        """The sockets that are there."""
        found = self.run_directory.iterdir() if self.run_directory.is_dir() else iter(())
        return sorted(path for path in found if path.suffix != ".lock")

    def warm_up(self, **options: Any) -> int:
        """Have a command leave a warm process behind; its pid."""
        before = set(self.sockets())
        status, _, err = self.run("version", **options)
        assert status == 0, err
        (name,) = until(lambda: set(self.sockets()) - before, "no warm process came")
        pid = int(Path(f"{name}.lock").read_text())
        until(lambda: self.parked(pid), "no worker was parked")
        return pid

    def parked(self, server: int) -> int:
        """The worker that waits for a command, 0 if there is none at the moment."""
        try:
            children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        except OSError:
            return 0
        for child in reversed(children):
            try:
                call = Path(f"/proc/{child}/wchan").read_text()
                state = Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2][0]
            except OSError:
                continue
            if state == "S" and ("accept" in call or "unix" in call or "schedule" in call or "skb" in call):
                return int(child)
        return 0

    @contextmanager
    def expected(self, server: int, warm: bool) -> Iterator[None]:
        """What is done meanwhile is one command, done by the parked worker, or (not *warm*) not by it."""
        parked = until(lambda: self.parked(server), "no worker was parked")
        yield
        if warm:
            until(lambda: not alive(parked), "the command was not done by the worker")
        else:
            assert alive(parked), "the command was done by the worker"


def alive(pid: int) -> bool:
    """Whether there is a process *pid* that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def unlike_others() -> str:
    """Seconds for a sleep that no other test sleeps: about a minute."""
    return f"60.{random.randrange(10**9):09}"


def sleeper(seconds: str) -> int:
    """The process that sleeps so long, 0 if there is none."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2:] == [seconds.encode(), b""]:
                return int(pid)
        except OSError:
            continue
    return 0


def request(words: Sequence[bytes], variables: Sequence[bytes] = ()) -> bytes:
    """What a client sends that has no descriptor open."""
    strings = b"".join(word + b"\0" for word in (*words, *variables))
    head = HEAD.pack(VERSION, 0, len(words), len(variables), 0, 0, len(strings), *[0] * MOST_DESCRIPTORS)
    return head + strings


def ask(path: str, data: bytes, timeout: float = PATIENCE) -> bytes:
    """Send a request; the answer, empty where there is none."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout)
        client.connect(path)
        try:
            client.sendall(data)
            return client.recv(1)
        except (BrokenPipeError, ConnectionResetError):
            return b""


if __name__ == "__main__":  # a client that lies about its surroundings: python -m support.warm SOCKET [DATA]
    data = bytes.fromhex(sys.argv[2]) if sys.argv[2:] else request([b"lamina", b"version"])
    print(ask(sys.argv[1], data).decode())
