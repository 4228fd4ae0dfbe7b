"""What the public names say of their types is complete: pyright must not have to guess anything, nor may its users.

mypy --strict checks our own sources (make lint), and that a wrong option is an error wherever a test makes one.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lamina
from lamina import errors
from support.sources import REPOSITORY, SRC

# options are TypedDicts, which only type checkers see; errors are public as a module
ALSO = (
    "lamina.errors",
    "lamina.engine.options.RunOptions",
    "lamina.engine.options.LifeOptions",
    "lamina.engine.executing.ExecOptions",
    "lamina.engine.updating.Limits",
)
PYRIGHT = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]

pytestmark = [pytest.mark.peer("node"), pytest.mark.slow, pytest.mark.timeout(900)]


def pyright(*words: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SRC), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    return subprocess.run(
        [*PYRIGHT, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=800
    )


def public() -> set[str]:
    """The full names of what is public, with the classes that their methods come from."""
    found = set(ALSO)
    for name in set(lamina.__all__) - {"__version__"}:
        thing = getattr(lamina, name)
        classes = inspect.getmro(thing) if inspect.isclass(thing) else (thing,)
        found |= {
            f"{one.__module__}.{one.__qualname__}" for one in classes if one.__module__.startswith("lamina")
        }
    return found


def test_every_public_name_is_typed_completely() -> None:
    report = json.loads(pyright("--ignoreexternal", "--verifytypes", "lamina", "--outputjson").stdout)
    symbols = {symbol["name"]: symbol for symbol in report["typeCompleteness"]["symbols"]}
    wanted = public()
    assert {"lamina.engine.engine.Engine", "lamina.engine.process_verbs.ProcessVerbs"} <= wanted
    assert wanted - symbols.keys() <= {
        "lamina.errors",
        "lamina.values.Generic",
    }  # typing's, for type checkers
    checked = [
        symbol
        for name, symbol in symbols.items()
        if any(name == one or name.startswith(f"{one}.") for one in wanted)
    ]
    assert len(checked) > 300
    guessed = [
        f"{symbol['name']}: {[found['message'] for found in symbol['diagnostics']]}"
        for symbol in checked
        if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]
    ]
    assert guessed == []


PROGRAM = """
from asyncio import StreamReader
from subprocess import PIPE
from typing import IO, Any, assert_type

import lamina
from lamina import AsyncEngine, Completed, Container, Engine, Image, LaminaError, Process, Volume
from lamina.errors import TimeoutExpired

engine = Engine()
assert_type(lamina.run("host", ["true"], rm=True, memory="64m"), Completed[bytes])
assert_type(lamina.run("host", ["true"], text=True, capture_output=True).stdout, str)
assert_type(engine.run("host", ["true"], encoding="latin-1").stderr, str)
assert_type(engine.run("host", ["true"], errors="replace", check=True), Completed[str])
assert_type(engine.run("host", ["true"], text=False, input="x"), Completed[bytes])


def either(text: bool) -> Completed:  # of what it is, nobody knows
    assert_type(engine.run("host", ["true"], text=text), Completed[Any])
    return engine.run("host", ["true"], text=text)


with engine.start("debian:12", ["sleep", "60"], lifetime="owner", env={"A": "1"}) as box:
    assert_type(box, Container)
    assert_type(box.exec(["true"], check=True, user="ann"), Completed[bytes])
    assert_type(box.exec(["true"], text=True, timeout=3), Completed[str])
    with box.popen(["cat"], stdin=PIPE, text=True) as process:
        assert_type(process, Process[str])
        assert_type(process.stdin, IO[str] | None)
        assert_type(process.wait(1), int)
        assert_type(process.poll(), int | None)
    assert_type(box.status, str)
    assert_type(box.wait(timeout=1.5), int)
with engine.popen("debian:12", "true", stdout=PIPE) as process:
    assert_type(process.stdout, IO[bytes] | None)
    assert_type(process.returncode, int | None)
assert_type(engine.images(), list[Image])
assert_type(engine.volume("data"), Volume)
try:
    engine.run("debian:12", timeout=1)
except TimeoutExpired as late:
    assert_type(late.stdout, bytes | str | None)
except LaminaError as error:
    assert_type(error.exit_code, int)


async def in_a_loop() -> None:
    engine = AsyncEngine()
    assert_type((await engine.run("host", ["true"], text=True)).stdout, str)
    assert_type(await engine.run("host", ["true"], memory="64m"), Completed[bytes])
    async with engine.start("host", ["sleep", "60"]) as box:
        assert_type(await box.exec(["true"], encoding="ascii"), Completed[str])
        async with box.popen(["cat"], stdin=PIPE, text=True) as process:
            process.stdin.write("text")
    process = await engine.popen("host", ["cat"], stdout=PIPE)
    assert_type(process.stdout, StreamReader | Any)
"""
WRONG = {
    'lamina.run("host", momory="64m")': "momory",
    'engine.start("host", ["true"], capture_output=True)': "capture_output",
    'engine.run("host", ["true"], rm="yes")': "rm",
    'box.exec(["true"], memory="64m")': "memory",
    'box.popen(["true"], timeout=1)': "timeout",
    "engine.volume(7)": "name",
    'lamina.run("host", text=True).stdout.decode()': "decode",
    'lamina.run("host").stdout.encode()': "encode",
    'box.popen(["true"], text=True).stdin.write(b"")': "write",
    'async def text(it: lamina.AsyncEngine): (await it.popen("host", text=True)).stdin.write(b"")': "write",
    'lamina.AsyncEngine().run("host", forward_signals=True)': "forward_signals",
    'lamina.AsyncEngine().popen("host", bufsize=0)': "bufsize",
    "lamina.Egine()": "Egine",
}


def test_a_users_program_is_understood_and_its_mistakes_are_found(tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(PROGRAM)
    (tmp_path / "wrong.py").write_text("\n".join(["import lamina", "engine = lamina.Engine()",
                                                  'box = engine.container("box")', *WRONG]))  # fmt: skip
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(SRC)]})
    )
    report = json.loads(pyright("--outputjson", ".", cwd=tmp_path).stdout)["generalDiagnostics"]
    assert [found["message"] for found in report if found["file"].endswith("right.py")
            and "not accessed" not in found["message"]] == []  # fmt: skip
    for line, (text, word) in enumerate(WRONG.items(), start=3):
        said = [found["message"] for found in report if found["file"].endswith("wrong.py")
                and found["range"]["start"]["line"] == line]  # fmt: skip
        assert any(word in one or "No overloads" in one for one in said), (text, said)


def test_the_package_says_that_it_is_typed() -> None:
    assert (SRC / "lamina/py.typed").exists()
    assert issubclass(errors.TimeoutExpired, lamina.LaminaError)
