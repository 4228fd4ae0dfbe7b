"""Recipes: what was compiled before is used for what is the same, and for nothing else."""

from __future__ import annotations

import copy
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput
from lamina.linux.packed import RECORD, Program
from lamina.runtime.bundle import Joined, Wiring
from lamina.runtime.container import compiling, configuration, recipe
from lamina.runtime.container.recipe import Recipe, plain, recipe_for
from lamina.runtime.kept import MARK, SHORT
from lamina.values import replace
from support.bundles import full

ONE, OTHER = "1" * 40 + "a" * 24, "f0" * 32
WIRING = Wiring(
    channel=3, stdin=-1, stdout=-1, stderr=-1, limits=((7, 1024, 4096),), proc=9, die_with_parent=False
)
SHAPE = (0, (3, 5, 9, 6, 4), 10)
SECCOMP: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}],
}


@pytest.fixture(autouse=True)
def nothing_in_memory(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    latest: dict[bytes, bytes] = {}
    monkeypatch.setattr(recipe, "_latest", latest)
    return latest


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was really compiled."""
    asked: list[Any] = []
    real = compiling.made

    def counted(what: Any, seccomp: bytes) -> Any:
        asked.append(what)
        return real(what, seccomp)

    monkeypatch.setattr(compiling, "made", counted)
    return asked


def created(
    identity: str = ONE, wiring: Wiring = WIRING, shape: Any = SHAPE, root: bytes | None = None, **more: Any
) -> Any:
    """As `create` asks for a container whose id is in its paths and in its host name."""
    spec = full()
    spec["process"]["env"].append(f"HOSTNAME={identity[:SHORT]}")
    spec["hostname"] = identity[:SHORT]
    spec["mounts"].append(
        {
            "destination": "/etc/hosts",
            "type": "bind",
            "source": f"/containers/{identity}/hosts",
            "options": ["bind"],
        }
    )
    spec["linux"]["seccomp"] = copy.deepcopy(SECCOMP)
    spec.update(more.pop("spec", {}))
    wiring = replace(wiring, files=frozenset((f"/containers/{identity}/hosts".encode(), *wiring.files)))
    given = {"directory": b"/bundle", "no_pivot": False, "new_keyring": True, "manner": ((), False, False)}
    given.update(more)
    return (
        "created", shape, plain(wiring), spec, given["directory"], root, given["no_pivot"],
        given["new_keyring"], given["manner"],
    )  # fmt: skip


def joined(identity: str = ONE, **process: Any) -> Any:
    """As `exec` asks."""
    asked = {**full()["process"], "args": None, "env": None, "cwd": f"/of/{identity}", **process}
    return ("joined", SHAPE, plain(WIRING), asked, {"seccomp": SECCOMP}, 10, 0x20000000, (11, 12), (), -1, 6)


def content(found: Recipe) -> Any:
    rest = [getattr(found, name) for name in Recipe.__slots__ if name not in ("first", "plan")]
    return [found.first.parts(), found.plan.parts(), *rest]


def seen(program: Program) -> list[Any]:
    """The calls, with the beginning of whatever an argument points to."""
    pointers = {at for (at,) in struct.iter_unpack("I", program.relocations)}

    def text(at: int) -> Any:
        if at not in pointers:
            return program.arena[at:].partition(b"\0")[0]
        found = []
        while at in pointers:
            found.append(text(struct.unpack_from("Q", program.arena, at)[0]))
            at += 8
        return found

    calls = []
    for record in struct.iter_unpack(RECORD, program.records):
        number, values, kinds, rest = record[0], record[1:7], record[7], record[8:]
        shown = [text(value) if kind == 1 else value for value, kind in zip(values, kinds, strict=True)]
        calls.append((number, shown, rest))
    return calls


@pytest.mark.parametrize("ask", [created, joined])
def test_containers_that_differ_in_their_id_share_a_recipe(
    ask: Any, tmp_path: Path, compilations: list[Any], nothing_in_memory: dict[bytes, bytes]
) -> None:
    root = os.fsencode(tmp_path)
    found = {}
    for identity in (ONE, OTHER):
        nothing_in_memory.clear()
        found[identity] = content(recipe_for(ask(identity), identity, root))
    assert len(compilations) == 1
    for identity in (ONE, OTHER):
        fresh = content(Recipe(recipe._made(ask(identity), root)))
        assert found[identity] == fresh
        assert identity.encode() in fresh[1][1]
    assert found[ONE] != found[OTHER]


def test_a_root_that_is_left_open_comes_where_it_would_have_been(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    path = b"/roots/" + b"r" * 200
    left_open = Recipe(recipe._made(created(), root)).plan.fill({}, {"root": path})
    compiled = Recipe(recipe._made(created(root=path), root)).plan
    assert not compiled.holes and seen(left_open) == seen(compiled)
    assert any(path in shown for _, shown, _ in seen(compiled))


def test_only_an_id_that_nothing_else_looks_like_is_left_open(
    tmp_path: Path, compilations: list[Any]
) -> None:
    for identity in ("box", "a" * 63, "nosuid,strictatime,mode=755" + "-" * 37, ONE.upper()):
        marked, key = recipe.key_of(created(identity), identity)
        assert marked == b"" and key is not None and identity.encode() in key


def test_what_looks_like_the_mark_of_an_id_is_kept_nowhere(tmp_path: Path, compilations: list[Any]) -> None:
    asked = created(spec={"hostname": MARK[:SHORT].decode()})
    for _ in range(2):
        recipe_for(asked, ONE, os.fsencode(tmp_path))
    assert len(compilations) == 2


OTHERWISE = {
    "another command": lambda: created(spec={"process": {**full()["process"], "args": ["false"]}}),
    "a variable": lambda: created(spec={"process": {**full()["process"], "env": ["PATH=/bin"]}}),
    "a working directory": lambda: created(spec={"process": {**full()["process"], "cwd": "/tmp"}}),
    "no mounts": lambda: created(spec={"mounts": []}),
    "a filter": lambda: created(spec={"linux": {**full()["linux"], "seccomp": {**SECCOMP, "syscalls": []}}}),
    "no filter": lambda: created(spec={"linux": full()["linux"]}),
    "a directory": lambda: created(directory=b"/other"),
    "no pivot": lambda: created(no_pivot=True),
    "the caller's keyring": lambda: created(new_keyring=False),
    "hooks": lambda: created(manner=((), True, False)),
    "an init": lambda: created(manner=((), False, True)),
    "streams": lambda: created(manner=((1, 2), False, False)),
    "a root that is not open": lambda: created(root=b"/"),
    "descriptors": lambda: created(shape=(1, (4, 6, 10, 7, 5), 11)),
    "limits": lambda: created(wiring=replace(WIRING, limits=((7, 1024, 4097),))),
    "capabilities of the kernel": lambda: created(wiring=replace(WIRING, last_cap=41)),
    "capabilities of the caller": lambda: created(wiring=replace(WIRING, permitted=1)),
    "nodes that cannot be made": lambda: created(wiring=replace(WIRING, mknod=False)),
    "files": lambda: created(wiring=replace(WIRING, files=frozenset((b"/srv/data",)))),
    "procfs": lambda: created(wiring=replace(WIRING, procfs=frozenset((b"/srv/data",)))),
    "groups": lambda: created(wiring=replace(WIRING, tasks=(11,), controllers=(b"pids",))),
    "places of groups": lambda: created(wiring=replace(WIRING, places=(b"/sys/fs/cgroup/x",))),
    "a v2 group": lambda: created(wiring=replace(WIRING, cgroup=0)),
    "a joined namespace": lambda: created(wiring=replace(WIRING, namespaces=(Joined("network", 11),))),
    "one of others": lambda: created(wiring=replace(WIRING, namespaces=(Joined("network", 11, True),))),
    "a tree": lambda: created(wiring=replace(WIRING, trees=(("root", 11),))),
    "mapped ids": lambda: created(wiring=replace(WIRING, id_maps=((0, 11),))),
    "modules": lambda: created(wiring=replace(WIRING, modules=frozenset(("selinux",)))),
    "nodes": lambda: created(wiring=replace(WIRING, nodes=frozenset((("/dev/fuse", "c", 10, 229),)))),
    "no groups of users": lambda: created(wiring=replace(WIRING, setgroups=False)),
    "an old kernel": lambda: created(wiring=replace(WIRING, release=(6, 1))),
    "a process that joins": joined,
}


@pytest.mark.parametrize("difference", OTHERWISE)
def test_whatever_is_compiled_is_part_of_what_a_recipe_is_kept_by(
    difference: str, tmp_path: Path, compilations: list[Any]
) -> None:
    root = os.fsencode(tmp_path)
    recipe_for(created(), ONE, root)
    asked = OTHERWISE[difference]()
    try:
        fresh = content(Recipe(recipe._made(asked, root)))
    except Exception as error:
        with pytest.raises(type(error)) as caught:
            recipe_for(asked, ONE, root)
        assert str(caught.value) == str(error)
        return
    compilations.clear()
    assert content(recipe_for(asked, ONE, root)) == fresh
    assert len(compilations) == 1


def test_every_answer_of_the_host_is_part_of_it() -> None:
    assert set(plain(WIRING)) == {*Wiring.__annotations__} - {"seccomp", "seccomp_flags"}


def test_a_message_speaks_of_the_container_that_it_is_about(tmp_path: Path) -> None:
    mount = {"destination": f"/proc/{ONE}", "type": "bind", "source": "/srv", "options": ["bind"]}
    with pytest.raises(InvalidInput, match=ONE):
        recipe_for(created(spec={"mounts": [mount]}), ONE, os.fsencode(tmp_path))


def test_other_sources_and_another_kernel_make_another_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[Any]
) -> None:
    root = os.fsencode(tmp_path)
    for state in (((1, 1),), ((1, 2),), ((1, 1),)):
        monkeypatch.setattr(recipe, "state_of", lambda *paths, state=state: state)
        recipe_for(created(), ONE, root)
    assert len(compilations) == 2
    here = os.uname()
    elsewhere = os.uname_result((here.sysname, here.nodename, "9.9.9", here.version, here.machine))
    monkeypatch.setattr(os, "uname", lambda: elsewhere)
    recipe_for(created(), ONE, root)
    assert len(compilations) == 3


@pytest.mark.parametrize("spoil", ["others may write", "a link"])
def test_a_place_that_others_may_write_to_is_not_read(
    spoil: str, tmp_path: Path, compilations: list[Any], nothing_in_memory: dict[bytes, bytes]
) -> None:
    root = os.fsencode(tmp_path)
    recipe_for(created(), ONE, root)
    place = tmp_path / ".plans"
    assert place.stat().st_mode & 0o777 == 0o700
    if spoil == "a link":
        place.rename(tmp_path / "elsewhere")
        place.symlink_to("elsewhere")
    else:
        place.chmod(0o777)
    before = sorted(file.name for file in place.iterdir())
    nothing_in_memory.clear()
    recipe_for(created(OTHER), OTHER, root)
    assert len(compilations) == 2
    assert sorted(file.name for file in place.iterdir()) == before


def test_every_module_that_compiles_or_checks_is_among_the_sources() -> None:
    code = (
        f"import sys; sys.path[:0] = {[os.path.dirname(__file__), *sys.path]!r}\n"
        "import test_recipe\n"
        "from lamina.runtime.container import compiling, configuration\n"
        "compiling.made(test_recipe.created(), b'12345678')\n"
        "compiling.made(test_recipe.joined(), b'12345678')\n"
        "configuration._check(test_recipe.document(), 'config.json')\n"
        "loads = [n for n in sys.modules if n.startswith('lamina.')]\n"
        "print(*(sys.modules[n].__file__ for n in loads if sys.modules[n].__file__))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    executed = {os.path.normpath(path) for path in done.stdout.split() if path.endswith(".py")}
    # rooms without code of their own, what looks at the host, and the walker: no compilers
    beside = [
        "__init__",
        "document",
        "linux/descriptors",
        "linux/fd",
        "linux/call",
        "linux/procfs",
        "linux/process",
    ]
    beside += ["runtime/launch", "runtime/facts", "runtime/identity"]
    left = {
        path
        for path in executed - set(recipe.SOURCES)
        if not path.removesuffix(".py").endswith(tuple(beside))
    }
    assert left == set()
    assert all(os.path.exists(path) for path in recipe.SOURCES)


def document(identity: str = ONE, **more: Any) -> dict[str, Any]:
    """A config.json."""
    spec = {**full(), "ociVersion": "1.0.2", "root": {"path": f"/roots/{identity}"}}
    spec["linux"]["cgroupsPath"] = f"/box/{identity}"
    return {**spec, **more}


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Which documents were really checked."""
    looked: list[Any] = []
    real = configuration._check

    def counted(spec: Any, name: str) -> None:
        looked.append(spec)
        real(spec, name)

    monkeypatch.setattr(configuration, "_check", counted)
    return looked


def read(tmp_path: Path, spec: dict[str, Any], identity: str) -> dict[str, Any]:
    from lamina.document import encode

    (tmp_path / "config.json").write_text(encode(spec))
    return configuration.read_configuration(os.fsencode(tmp_path), identity, os.fsencode(tmp_path / "state"))[
        1
    ]


def test_a_document_like_one_that_was_good_is_not_checked_again(tmp_path: Path, looks: list[Any]) -> None:
    for identity, root in ((ONE, "/a"), (OTHER, "/b"), (ONE, "rootfs")):
        spec = document(identity, root={"path": root})
        assert read(tmp_path, spec, identity) == spec
    assert len(looks) == 1
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"root": {"path": ""}}, "root.path is missing"),
        ({"root": {"path": "/a\0b"}}, "NUL"),
        ({"root": {"path": 3}}, "root.path"),
        ({"root": None}, "root.path"),
        ({"hostname": ONE + "\0"}, "NUL"),
        ({"linux": {"namespaces": [{"type": "network", "path": "/a\0"}]}}, "NUL"),
        ({"linux": {"namespaces": [{"type": "network", "path": 3}]}}, "path"),
        ({"linux": {"namespaces": [{"type": ONE}]}}, ONE),
        ({"linux": {"namespaces": ["network"]}}, "an object"),
        ({"linux": []}, "an object"),
        ({"hooks": {"prestart": [{"path": f"hook-{ONE}"}]}}, ONE),
    ],
)
def test_what_is_wrong_is_said_each_time_and_of_this_document(
    wrong: dict[str, Any], said: str, tmp_path: Path
) -> None:
    read(tmp_path, document(), ONE)
    for _ in range(2):
        with pytest.raises(InvalidInput, match=said):
            read(tmp_path, document(**wrong), ONE)


def test_only_an_argument_can_be_left_open() -> None:
    from lamina.linux.program import Blank, Step, Struct, assemble

    with pytest.raises(ValueError, match="left open"):
        assemble([Step("mount", Struct("x", "P", (Blank(b"root"),)))])
    program = assemble([Step("chdir", Blank(b"root"))])
    with pytest.raises(ValueError, match="root"):
        program.walk()
    assert program.fill({}, {"root": b"/"}).walk().failed is None
