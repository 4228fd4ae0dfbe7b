"""Where a supervisor begins that is a fresh interpreter: `isolated.py engine ROOT ID MODE attached` (detaching.py),
or goes on after a sleep: `isolated.py engine ROOT ID awake NOTE` (idling.py), makes supervisors of several containers:
`isolated.py engine "" "" nursery ""` (nursery.py), squashes the layers of one, and ends: `isolated.py engine ROOT ID
squash ""` (squashing.py), or answers for the names of a network: `isolated.py engine ROOT NETWORK names LINK`
(responders.py), or keeps a container's helper: `isolated.py engine "" "" tether "" PROGRAM ...` (supervisor/tether.py).
"""

from __future__ import annotations

import os
import sys

ANSWER, ATTACHED = 3, 4


def run() -> int:
    """Answer on descriptor 3. Whoever started this waits for the first process, which leaves at once.

    Returns in a nursery that leaves, whose modules are those of any supervisor: what started us keeps them then
    (`Finder.keep`).
    """
    try:
        _do(*sys.argv[1:5])
    except BaseException:  # nobody would hear of it
        os._exit(0)
    return 0


def _do(root: str, identity: str, mode: str, attached: str) -> None:
    """Returns when a nursery leaves; all others end the process."""
    if mode == "names":
        _answer_for_names(root, identity, int(attached))
    if mode == "tether":
        from lamina.supervisor.tether import keep

        keep(sys.argv[5:])
    if mode == "awake":
        from lamina.engine.becoming import go_on
        from lamina.store.root import Store

        go_on(Store(root), identity, attached)
    if mode == "squash":
        _squash(root, identity)
    try:
        if os.fork():
            os._exit(0)
    except OSError as error:
        from lamina.engine.answers import encode, error_record
        from lamina.errors import KernelError

        os.write(ANSWER, encode({"error": error_record(KernelError("fork a supervisor", error.errno or 0))}))
        os._exit(0)
    from lamina.engine.detaching import NURSERY, alone

    if mode == NURSERY:
        from lamina.engine.nursery import nurse

        channel, _ = alone(ANSWER, -1)
        nurse(channel)
        return
    from lamina.engine.becoming import supervise

    answer, client = alone(ANSWER, ATTACHED if attached else -1)
    from lamina.store.root import Store

    supervise(Store(root), identity, mode, answer, client)


def _answer_for_names(root: str, network: str, index: int) -> None:
    if "spawned" in sys.argv and os.fork():
        os._exit(0)
    from lamina.engine.responding import serve
    from lamina.store.root import Store

    serve(Store(root), network, index)


def _squash(root: str, identity: str) -> None:
    """Whoever started this waits for the first process. Never returns."""
    if os.fork():
        os._exit(0)
    from lamina.engine.detaching import alone
    from lamina.engine.squashing import NICE, in_background
    from lamina.store.root import Store

    alone(-1, -1)
    os.nice(NICE)
    in_background(Store(root), identity)
    os._exit(0)
