"""Who attaches is let in, also where there was no descriptor for him at first."""

from __future__ import annotations

import os
import socket
from errno import EMFILE, ENFILE
from pathlib import Path
from typing import Any

import pytest

from lamina.supervisor import streams
from lamina.supervisor.packets import SOCKET
from lamina.supervisor.pump import Watch
from lamina.supervisor.streams import Streams


@pytest.mark.parametrize("none_left", [EMFILE, ENFILE])
def test_who_comes_while_no_descriptor_is_left_is_let_in_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, none_left: int
) -> None:
    monkeypatch.setattr(streams, "NONE_LEFT", 0)
    made = Streams(os.fsencode(tmp_path), interactive=False)
    try:
        made.listen()
        listener: Any = made._listener
        tries: list[int] = []

        class Failing:
            def fileno(self) -> int:
                return int(listener.fileno())

            def close(self) -> None:
                listener.close()

            def _accept(self) -> tuple[int, object]:
                tries.append(1)
                if len(tries) < 3:
                    raise OSError(none_left, os.strerror(none_left))
                fd, address = listener._accept()
                return fd, address

        made._listener = Failing()  # type: ignore[assignment]
        watch = Watch()
        made.arm(watch)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(os.fsencode(tmp_path) + b"/" + os.fsencode(SOCKET))
            while not made._clients:
                assert watch.wait(100)
            assert len(tries) == 3
    finally:
        made.close()
