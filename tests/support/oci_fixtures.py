"""Fixtures of those tests that drive `lamina-runtime`; imported by the conftest.py of their directories."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.leaks import Leaks
from support.oci import Runtime

PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def runtime(tmp_path: Path, untouched_host: Leaks) -> Iterator[Runtime]:
    """`lamina-runtime`; leaves neither mounts, processes, control groups nor state behind."""
    runtime = Runtime(tmp_path)
    yield runtime
    runtime.close()
    names = [path.name for path in runtime.root.iterdir()] if runtime.root.is_dir() else []
    assert [name for name in names if not name.startswith(".")] == []


@pytest.fixture
def subreaper() -> Iterator[None]:
    """What our children leave behind becomes our child, as for containerd's shim and conmon (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                break
        except ChildProcessError:
            break
