"""The end of a child that somebody else traces.

Its parent cannot wait for it before the tracer has, who may never do so (ptrace(2)). In a pid namespace of others that
may be one of them. The pidfd says all the same that it has ended, and /proc how: so nobody is kept waiting.
"""

from __future__ import annotations

import os
from errno import EACCES, ECHILD

from lamina.errors import KernelError
from lamina.linux.fd import ready

# seconds that a tracer gets: a debugger waits for what it traces at once
PATIENCE = 1.0
_LOOKS = 20


def kept_status(pidfd: int) -> int:
    """The exit status, 128 + n after signal n, of a child that has ended and that we could not wait for. It stays a
    zombie until its tracer waits for it, or ends. Raises KernelError where it is not to be seen,
    ChildProcessError when somebody else has waited for it meanwhile.
    """
    for _ in range(_LOOKS):
        ready(PATIENCE / _LOOKS)
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if ended is not None:
            return int(ended.si_status) if ended.si_code == os.CLD_EXITED else 128 + int(ended.si_status)
    code = _exit_code(pidfd)
    return 128 + os.WTERMSIG(code) if os.WIFSIGNALED(code) else os.WEXITSTATUS(code)


def _exit_code(pidfd: int) -> int:
    """The last field of proc_pid_stat(5). To those who may not see it, it says 0: they could not follow the link
    either, which takes the same right.
    """
    with open(f"/proc/self/fdinfo/{int(pidfd)}", "rb", buffering=0) as file:
        pid = next(int(line.split()[1]) for line in file.read(4096).splitlines() if line.startswith(b"Pid:"))
    try:
        os.readlink(f"/proc/{pid}/ns/user")
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return int(file.read(4096).split()[-1])
    except OSError as error:
        hint = "another process traces it, and keeps its exit status to itself"
        raise KernelError(
            "wait for a process", ECHILD if error.errno != EACCES else EACCES, hint=hint
        ) from None
