"""Something that may fail, as a block: what it did to a container stays, or is taken back."""

from __future__ import annotations

from lamina.errors import LaminaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from lamina.engine.snapshots import Snapshot
    from lamina.engine.state_verbs import StateVerbs


class Attempt:
    """See `StateVerbs.attempt`. `before` is the snapshot that was made at the beginning of the block; `rewound` says
    at its end whether the container was put back into it.
    """

    def __init__(self, container: StateVerbs, name: str | None, *, consistency: str) -> None:
        self._container, self._name, self._consistency = container, name, consistency
        self.before: Snapshot | None = None
        self.rewound: bool = False

    def __enter__(self) -> Self:
        self.before = self._container.snapshot(
            self._name, message="before an attempt", consistency=self._consistency
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.before is None:
            return
        if error is None:
            self._forget()
            return
        try:
            # nobody is asked to wait: what the failed attempt left open is thrown away with the rest
            self._container.rewind(self.before, consistency="auto")
            self.rewound = True
            self._forget()
        except LaminaError as second:
            error.add_note(
                f"while taking back what the attempt did: {second}; the snapshot {self.before.short_id} is from before"
            )

    def _forget(self) -> None:
        """A snapshot without a name was for this block alone."""
        if self._name is None and self.before is not None:
            self.before.remove()
