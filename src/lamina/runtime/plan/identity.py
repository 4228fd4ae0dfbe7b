"""Who the process is and what it may: user, groups, capabilities, the system call filter, and their order.

https://github.com/opencontainers/runtime-spec/blob/main/config.md#linux-process, capabilities(7), seccomp(2)
"""

from __future__ import annotations

from errno import ENOSYS, EPERM
from os import O_CLOEXEC

from lamina.errors import InvalidInput, LaminaError
from lamina.linux.capabilities import CAPABILITIES
from lamina.linux.constants import (
    KEYCTL_JOIN_SESSION_KEYRING,
    LINUX_CAPABILITY_VERSION_3,
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    PR_SET_DUMPABLE,
    PR_SET_KEEPCAPS,
    PR_SET_NAME,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SECCOMP_SET_MODE_FILTER,
    SIGKILL,
)
from lamina.linux.program import Step, Struct
from lamina.runtime.init import REPORT
from lamina.runtime.plan.process import CHANNEL, EVERY, LAUNCHER, REPORTING
from lamina.runtime.plan.waits import hand_over_step
from lamina.runtime.waits import LETTERS, LISTENER, STARTING
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.bundle import Bundle, Wiring

    Process = dict[str, Any]

DEFAULT_UMASK = 0o022
CAP_SYS_ADMIN = 21
SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


@value
class Capabilities:
    """The five sets as bits, and what of them cannot be given.

    `installing` is what the filter of system calls takes that is installed last; execve(2) leaves nothing of it.
    """

    bounding: int = 0
    effective: int = 0
    permitted: int = 0
    inheritable: int = 0
    ambient: int = 0
    installing: int = 0
    notes: tuple[str, ...] = ()


def capabilities_of(process: Process, wiring: Wiring, everything: bool) -> Capabilities:
    """Read `process.capabilities`. *everything*: a user namespace of its own gives the container all of them.

    What cannot be given is left out and noted, as the specification wants it: a name that the kernel does not know,
    what the caller does not have, and what the other sets do not carry (capabilities(7)).
    """
    asked = process.get("capabilities") or {}
    if unknown := set(asked) - set(SETS):
        raise InvalidInput(
            f"give capabilities: there is no set {sorted(unknown)[0]!r}", remedy=f"{', '.join(SETS)}"
        )
    notes: dict[str, str] = {}
    bits = {name: _bits(asked.get(name) or (), wiring, everything, notes) for name in SETS}
    for name, carriers in _CARRIED:
        lost = bits[name]
        for carrier in carriers:
            bits[name] &= bits[carrier]
        for lone in _names(lost & ~bits[name]):
            notes[f"{lone} {name}"] = f"{lone} is not {name}: it is not {' and '.join(carriers)}"
    administrator = everything or wiring.permitted >> CAP_SYS_ADMIN & 1
    late = wiring.seccomp and not process.get("noNewPrivileges") and not has_listener(wiring)
    installing = 1 << CAP_SYS_ADMIN if late and administrator else 0
    return Capabilities(**bits, installing=installing, notes=tuple(notes.values()))


_CARRIED = (("effective", ("permitted",)), ("ambient", ("permitted", "inheritable")))


def _bits(names: Any, wiring: Wiring, everything: bool, notes: dict[str, str]) -> int:
    bits = 0
    for name in names:
        number = CAPABILITIES.get(name, -1)
        if number < 0 or number > wiring.last_cap:
            notes[name] = f"{name} is not given: this kernel has no capability of that name"
        elif not everything and not wiring.permitted >> number & 1:
            notes[name] = f"{name} is not given: the caller does not have it"
        else:
            bits |= 1 << number
    return bits


def _names(bits: int) -> list[str]:
    return [name for name, number in CAPABILITIES.items() if bits >> number & 1]


def identity_steps(process: Process, held: Capabilities, wiring: Wiring) -> list[Step]:
    """User, groups and the five capability sets, in the order in which each is still permitted."""
    user = process.get("user") or {}
    uid, gid = int(user.get("uid") or 0), int(user.get("gid") or 0)
    groups = [int(g) for g in user.get("additionalGids") or []]
    steps = [
        Step("prctl", PR_CAPBSET_DROP, number, 0, 0, 0)
        for number in range(wiring.last_cap + 1)
        if not held.bounding >> number & 1
    ]
    steps += _user_steps(uid, gid, groups, wiring.setgroups)
    header = Struct("cap_header", "Ii", (LINUX_CAPABILITY_VERSION_3, 0))
    words: list[int] = []
    sets = (held.effective | held.installing, held.permitted | held.installing, held.inheritable)
    for shift in (0, 32):
        words += [s >> shift & EVERY for s in sets]
    steps.append(Step("capset", header, Struct("cap_data", "6I", tuple(words)), note="capabilities"))
    steps.append(Step("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    steps += [
        Step("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0)
        for number in range(wiring.last_cap + 1)
        if held.ambient >> number & 1
    ]
    return steps


def _user_steps(uid: int, gid: int, groups: list[int], setgroups: bool) -> list[Step]:
    if {*groups} - {gid} and not setgroups:
        raise LaminaError(
            "give additional groups: this user namespace maps one group only and cannot change them",
            remedy="install the package uidmap and give the user subordinate ids (see lamina doctor)",
        )
    steps = [Step("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)] if uid else []
    if setgroups:
        listed = b"".join(g.to_bytes(4, "little") for g in groups)
        steps.append(Step("setgroups", len(groups), listed or None))
    steps.append(Step("setresgid", gid, gid, gid, note=f"become {uid}:{gid}"))
    steps.append(Step("setresuid", uid, uid, uid))
    if uid:
        steps.append(Step("prctl", PR_SET_KEEPCAPS, 0, 0, 0, 0))
    return steps


def keyring_step() -> Step:
    """A session keyring that nobody else has, where the kernel and the caller's filter permit it (keyrings(7))."""
    note = "a keyring of its own"
    return Step("keyctl", KEYCTL_JOIN_SESSION_KEYRING, None, tolerate=(EPERM, ENOSYS), note=note)


def name_step() -> Step:
    """What it is called until it executes something: who ends under that name has not come so far (waits.py)."""
    return Step("prctl", PR_SET_NAME, STARTING + b"\0", 0, 0, 0, note="not started yet")


def has_listener(wiring: Wiring) -> bool:
    """Whether the filter asks somebody (SCMP_ACT_NOTIFY)."""
    return bool(wiring.seccomp and wiring.seccomp_flags & SECCOMP_FILTER_FLAG_NEW_LISTENER)


def seccomp_steps(wiring: Wiring, channel: int, free: int) -> list[Step]:
    """Install the compiled filter (seccomp(2)), and hand its listener over if it has one.

    The message must say the descriptor's number beforehand: it is *free*, the lowest free one, and `want` sees to it
    that it is. After the filter only sendmsg(2) is needed for that.
    """
    if not wiring.seccomp:
        return []
    count = len(wiring.seccomp) // 8
    filter_ = Struct("sock_fprog", "HP", (count, wiring.seccomp))
    note = f"seccomp: {count} instructions"
    step = Step("seccomp", SECCOMP_SET_MODE_FILTER, wiring.seccomp_flags, filter_, note=note)
    if not has_listener(wiring):
        return [step]
    step.want = free
    hand_over = hand_over_step(channel, free, what=LETTERS[LISTENER], note="hand the listener over")
    return [step, hand_over]


def _launched_filter(wiring: Wiring, channel: int) -> list[Step]:
    """The filter, with the number that its listener gets made known."""
    if not has_listener(wiring):
        return seccomp_steps(wiring, channel, 0)
    free = LAUNCHER + 1
    clear = [
        Step("close_range", REPORTING + 2, EVERY, 0, note="the listener's number is known"),
        Step("close_range", free, free, 0),
    ]
    return [*clear, *seccomp_steps(wiring, channel, free)]


def hiding_step() -> Step:
    """Nobody may trace it or look into its files of procfs; ids that change decide that by a sysctl (prctl(2))."""
    return Step("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0, note="nobody may trace it")


def privilege_steps(
    process: Process, held: Capabilities, bundle: Bundle, wiring: Wiring, *, hidden: bool = False
) -> list[Step]:
    """Everything between the finished root and execve, ending in the command. *hidden*: somebody is there already.

    A filter comes last, so that it need not allow what we do. Without no_new_privs that takes CAP_SYS_ADMIN, which is
    kept for it: what was permitted before an execve(2) is no part of what is permitted after it (capabilities(7)). One
    that asks somebody comes before the capabilities go then.
    """
    no_new_privileges = bool(process.get("noNewPrivileges"))
    listener = has_listener(wiring)
    umask = (process.get("user") or {}).get("umask")
    steps: list[Step] = []
    if bundle.new_keyring:
        steps.append(keyring_step())
    early = listener and not no_new_privileges
    if early:
        steps += _launched_filter(wiring, CHANNEL)
    steps += identity_steps(process, held, wiring)
    if hidden:
        steps.append(hiding_step())
    if no_new_privileges:
        steps.append(Step("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    steps.append(Step("umask", DEFAULT_UMASK if umask is None else int(umask)))
    if wiring.die_with_parent:
        # the signal's setting is lost when ids change, so it comes late; whoever died before it is seen by the poll
        gone = Struct("pollfd", "ihh", (CHANNEL, 0, 0))
        steps.append(Step("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
        now = Struct("timespec", "QQ", (0, 0))
        steps.append(Step("ppoll", gone, 1, now, None, 8, want=0, note="the caller is still there"))
    channel = CHANNEL
    if listener and no_new_privileges:
        channel = REPORTING + 1
        steps.append(Step("dup3", CHANNEL, channel, O_CLOEXEC, note="the listener goes through it"))
    steps.append(Step("dup3", REPORTING, REPORT, 0, note="the channel has done its work"))
    if wiring.seccomp and not early:
        steps += [name_step(), *_launched_filter(wiring, channel)]
    return steps
