"""Pictures written to a file: whole or not at all."""

from __future__ import annotations

import errno
import os
import stat

from lamina.cli import output
from lamina.errors import KernelError


def write(file: str, text: str) -> None:
    """Write *text* to *file*, in place of what is there; "-" is standard output. Raises KernelError."""
    data = text.encode("utf-8", "backslashreplace")
    if file == "-":
        output.write(data)
        return
    try:
        if os.path.lexists(file) and not stat.S_ISREG(os.stat(file).st_mode):
            with open(file, "wb") as place:  # a device or a pipe has nothing to be half of
                place.write(data)
            return
        _replace(os.path.realpath(file), data)
    except OSError as error:
        raise KernelError("write", error.errno or errno.EIO, file) from None


def _replace(file: str, data: bytes) -> None:
    beside = f"{file}.{os.urandom(6).hex()}"
    try:
        with open(beside, "xb") as place:
            place.write(data)
        os.rename(beside, file)
    except BaseException:
        try:
            os.unlink(beside)
        except OSError:
            pass
        raise
