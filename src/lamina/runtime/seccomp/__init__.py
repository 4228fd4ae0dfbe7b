"""System call filters: from an OCI or Docker profile to a BPF program, and the programs compiled before.

`filter_for()` and `default_filter()` are what a container start calls: they read a program from a cache and import the
compiler only where there is none. Everything else is for those who look closer; it is imported when it is named.

    profile.py        Docker's profile files, reduced to the form of the OCI runtime specification
    rules.py          the specification's words, checked, as decisions for each system call of each architecture
    compiler.py       decisions as a decision tree
    assembler.py      the tree as classic BPF
    architectures.py  what the kernel calls architectures and system calls (syscalls.txt)
    cache.py          programs by content
    words.py          what a start needs of an object whose program was found

What libseccomp decides, the programs decide (tests compare the two), with exceptions that are all in the direction of
what the kernel will do with a call: see `rules.py`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.runtime.seccomp.cache import default_filter, filter_for
    from lamina.runtime.seccomp.compiler import compile_filter
    from lamina.runtime.seccomp.profile import default_profile, resolve_profile
    from lamina.runtime.seccomp.words import filter_flags

__all__ = [
    "compile_filter",
    "default_filter",
    "default_profile",
    "filter_flags",
    "filter_for",
    "resolve_profile",
]

_WHERE = {
    "compile_filter": "compiler",
    "default_filter": "cache",
    "default_profile": "profile",
    "filter_flags": "words",
    "filter_for": "cache",
    "resolve_profile": "profile",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
