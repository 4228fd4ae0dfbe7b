"""Programs that are made to change their directory while they do what only the kernel and they know of."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from struct import Struct

import pytest

from lamina.linux.constants import AT_FDCWD, STATX_MNT_ID
from lamina.linux.files import statx
from lamina.runtime import redirecting
from lamina.runtime.holders import Directory
from lamina.runtime.redirecting import Moving
from support.lives import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not redirecting.is_possible(), reason="written for x86-64 alone"),
]
MOVES = 20
Counts = Callable[[], tuple[int, ...]]
Begin = Callable[..., tuple[int, Counts]]
COUNTS = Struct("=3I")  # turns, violations, aborted

# a sequence that goes on for ever, unless the kernel aborts it (which it has to, when it was interrupted), or no longer
# knows of it: that must not be while it goes on (rseq(2), linux/rseq.h)
RESTARTABLE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/rseq.h>
int main(int argc, char **argv) {
    volatile unsigned *counts = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);
    struct rseq *own = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    if (!__rseq_size)
        return 77;
    for (;;)
        __asm__ volatile(".pushsection __rseq_cs, \"aw\"\n.balign 32\n"
                         "3: .long 0, 0\n.quad 1f, 2f - 1f, 4f\n.popsection\n"
                         "leaq 3b(%%rip), %%rax\nmovq %%rax, %0\n"
                         "1: incl %1\ncmpq $0, %0\njne 1b\n"
                         "2: incl %2\njmp 5f\n"
                         ".long 0x53053053\n"
                         "4: incl %3\n5:\n"
                         : "+m"(own->rseq_cs), "+m"(counts[0]), "+m"(counts[1]), "+m"(counts[2])
                         :
                         : "rax", "memory", "cc");
}
"""
# as Wine does it: a system call is a signal, until it says otherwise
# (Documentation/admin-guide/syscall-user-dispatch.rst)
DISPATCHING = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
static char blocked;
static volatile unsigned *counts;
static void dispatch(int number) { counts[1]++; blocked = 0; }
int main(int argc, char **argv) {
    counts = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);
    signal(SIGSYS, dispatch);
    if (prctl(59, 1, 0, 0, &blocked))
        return 77;
    blocked = 1;
    for (;;)
        counts[0]++;
}
"""


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Begin]:
    """Compile a program and start it: its pid, and what gives its counts; it is skipped where it says 77."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    counts, began = tmp_path / "counts", list[subprocess.Popen[bytes]]()
    counts.write_bytes(bytes(4096))

    def read() -> tuple[int, ...]:
        return COUNTS.unpack(counts.read_bytes()[: COUNTS.size])

    def begin(source: str, *words: str) -> tuple[int, Counts]:
        (tmp_path / "program.c").write_text(source)
        made = subprocess.run(
            [compiler, "-O1", "-pthread", "-o", tmp_path / "program", tmp_path / "program.c"],
            timeout=200,
            check=False,
        )
        if made.returncode:
            pytest.skip("needs glibc 2.35 or newer")
        child = subprocess.Popen([tmp_path / "program", counts, *words], cwd="/")
        began.append(child)
        until(lambda: read()[0] or child.poll() is not None)
        if child.poll() == 77:
            pytest.skip("this kernel does not have it")
        return child.pid, read

    yield begin
    for child in began:
        child.kill()
        child.wait()


def directory(pid: int, tid: int, path: Path) -> Directory:
    mount = statx(AT_FDCWD, f"/proc/{tid}/cwd", 0, STATX_MNT_ID).mnt_id
    return Directory(pid, tid, os.fsencode(path), mount, os.stat(f"/proc/{tid}/ns/mnt").st_ino)


def moved(pid: int, path: Path) -> str:
    return Moving(directory(pid, pid, path), plain=False).move()


def has_met_its_end(counts: Counts, before: tuple[int, ...]) -> bool:
    """Whether the sequence was left, one way or the other."""
    return counts()[1:] != before[1:]


def has_gone_on(counts: Counts, before: tuple[int, ...]) -> bool:
    return counts()[0] != before[0]


def test_a_restartable_sequence_begins_anew(tmp_path: Path, begun: Begin) -> None:
    """Of what it has written in there nothing counts, as after every other interruption."""
    pid, counts = begun(RESTARTABLE)
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        place.mkdir()
    for number in range(MOVES):
        before = counts()
        assert moved(pid, places[number % 2]) == ""
        assert Path(f"/proc/{pid}/cwd").readlink() == places[number % 2]
        until(partial(has_met_its_end, counts, before))
        assert counts()[1] == 0


def test_who_answers_its_own_system_calls_stays_where_it_is(tmp_path: Path, begun: Begin) -> None:
    """The call that it is made to make would be a signal to it, which it was to hear of for its own calls alone."""
    pid, counts = begun(DISPATCHING)
    assert moved(pid, tmp_path) == "it answers its own system calls"
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    before = counts()
    until(partial(has_gone_on, counts, before))
    assert counts()[1] == 0


# the first thread ends, as in a program whose main() calls pthread_exit(3); another one goes on
ABANDONED = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
static volatile unsigned *counts;
static void *work(void *nothing) {
    for (;; usleep(100))
        counts[0]++;
}
int main(int argc, char **argv) {
    pthread_t thread;
    counts = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);
    if (argc > 2 && (setgid(65534) || setuid(65534)))
        return 77;
    pthread_create(&thread, 0, work, 0);
    pthread_exit(0);
}
"""


# others come and go all the time
SHORT_LIVED = r"""
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
static volatile unsigned *counts;
static volatile int stopped;
static void stop(int number) { stopped = 1; }
static void *work(void *nothing) { return nothing; }
static void *begin(void *nothing) {
    pthread_t thread;
    while (!stopped)
        if (pthread_create(&thread, 0, work, 0) == 0)
            pthread_join(thread, 0);
}
int main(int argc, char **argv) {
    pthread_t thread;
    counts = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);
    signal(SIGUSR1, stop);
    for (int number = 0; number < 4; number++)
        pthread_create(&thread, 0, begin, 0);
    for (;; usleep(100))
        counts[0]++;
}
"""


def has_ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"


@pytest.mark.parametrize("words", [(), ("as somebody else",)])
def test_a_process_whose_first_thread_has_ended(tmp_path: Path, begun: Begin, words: tuple[str, ...]) -> None:
    """Which stays as a zombie that has no memory, no root and no namespace, and cannot be traced."""
    for place in (tmp_path, *tmp_path.parents):  # of pytest, and of this user alone
        if place.stat().st_mode & 0o055 != 0o055 and place.is_relative_to("/tmp"):
            place.chmod(0o755)
    pid, counts = begun(ABANDONED, *words)
    until(lambda: has_ended(pid))
    (tid,) = {int(name) for name in os.listdir(f"/proc/{pid}/task")} - {pid}
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        place.mkdir()
    for number in range(MOVES):
        one = directory(pid, tid, places[number % 2])
        assert redirecting.why_not(one) == ""
        before = counts()
        assert Moving(one, plain=False).move() == ""
        assert Path(f"/proc/{tid}/cwd").readlink() == places[number % 2]
        until(partial(has_gone_on, counts, before))
    if words:
        places[0].chmod(0o700)
        assert (
            redirecting.why_not(directory(pid, tid, places[0])) == "it could not enter that directory again"
        )


def left_behind(pid: int) -> bool:
    """Whether one of its threads is being traced, or has ended and is waited for."""
    found = [Path(f"/proc/{pid}/task/{tid}/status").read_bytes() for tid in os.listdir(f"/proc/{pid}/task")]
    return any(b"TracerPid:\t0\n" not in text or b"State:\tZ" in text for text in found)


def test_threads_that_end_keep_nobody_where_it_is(tmp_path: Path, begun: Begin) -> None:
    """Where they do so while the others are made to stop."""
    pid, counts = begun(SHORT_LIVED)
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        place.mkdir()
    for number in range(MOVES):
        one = directory(pid, pid, places[number % 2])
        assert redirecting.why_not(one) == ""
        assert Moving(one, plain=False).move() == ""
        assert Path(f"/proc/{pid}/cwd").readlink() == places[number % 2]
        until(partial(has_gone_on, counts, counts()))
    os.kill(pid, signal.SIGUSR1)
    until(lambda: len(os.listdir(f"/proc/{pid}/task")) == 1)
    assert not left_behind(pid)
