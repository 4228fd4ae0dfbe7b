"""What the warm process imports beforehand is what hot verbs import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.cli.hot import HOT, MODULES
from support.network_host import Host, on_host
from support.small_images import small_image
from support.warm import ISOLATED

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

LINES: dict[str, list[list[str]]] = {
    "run": [
        ["--rm", "tiny", "true"],
        ["--rm", "--network", "none", "host", "--", "true"],
        [
            "--rm",
            "--memory",
            "64m",
            "--pids-limit",
            "50",
            "-e",
            "A=1",
            "-v",
            "data:/d",
            "--tmpfs",
            "/t",
            "tiny",
            "true",
        ],
    ],
    "ps": [[], ["-a"], ["-aq"], ["-a", "--format", "{{.Names}}"]],
    "images": [[], ["-q"]],
    "image ls": [[]],
    "inspect": [["one"], ["tiny"]],
    "image inspect": [["tiny"]],
    "logs": [["one"]],
    "version": [[]],
    "exec": [["one", "true"]],
    "create": [["--name", "two", "tiny", "true"]],
    "start": [["two"]],
    "restart": [["-t", "0", "one"]],
    "kill": [["one"]],
    "stop": [["-t", "0", "one"]],
    "wait": [["nosuch"]],
    "rename": [["one", "other"], ["other", "one"]],
    "rm": [["nosuch"]],
}
# only where an image's own kind of control group, file system or encoding is there
SOMETIMES = ("lamina.runtime.cgroups", "lamina.linux._", "encodings")
PRELOADED = """
from lamina.cli.entry import command_line
for name in {modules!r}: __import__(name)
before = set(sys.modules)
command_line({words!r})
print("\\n".join(set(sys.modules) - before), file=open({report!r}, "w"))
"""


def test_every_hot_verb_is_looked_at() -> None:
    assert set(LINES) == set(HOT)


def test_nothing_but_ours_and_the_standard_librarys_is_named() -> None:
    named = {name.partition(".")[0] for name in MODULES}
    assert named <= {*sys.stdlib_module_names, "lamina", "msgspec"}


@pytest.mark.parametrize("verb", HOT)
def test_a_hot_verb_imports_nothing_more(verb: str, store_root: Path, tmp_path: Path) -> None:
    """Add what it says to `lamina.cli.hot`: every command would import it."""
    small_image(store_root)
    lamina("run", "-d", "--name", "one", "tiny", "sleep", "600")
    lamina("create", "--name", "two", "tiny", "true")
    if verb == "create":
        lamina("rm", "two")
    try:
        look_at(verb, tmp_path / "report")
    finally:
        lamina("rm", "-f", "one", "two")


def lamina(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lamina", *words], timeout=200, capture_output=True, check=False
    )
    assert done.returncode == 0, done


def look_at(verb: str, report: Path) -> None:
    for words in LINES[verb]:
        code = PRELOADED.format(modules=MODULES, words=[*verb.split(), *words], report=str(report))
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", ISOLATED + code],
            timeout=200,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        more = {name for name in report.read_text().split() if not name.startswith(SOMETIMES)}
        assert more == set(), words


@pytest.mark.peer("ip")
def test_a_start_with_a_network_imports_nothing_more(store_root: Path, tmp_path: Path) -> None:
    """In a host of its own (support.lab), the second time: bridges are made once."""

    def test(host: Host) -> None:
        host.engine.networks.create("back")
        host.start("sleep 60", network="back")
        host.start("sleep 60")
        environment = {**os.environ, "LAMINA_NETWORK": ""}
        report = tmp_path / "report"
        for asked in (["--network", "back", "-p", "80"], []):
            words = ["run", "--rm", *asked, "tiny", "true"]
            code = PRELOADED.format(modules=MODULES, words=words, report=str(report))
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", ISOLATED + code], timeout=200, check=True, env=environment
            )
            assert {name for name in report.read_text().split() if not name.startswith(SOMETIMES)} == set()

    on_host(store_root, test)


@pytest.mark.parametrize("module", ["click", "rich", "urllib3", "httpx", "asyncio"])
def test_it_imports_nothing_that_hot_verbs_do_not_need(module: str) -> None:
    code = f"{ISOLATED}\nfor name in {MODULES!r}: __import__(name)\nsys.exit({module!r} in sys.modules)\n"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], timeout=200, check=False)
    assert done.returncode == 0
