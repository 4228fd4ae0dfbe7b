"""What verbs that are called often import, and the lists of it by which that is read at once (`first` of their rooms).

`LAMINA_GOLDEN=write` writes the lists anew. One that is behind costs time, and nothing else; so what is missing in it
is allowed for, but not what is needless.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.oci import Bundle
from support.sources import SRC

pytestmark = pytest.mark.root

# executes a command line, and notes each module when it is there: those before the verb's own, and those from it on
FOLLOW = """
import sys
from importlib.machinery import SourceFileLoader
sys.path.insert(0, {src!r})
done, before, real = [], [], SourceFileLoader.exec_module
def exec_module(self, module):
    if module.__name__ == {verb!r}:
        before[:] = done
        done.clear()
    real(self, module)
    done.append(module.__name__)
SourceFileLoader.exec_module = exec_module
try:
    from lamina.{face}.entry import command_line
    sys.exit(command_line({words!r}))
finally:
    with open({report!r}, "w") as report:
        for names in (before, done):
            report.write(" ".join(name for name in names if name.startswith("lamina") and name != {verb!r}) + "\\n")
"""
# which verbs, by the module that is asked for first; how many modules a list may lack
OF = {
    "cli": ["lamina.cli.verbs.run"],
    "runtime_cli": [
        f"lamina.runtime_cli.verbs.{name}" for name in ("create", "start", "delete", "run", "execute")
    ],
}
MAY_LACK = 6
# what a verb imports while it waits for another process anyway (runtime/container/whole.py)
MEANWHILE = {
    "lamina.runtime_cli.verbs.run": {"lamina.runtime.container.begin", "lamina.runtime.container.ending"}
}
OF_THE_HOST = "lamina.runtime.cgroups"  # which of these are needed is the host's doing
LONGEST = 118


def read(report: Path) -> tuple[list[str], list[str]]:
    """What the face begins with, and what the verb imports."""
    face, verb = (line.split() for line in report.read_text().splitlines())
    return face, verb


def loaded(face: str, verb: str, words: list[str], report: Path) -> tuple[list[str], list[str]]:
    """What the command imports when it is not the first of its kind, in the order in which it is executed (`read`)."""
    text = FOLLOW.format(src=str(SRC), face=face, verb=verb, words=words, report=str(report))
    said = report.with_suffix(".said")
    for _ in range(2):
        with open(said, "w") as output:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", text], stdout=output, stderr=output, timeout=200
            )
        assert done.returncode == 0, said.read_text()
    return read(report)


def listed(face: str) -> dict[str, list[str]]:
    name = f"lamina.{face}.first"
    __import__(name)
    return {verb: names.split() for verb, names in sys.modules[name].FIRST.items()}


def compare(face: str, found: dict[str, list[str]]) -> None:
    place = SRC / "lamina" / face / "first.py"
    if os.environ.get("LAMINA_GOLDEN") == "write":
        place.write_text(re.sub(r"(?s)FIRST: .*", written(found), place.read_text()))
        return
    wanted = listed(face)
    assert list(wanted) == list(found)
    for verb, names in found.items():
        needless = {name for name in wanted[verb] if name not in names and not name.startswith(OF_THE_HOST)}
        assert needless == set(), f"{verb} does not import these; LAMINA_GOLDEN=write"
        lacking = [name for name in names if name not in wanted[verb]]
        assert len(lacking) <= MAY_LACK, f"{verb} imports {lacking} as well; LAMINA_GOLDEN=write"


def written(found: dict[str, list[str]]) -> str:
    text = "FIRST: dict[str, str] = {\n"
    for verb, names in found.items():
        lines = [""]
        for name in names:
            if len(lines[-1]) + len(name) > LONGEST - 10:
                lines.append("")
            lines[-1] += f" {name}" if lines[-1] else name
        body = "\n".join(f"        {line}" for line in lines)
        text += f'    "{verb}": """\n{body}\n    """,\n'
    return text + "}\n"


def test_of_the_command_lamina(tmp_path: Path) -> None:
    words = ["run", "--rm", "--network", "none", "host", "--", "true"]
    [verb] = OF["cli"]
    face, own = loaded("cli", verb, words, tmp_path / "loaded")
    compare("cli", {"lamina.cli.entry": face, verb: own})


def test_of_the_runtime(tmp_path: Path) -> None:
    long, short, root = tmp_path / "long", tmp_path / "short", tmp_path / "state"
    for place, command in ((long, ["sleep", "1000"]), (short, ["true"])):
        place.mkdir()
        bundle = Bundle(place, *command)
        bundle.config["process"]["env"].append("HOME=/root")
        bundle.config["linux"]["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 50}}
        bundle.config["linux"]["cgroupsPath"] = f"/lamina-first-{os.getpid()}-{place.name}"
        bundle.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
        bundle.write()
    lives = {
        "create": ["create", "--bundle", str(long), "c"],
        "start": ["start", "c"],
        "execute": ["exec", "c", "true"],
        "delete": ["delete", "--force", "c"],
        "run": ["run", "--bundle", str(short), "r"],
    }
    found: dict[str, list[str]] = {}
    for _ in range(2):  # the second time what is compiled is kept
        for name, words in lives.items():
            verb = f"lamina.runtime_cli.verbs.{name}"
            report = tmp_path / name
            text = FOLLOW.format(
                src=str(SRC),
                face="runtime_cli",
                verb=verb,
                words=["--root", str(root), *words],
                report=str(report),
            )
            with open(tmp_path / "said", "w") as output:
                done = subprocess.run(
                    [sys.executable, "-I", "-S", "-c", text], stdout=output, stderr=output, timeout=200
                )
            assert done.returncode == 0, (tmp_path / "said").read_text()
            meanwhile = MEANWHILE.get(verb, set())
            face, imported = read(report)
            assert meanwhile <= {*imported}
            found["lamina.runtime_cli.entry"] = face
            found[verb] = [module for module in imported if module not in meanwhile]
    compare("runtime_cli", {name: found[name] for name in ("lamina.runtime_cli.entry", *OF["runtime_cli"])})
