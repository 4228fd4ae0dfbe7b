"""The start-up budget: which modules a verb loads. Each import of the wrong kind costs more than a container's mounts.

Not a measurement but a list, so it gives the same answer on every machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lamina import Engine
from support.oci import Bundle
from support.rootless import Rootless
from support.running import running
from support.small_images import small_image
from support.sources import SRC

# what `lamina run` may load apart from Lamina's own modules; all of them are built in or a few lines
ALLOWED = frozenset({"__future__", "errno", "gc", "marshal", "stat", "time", "_json", "_signal", "_stat"})
# and what `lamina-runtime` may; outside of Python itself where it was built as pyenv does
ALSO_THE_RUNTIMES = {"_posixsubprocess"}
# with what opens a volume's directory (lamina.linux.files)
STRUCTURES = {"_struct", "struct"}
# each takes about a tenth of a millisecond to find and read, which is half a per cent of a start
MOST_OF_OURS = 67
# with the interpreter, or by a bare `import os`, before anything of ours
FOLLOW = """
import sys, os
sys.path.insert(0, {src!r})
before = set(sys.modules)
try:
    {code}
finally:
    with open({report!r}, "w") as report:
        report.write("\\n".join(sorted(set(sys.modules) - before)))
"""
# of an OCI runtime's verbs: `run` makes, starts and removes; the others do one of these
MOST_OF_THE_RUNTIMES = {"run": 49, "create": 45, "start": 28, "exec": 44, "kill": 29, "delete": 28}
RUNTIME_LINE = "from lamina.runtime_cli.entry import command_line; sys.exit(command_line({words!r}))"
COMMAND_LINE = "from lamina.cli.entry import command_line; sys.exit(command_line({words!r}))"


def loaded_by(code: str, report: Path) -> set[str]:
    text = FOLLOW.format(src=str(SRC), code=code, report=str(report))
    said = report.with_suffix(".said")  # not a pipe: what outlives the command would hold it open
    with open(said, "w") as output:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", text], stdout=output, stderr=output, timeout=200
        )
    assert done.returncode == 0, said.read_text()
    return set(report.read_text().split())


def loaded_by_second(words: list[str], report: Path) -> set[str]:
    """What the verb loads when it is not the first time: then nothing has to be compiled and cached any more."""
    loaded_by(COMMAND_LINE.format(words=words), report)
    return loaded_by(COMMAND_LINE.format(words=words), report)


CGROUPS = "lamina.runtime.cgroups"
# of its room for control groups, what a start with everyday limits needs (on a host with v1, or with v2 alone)
WORDS = "cgroup layout making making_v2 resources v1 v2"
WITH_LIMITS = {
    CGROUPS,
    *(f"{CGROUPS}.{name}" for name in ("cgroup", "layout", "making", "resources", "v1", "v2")),
}


def others(modules: set[str]) -> set[str]:
    """The modules that are not Lamina's."""
    return {module for module in modules if module.split(".")[0] != "lamina"}


@pytest.mark.parametrize(
    "module", ["lamina", "lamina.linux", "lamina.overlay", "lamina.store", "lamina.runtime"]
)
def test_importing_a_room_costs_nothing(module: str, tmp_path: Path) -> None:
    loaded = loaded_by(f"import {module}", tmp_path / "loaded")
    assert others(loaded) <= ALLOWED
    assert len(loaded) <= 6, sorted(loaded)


def test_version_loads_no_engine(tmp_path: Path) -> None:
    loaded = loaded_by(COMMAND_LINE.format(words=["version"]), tmp_path / "loaded")
    assert not {
        module
        for module in loaded
        if module.startswith(("lamina.engine", "lamina.runtime", "lamina.overlay"))
    }


@pytest.mark.root
def test_run_loads_only_what_a_start_needs(tmp_path: Path) -> None:
    words = ["run", "--rm", "--network", "none", "host", "--", "true"]
    loaded = loaded_by_second(words, tmp_path / "loaded")
    assert others(loaded) - ALLOWED == set()
    # what was made before is kept
    makers = ("lamina.engine.host", "lamina.runtime.plan", "lamina.linux.numbers", "lamina.linux.constants")
    assert not {module for module in loaded if module.startswith(makers)}
    assert len(loaded - others(loaded)) <= MOST_OF_OURS, sorted(loaded - others(loaded))
    assert [module for module in loaded if module.startswith(CGROUPS)] == []


# of the store, what finding an image takes; of the engine, what it adds to a start over the host
MOST_OVER_AN_IMAGE = MOST_OF_OURS + 12


@pytest.mark.root
@pytest.mark.peer("busybox")
def test_run_of_an_image_loads_only_what_a_start_needs(tmp_path: Path, store_root: Path) -> None:
    small_image(store_root, user="ann", workdir="/srv", volumes=[], labels={"a": "b"})
    loaded = loaded_by_second(["run", "--rm", "tiny", "true"], tmp_path / "loaded")
    assert others(loaded) - ALLOWED - {"_sha2", "_sha256"} == set()
    makers = ("lamina.image", "lamina.runtime.plan", "lamina.overlay.tree", "lamina.linux.constants")
    assert not {module for module in loaded if module.startswith(makers)}
    assert len(loaded - others(loaded)) <= MOST_OVER_AN_IMAGE, sorted(loaded - others(loaded))


@pytest.mark.root
def test_run_with_limits_and_variables_loads_only_what_a_start_needs(tmp_path: Path) -> None:
    limits = ["--memory", "64m", "--cpus", "1", "--pids-limit", "50"]
    process = ["-e", "A=1", "-w", "/", "-u", "0:0", "--hostname", "h", "-v", "/srv:/srv:ro"]
    loaded = loaded_by_second(["run", "--rm", *limits, *process, "host", "true"], tmp_path / "loaded")
    assert others(loaded) - ALLOWED - STRUCTURES == set()
    assert {module for module in loaded if module.startswith(CGROUPS)} <= WITH_LIMITS


@pytest.mark.root
def test_the_runtimes_verbs_load_only_what_they_need(tmp_path: Path) -> None:
    """The second time: then what is compiled and checked is kept."""
    long, short = tmp_path / "long", tmp_path / "short"
    for place, words in ((long, ["sleep", "1000"]), (short, ["true"])):
        place.mkdir()
        bundle = Bundle(place, *words)
        bundle.config["process"]["env"].append("HOME=/root")
        bundle.config["linux"]["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 50}}
        bundle.config["linux"]["cgroupsPath"] = f"/lamina-start-up-{os.getpid()}-{place.name}"
        bundle.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
        bundle.write()
    lives = {
        "run": ["--bundle", str(short), "r"],
        "create": ["--bundle", str(long), "c"],
        "start": ["c"],
        "exec": ["c", "true"],
        "kill": ["c", "KILL"],
        "delete": ["--force", "c"],
    }
    makers = ("lamina.runtime.plan", "lamina.runtime.spec", "lamina.linux.numbers", "lamina.linux.constants")
    loaded: dict[str, set[str]] = {}
    for _ in range(2):
        loaded = {
            verb: loaded_by(
                RUNTIME_LINE.format(words=["--root", str(tmp_path / "state"), verb, *words]), tmp_path / verb
            )
            for verb, words in lives.items()
        }
    for verb, modules in loaded.items():
        assert others(modules) - ALLOWED - ALSO_THE_RUNTIMES == set(), verb
        assert not {module for module in modules if module.startswith(makers)}, verb
        ours = modules - others(modules)
        assert len(ours) <= MOST_OF_THE_RUNTIMES[verb], (verb, len(ours), sorted(ours))


# of the rooms above the runtime, what finds a container and serves its streams
MOST_TO_JOIN = 78


@pytest.mark.root
@pytest.mark.peer("busybox")
def test_exec_loads_only_what_joining_needs(tmp_path: Path, store_root: Path) -> None:
    """Whatever the command: what is compiled is not about that."""
    small_image(store_root)
    with running(Engine(store_root), "sleep", "600", options=("--rm",)):
        loaded_by(COMMAND_LINE.format(words=["exec", "box", "true"]), tmp_path / "loaded")
        words = ["exec", "-e", "A=1", "box", "sh", "-c", "true"]
        loaded = loaded_by(COMMAND_LINE.format(words=words), tmp_path / "loaded")
    assert others(loaded) - ALLOWED - ALSO_THE_RUNTIMES - STRUCTURES - {"fcntl", "select"} == set()
    makers = ("lamina.runtime.plan", "lamina.runtime.container.compiling", "lamina.linux.program")
    assert not {module for module in loaded if module.startswith(makers)}
    assert len(loaded - others(loaded)) <= MOST_TO_JOIN, sorted(loaded - others(loaded))


@pytest.mark.userns
def test_rootless_run_loads_only_what_a_start_needs(rootless: Rootless) -> None:
    words = ["run", "--rm", "--network", "none", "host", "--", "true"]
    report = rootless.mkdir("report") / "loaded"
    text = FOLLOW.format(src=str(SRC), code=COMMAND_LINE.format(words=words), report=str(report))
    for _ in range(2):
        done = rootless.run(sys.executable, "-I", "-S", "-c", text)
        assert done.returncode == 0, done.stderr
    assert others(set(report.read_text().split())) - ALLOWED - STRUCTURES == set()
