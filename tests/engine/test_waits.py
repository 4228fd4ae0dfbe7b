"""Steps that yield what they wait for, driven by who blocks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lamina.engine.waits import Wait, block

if TYPE_CHECKING:
    from lamina.engine.waits import Waits


def test_what_happened_is_heard_by_the_steps_and_their_result_is_given() -> None:
    reader, writer = os.pipe()

    def steps() -> Waits[list[bool]]:
        heard = [(yield Wait(reader, 0)), (yield Wait(seconds=0))]
        os.write(writer, b"x")
        heard.append((yield Wait(reader)))
        return heard

    try:
        assert block(steps()) == [False, False, True]
    finally:
        os.close(reader)
        os.close(writer)


def test_steps_that_do_not_wait() -> None:
    def steps() -> Waits[int]:
        return 3
        yield Wait()

    assert block(steps()) == 3


def test_what_is_raised_comes_through_and_what_is_open_is_closed() -> None:
    closed = []

    def steps(wait: Wait) -> Waits[None]:
        try:
            yield wait
            raise ZeroDivisionError
        finally:
            closed.append(wait)

    with pytest.raises(ZeroDivisionError):
        block(steps(Wait(seconds=0)))
    with pytest.raises(TypeError):
        block(steps(Wait(seconds="soon")))  # type: ignore[arg-type]
    assert len(closed) == 2
