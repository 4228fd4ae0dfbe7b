"""Where Python begins no thread, or loads nothing of C: what is said is what is in the way, and what to do about it."""

from __future__ import annotations

import subprocess
import sys
from errno import EAGAIN
from pathlib import Path

import pytest

from lamina.engine.reaping import without_signals
from lamina.errors import KernelError, LaminaError, Unsupported


def refusal(words: str) -> LaminaError:
    def start() -> None:
        raise RuntimeError(words)

    with pytest.raises(LaminaError) as raised:
        without_signals(start)
    return raised.value


def test_the_limit_of_processes_is_the_kernels() -> None:
    error = refusal("can't start new thread")
    assert isinstance(error, KernelError) and error.errno == EAGAIN
    assert "more processes" in error.remedy


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("can't create new thread at interpreter shutdown", "before the program ends"),
        ("thread is not supported for isolated subinterpreters", "main interpreter"),
        ("daemon threads are disabled in this (sub)interpreter", "main interpreter"),
    ],
)
def test_what_python_does_not_want_is_said_in_its_words(words: str, remedy: str) -> None:
    error = refusal(words)
    assert isinstance(error, Unsupported)
    assert words in error.message and remedy in error.remedy


ISOLATED = """if True:
    import sys
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters

    interpreter = interpreters.create()  # isolated, if nothing else is said
    raised = interpreters.run_string(interpreter, '''if True:
        import sys
        sys.path[:] = %r
        from subprocess import DEVNULL
        import lamina
        from lamina.errors import Unsupported
        try:
            lamina.Engine(%r).popen("host", ["true"], stdout=DEVNULL, rm=True).wait()
        except Unsupported as error:
            assert "subinterpreter" in str(error) and "main interpreter" in error.remedy, error
        else:
            raise AssertionError
        ''' % (sys.path, sys.argv[1]))
    interpreters.destroy(interpreter)  # of one that is left Python 3.14 warns
    if raised:
        raise SystemExit(raised.errdisplay)
"""


@pytest.mark.root
def test_an_isolated_subinterpreter_is_told_what_it_is(store_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ISOLATED, str(store_root)], capture_output=True, text=True, timeout=200
    )
    assert (done.returncode, done.stderr) == (0, "")
