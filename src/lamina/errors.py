"""Every error Lamina raises, as one tree (a test compares this drawing with the classes).

    LaminaError                                  125
    ├── InvalidInput        also ValueError      125   an option, path, name or document that cannot be meant
    │   └── InvalidReference                     125   an image reference that does not parse
    ├── NotFound            also LookupError     125   no such container, image, layer, path in a tree
    ├── Conflict                                 125   name taken, wrong state, still in use, changed meanwhile
    │   └── HostChanged                          125   paths that the host changed since the container saw them
    ├── Unsupported                              125   this host cannot do it: the probe's reason and the remedy
    ├── Corrupt                                  125   something on disk is not what was written
    ├── KernelError         also OSError         125   which call, on what, errno, hint
    │   ├── MountError                           125   a mount the kernel refused, translated
    │   └── StepFailed                           125   the failing step of a start's plan
    │       ├── CommandNotFound                  127   nothing to execute under that name
    │       └── CommandNotExecutable             126   there, but cannot be executed
    ├── RegistryError                            125   a registry that said no, answered nonsense, was not reached
    ├── HookFailed                               125   a hook that could not be run, was late, or said no
    ├── TimeoutExpired      also TimeoutError    125   a command did not end in time
    └── ContainerFailed                          125   check=True and a non-zero exit status

A message says verb, object and cause, in lower case and without a full stop; `remedy` says what to do.
`exit_code` (right column) is what the command line exits with: Docker's 125, 126 and 127.
"""

from __future__ import annotations

import os
from errno import EMFILE, ENFILE

__all__ = [
    "CommandNotExecutable",
    "CommandNotFound",
    "Conflict",
    "ContainerFailed",
    "Corrupt",
    "HookFailed",
    "HostChanged",
    "InvalidInput",
    "InvalidReference",
    "KernelError",
    "LaminaError",
    "MountError",
    "NotFound",
    "RegistryError",
    "StepFailed",
    "TimeoutExpired",
    "Unsupported",
]


# what can be done about an error of the kernel, whatever the call was
REMEDIES = {
    EMFILE: "allow this program more open files (ulimit -n)",
    ENFILE: "close some files, or raise fs.file-max",
}


class LaminaError(Exception):
    """Something Lamina was asked to do and did not. `remedy` is what the user can do about it ("" if nothing)."""

    exit_code: int = 125
    message: str
    remedy: str

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message

    def __reduce__(self) -> tuple[object, ...]:
        """To another process (ProcessPoolExecutor, pickle, copy) goes all of it: the constructors take other arguments
        than `args`, by which an exception would be made again, and OSError has fields of its own.
        """
        fields = dict(self.__dict__)
        if isinstance(self, OSError):
            fields.update(errno=self.errno, strerror=self.strerror)
            if self.filename is not None:
                fields["filename"] = self.filename
        return _made_again, (type(self), self.args, fields)


def _made_again(kind: type[LaminaError], args: tuple[object, ...], fields: dict[str, object]) -> LaminaError:
    error = kind.__new__(kind)
    error.args = args
    for name, content in fields.items():
        setattr(error, name, content)
    return error


class InvalidInput(LaminaError, ValueError):
    """An option, path, name or document that cannot be meant."""


class InvalidReference(InvalidInput):
    """An image reference that does not parse."""


class NotFound(LaminaError, LookupError):
    """No such container, image, layer, or path in a tree."""


class Conflict(LaminaError):
    """A name that is taken, a wrong state, something still in use or changed meanwhile."""


class HostChanged(Conflict):
    """Paths that the host changed meanwhile: `clashes` has each of them with both sides (`engine.apply.Clash`)."""

    clashes: tuple[object, ...]

    def __init__(self, message: str, *, clashes: tuple[object, ...] = (), remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.clashes = clashes


class Unsupported(LaminaError):
    """This host cannot do what was asked: the message is the probe's reason."""


class Corrupt(LaminaError):
    """Something on disk is not what was written there."""


class KernelError(LaminaError, OSError):
    """The kernel refused. `errno` and `strerror` as in OSError; `call` and `target` say which call on what."""

    call: str
    target: str
    hint: str
    errno: int
    strerror: str

    def __init__(
        self, call: str, errno: int, target: str = "", *, hint: str = "", remedy: str = "", message: str = ""
    ) -> None:
        self.call, self.target, self.hint = call, target, hint
        remedy = remedy or REMEDIES.get(errno, "")
        text = message or f"{call}{' ' if target else ''}{target}: {os.strerror(errno)}"
        LaminaError.__init__(self, f"{text}: {hint}" if hint else text, remedy=remedy)
        # set by hand: OSError's own constructor would replace the class (PEP 3151) and the arguments
        self.errno, self.strerror = errno, os.strerror(errno)
        if target:
            self.filename = target


class MountError(KernelError):
    """A mount that the kernel refused, translated into which directory, why, and what to do."""


class StepFailed(KernelError):
    """A step of a start's plan failed. `step` is the step as `lamina plan` prints it, `index` its number; `place` is
    where in the container the overlay was to be that the kernel refused, None for anything else.
    """

    step: str
    index: int
    place: bytes | None

    def __init__(
        self,
        step: str,
        errno: int,
        *,
        index: int = -1,
        hint: str = "",
        remedy: str = "",
        message: str = "",
        place: bytes | None = None,
    ) -> None:
        self.step, self.index, self.place = step, index, place
        super().__init__(step, errno, hint=hint, remedy=remedy, message=message)


class CommandNotFound(StepFailed):
    """There is nothing to execute under that name in the container."""

    exit_code: int = 127


class CommandNotExecutable(StepFailed):
    """The command is there but cannot be executed: no permission, a directory, a foreign format."""

    exit_code: int = 126


class RegistryError(LaminaError):
    """A registry refused, answered what is no answer, or could not be reached. `status` is that of HTTP, 0 if there was
    none; `code` the registry's own word ("DENIED", distribution-spec "Error Codes"), "" if it gave none; `retry_after`
    the seconds after which it asked to be tried again, None if it did not.
    """

    status: int
    code: str

    def __init__(self, message: str, *, status: int = 0, code: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.status, self.code = status, code
        self.retry_after: float | None = None


class HookFailed(LaminaError):
    """A hook of a container could not be run, did not end in time, or did not exit with 0."""


class TimeoutExpired(LaminaError, TimeoutError):
    """A command did not end within its time; one that was `run` was killed then. Words as in subprocess.TimeoutExpired:
    `cmd` is the command, `timeout` the seconds, None where it was about something else; what it wrote so far is in
    `stdout` (also called `output`) and `stderr`, None for what was not captured.
    """

    cmd: list[str] | None
    timeout: float | None
    stdout: bytes | str | None
    stderr: bytes | str | None

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        cmd: list[str] | None = None,
        timeout: float | None = None,
        stdout: bytes | str | None = None,
        stderr: bytes | str | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.cmd, self.timeout, self.stdout, self.stderr = cmd, timeout, stdout, stderr

    @property
    def output(self) -> bytes | str | None:
        """`stdout`."""
        return self.stdout


class ContainerFailed(LaminaError):
    """`check=True` and the command's exit status was not zero. Words as in subprocess.CalledProcessError: `cmd` is the
    command, `returncode` its exit status, 128 + n after signal n; `stdout` (also called `output`) and `stderr` are what
    was captured, None for what was not.
    """

    cmd: list[str]
    returncode: int
    stdout: bytes | str | None
    stderr: bytes | str | None

    def __init__(
        self,
        command: list[str],
        returncode: int,
        *,
        stdout: bytes | str | None = None,
        stderr: bytes | str | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(f"run {' '.join(command)}: exit status {returncode}", remedy=remedy)
        self.cmd, self.returncode, self.stdout, self.stderr = command, returncode, stdout, stderr

    @property
    def output(self) -> bytes | str | None:
        """`stdout`."""
        return self.stdout
