"""How the kernel is to treat the process: scheduler, disk priority, memory policy, processors, execution domain.

https://github.com/opencontainers/runtime-spec/blob/main/config.md#linux-process and config-linux.md. All of it is set
while the process still has the caller's capabilities, and outlives execve(2).
"""

from __future__ import annotations

from lamina.errors import InvalidInput, Unsupported
from lamina.linux.program import Step, Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Object = dict[str, Any]

# linux/sched.h, sched(7)
POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
RESERVED = ("SCHED_ISO",)
SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_NICE = ("SCHED_OTHER", "SCHED_BATCH")
_REAL_TIME = ("SCHED_FIFO", "SCHED_RR")
# linux/ioprio.h, ioprio_set(2)
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
IOPRIO_WHO_PROCESS, IOPRIO_CLASS_SHIFT = 1, 13
# linux/mempolicy.h, set_mempolicy(2)
MEMORY_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_FLAGS = {
    "MPOL_F_STATIC_NODES": 1 << 15,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_NUMA_BALANCING": 1 << 13,
}
_WITHOUT_NODES = ("MPOL_DEFAULT", "MPOL_LOCAL")
# linux/personality.h
DOMAINS = {"LINUX": 0, "LINUX32": 8}
LARGEST_LIST = 1 << 16
LONGEST = 20


def _number(table: dict[str, int], word: object, what: str) -> int:
    if word not in table:
        raise InvalidInput(f"{what} {word!r}: the words are {', '.join(table)}")
    return table[str(word)]


def scheduler_steps(scheduler: Object) -> list[Step]:
    """Set `process.scheduler` (sched_setattr(2)). Raises InvalidInput for a parameter that the policy does not have."""
    policy = scheduler["policy"]
    if policy in RESERVED:
        raise Unsupported(f"set scheduler {policy}: Linux has the name but no such policy")
    number = _number(POLICIES, policy, "set scheduler")
    flags = 0
    for flag in scheduler.get("flags") or []:
        flags |= _number(SCHED_FLAGS, flag, f"set scheduler {policy} with flag")
    nice, priority = int(scheduler.get("nice") or 0), int(scheduler.get("priority") or 0)
    times = [int(scheduler.get(name) or 0) for name in ("runtime", "deadline", "period")]
    if nice and policy not in _NICE:
        raise InvalidInput(f"set scheduler {policy}: it has no nice value", remedy=f"{_listed(_NICE)} have")
    if not -20 <= nice <= 19:
        raise InvalidInput(f"set scheduler {policy}: nice {nice} is not between -20 and 19")
    if policy in _REAL_TIME and not 1 <= priority <= 99:
        raise InvalidInput(f"set scheduler {policy}: priority {priority} is not between 1 and 99")
    if priority and policy not in _REAL_TIME:
        raise InvalidInput(
            f"set scheduler {policy}: it has no priority", remedy=f"{_listed(_REAL_TIME)} have"
        )
    if any(times) and policy != "SCHED_DEADLINE":
        raise InvalidInput(f"set scheduler {policy}: runtime, deadline and period are SCHED_DEADLINE's")
    attributes = Struct("sched_attr", "IIQiIQQQII", (56, number, flags, nice, priority, *times, 0, 0))
    return [Step("sched_setattr", 0, attributes, 0, note=f"scheduler: {policy}")]


def _listed(words: tuple[str, ...]) -> str:
    return " and ".join(words)


def io_priority_steps(priority: Object) -> list[Step]:
    """Set `process.ioPriority` (ioprio_set(2))."""
    number = _number(IO_CLASSES, priority["class"], "set I/O priority class")
    level = int(priority.get("priority") or 0)
    if not 0 <= level <= 7:
        raise InvalidInput(f"set I/O priority {level}: it is between 0 and 7")
    value = number << IOPRIO_CLASS_SHIFT | level
    note = f"I/O priority: {priority['class']} {level}"
    return [Step("ioprio_set", IOPRIO_WHO_PROCESS, 0, value, note=note)]


def memory_policy_steps(policy: Object) -> list[Step]:
    """Set `linux.memoryPolicy` (set_mempolicy(2)). ENOSYS from the step: a kernel without NUMA."""
    mode = policy.get("mode")
    number = _number(MEMORY_MODES, mode, "set memory policy")
    for flag in policy.get("flags") or []:
        number |= _number(MEMORY_FLAGS, flag, f"set memory policy {mode} with flag")
    nodes = parse_list(str(policy.get("nodes") or ""), "linux.memoryPolicy.nodes")
    if nodes and mode in _WITHOUT_NODES:
        raise InvalidInput(f"set memory policy {mode}: it takes no nodes")
    if not nodes and mode not in (*_WITHOUT_NODES, "MPOL_PREFERRED"):
        raise InvalidInput(f"set memory policy {mode}: it needs nodes")
    note = f"memory policy: {mode} {policy.get('nodes') or ''}".rstrip()
    mask = _bit_mask(nodes) if nodes else None
    # the kernel looks at one bit less than it is told of (set_mempolicy(2), NOTES)
    return [Step("set_mempolicy", number, mask, 8 * len(mask) + 1 if mask else 0, note=note)]


def affinity_steps(process: Object, when: str) -> list[Step]:
    """Bind the process to the processors of `process.execCPUAffinity`: *when* is "initial" (before its cgroup is
    joined) or "final" (after). Only processes that are executed in a running container have it, not its first one.
    """
    text = (process.get("execCPUAffinity") or {}).get(when)
    if not text:
        return []
    mask = _bit_mask(parse_list(str(text), f"process.execCPUAffinity.{when}"))
    return [Step("sched_setaffinity", 0, len(mask), mask, note=f"processors: {text}")]


def personality_steps(personality: Object) -> list[Step]:
    """Set `linux.personality` (personality(2)). Raises Unsupported for flags, of which the specification has none."""
    if personality.get("flags"):
        raise Unsupported(f"set personality with flags {', '.join(personality['flags'])}: none is specified")
    domain = personality.get("domain")
    return [Step("personality", _number(DOMAINS, domain, "set personality"), note=f"personality: {domain}")]


def parse_list(text: str, field: str) -> list[int]:
    """The numbers of a list such as "0-3,7" (cpuset(7), "List format"), sorted. Raises InvalidInput naming *field*."""
    numbers: set[int] = set()
    for part in filter(None, (word.strip(" ") for word in text.split(","))):
        first, dash, last = part.partition("-")
        digits = max(len(first), len(last)) <= LONGEST  # int() refuses thousands
        if not digits or not part.isascii() or not first.isdecimal() or (dash and not last.isdecimal()):
            raise InvalidInput(f"read {field}: {part!r} is neither a number nor a range")
        low, high = int(first), int(last or first)
        if low > high or high >= LARGEST_LIST:
            raise InvalidInput(f"read {field}: {part!r} is no range")
        numbers.update(range(low, high + 1))
    return sorted(numbers)


def _bit_mask(numbers: list[int]) -> bytes:
    """Bits in words of 64."""
    bits = sum(1 << number for number in numbers)
    return bits.to_bytes(8 * (bits.bit_length() // 64 + 1), "little")
