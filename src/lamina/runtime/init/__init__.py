"""What executes a container's command, and its minimal init: one program of two kilobytes, executed from memory.

It is handed to the container as a sealed memory file, by descriptor: so /proc/self/exe of the process that executes
the command, and /proc/1/exe under an init, is neither this file, nor the interpreter, nor anything else of the host,
and nobody can write to it (CVE-2019-5736). lamina_init.c says more.

Where it was not compiled there is still the half of it that no start can do without, lamina-exec: listing.py.
"""

from __future__ import annotations

import os
from errno import EACCES, EINVAL

from lamina.errors import Unsupported
from lamina.linux.descriptors import (
    F_ADD_SEALS,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    fcntl,
)
from lamina.linux.fd import Fd

# argv[0] of the three
EXEC_NAME, INIT_NAME, WALK_NAME = b"lamina-exec", b"lamina-init", b"lamina-walk"
INIT = os.path.join(os.path.dirname(__file__), "lamina-init")
# descriptor on which both report as four bytes, in the machine's order, why a command cannot be executed
REPORT = 3
_MFD_EXEC = 0x10  # linux/memfd.h, since Linux 6.3; without it a sysctl may make memory files not executable


def init_file() -> Fd:
    """A sealed, executable memory file with both programs, for execveat(2) with AT_EMPTY_PATH; close-on-exec.

    Raises Unsupported where it could not be built, or where memory files may not be executed.
    """
    program = _compiled()
    if not program:
        raise Unsupported(
            "start by lamina-init: it was not built when Lamina was installed",
            remedy="install a C compiler and Lamina again",
        )
    return sealed_file(program)


def exec_file() -> Fd:
    """The same for `lamina-exec` alone, which needs no compiler. Raises Unsupported on a machine that has neither."""
    program = _compiled()
    if not program:
        from lamina.runtime.init.listing import program as listed

        program = listed(os.uname().machine)
    return sealed_file(program)


def _compiled() -> bytes:
    try:
        with open(INIT, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def sealed_file(content: bytes) -> Fd:
    """A memory file with *content* that can be executed and never changed; close-on-exec (memfd_create(2))."""
    fd = Fd(_memory_file())
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
    return fd


def _memory_file() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("lamina-init", flags | _MFD_EXEC)
    except OSError as error:
        if error.errno == EACCES:
            raise Unsupported(
                "execute the command by way of a memory file: the sysctl vm.memfd_noexec forbids it",
                remedy="sysctl vm.memfd_noexec=1 forbids it to those only who do not ask",
            ) from None
        if error.errno != EINVAL:
            raise
        # a kernel that does not know the flag makes every memory file executable
        return os.memfd_create("lamina-init", flags)
