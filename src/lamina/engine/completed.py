"""What `Engine.run` returns, in the words of subprocess."""

from __future__ import annotations

from lamina.errors import ContainerFailed
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Generic

    from typing_extensions import TypeVar

    T = TypeVar("T", bound=bytes | str, default=Any)  # what was captured: str or bytes
else:
    from lamina.values import Generic

    T = None


@value
class Completed(Generic[T]):
    """A command that has ended in its container.

    `args` is the command; `returncode` its exit status, 128 + n after signal n (as a shell has it); `stdout` and
    `stderr` what was captured, None for what was not. `container` is the id and `name` the name, also of a container
    that is removed by now. `warnings` say what was not as on the host.
    """

    args: list[str]
    returncode: int
    stdout: T = None  # type: ignore[assignment]  # of what was not captured, as in typeshed's CompletedProcess
    stderr: T = None  # type: ignore[assignment]
    container: str = ""
    name: str = ""
    warnings: tuple[str, ...] = ()

    def check_returncode(self) -> None:
        """Raise ContainerFailed unless `returncode` is 0."""
        if self.returncode:
            raise ContainerFailed(self.args, self.returncode, stdout=self.stdout, stderr=self.stderr)
