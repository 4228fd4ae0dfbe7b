"""A graph of tests and verdicts as classic BPF: struct sock_filter {u16 code; u8 jt, jf; u32 k} (linux/filter.h).

All jumps go forward, conditional ones by at most 255 instructions, so the program is written from its end: what a jump
leads to is there already, and where it is too far a copy of a verdict or an unconditional jump is put in between.
"""

from __future__ import annotations

import struct

from lamina.linux.constants import (
    BPF_ABS,
    BPF_ALU,
    BPF_AND,
    BPF_JA,
    BPF_JEQ,
    BPF_JGE,
    BPF_JGT,
    BPF_JMP,
    BPF_K,
    BPF_LD,
    BPF_RET,
    BPF_W,
)

MAXIMUM = 4096  # BPF_MAXINSNS

# class, size, mode and operation of what a filter may use
BPF_LD_W_ABS = BPF_LD | BPF_W | BPF_ABS
BPF_ALU_AND_K = BPF_ALU | BPF_AND | BPF_K
BPF_JMP_JA = BPF_JMP | BPF_JA
BPF_RET_K = BPF_RET | BPF_K
BPF_JUMPS = {"==": BPF_JMP | BPF_JEQ, ">": BPF_JMP | BPF_JGT, ">=": BPF_JMP | BPF_JGE}
FARTHEST = 255


class Code:
    """Nodes, each made once: equal ones are the same, so that common ends are shared. A node is its number."""

    def __init__(self) -> None:
        self.nodes: list[tuple[int, ...]] = []  # (code, k, where to go on...)
        self._numbers: dict[tuple[int, ...], int] = {}

    def _node(self, *node: int) -> int:
        if node not in self._numbers:
            self._numbers[node] = len(self.nodes)
            self.nodes.append(node)
        return self._numbers[node]

    def ret(self, value: int) -> int:
        """The verdict *value*."""
        return self._node(BPF_RET_K, value)

    def load(self, offset: int, then: int) -> int:
        """Load the word at *offset* of struct seccomp_data."""
        return self._node(BPF_LD_W_ABS, offset, then)

    def keep(self, mask: int, then: int) -> int:
        """Keep the bits of *mask* in the accumulator."""
        return self._node(BPF_ALU_AND_K, mask, then)

    def jump(self, operator: str, value: int, yes: int, no: int) -> int:
        """Go on at *yes* if the accumulator is == > >= *value* (unsigned), else at *no*."""
        return yes if yes == no else self._node(BPF_JUMPS[operator], value, yes, no)


def assemble(code: Code, entry: int) -> bytes:
    """The instructions that start with the node *entry*, as an array of struct sock_filter in this machine's order."""
    backwards: list[tuple[int, int, int, int]] = []
    places: dict[int, int] = {}  # node: its nearest instruction, counted from the end

    def write(instruction: int, yes: int, no: int, k: int) -> int:
        backwards.append((instruction, yes, no, k))
        return len(backwards) - 1

    def closer(node: int) -> None:
        """Bring a node to where the next instruction goes: a copy of a verdict, or a jump to it."""
        instruction, k = code.nodes[node][:2]
        if instruction == BPF_RET_K:
            places[node] = write(BPF_RET_K, 0, 0, k)
        else:
            places[node] = write(BPF_JMP_JA, 0, 0, len(backwards) - places[node] - 1)

    def place(node: int) -> None:
        """Write a node whose targets are written."""
        instruction, k, *targets = code.nodes[node]
        if len(targets) == 1 and places[targets[0]] != len(backwards) - 1:
            closer(targets[0])
        if len(targets) < 2:
            places[node] = write(instruction, 0, 0, k)
            return
        yes, no = targets
        # one more instruction may be put in between for the other one
        if len(backwards) - places[no] > FARTHEST:
            closer(no)
        if len(backwards) - 1 - places[yes] > FARTHEST:
            closer(yes)
        end = len(backwards) - 1
        places[node] = write(instruction, end - places[yes], end - places[no], k)

    waiting = [entry]
    while waiting:
        node = waiting[-1]
        missing = [target for target in code.nodes[node][2:] if target not in places]
        if node in places or not missing:
            waiting.pop()
            if node not in places:
                place(node)
        else:
            # the last of them is written first: what follows a comparison directly is where it leads if it holds
            waiting.append(missing[-1])
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in reversed(backwards))
