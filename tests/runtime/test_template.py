"""Plans that were compiled before: always the same as one compiled now, whatever the file says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lamina.linux.packed import Reg
from lamina.overlay.spec import MountSpec
from lamina.runtime import template
from lamina.runtime.bundle import Bundle, Joined, Wiring
from lamina.runtime.command import launcher_strings
from lamina.runtime.kept import COMPILER, MARK, SHORT
from lamina.runtime.plan import compile_plan
from lamina.runtime.plan.devices import NODES
from lamina.runtime.seccomp import filter_for
from lamina.runtime.template import template_for
from lamina.values import replace
from support.bundles import full, over_host, printable, small

WIRING = Wiring(
    channel=Reg("channel"),
    stdin=Reg("stdin"),
    stdout=-1,
    stderr=Reg("stderr"),
    launcher=Reg("launcher"),
    limits=((7, 1024, 4096),),
    proc=Reg("proc"),
)
DESCRIPTORS = {"channel": 10, "stdin": 11, "stderr": 12, "launcher": 13, "tasks.pids": 14, "proc": 16}
ONE, OTHER = "1" * 40 + "a" * 24, "f0" * 32


@pytest.fixture(autouse=True)
def nothing_in_memory(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, Any]:
    latest: dict[bytes, Any] = {}
    monkeypatch.setattr(template, "_latest", latest)
    return latest


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Bundle]:
    """Which bundles were really compiled."""
    asked: list[Bundle] = []
    real = template._compiled

    def counted(bundle: Bundle, *rest: Any) -> Any:
        asked.append(bundle)
        return real(bundle, *rest)

    monkeypatch.setattr(template, "_compiled", counted)
    return asked


def contained(identity: str, *words: str) -> Bundle:
    """As the engine makes them: the identity is in paths and in the host name."""
    spec = full()
    spec["process"]["args"] = list(words)
    spec["process"]["env"] = [f"HOSTNAME={identity[:SHORT]}", f"WORDS={len(words)}"]
    spec["hostname"] = identity[:SHORT]
    spec["linux"]["cgroupsPath"] = f"/lamina/{identity}"
    home = f"/store/containers/{identity}".encode()
    stack = MountSpec((b"/",), home + b"/upper-0", home + b"/work-0")
    return printable(spec, rootfs=stack, identity=identity.encode())


def direct(bundle: Bundle, wiring: Wiring) -> Any:
    plan = compile_plan(bundle, wiring)
    return (
        plan.clone_flags(wiring),
        plan.waits,
        plan.assemble().fill(DESCRIPTORS, launcher_strings(bundle.spec["process"])).parts(),
    )


def through(bundle: Bundle, wiring: Wiring, place: Path) -> Any:
    found = template_for(bundle, wiring, None, os.fsencode(place))
    assert found is not None
    program = found.identified(bundle.identity)
    return (
        found.flags,
        found.waits,
        program.fill(DESCRIPTORS, launcher_strings(bundle.spec["process"])).parts(),
    )


def test_a_container_that_differs_in_identity_and_command_is_not_compiled_again(
    tmp_path: Path, compilations: list[Bundle], nothing_in_memory: dict[bytes, Any]
) -> None:
    first, second = contained(ONE, "ls"), contained(OTHER, "echo", "", "x" * 100_000)
    for bundle in (first, second, first):
        assert through(bundle, WIRING, tmp_path) == direct(bundle, WIRING)
    nothing_in_memory.clear()
    assert through(second, WIRING, tmp_path) == direct(second, WIRING)
    assert compilations == [first]


WIRED: dict[str, Any] = {
    "stdin": -1,
    "stdout": Reg("stdout"),
    "tasks": (Reg("tasks.pids"),),
    "cgroup": 0,
    "files": frozenset((b"/srv/data",)),
    "limits": ((7, 1024, 4097),),
    "last_cap": 41,
    "setgroups": False,
    "lowerdir_plus": False,
    "die_with_parent": False,
    "far": 9,
    "places": (b"/sys/fs/cgroup/pids/x",),
    "seccomp_flags": 2,
    "procfs": frozenset((b"/proc",)),
    "proc": 16,
    "modules": frozenset(("selinux",)),
    "nodes": frozenset((("/dev/fuse", "c", 10, 229),)),
    "permitted": (1 << 64) - 2,
    "mknod": False,
    "release": (6, 1),
}
BUNDLED: dict[str, Any] = {
    "rootfs": b"/elsewhere",
    "merged": b"/other",
    "overlays": ((b"/home", MountSpec((b"/home", b"/empty"))),),
    "readonly": (b"/boot",),
    "hide": (b"/var/lib/lamina",),
    "attributes": ("nosuid",),
    "identity": b"",
    "init": True,
    "directory": b"/bundle",
    "no_pivot": True,
    "new_keyring": False,
    "parts": ((b"/srv/data", b"a/b"),),
    "networked": True,
}


@pytest.mark.parametrize("name", [*WIRED, *BUNDLED])
def test_whatever_a_plan_depends_on_is_part_of_what_it_is_kept_by(
    name: str, tmp_path: Path, compilations: list[Bundle]
) -> None:
    spec = small("ls")
    spec["linux"]["namespaces"].append({"type": "network"})
    bundle, wiring = printable(spec, identity=ONE.encode()), WIRING
    through(bundle, wiring, tmp_path)
    if name in WIRED:
        wiring = replace(wiring, **{name: WIRED[name]})
        if name == "tasks":
            wiring = replace(wiring, controllers=(b"pids",))
        elif name == "mknod":
            default = frozenset((f"/dev/{node.decode()}", "c", *numbers) for node, *numbers in NODES)
            wiring = replace(wiring, nodes=default)
    else:
        bundle = replace(bundle, **{name: BUNDLED[name]})
    given = {name: DESCRIPTORS.get(name, 15) for name in (*DESCRIPTORS, "stdout")}
    compiled = compile_plan(bundle, wiring)
    strings = launcher_strings(spec["process"], init=bundle.init)
    expected = compiled.assemble().fill(given, strings).parts()
    found = template_for(bundle, wiring, None, os.fsencode(tmp_path))
    assert found is not None
    assert found.identified(bundle.identity).fill(given, strings).parts() == expected
    assert len(compilations) == 2


def test_every_field_of_bundle_and_wiring_is_tried_here() -> None:
    tried = {*WIRED, *BUNDLED, "spec", "seccomp", "channel", "stderr", "launcher", "controllers"}
    tried.add("connect")  # what is done at a point of the plan, not the plan
    tried |= {"namespaces", "trees", "id_maps"}  # descriptors of one start: see below
    tried |= {"given", "mapped", "outer"}  # what the caller mounts: descriptors of one start, in `trees`
    assert tried == {*Bundle.__annotations__, *Wiring.__annotations__}


@pytest.mark.parametrize(
    "fact",
    [
        {"namespaces": (Joined("network", 15),)},
        {"trees": (("root", 15),)},
        {"id_maps": ((0, 15),)},
    ],
)
def test_a_plan_with_descriptors_of_one_start_is_not_kept(fact: dict[str, Any], tmp_path: Path) -> None:
    wiring = replace(WIRING, **fact)
    assert template_for(printable(small("ls")), wiring, None, os.fsencode(tmp_path)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec["process"].update(cwd="/tmp"),
        lambda spec: spec["process"].update(consoleSize={"height": 1, "width": 2}),
        lambda spec: spec["process"].update(user={"uid": 7}),
        lambda spec: spec["linux"].update(maskedPaths=["/proc/kcore"]),
        lambda spec: spec.update(mounts=full()["mounts"][:1]),
        lambda spec: spec.update(hostname=MARK[:SHORT].decode() + "x"),
    ],
)
def test_any_change_of_the_specification_is_another_plan(change: Any, tmp_path: Path) -> None:
    spec = small("ls")
    bundle = printable(spec, identity=ONE.encode())
    through(bundle, WIRING, tmp_path)
    change(spec)
    if template_for(bundle, WIRING, None, os.fsencode(tmp_path)) is not None:
        assert through(bundle, WIRING, tmp_path) == direct(bundle, WIRING)


def test_the_mark_of_an_identity_in_what_was_asked_is_never_taken_for_one(tmp_path: Path) -> None:
    spec = small("ls")
    spec["hostname"] = MARK[:SHORT].decode()
    assert template_for(printable(spec, identity=ONE.encode()), WIRING, None, os.fsencode(tmp_path)) is None


def test_the_filter_is_part_of_the_plan_and_is_not_compiled_for_a_plan_that_is_kept(tmp_path: Path) -> None:
    profiles = [{"defaultAction": f"SCMP_ACT_{action}"} for action in ("ALLOW", "ERRNO")]
    kept = []
    for profile in (*profiles, *profiles):
        filter_ = filter_for(profile, os.fsencode(tmp_path / "seccomp"))
        found = template_for(printable(small("ls")), WIRING, filter_, os.fsencode(tmp_path / "plans"))
        assert found is not None
        kept.append(found)
        assert filter_.program() in found.program.arena
    assert kept[0] is kept[2] and kept[1] is kept[3] and kept[0] is not kept[1]


def test_other_sources_are_another_compiler(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compilations: list[Bundle],
    nothing_in_memory: dict[bytes, Any],
) -> None:
    for state in (((1, 1),), ((1, 2),), ((1, 1),)):
        nothing_in_memory.clear()
        monkeypatch.setattr(template, "state_of", lambda *paths, state=state: state)
        through(printable(small("ls")), WIRING, tmp_path)
    assert len(compilations) == 2


def test_every_module_that_compiles_a_plan_is_among_the_sources() -> None:
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from lamina.runtime.plan import compile_plan\n"
        "from tests_of import bundle, wiring\n"
        "compile_plan(bundle, wiring).assemble()\n"
        "print(*(m.__file__ for n, m in sorted(sys.modules.items()) if n.startswith('lamina.') and m.__file__))\n"
    ).replace(
        "from tests_of import bundle, wiring",
        "sys.path[:0] = [" + repr(str(Path(__file__).parents[1])) + "]\n"
        "from support.bundles import WIRING as wiring, full, printable\nbundle = printable(full())",
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    executed = {os.path.normpath(path) for path in done.stdout.split() if path.endswith(".py")}
    # rooms without code of their own, and the walker, which is no compiler
    beside = {path for path in executed if path.endswith(("linux/__init__.py", "overlay/__init__.py"))}
    ends = ("runtime/__init__.py", *(f"linux/{n}.py" for n in ("call", "descriptors", "fd", "procfs")))
    beside |= {path for path in executed if path.endswith(ends)}
    assert executed - beside <= set(COMPILER)
    assert all(os.path.exists(path) for path in COMPILER)


@pytest.mark.root
def test_a_start_by_a_kept_plan_imports_no_compiler_and_does_the_same(tmp_path: Path) -> None:
    from lamina.runtime.launch import launch

    null = os.open(os.devnull, os.O_RDWR)
    bundle = over_host(tmp_path, small("/bin/sh", "-c", "exit 5"))
    for number in range(2):
        bundle.spec["process"]["args"][-1] = f"exit {number + 5}"
        running = launch(bundle, stdin=null, stdout=null, stderr=null, cache=os.fsencode(tmp_path / "plans"))
        assert running.wait() == number + 5
        running.close()
    os.close(null)
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from support.bundles import over_host, small\n"
        "import os; null = os.open(os.devnull, os.O_RDWR)\n"
        "from pathlib import Path\n"
        "from lamina.runtime.launch import launch\n"
        f"bundle = over_host(Path({str(tmp_path)!r}), small('/bin/sh', '-c', 'exit 9'))\n"
        f"running = launch(bundle, stdin=null, stdout=null, stderr=null, cache={os.fsencode(tmp_path / 'plans')!r})\n"
        "assert running.wait() == 9\n"
        "print([name for name in sys.modules if name.startswith('lamina.runtime.plan')])\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.root
def test_a_step_that_fails_in_a_kept_plan_is_named_as_in_a_new_one(tmp_path: Path) -> None:
    from lamina.errors import StepFailed
    from lamina.runtime.launch import launch

    spec = small("true", user={"uid": 0})
    spec["mounts"] = [{"destination": "/srv", "type": "nosuchfs", "source": "x", "options": []}]
    said = []
    for cache in (None, os.fsencode(tmp_path / "plans"), os.fsencode(tmp_path / "plans")):
        with pytest.raises(StepFailed) as caught:
            launch(over_host(tmp_path, spec), stdin=-1, stdout=-1, stderr=-1, cache=cache)
        said.append((str(caught.value), caught.value.index))
    assert said[0] == said[1] == said[2]
    assert "nosuchfs" in said[0][0]
