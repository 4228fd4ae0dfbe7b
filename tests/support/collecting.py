"""The garbage collector, where it is in the way."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def undisturbed(function: Callable[P, T]) -> Callable[P, T]:
    """The same function, during which nothing is collected."""

    @functools.wraps(function)
    def quiet(*args: P.args, **keywords: P.kwargs) -> T:
        collecting = gc.isenabled()
        gc.disable()
        try:
            return function(*args, **keywords)
        finally:
            if collecting:
                gc.enable()

    return quiet
