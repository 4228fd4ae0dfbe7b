"""Python, with somebody above it who takes in orphans: `python reaper.py ARGUMENTS...` is `python ARGUMENTS...`.

Where a container's supervisor is killed, what it leaves becomes a child of the machine's first process, or of the
nearest "child subreaper" (prctl(2)). An init waits for its children at once; that of some sandboxes does so every other
second, and each test that waits for an orphan's end waits as long. So each worker of the suite gets a parent that does.

And, where that may be, mounts of its own: what one worker mounts on "this machine" for a moment is none of those that
another compares before and after.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE, MS_SHARED = 0x4000, 1 << 18, 1 << 20


def own_mounts(libc: ctypes.CDLL) -> None:
    """A copy of the machine's mounts, which is as private or shared as that is; for those who may have one. Who may not
    mount either leaves nothing there to be seen.
    """
    root = next(
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[4] == "/"
    )
    if libc.unshare(CLONE_NEWNS) == 0:
        libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        if " shared:" in root:
            libc.mount(b"none", b"/", None, MS_REC | MS_SHARED, None)


def main() -> None:
    """Execute it, and end as it ends; whoever is left then is the next one's."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    own_mounts(libc)
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
