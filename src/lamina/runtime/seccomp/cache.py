"""Compiled filters by content, so that a start reads one small file and imports no compiler; see runtime/kept.py."""

from __future__ import annotations

import os
from marshal import dumps

from lamina.runtime.kept import FILTERS, kept, state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

# of the meaning of what is kept; the sources' own state is part of the content as well
COMPILER_VERSION = 1
LONGEST_PROGRAM = 4096 * 8


class Filter:
    """A filter that is asked for. `content` is what it is made from: two with the same are the same."""

    __slots__ = ("_cache_dir", "_make", "content")

    def __init__(self, content: bytes, cache_dir: bytes, make: Callable[[], bytes]) -> None:
        self.content, self._cache_dir, self._make = content, cache_dir, make

    def program(self) -> bytes:
        """The BPF program, an array of struct sock_filter (seccomp(2)). Raises what `compile_filter()` raises."""
        if not self.content:
            return self._make()
        return kept(self.content, self._cache_dir, b".bpf", self._make, _is_program)


def filter_for(seccomp: dict[str, Any], cache_dir: bytes) -> Filter:
    """The filter for a `linux.seccomp` object of the OCI specification; *cache_dir* is made if it is missing."""
    try:
        content = dumps(("oci", _making(), seccomp), 2)
    except ValueError:  # something that JSON cannot say either: the compiler knows what to say to it
        content = b""

    def compiled() -> bytes:
        from lamina.runtime.seccomp.compiler import compile_filter

        return compile_filter(seccomp)

    return Filter(content, cache_dir, compiled)


def default_filter(capabilities: Collection[str], cache_dir: bytes) -> Filter:
    """The filter of the default profile for a container with *capabilities* (CAP_* names, the bounding set)."""

    def compiled() -> bytes:
        from lamina.runtime.seccomp.compiler import compile_filter
        from lamina.runtime.seccomp.profile import default_profile

        return compile_filter(default_profile(capabilities))

    return Filter(dumps(("default", _making(), sorted(capabilities)), 2), cache_dir, compiled)


def _making() -> tuple[Any, ...]:
    """Everything besides the profile that a program depends on: the machine, and the state of the compiler."""
    machine = os.uname()
    return (COMPILER_VERSION, machine.machine, machine.release, state_of(*FILTERS))


def _is_program(found: bytes) -> bool:
    return 0 < len(found) <= LONGEST_PROGRAM and len(found) % 8 == 0
