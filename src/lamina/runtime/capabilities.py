"""Which capabilities a container has: Docker's default set but for mknod, and the sums of --cap-add and --cap-drop.

The names and numbers are `lamina.linux.capabilities`'; this is policy. What is here decides the bounding, permitted and
effective sets; the inheritable and the ambient set stay empty (CVE-2022-24769: a non-empty inheritable set gives a
program with inheritable file capabilities what its user does not have).
"""

from __future__ import annotations

from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities, in Docker's order, without
# CAP_MKNOD: Docker can leave that to root because a device cgroup always stands behind it; alone it opens the host's
# disks (decision 0009).
DEFAULT_CAPABILITIES: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
ALL = "ALL"


def capability(name: str) -> str:
    """The kernel's name for what people write: "net_admin", "NET_ADMIN", "CAP_NET_ADMIN". Raises InvalidInput."""
    from lamina.linux.capabilities import CAPABILITIES

    upper = name.strip().upper()
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in CAPABILITIES:
        raise InvalidInput(
            f"take capability {name!r}: there is none of that name", remedy="see capabilities(7)"
        )
    return full


def adjust(
    add: Iterable[str] = (),
    drop: Iterable[str] = (),
    *,
    known: Iterable[str] | None = None,
) -> tuple[str, ...]:
    """The set that remains of the default one after --cap-add *add* and --cap-drop *drop*, in the order of the numbers.

    As in Docker: dropping ALL leaves what is added; adding ALL gives all that are *known* (to the kernel; those of the
    caller's bounding set, if it is smaller) but the dropped ones; of the same name in both, the drop wins. Raises
    InvalidInput for an unknown name, and for ALL in both, which says nothing.
    """
    from lamina.linux.capabilities import CAPABILITIES

    added, dropped = _names(add), _names(drop)
    if ALL in added and ALL in dropped:
        raise InvalidInput(
            "add and drop ALL capabilities: one contradicts the other", remedy="keep one of them"
        )
    if ALL in dropped:
        kept = added
    elif ALL in added:
        kept = set(CAPABILITIES if known is None else known) - dropped
    else:
        kept = ({*DEFAULT_CAPABILITIES} | added) - dropped
    return tuple(name for name in CAPABILITIES if name in kept)


def _names(words: Iterable[str]) -> set[str]:
    return {ALL if word.strip().upper() in (ALL, f"CAP_{ALL}") else capability(word) for word in words}
