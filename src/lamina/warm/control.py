"""What a user may want of warm processes: see them, end them, have none from now on."""

from __future__ import annotations

import os
import signal
from errno import ESRCH

from lamina.errors import KernelError
from lamina.linux.fd import Fd, ready
from lamina.linux.process import pidfd_open, pidfd_send_signal
from lamina.values import value
from lamina.warm import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATIENCE = 5.0  # seconds for one to leave


@value
class Warm:
    """A warm process: `memory` is its proportional share, in bytes, without that of commands that it does."""

    pid: int
    name: str
    memory: int


def living(environment: Mapping[str, str]) -> list[Warm]:
    """This user's warm processes."""
    found = []
    for name, pid, process in _living(environment):
        process.close()
        found.append(Warm(pid, name, _memory(pid)))
    return found


def end_all(environment: Mapping[str, str]) -> int:
    """End this user's warm processes; how many there were. Commands that they have begun go on."""
    ended = 0
    for _, _, process in _living(environment):
        with process:
            try:
                pidfd_send_signal(process, signal.SIGTERM)
            except KernelError as error:
                if error.errno != ESRCH:
                    raise
                continue
            ended += 1
            ready(PATIENCE, process)
    return ended


def switch_off(environment: Mapping[str, str]) -> str | None:
    """From now on no command leaves a warm process behind; the file that says so, None where there is no home.

    Raises OSError where it cannot be written.
    """
    path = place.switch(environment)
    if path is not None:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    return path


def switch_on(environment: Mapping[str, str]) -> None:
    """Take back `switch_off`. Raises OSError where that is not permitted."""
    path = place.switch(environment)
    if path is not None:
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            pass


def why_off(environment: Mapping[str, str]) -> str:
    """Why no command of this user leaves a warm process behind; empty where one would."""
    wish = environment.get("LAMINA_WARM")
    if wish == "0":
        return "LAMINA_WARM=0"
    directory = place.directory(environment)
    if directory is None:
        return "there is no directory for it, XDG_RUNTIME_DIR is not set"
    try:
        os.close(place.opened(directory))
    except FileNotFoundError:
        pass
    except OSError as error:
        return str(error)
    path = place.switch(environment)
    if wish != "1" and path is not None and os.path.exists(path):
        return path
    return ""


def _living(environment: Mapping[str, str]) -> Iterator[tuple[str, int, Fd]]:
    """Name, pid and pidfd of each; that it holds its lock while the descriptor is open says that it is the one."""
    directory = place.directory(environment)
    try:
        at = place.opened(directory) if directory is not None else -1
    except OSError:
        at = -1
    if at < 0:
        return
    with Fd(at) as opened:
        for name in place.names(opened):
            try:
                pid = _pid(opened, name)
                process = pidfd_open(pid) if pid else None
            except (OSError, ValueError, KernelError):
                continue
            if process is None:
                continue
            try:
                is_its_own = place.is_locked(opened, name) and _pid(opened, name) == pid
            except (OSError, ValueError):  # it leaves this moment
                is_its_own = False
            if is_its_own:
                yield name, pid, process
            else:
                process.close()


def _pid(at: int, name: str) -> int:
    with Fd(os.open(name + place.LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=at)) as lock:
        return int(os.read(lock, 32) or b"0")


def _memory(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith(b"Pss:"))
    except (OSError, StopIteration):
        return 0
