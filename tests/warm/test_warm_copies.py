"""Which pages a command copied is noted, and copied for the next one while it is parked.

A worker's own pages are those that it wrote to, and those that the process which forked it wrote to meanwhile. A warm
process does hardly anything meanwhile; here it is a process in which nobody else does (support/apart.py).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from collections.abc import Callable, Iterator
from errno import EINVAL

import pytest

from lamina.errors import KernelError
from lamina.warm import copies
from lamina.warm.copies import DRAWING_UP, LESSONS, LISTING, MANY, MOST, NONE, PAGE, Copies
from support.apart import apart

PAGES = 2 * MANY


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def in_fork(do: Callable[[], bool]) -> None:
    """*do* in a worker; it must say that all is well."""
    child = os.fork()
    if not child:
        try:
            os._exit(0 if do() else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


class Memory:
    """Private memory of so many pages, all of them written to, that a fork shares until it writes."""

    def __init__(self, pages: int) -> None:
        self.map = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.pages = pages
        self.write()
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))

    def write(self, every: int = 1) -> None:
        for page in range(0, self.pages, every):
            self.map[page * PAGE] = 1

    def within(self, found: list[tuple[int, int]]) -> int:
        """How many of its pages are in *found*."""
        end = self.start + self.pages * PAGE
        return sum(max(0, min(start + size, end) - max(start, self.start)) // PAGE for start, size in found)


@pytest.fixture
def memory() -> Iterator[Memory]:
    yield Memory(PAGES)


def command(noting: Copies, memory: Memory, kind: int = DRAWING_UP, every: int = 1) -> Callable[[], bool]:
    """What a worker does."""

    def do() -> bool:
        noting.make()
        noting.count()
        noting.expect(kind)
        memory.write(every)
        noting.note(kind)
        return True

    return do


@apart
def test_what_a_command_copied_is_there_for_the_next_one(memory: Memory) -> None:
    noting = Copies()
    in_fork(lambda: not noting.make())  # nobody knows anything yet
    in_fork(command(noting, memory))
    noting.learn()
    assert memory.within(noting.ranges[DRAWING_UP]) == PAGES

    def prepared() -> bool:
        made, before = noting.make(), faults()
        memory.write()
        return made and faults() - before < MANY

    in_fork(prepared)


@apart
def test_only_what_was_written_to_is_copied(memory: Memory) -> None:
    noting = Copies()
    in_fork(command(noting, memory, every=2))
    noting.learn()
    assert memory.within(noting.ranges[DRAWING_UP]) == PAGES // 2


@apart
def test_a_command_of_another_kind_teaches_nothing_and_is_not_prepared_for(memory: Memory) -> None:
    noting = Copies()
    in_fork(command(noting, memory, NONE))
    noting.learn()
    assert not any(noting.ranges.values())
    in_fork(command(noting, memory))
    noting.learn()
    in_fork(command(noting, memory, NONE))  # the next one is likely to be like this one
    in_fork(lambda: not noting.make())
    in_fork(command(noting, memory))
    in_fork(noting.make)


@apart
def test_each_kind_has_pages_of_its_own(memory: Memory) -> None:
    other, noting = Memory(PAGES), Copies()
    in_fork(command(noting, other, LISTING))
    in_fork(command(noting, memory, DRAWING_UP))
    noting.learn()
    assert other.within(noting.ranges[LISTING]) == memory.within(noting.ranges[DRAWING_UP]) == PAGES
    assert memory.within(noting.ranges[LISTING]) == other.within(noting.ranges[DRAWING_UP]) == 0
    in_fork(command(noting, memory, DRAWING_UP))

    def prepared_for_what_the_last_was() -> bool:
        noting.make()
        before = faults()
        memory.write()
        of_the_last = faults() - before
        other.write()
        return of_the_last < MANY <= faults() - before - of_the_last

    in_fork(prepared_for_what_the_last_was)


@apart
def test_what_was_prepared_for_another_kind_is_no_lesson(memory: Memory) -> None:
    """A worker's own pages are also those that it copied before anybody came, for a command that did not come."""
    other, noting = Memory(PAGES), Copies()
    in_fork(command(noting, memory, DRAWING_UP))
    noting.learn()
    in_fork(command(noting, other, LISTING))  # by one that was prepared for the other kind
    noting.learn()
    assert noting.ranges[LISTING] == []
    in_fork(command(noting, other, LISTING))
    noting.learn()
    assert (other.within(noting.ranges[LISTING]), memory.within(noting.ranges[LISTING])) == (PAGES, 0)


@apart
def test_lessons_of_one_kind_are_not_those_of_another(memory: Memory) -> None:
    other, noting = Memory(PAGES), Copies()
    for _ in range(LESSONS):
        noting.ranges[DRAWING_UP] = []
        in_fork(command(noting, memory, DRAWING_UP))
    in_fork(command(noting, other, LISTING))
    noting.learn()
    assert other.within(noting.ranges[LISTING]) == PAGES


@apart
def test_what_copies_too_much_is_forgotten() -> None:
    large, noting = Memory(MOST + 1), Copies()
    in_fork(command(noting, large))
    noting.learn()
    assert (noting.learnt[DRAWING_UP], noting.ranges[DRAWING_UP]) == (1, [])


@apart
def test_lessons_end(memory: Memory) -> None:
    noting = Copies()
    for _ in range(LESSONS):

        def unprepared() -> bool:
            noting.count()
            noting.expect(DRAWING_UP)
            memory.write(2)
            noting.note(DRAWING_UP)
            return True

        in_fork(unprepared)
    in_fork(command(noting, memory))
    noting.learn()
    assert memory.within(noting.ranges[DRAWING_UP]) == PAGES // 2


@apart
def test_what_is_no_memory_any_more_harms_nobody(memory: Memory) -> None:
    noting = Copies()
    in_fork(command(noting, memory))
    noting.learn()
    noting.ranges[DRAWING_UP].insert(0, (1 << 46, PAGE))
    in_fork(noting.make)


@apart
def test_an_older_kernel_copies_nothing_ahead(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    noting = Copies()
    in_fork(command(noting, memory))
    noting.learn()
    in_fork(noting.make)

    def refuse(name: str, *_: object) -> int:
        raise KernelError(name, EINVAL)

    monkeypatch.setattr(copies, "syscall", refuse)
    in_fork(lambda: not noting.make())
