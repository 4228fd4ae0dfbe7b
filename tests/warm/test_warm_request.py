"""What a client says to the worker that is to do its command."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from lamina.warm import request

RIGHTS = (socket.SOL_SOCKET, socket.SCM_RIGHTS)


def test_a_client_that_was_stopped_may_say_go_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has said it does not do the command itself: a worker that had just given it up did not do it either."""
    monkeypatch.setattr(request, "PATIENCE", 0.0)
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as thread:
        heard = thread.submit(request.told_to_go, theirs, 1)
        wait([heard], timeout=0.1)  # a worker without patience would have left by now
        here = os.open(".", os.O_PATH)
        ours.sendmsg([request.GO], [(*RIGHTS, here.to_bytes(4, "little") * 2)])
        os.close(here)
        received = heard.result()
    assert received is not None
    for descriptor in received:
        os.close(descriptor)
    assert len(received) == 2


@pytest.mark.parametrize("word", [b"", b"x", request.GO])
def test_what_is_no_go_is_none(word: bytes) -> None:
    """It went away, or said something else, or not all that belongs to it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if word:
            ours.send(word)
        ours.close()
        assert request.told_to_go(theirs, 0) is None
