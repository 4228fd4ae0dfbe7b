"""Python, with somebody above it who takes in orphans: `python reaper.py ARGUMENTS...` is `python ARGUMENTS...`.

Where a container's supervisor is killed, what it leaves becomes a child of the machine's first process, or of the
nearest "child subreaper" (prctl(2)). An init waits for its children at once; that of some sandboxes does so every other
second, and each test that waits for an orphan's end waits as long. So each worker of the suite gets a parent that does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> None:
    """Execute it, and end as it ends; whoever is left then is the next one's."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    own = os.getpid()
    child = os.fork()
    if child == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == own:
            os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is in our process group, and hears of it by itself
    for descriptor in (0, 1):  # it has them; who reads must see their end when it ends
        os.close(descriptor)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
