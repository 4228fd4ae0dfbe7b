"""Labels as docker's lists show them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Labels(str):
    """`a=1,b=2`; a template asks for one of them with `{{.Label "a"}}`."""

    __slots__ = ("_own",)
    _own: Mapping[str, str]

    def __new__(cls, own: Mapping[str, str]) -> Labels:
        """Of the labels *own*."""
        text = super().__new__(cls, ",".join(f"{key}={value}" for key, value in own.items()))
        text._own = own
        return text

    def get(self, key: str) -> str:
        """The label *key*, "" where there is none."""
        return self._own.get(key, "")
