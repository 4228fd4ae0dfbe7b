"""How a process becomes the supervisor of a container, from its first instruction as such to its last."""

from __future__ import annotations

import os

from lamina.engine.answers import encode, error_record
from lamina.engine.detaching import ADOPT
from lamina.engine.idling import awoken
from lamina.engine.supervising import Supervisor, append
from lamina.store.containers import Home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from lamina.store.root import Store


def supervise(store: Store, identity: str, mode: str, answer: int, attached: int) -> NoReturn:
    """Look after the container until it has ended for good, and end this process. Answers once on *answer*."""
    supervisor = None
    try:
        supervisor = Supervisor(store, identity, attached)
        said = supervisor.adopt() if mode == ADOPT else supervisor.start()
    except BaseException as failure:
        try:
            if supervisor is not None:
                supervisor.abandon(failure)
        finally:
            _answer(answer, {"error": error_record(failure)})
            os._exit(1)
    _answer(answer, said)
    try:
        if supervisor.process is not None or supervisor.pausing:
            supervisor.run()
            supervisor.see_links_go()
    except BaseException as failure:
        _confess(supervisor.home, failure)
    finally:
        os._exit(0)


def go_on(store: Store, identity: str, note: str) -> NoReturn:
    """Look after the container again, in the same process, after a sleep that *note* tells of (idling)."""
    supervisor = None
    try:
        supervisor = Supervisor(store, identity)
        supervisor.awake(awoken(note))
        supervisor.run()
        supervisor.see_links_go()
    except BaseException as failure:
        _confess(Home(store, identity), failure)
    finally:
        os._exit(0)


def _confess(home: Home, failure: BaseException) -> None:
    """Nobody listens to a supervisor that fails, so what went wrong is put beside the container's log. The container is
    as if its supervisor had been killed.
    """
    import traceback

    text = "".join(traceback.format_exception(failure))
    try:
        append(home.path + b"/supervisor.error", text.encode(errors="replace"))
    except OSError:
        pass


def _answer(answer: int, said: dict[str, Any]) -> None:
    data = encode(said)
    try:
        while data:
            data = data[os.write(answer, data) :]
    except OSError:
        pass  # who asked is gone; the container is not
    os.close(answer)
