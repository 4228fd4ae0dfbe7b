"""Both ways into the kernel, the compiler as the judge of layouts, and structures by their C names."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.linux import _door, call

CCompiler = Callable[[str], str]


@pytest.fixture(params=["native", "ctypes"])
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs twice: system calls through the extension, and through ctypes."""
    if request.param == "native":
        native = pytest.importorskip("lamina.linux._native", reason="the C extension is not built")
        monkeypatch.setattr(call, "_raw", native.syscall)
    else:
        monkeypatch.setattr(call, "_raw", _door.syscall)
    return str(request.param)


@pytest.fixture
def run_c(tmp_path: Path) -> CCompiler:
    """Compile a C program, run it, and return what it printed."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")

    def compile_and_run(source: str) -> str:
        file = tmp_path / "program.c"
        file.write_text(source)
        subprocess.run([compiler, "-o", file.with_suffix(""), file], check=True, timeout=200)
        return subprocess.run(
            [file.with_suffix("")], check=True, capture_output=True, text=True, timeout=200
        ).stdout

    return compile_and_run
