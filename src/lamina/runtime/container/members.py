"""Who is in a container that has no control groups, as an ordinary user's may: whoever is in its pid namespace."""

from __future__ import annotations

import os
from errno import EPERM, ESRCH

from lamina.errors import KernelError, Unsupported
from lamina.linux.fd import Fd
from lamina.linux.namespaces import ns_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import pidfd_send_signal
else:
    from _signal import pidfd_send_signal  # the module `signal` is enums around it


def members(first: int) -> list[int]:
    """The ids of the processes in the pid namespace that the process *first* began, and in those inside it, in order.

    Raises Unsupported where others may be in it: it did not begin it.
    """
    if not _began_its_namespace(first):
        raise Unsupported(
            "find the container's processes: it has no control groups, and shares its pid namespace with others",
            remedy="have control groups delegated (see `lamina doctor`), or give it a pid namespace of its own",
        )
    wanted = os.stat(f"/proc/{first}/ns/pid").st_ino
    return [pid for pid in sorted(map(int, filter(str.isdigit, os.listdir("/proc")))) if _is_in(pid, wanted)]


def signal_members(first: int, signal: int) -> None:
    """Send *signal* to each of `members`. Raises Unsupported, KernelError."""
    wanted = os.stat(f"/proc/{first}/ns/pid").st_ino
    for pid in members(first):
        try:
            with Fd(os.pidfd_open(pid)) as pidfd:
                if _is_in(pid, wanted):  # looked at again: now the number is this process's
                    pidfd_send_signal(pidfd, signal)
        except OSError as error:
            if error.errno != ESRCH:
                raise KernelError("pidfd_send_signal", error.errno or 0, f"process {pid}") from error


def _began_its_namespace(pid: int) -> bool:
    with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
        numbers = next(line for line in file.read(1 << 16).splitlines() if line.startswith(b"NSpid:")).split()
    return len(numbers) > 2 and numbers[-1] == b"1"


def _is_in(pid: int, wanted: int) -> bool:
    """Whether its pid namespace is the one with that number, or lies in it. What we may not look into is not ours."""
    try:
        namespace = Fd(os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC))
        while os.fstat(namespace).st_ino != wanted:
            with namespace as inner:
                namespace = ns_parent(inner)
        namespace.close()
    except KernelError as error:
        if error.errno != EPERM:  # above our own
            raise
        return False
    except OSError:
        return False
    return True
