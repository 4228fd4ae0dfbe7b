"""Decisions as a decision tree: find the architecture, find the number by halving, then look at the arguments.

Neighbouring numbers with the same decision are one range; a lone number between two equal ranges is one comparison.
The size matters: most of what installing a filter costs the kernel grows with it.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import NamedTuple

from lamina.errors import InvalidInput
from lamina.linux.constants import SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_THREAD
from lamina.runtime.seccomp.architectures import BY_NAME, X32_SYSCALL_BIT
from lamina.runtime.seccomp.assembler import MAXIMUM, Code, assemble
from lamina.runtime.seccomp.rules import (
    ARM_PRIVATE,
    EQ,
    GE,
    GT,
    LE,
    LOW,
    LT,
    NE,
    Clause,
    Condition,
    Decision,
    Table,
    tables_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

# struct seccomp_data: where its fields are
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
HIGH = 4  # the upper half of an argument; all our machines are little-endian
END = 1 << 32

# a foreign convention: what libseccomp's SCMP_FLTATR_ACT_BADARCH is unless told otherwise
FOREIGN: Decision = (Clause((), SECCOMP_RET_KILL_THREAD),)
NEWER: Decision = (Clause((), SECCOMP_RET_ERRNO | errno.ENOSYS),)


def compile_filter(seccomp: dict[str, Any], arch: str = "", *, newer_fail: bool = True) -> bytes:
    """The BPF program (an array of struct sock_filter) for a `linux.seccomp` object; rules.py says what it means.

    *arch* is the machine's, as of uname(2); default this one's. Without *newer_fail* numbers that the profile cannot
    know get the default action. Raises InvalidInput for what the specification does not know and for a program of
    more than 4,096 instructions, Unsupported on a machine without a table of system calls.
    """
    tables = tables_of(seccomp, BY_NAME[arch] if arch else None, newer_fail=newer_fail)
    code = Code()
    by_audit: dict[int, list[Table]] = {}
    for table in tables:
        by_audit.setdefault(table.architecture.audit, []).append(table)
    entry = code.ret(SECCOMP_RET_KILL_THREAD)
    for audit, group in reversed(by_audit.items()):
        numbers = code.load(NUMBER, _search(code, _segments(group)))
        entry = code.jump(EQ, audit, numbers, entry)
    program = assemble(code, code.load(ARCHITECTURE, entry))
    if len(program) > MAXIMUM * 8:
        raise InvalidInput(
            f"compile seccomp profile: {len(program) // 8} instructions, the kernel takes {MAXIMUM}",
            remedy="name fewer architectures or conditions",
        )
    return program


class Segment(NamedTuple):
    """All numbers from `start` up to the next segment's."""

    start: int
    decision: Decision


def _segments(group: list[Table]) -> list[Segment]:
    """The whole number space of one AUDIT_ARCH; x86-64 shares its own with x32."""
    names = {table.architecture.name for table in group}
    found: list[Segment] = []
    if names == {"x32"}:
        found.append(Segment(0, FOREIGN))
    for table in sorted(group, key=lambda table: table.architecture.name == "x32"):
        found += _of_table(table)
    if names == {"x86_64"}:
        # -1 is what a tracer skips a call with: no convention of its own (seccomp(2))
        found += [Segment(X32_SYSCALL_BIT, FOREIGN), Segment(LOW, (Clause((), group[0].rest),))]
    return [
        segment
        for place, segment in enumerate(found)
        if place == 0 or segment.decision != found[place - 1].decision
    ]


def _of_table(table: Table) -> list[Segment]:
    decisions, rest, last, name = (
        table.decisions,
        (Clause((), table.rest),),
        table.last,
        table.architecture.name,
    )
    # without a last one, nothing is newer
    newer = range(END if last is None else last + 1, ARM_PRIVATE if name == "arm" else END)
    starts = {X32_SYSCALL_BIT if name == "x32" else 0, *decisions, *(number + 1 for number in decisions)}
    starts |= {edge for edge in (newer.start, newer.stop) if edge < END}
    return [Segment(at, decisions.get(at, NEWER if at in newer else rest)) for at in sorted(starts)]


def _search(code: Code, segments: list[Segment]) -> int:
    """A node that finds the decision of the number in the accumulator, by halving."""
    clusters = [*_clusters(segments)]

    def between(low: int, high: int) -> int:
        if high - low == 1:
            return _cluster(code, clusters[low])
        middle = (low + high) // 2
        return code.jump(GE, clusters[middle][0].start, between(middle, high), between(low, middle))

    return between(0, len(clusters))


def _clusters(segments: list[Segment]) -> Iterator[list[Segment]]:
    """Segments, but a lone number between two ranges of equal decision together with them."""
    at = 0
    while at < len(segments):
        three = segments[at : at + 3]
        lone = (
            len(three) == 3
            and three[0].decision == three[2].decision
            and three[2].start - three[1].start == 1
        )
        yield three if lone else three[:1]
        at += 3 if lone else 1


def _cluster(code: Code, cluster: list[Segment]) -> int:
    around = _decide(code, cluster[0].decision)
    if len(cluster) == 1:
        return around
    return code.jump(EQ, cluster[1].start, _decide(code, cluster[1].decision), around)


class Known(NamedTuple):
    """What is known on the way through a decision: the word in the accumulator, and the last comparison's answer."""

    offset: int = -1
    mask: int = 0
    fact: tuple[int, int, int] = (-1, 0, 0)  # offset, mask, value
    answer: bool = False


if TYPE_CHECKING:
    # makes the node for where the comparison leads, told what is known there
    Then = Callable[[Known], int]


def _decide(code: Code, decision: Decision) -> int:
    """A node that decides by the arguments; the accumulator holds nothing of use."""
    # what can be known at each clause first, then the clauses from the last to the first: a list of rules may be
    # longer than Python's stack is deep
    known_at: list[dict[Known, int]] = [{} for _ in decision]
    known_at[0][Known()] = 0
    draft = Code()

    def note(place: int, known: Known) -> int:
        known_at[place + 1].setdefault(known, 0)
        return draft.ret(0)

    for place, clause in enumerate(decision):
        for known in known_at[place]:
            _clause(draft, clause, known, partial(note, place))
    for place in reversed(range(len(decision))):
        after = known_at[place + 1] if place + 1 < len(decision) else {}
        for known in known_at[place]:
            known_at[place][known] = _clause(code, decision[place], known, after.__getitem__)
    return known_at[0][Known()]


def _clause(code: Code, clause: Clause, known: Known, no: Then) -> int:
    """A node that gives the clause's action if its conditions hold, and goes on at *no* else."""
    if not clause.conditions:
        return code.ret(clause.action)
    first, others = clause.conditions[0], Clause(clause.conditions[1:], clause.action)
    return _compare(code, first, known, lambda now: _clause(code, others, now, no), no)


def _compare(code: Code, condition: Condition, known: Known, yes: Then, no: Then) -> int:
    index, operator, value, mask, bits = condition
    if operator in (NE, LT, LE):
        opposite = {NE: EQ, LT: GE, LE: GT}[operator]
        return _compare(code, Condition(index, opposite, value, mask, bits), known, no, yes)
    low = ARGUMENTS + 8 * index
    if bits == 32:
        if value > LOW:
            return no(known)
        return _test(code, operator, (low, mask, value), known, yes, no)
    high = (low + HIGH, mask >> 32, value >> 32)
    lower = (low, mask & LOW, value & LOW)
    if operator == EQ:
        return _test(code, EQ, high, known, lambda now: _test(code, EQ, lower, now, yes, no), no)
    return _test(
        code,
        GT,
        high,
        known,
        yes,
        lambda now: _test(code, EQ, high, now, lambda then: _test(code, operator, lower, then, yes, no), no),
    )


def _test(code: Code, operator: str, word: tuple[int, int, int], known: Known, yes: Then, no: Then) -> int:
    """Compare one masked word of the arguments with a value, loading it if it is not in the accumulator."""
    offset, mask, value = word
    if operator == EQ and mask == 0:
        return yes(known)
    if operator == GT and value == LOW:
        return no(known)
    if operator == GE and value == 0:
        return yes(known)
    if operator == EQ and known.fact == word:
        return (yes if known.answer else no)(known)
    now = Known(offset, mask, known.fact, known.answer)
    if operator == EQ:
        after = Known(offset, mask, word, True), Known(offset, mask, word, False)
    elif operator == GT and value == 0:
        after = now, Known(offset, mask, word, True)  # not above 0 is 0
    else:
        after = now, now
    node = code.jump(operator, value, yes(after[0]), no(after[1]))
    held = (known.offset, known.mask)
    if held == (offset, mask):
        return node
    if mask != LOW:
        node = code.keep(mask, node)
    return node if held == (offset, LOW) else code.load(offset, node)
