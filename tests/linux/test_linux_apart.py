"""Threads that Python does not know have room for what they do, whatever else takes some of their stacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lamina

WORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from lamina.linux.descriptors import locked
from lamina.linux.flush import flush
from lamina.linux.survey import survey

os.chdir(sys.argv[2])
names = [b"%d" % number for number in range(300)]
here = os.open(".", os.O_RDONLY)
files = [os.open(f"file{number}", os.O_WRONLY | os.O_CREAT) for number in range(4)]
for _ in range(20):
    assert survey(here, names, (b"one", b"two")) == [(None, None)] * 300
    assert locked(here, names, b"one") == [None] * 300
    flush(files)
"""


@pytest.mark.parametrize("kilobytes", [8, 54, 56, 58, 128])
def test_a_program_with_much_for_each_thread(tmp_path: Path, kilobytes: int) -> None:
    """Variables of each thread (`__thread`) lie on its stack: of a small one a library that has many leaves nothing."""
    pytest.importorskip("lamina.linux._native", reason="the C extension is not built")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = tmp_path / "large.c", tmp_path / "large.so"
    source.write_text(
        f"static __thread char large[{kilobytes} << 10];\nchar *of_this_thread(void) {{ return large; }}\n"
    )
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-ftls-model=initial-exec", "-o", library, source],
        check=True,
        timeout=200,
    )
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(Path(lamina.__file__).parents[1]), str(tmp_path)],
        env={**os.environ, "LD_PRELOAD": str(library)},
        timeout=200,
        check=False,
    )
    assert done.returncode == 0


FORKS = """
import os, sys
sys.path.insert(0, sys.argv[1])
from lamina.linux.flush import flush

files = [os.memfd_create("file") for _ in range(7)]
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
beside = 0
for _ in range(300):
    flush(files)
    child = os.fork()
    if not child:
        os._exit(0)
    beside += len(os.listdir("/proc/self/task")) > 1
    os.waitpid(child, 0)
print(beside)
"""


def test_a_fork_waits_until_late_threads_are_gone() -> None:
    """Of 300 there were 75 to 117 beside one; the kernel may take a moment to forget a thread that has ended."""
    pytest.importorskip("lamina.linux._native", reason="the C extension is not built")
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(Path(lamina.__file__).parents[1])],
        stdout=subprocess.PIPE,
        timeout=200,
        check=True,
    )
    assert int(done.stdout) <= 30


ALONE = """
import _thread, os, resource, sys
sys.path.insert(0, sys.argv[1])
from lamina.linux.descriptors import locked
from lamina.linux.flush import flush
from lamina.linux.survey import survey

os.chdir(sys.argv[2])
here = os.open(".", os.O_RDONLY)
files = [os.open(f"file{number}", os.O_WRONLY | os.O_CREAT) for number in range(7)]
names = [b"."] * 300
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
if os.geteuid() == 0:  # whom that limit does not concern
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
try:
    _thread.start_new_thread(len, ((),))
except RuntimeError:
    pass
else:
    raise SystemExit("a thread could be made")
for _ in range(5):
    assert [found[1] for found in survey(here, names, (b"file0", b"nothing"))] == [None] * 300
    assert locked(here, names, b"nothing") == [None] * 300
    flush(files)
"""


def test_where_no_thread_can_be_made_all_is_done_by_the_caller(tmp_path: Path) -> None:
    pytest.importorskip("lamina.linux._native", reason="the C extension is not built")
    tmp_path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(Path(lamina.__file__).parents[1]), str(tmp_path)],
        stderr=subprocess.PIPE,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
