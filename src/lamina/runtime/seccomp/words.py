"""The words of a `linux.seccomp` object that a start needs although its filter was compiled before.

https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp
"""

from __future__ import annotations

from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]

NOTIFY = "SCMP_ACT_NOTIFY"
# what the machines we know can execute (architectures.py)
OURS = frozenset(f"SCMP_ARCH_{name}" for name in ("X86_64", "X86", "X32", "AARCH64", "ARM"))
# the specification's other words: architectures that no machine of ours can execute, so that nothing is lost
FOREIGN = frozenset(
    f"SCMP_ARCH_{name}"
    for name in [
        "LOONGARCH64",
        "M68K",
        "MIPS",
        "MIPS64",
        "MIPS64N32",
        "MIPSEL",
        "MIPSEL64",
        "MIPSEL64N32",
        "PARISC",
        "PARISC64",
        "PPC",
        "PPC64",
        "PPC64LE",
        "RISCV64",
        "S390",
        "S390X",
        "SH",
        "SHEB",
    ]
)
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # a starting container has one thread
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}
_OF_LISTENERS = FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]


def filter_flags(seccomp: Document) -> int:
    """The flags argument of seccomp(2) for this object; with SECCOMP_FILTER_FLAG_NEW_LISTENER if an action notifies."""
    bits = 0
    for word in seccomp.get("flags") or []:
        if word not in FLAGS:
            raise InvalidInput(
                f"read seccomp profile: unknown flag {word!r}", remedy=f"one of {', '.join(FLAGS)}"
            )
        bits |= FLAGS[word]
    used = [seccomp["defaultAction"], *(rule["action"] for rule in seccomp.get("syscalls") or [])]
    return bits | SECCOMP_FILTER_FLAG_NEW_LISTENER if "SCMP_ACT_NOTIFY" in used else bits & ~_OF_LISTENERS


def check_architectures(seccomp: Document) -> None:
    """Raise InvalidInput for an architecture that the specification does not know."""
    for word in seccomp.get("architectures") or []:
        if word not in OURS and word not in FOREIGN:
            raise InvalidInput(f"read seccomp profile: unknown architecture {word!r}")


def check_listener(seccomp: dict[str, Any]) -> None:
    """Raise InvalidInput for a `linux.seccomp` whose listener could not be handed over, or that contradicts itself."""
    path, rules = seccomp.get("listenerPath"), seccomp.get("syscalls") or []
    if seccomp.get("listenerMetadata") and not path:
        raise InvalidInput(
            "read seccomp profile: listenerMetadata without listenerPath", remedy="give both or none"
        )
    if seccomp.get("defaultAction") == NOTIFY:
        raise InvalidInput(
            f"read seccomp profile: {NOTIFY} cannot be the default action: nobody could hand the listener over"
        )
    asking = [name for rule in rules if rule.get("action") == NOTIFY for name in rule.get("names") or []]
    if not asking:
        return
    if not path:
        raise InvalidInput(
            f"read seccomp profile: {NOTIFY} needs a listenerPath, the socket of whoever answers"
        )
    if "sendmsg" in asking:
        raise InvalidInput(
            f"read seccomp profile: sendmsg cannot be {NOTIFY}: the listener is handed over by it",
            remedy="permit sendmsg, and ask about socket or connect",
        )
