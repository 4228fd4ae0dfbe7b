"""The `linux.seccomp` object of the OCI runtime specification, checked and turned into decisions for each call.

https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp, seccomp(2), libseccomp's
seccomp_rule_add(3). A call's rules mean what libseccomp makes of them, driven as runc drives it:

* a rule whose action is the default action has no effect; names that exist nowhere are passed over;
* conditions on different arguments must all hold; if one argument has several conditions, each is a rule of its own;
* of a call's rules the first one without conditions decides, whatever the others say; else the first whose conditions
  hold, lower arguments last, and for one argument: equality, then the smallest upper bound, then the largest lower one
  (of several equalities, which hold at once only with masks, the one with the greatest value; libseccomp's answer
  depends on where the halves of its 64 bits differ);
* numbers above the last one that the profile knows fail with ENOSYS, as in runc, unless the default is to permit: a C
  library takes that, and not EPERM, for "this kernel is older than I am".

Where libseccomp and the kernel see different values, the kernel is right, because it acts on what it sees:

* an argument that the kernel truncates to 32 bits is compared in 32 bits. Else `socket((1 << 32) + AF_ALG, ...)` is a
  family greater than 40 to the filter and AF_ALG to the kernel (the class of CVE-2019-10063 and CVE-2019-7303);
* x86's socketcall(2) and ipc(2) hide the arguments of the calls they stand for in memory. libseccomp permits such a
  call when any condition permits it; here it gets the strictest of the call's actions, the default included. A profile
  that names socketcall itself means it.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from lamina.errors import InvalidInput
from lamina.linux.constants import (
    SECCOMP_RET_ACTION_FULL,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS,
    SECCOMP_RET_KILL_THREAD,
    SECCOMP_RET_LOG,
    SECCOMP_RET_TRACE,
    SECCOMP_RET_TRAP,
    SECCOMP_RET_USER_NOTIF,
)
from lamina.runtime.seccomp.architectures import (
    BY_SCMP,
    X32_SYSCALL_BIT,
    Architecture,
    Call,
    native,
    system_calls,
)
from lamina.runtime.seccomp.words import check_architectures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]

ACTIONS = {
    "SCMP_ACT_KILL": SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": SECCOMP_RET_KILL_PROCESS,
    "SCMP_ACT_KILL_THREAD": SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_TRAP": SECCOMP_RET_TRAP,
    "SCMP_ACT_ERRNO": SECCOMP_RET_ERRNO,
    "SCMP_ACT_TRACE": SECCOMP_RET_TRACE,
    "SCMP_ACT_ALLOW": SECCOMP_RET_ALLOW,
    "SCMP_ACT_LOG": SECCOMP_RET_LOG,
    "SCMP_ACT_NOTIFY": SECCOMP_RET_USER_NOTIF,
}
_WITH_ERRNO = {SECCOMP_RET_ERRNO: 4095, SECCOMP_RET_TRACE: 0xFFFF}  # the largest value the kernel passes on
_PERMISSIVE = (SECCOMP_RET_ALLOW, SECCOMP_RET_LOG, SECCOMP_RET_TRACE)

EQ, NE, LT, LE, GT, GE = "==", "!=", "<", "<=", ">", ">="
OPERATORS = {
    "SCMP_CMP_NE": NE,
    "SCMP_CMP_LT": LT,
    "SCMP_CMP_LE": LE,
    "SCMP_CMP_EQ": EQ,
    "SCMP_CMP_GE": GE,
    "SCMP_CMP_GT": GT,
    "SCMP_CMP_MASKED_EQ": EQ,
}
_RANK = {EQ: 0, NE: 0, LT: 1, LE: 1, GT: 2, GE: 2}

# linux/net.h and linux/ipc.h: what x86's two multiplexers take as their first argument
SOCKETCALL = {
    name: number
    for number, name in enumerate(
        [
            "socket",
            "bind",
            "connect",
            "listen",
            "accept",
            "getsockname",
            "getpeername",
            "socketpair",
            "send",
            "recv",
            "sendto",
            "recvfrom",
            "shutdown",
            "setsockopt",
            "getsockopt",
            "sendmsg",
            "recvmsg",
            "accept4",
            "recvmmsg",
            "sendmmsg",
        ],
        start=1,
    )
}
IPC = {
    "semop": 1,
    "semget": 2,
    "semctl": 3,
    "semtimedop": 4,
    "msgsnd": 11,
    "msgrcv": 12,
    "msgget": 13,
    "msgctl": 14,
    "shmat": 21,
    "shmdt": 22,
    "shmget": 23,
    "shmctl": 24,
}
IPC_CALL = 0xFFFF  # the upper half of ipc(2)'s first argument is a version
ARM_PRIVATE = 0xF0000


class Condition(NamedTuple):
    """`arguments[argument] & mask OPERATOR value`, on the lower or on all 64 bits."""

    argument: int
    operator: str
    value: int
    mask: int
    bits: int


class Clause(NamedTuple):
    """If all conditions hold: the action (what a filter returns)."""

    conditions: tuple[Condition, ...]
    action: int


# what happens with one call: the first clause that holds; the last one has no conditions
Decision = tuple[Clause, ...]


class Table(NamedTuple):
    """The decisions of one architecture by number; `rest` for all others up to `last`, ENOSYS above (None: nowhere)."""

    architecture: Architecture
    decisions: dict[int, Decision]
    rest: int
    last: int | None


def action_of(word: str, errno_ret: int | None) -> int:
    """What a filter returns for an action of the specification. Raises InvalidInput."""
    if word not in ACTIONS:
        raise InvalidInput(
            f"read seccomp profile: unknown action {word!r}", remedy=f"one of {', '.join(ACTIONS)}"
        )
    action = ACTIONS[word]
    if action not in _WITH_ERRNO:
        if errno_ret:
            raise InvalidInput(f"read seccomp profile: {word} takes no errnoRet")
        return action
    value = errno.EPERM if errno_ret is None else errno_ret
    if not 0 <= value <= _WITH_ERRNO[action]:
        raise InvalidInput(
            f"read seccomp profile: errnoRet {value} of {word} is not between 0 and {_WITH_ERRNO[action]}"
        )
    return action | value


def architectures_of(seccomp: Document, arch: Architecture | None = None) -> list[Architecture]:
    """This machine's architecture and those that the object adds, without repetition."""
    check_architectures(seccomp)
    found = [arch or native()]
    for word in seccomp.get("architectures") or []:
        if word in BY_SCMP and BY_SCMP[word] not in found:
            found.append(BY_SCMP[word])
    return found


def tables_of(seccomp: Document, arch: Architecture | None = None, *, newer_fail: bool = True) -> list[Table]:
    """The object's decisions, one table an architecture, this machine's first. Raises InvalidInput."""
    if "defaultAction" not in seccomp:
        raise InvalidInput("read seccomp profile: it has no defaultAction")
    rest = action_of(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
    rules = [
        (name, *rule)
        for entry in seccomp.get("syscalls") or []
        for rule in _entry(entry)
        for name in entry["names"]
    ]
    newer_fail = newer_fail and rest & SECCOMP_RET_ACTION_FULL not in _PERMISSIVE
    return [_table(rules, architecture, rest, newer_fail) for architecture in architectures_of(seccomp, arch)]


def _entry(entry: Document) -> list[tuple[tuple[Condition, ...], int]]:
    """The rules of one entry of the list: several where an argument has several conditions."""
    try:
        action = action_of(entry["action"], entry.get("errnoRet"))
        conditions = tuple(_condition(argument) for argument in entry.get("args") or [])
        if not entry["names"] or not all(isinstance(name, str) for name in entry["names"]):
            raise InvalidInput("read seccomp profile: a rule names no system call")
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"read seccomp profile: a rule without {error}: {str(entry)[:200]}") from error
    if len({condition.argument for condition in conditions}) < len(conditions):
        return [((condition,), action) for condition in conditions]
    return [(tuple(sorted(conditions)), action)]


def _condition(argument: Document) -> Condition:
    index, value, second = argument["index"], argument["value"], argument.get("valueTwo") or 0
    word = argument["op"]
    if word not in OPERATORS:
        raise InvalidInput(
            f"read seccomp profile: unknown operator {word!r}", remedy=f"one of {', '.join(OPERATORS)}"
        )
    if index not in range(6):
        raise InvalidInput(f"read seccomp profile: a system call has no argument {index}", remedy="0 to 5")
    if not (0 <= value <= ALL and 0 <= second <= ALL):
        raise InvalidInput(f"read seccomp profile: {value} or {second} does not fit into 64 bits")
    if word == "SCMP_CMP_MASKED_EQ":
        return Condition(index, EQ, second & value, value, 64)
    return Condition(index, OPERATORS[word], value, ALL, 64)


ALL, LOW = 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF


def _table(
    rules: list[tuple[str, tuple[Condition, ...], int]],
    architecture: Architecture,
    rest: int,
    newer_fail: bool,
) -> Table:
    known = system_calls()
    clauses: dict[str, list[Clause]] = {}
    numbers = []
    for name, conditions, action in rules:
        if (call := known.get(name)) is None:
            continue
        if architecture.name in call.numbers:
            numbers.append(call.numbers[architecture.name])
        if action != rest:
            clauses.setdefault(name, []).append(Clause(_as_seen(conditions, call, architecture), action))
    decisions: dict[int, Decision] = {}
    for name, of_name in clauses.items():
        if architecture.name in known[name].numbers:
            decisions[known[name].numbers[architecture.name]] = _decision(of_name, rest)
    if architecture.name == "x86":
        for multiplexer, members in (("socketcall", SOCKETCALL), ("ipc", IPC)):
            _multiplex(decisions, clauses, known[multiplexer].numbers["x86"], members, rest)
    # what is private to ARM says nothing about how new the kernel is that the profile knows
    usual = [number for number in numbers if number & ~X32_SYSCALL_BIT < ARM_PRIVATE]
    return Table(architecture, decisions, rest, max(usual) if usual and newer_fail else None)


def _as_seen(
    conditions: tuple[Condition, ...], call: Call, architecture: Architecture
) -> tuple[Condition, ...]:
    """The conditions in the width in which the kernel reads the arguments; those that say nothing are left out."""
    seen = []
    for condition in conditions:
        index, operator, value, mask, bits = condition
        if architecture.bits == 32:
            value, mask, bits = value & LOW, mask & LOW, 32  # libseccomp's manner for these architectures
        elif call.narrow >> index & 1:
            bits, mask = 32, mask & LOW
            value = _narrowed(operator, value, condition.mask)
        if mask:
            seen.append(Condition(index, operator, value & mask if mask < LOW else value, mask, bits))
    return tuple(seen)


def _narrowed(operator: str, value: int, mask: int) -> int:
    """What a 64-bit operand means to a 32-bit argument. What 32 bits never reach stays out of reach: LOW + 1."""
    if operator in (LT, LE, GT, GE):
        return min(value, LOW + 1)
    # people write -1 in 64 bits
    return value & LOW if mask != ALL or value >> 32 in (0, LOW) else LOW + 1


def _decision(clauses: list[Clause], rest: int) -> Decision:
    for clause in clauses:
        if not clause.conditions:
            return (clause,)
    ordered = sorted(clauses, key=_precedence)
    while ordered and ordered[-1].action == rest:
        ordered.pop()
    return (*dict.fromkeys(ordered), Clause((), rest))


def _precedence(clause: Clause) -> list[tuple[int, int, int]]:
    return [
        (-c.argument, _RANK[c.operator], c.value if c.operator in (LT, LE) else -c.value)
        for c in clause.conditions
    ]


def _multiplex(
    decisions: dict[int, Decision],
    clauses: dict[str, list[Clause]],
    number: int,
    members: dict[str, int],
    rest: int,
) -> None:
    """Give the calls behind a multiplexer what they have directly; the profile's own word on the multiplexer wins."""
    own = decisions.get(number)
    if own is not None and not own[0].conditions:
        return
    mask = IPC_CALL if members is IPC else LOW
    entries: list[Clause] = []
    for name, place in sorted(members.items(), key=lambda member: member[1]):
        if name in clauses and (action := _strictest(_decision(clauses[name], rest))) != rest:
            entries.append(_between(place, place, mask, action))
            if len(entries) > 1 and entries[-2] == _between(
                entries[-2].conditions[0].value, place - 1, mask, action
            ):
                entries[-2:] = [_between(entries[-2].conditions[0].value, place, mask, action)]
    if entries:
        decisions[number] = (*(own or ())[:-1], *entries, Clause((), rest))


def _between(first: int, last: int, mask: int, action: int) -> Clause:
    """The multiplexer's calls *first* to *last*."""
    return Clause((Condition(0, GE, first, mask, 32), Condition(0, LE, last, mask, 32)), action)


def _strictest(decision: Decision) -> int:
    """The action that the kernel would prefer, had several filters asked for them."""
    return min((clause.action for clause in decision), key=_as_signed)


def _as_signed(action: int) -> int:
    return action - (1 << 32) if action >> 31 else action
