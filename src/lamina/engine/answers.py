"""What a supervisor answers to who asked for it: one line of JSON, in which errors keep their class."""

from __future__ import annotations

import os

from lamina import errors
from lamina.errors import KernelError, LaminaError
from lamina.store import record as records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# instead of a line of JSON: nothing was begun, since who asked lives otherwise than who would do it (nursery.py)
REFUSED = b"\n"
# what JSON can hold of an error's attributes
_PLAIN = (str, int, float, bool)
# an OSError keeps these where vars() does not look
_OF_THE_KERNEL = ("errno", "strerror", "filename")


def error_record(error: BaseException) -> dict[str, Any]:
    """*error* as plain data. What is no error of Lamina's is a fault of Lamina's, and says so."""
    if not isinstance(error, LaminaError):
        if isinstance(error, OSError) and error.errno:
            place = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
            return error_record(KernelError("start container", error.errno, place))
        import traceback

        text = f"start container: internal error: {type(error).__name__}: {error}"
        where = "".join(traceback.format_exception(error)[-4:])
        return {
            "class": "LaminaError",
            "message": text,
            "remedy": "this is a bug in Lamina; report it",
            "notes": [where],
        }
    kept = {key: given for key, given in vars(error).items() if given is None or isinstance(given, _PLAIN)}
    kept.pop("__notes__", None)
    if isinstance(error, OSError):
        kept |= {
            key: os.fsdecode(given) if isinstance(given, bytes) else given
            for key in _OF_THE_KERNEL
            if (given := getattr(error, key, None)) is not None
        }
    return {
        **kept,
        "class": type(error).__name__,
        "notes": [str(note) for note in getattr(error, "__notes__", ())],
    }


def error_of(record: dict[str, Any]) -> LaminaError:
    """The error in *record*, of its own class; LaminaError for a class that is not known here."""
    found = dict(record)
    kind = getattr(errors, str(found.pop("class", "")), LaminaError)
    if not (isinstance(kind, type) and issubclass(kind, LaminaError)):
        kind = LaminaError
    notes = found.pop("notes", ())
    error: LaminaError = kind.__new__(kind)
    error.message, error.remedy = str(found.pop("message", "")), str(found.pop("remedy", ""))
    error.args = (error.message,)
    for key, given in found.items():
        setattr(error, key, given)
    for note in notes:
        error.add_note(str(note))
    return error


def encode(answer: dict[str, Any]) -> bytes:
    """*answer* as one line."""
    return records.encode(answer).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The answer in *line*. Raises the error in it, or LaminaError for a line that is none: its writer died."""
    if not line.endswith(b"\n"):
        raise LaminaError(
            "start container: its supervisor ended before it had answered",
            remedy="'lamina ps -a' shows what became of the container",
        )
    answer = records.decode_light(line, "the answer of a supervisor")
    if "error" in answer:
        raise error_of(answer["error"])
    return answer
