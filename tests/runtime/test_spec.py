"""The specification's front: what is read is what the JSON schemas say, and what is wrong is said with its place."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput, LaminaError, Unsupported
from lamina.runtime.container.configuration import read_configuration
from lamina.runtime.spec import BOOLEAN, SPEC, STRING, check, check_process, rehearse
from support.bundles import full
from support.oci import BASE
from support.schema import EVERY, VALIDATOR, Document


def shape_at(path: str) -> tuple[Any, bool]:
    """The shape at a path of the schema, and whether it is required."""
    shape: Any = SPEC
    required = False
    for part in path.replace("[]", ".[]").split("."):
        if part == "[]":
            shape, required = shape[0], False
        elif part == "*" or "*" in shape:
            shape, required = shape["*"], False
        else:
            required = f"{part}!" in shape
            shape = shape[f"{part}!"] if required else shape[part]
    return shape, required


@pytest.mark.parametrize("path", sorted(EVERY))
def test_every_field_of_the_schemas_is_known_with_its_type(path: str) -> None:
    schema, _ = EVERY[path]
    shape, _ = shape_at(path)
    if "enum" in schema:
        missing = set(schema["enum"]) - set(shape) if isinstance(shape, frozenset) else set()
        assert not missing, missing
        assert isinstance(shape, frozenset) or shape == STRING  # architectures are checked by the compiler
    elif schema.get("type") == "string":
        assert shape == STRING or isinstance(shape, frozenset)
    elif schema.get("type") == "boolean":
        assert shape == BOOLEAN
    elif schema.get("type") == "integer":
        assert isinstance(shape, tuple)
        low, high = schema.get("minimum", shape[0]), schema.get("maximum", shape[1])
        if not path.endswith("fileMode"):
            assert shape == (low, high)
    elif schema.get("type") == "array":
        assert isinstance(shape, list)
    else:
        assert isinstance(shape, dict)


@pytest.mark.parametrize("path", sorted(path for path, (schema, _) in EVERY.items() if "required" in schema))
def test_what_the_schemas_require_is_required(path: str) -> None:
    shape, _ = shape_at(path)
    assert {f"{name}!" for name in EVERY[path][0]["required"]} <= shape.keys()


def complete() -> Document:
    """A document in which much is said."""
    spec = {**copy.deepcopy(BASE), **full()}
    spec["ociVersion"] = "1.2.0"
    spec["root"] = {"path": "rootfs", "readonly": True}
    spec["annotations"] = {"a": "b"}
    spec["process"].update(
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
        scheduler={"policy": "SCHED_BATCH", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 3},
        terminal=True,
        consoleSize={"height": 20, "width": 80},
        execCPUAffinity={"initial": "0-1", "final": "0"},
        apparmorProfile="unconfined",
    )
    spec["linux"]["namespaces"] += [{"type": "time"}, {"type": "user"}]
    spec["linux"].update(
        uidMappings=[{"containerID": 0, "hostID": 1000, "size": 65536}],
        gidMappings=[{"containerID": 0, "hostID": 1000, "size": 65536}],
        timeOffsets={"boottime": {"secs": 5, "nanosecs": 7}},
        sysctl={"net.ipv4.ip_forward": "1"},
        devices=[
            {"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}
        ],
        netDevices={"eth0": {"name": "lan"}},
        resources={"memory": {"limit": 1 << 30}, "pids": {"limit": 5}, "cpu": {"shares": 100}},
        cgroupsPath="/a/b",
        rootfsPropagation="private",
        personality={"domain": "LINUX"},
        memoryPolicy={"mode": "MPOL_BIND", "nodes": "0"},
        seccomp={
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {
                    "names": ["read", "sendmsg"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}],
                }
            ],
        },
    )
    return json.loads(json.dumps(spec))  # type: ignore[no-any-return]  # nothing is shared within it


def test_a_complete_document_is_accepted_by_both() -> None:
    check(complete())
    VALIDATOR.validate(complete())


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, below in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from leaves(below, (*path, key))


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    place = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return document


def spoken(path: tuple[Any, ...]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


@pytest.mark.parametrize("path", list(leaves(complete())), ids=spoken)
@pytest.mark.parametrize("wrong", [True, -1, 1.5, "\u2028", [1], {"x": 1}, 1 << 70], ids=str)
def test_a_value_of_another_type_is_refused_where_the_schemas_refuse_it(
    path: tuple[Any, ...], wrong: Any
) -> None:
    document = put(complete(), path, wrong)
    if VALIDATOR.is_valid(document):
        return
    with pytest.raises(LaminaError) as caught:
        check(document)
    if isinstance(caught.value, InvalidInput) and str(caught.value).startswith("read config.json"):
        assert spoken(path) in str(caught.value) or "the document" in str(caught.value)


@given(st.data())
def test_no_document_whatever_is_more_than_an_error(data: st.DataObject) -> None:
    scalars = st.one_of(st.none(), st.booleans(), st.integers(-9, 1 << 65), st.text(max_size=9), st.floats())
    values = st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
    )
    paths = st.sampled_from(list(leaves(complete())))
    document: Any = complete()
    for path in data.draw(st.lists(paths, max_size=3)):
        try:
            document = put(document, path, data.draw(values))
        except (KeyError, IndexError, TypeError):
            continue
    try:
        check(document)
    except LaminaError as error:
        assert str(error)


@pytest.mark.parametrize(
    "wrong",
    [None, 1, "", "x", "/\ud800", "\udc80", [], {}, [None], [1], ["x"], [{}], [[]], {"x": None}],
    ids=repr,
)
def test_a_bundle_whatever_it_says_is_read_or_refused(wrong: Any, tmp_path: Path) -> None:
    spec = {
        **complete(),
        "hooks": {"poststop": [{"path": "/x", "args": ["x"], "env": ["A=b"], "timeout": 1}]},
    }
    for path in leaves(spec):
        document = put(copy.deepcopy(spec), path, wrong)
        (tmp_path / "config.json").write_text(json.dumps(document))
        try:
            _, found = read_configuration(os.fsencode(tmp_path), "c", os.fsencode(tmp_path / "state"))
            rehearse(found)
        except LaminaError as error:
            assert str(error), path


def edited(*changes: tuple[str, Any]) -> Document:
    """The base document with fields set: "linux.sysctl", value."""
    document = copy.deepcopy(BASE)
    for path, value in changes:
        put(document, tuple(int(p) if p.isdigit() else p for p in path.split("/")), value)
    return document


def nested(depth: int) -> Any:
    """Deeper than functions of Python are; from 3.12 on, what reads JSON goes deeper."""
    found: Any = 1
    for _ in range(depth):
        found = {"a": found}
    return found


MAPS = [{"containerID": 0, "hostID": 0, "size": 1}]
SOFT = [{"type": "RLIMIT_CPU", "soft": -1, "hard": 1}]
UNMAPPED = [{"type": "mount"}, {"type": "uts"}, {"type": "user"}]
COPIED = {"destination": "/a", "type": "proc", "options": ["tmpcopyup"]}
CONTRADICTIONS: list[tuple[Document, type[Exception], str]] = [
    (edited(("ociVersion", "2.0.0")), Unsupported, "ociVersion is 2.0.0"),
    (edited(("root", {"path": ""})), InvalidInput, "root.path is missing"),
    (edited(("process/cwd", "relative")), InvalidInput, "process.cwd is 'relative', and not an absolute path"),
    (edited(("process/args", [])), InvalidInput, "process.args is empty"),
    (edited(("x", nested(1500))), InvalidInput, "nested too deeply"),
    (edited(("process/args", ["a\0b"])), InvalidInput, r"process.args\[0\] contains a NUL"),
    (edited(("process/args", ["a\ud800"])), InvalidInput, r"process.args\[0\] is no text"),
    (edited(("hostname", "a\udfff")), InvalidInput, "hostname is no text"),
    # to setresuid(2) it is "stay who you are", and that is root
    (edited(("process/user", {"uid": 4294967295, "gid": 0})), InvalidInput, "process.user.uid is 4294967295"),
    (edited(("process/user", {"uid": 0, "gid": 4294967295})), InvalidInput, "process.user.gid is 4294967295"),
    (
        edited(("process/user", {"uid": 0, "gid": 0, "additionalGids": [1, 4294967295]})),
        InvalidInput,
        r"process.user.additionalGids\[1\]",
    ),
    (
        edited(("linux/devices", [{"type": "p", "path": "/dev/x", "uid": 4294967295}])),
        InvalidInput,
        r"linux.devices\[0\].uid",
    ),
    (edited(("linux/maskedPaths", ["x"])), InvalidInput, r"linux.maskedPaths\[0\] is 'x'"),
    (edited(("process/rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}])), InvalidInput, "RLIMIT_X"),
    (edited(("process/rlimits", [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}])), InvalidInput, "above the hard"),
    (edited(("process/rlimits", SOFT)), InvalidInput, r"rlimits\[0\].soft is -1"),
    (edited(("process/oomScoreAdj", 1001)), InvalidInput, "process.oomScoreAdj is 1001"),
    (edited(("process/scheduler", {"policy": "SCHED_FIFO"})), InvalidInput, "priority 0"),
    (edited(("process/scheduler", {"policy": "SCHED_OTHER", "priority": 1})), InvalidInput, "no priority"),
    (edited(("process/scheduler", {"policy": "SCHED_FIFO", "priority": 1, "nice": 1})), InvalidInput, "no nice"),
    (edited(("process/scheduler", {"policy": "SCHED_OTHER", "nice": 20})), InvalidInput, "nice 20"),
    (edited(("process/scheduler", {"policy": "SCHED_IDLE", "runtime": 5})), InvalidInput, "SCHED_DEADLINE's"),
    (edited(("process/scheduler", {"policy": "SCHED_ISO"})), Unsupported, "no such policy"),
    (edited(("process/ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8})), InvalidInput, "priority 8"),
    (edited(("linux/memoryPolicy", {"mode": "MPOL_BIND"})), InvalidInput, "needs nodes"),
    (edited(("linux/memoryPolicy", {"mode": "MPOL_LOCAL", "nodes": "0"})), InvalidInput, "takes no nodes"),
    (edited(("linux/memoryPolicy", {"mode": "MPOL_BIND", "nodes": "3-1"})), InvalidInput, "memoryPolicy.nodes"),
    (edited(("linux/personality", {"domain": "LINUX", "flags": ["X"]})), Unsupported, "none is specified"),
    (edited(("linux/intelRdt", {"closID": "x"})), Unsupported, "intelRdt"),
    (edited(("windows", {"x": 1})), Unsupported, "another system"),
    (edited(("vm", {"x": 1})), Unsupported, "another system"),
    (edited(("linux/namespaces", [{"type": "mount"}, {"type": "mount"}])), InvalidInput, "listed twice"),
    (edited(("linux/namespaces", [{"type": "mount"}])), InvalidInput, "set hostname: the container shares"),
    (edited(("linux/namespaces", UNMAPPED)), InvalidInput, "uidMappings is missing"),
    (edited(("linux/uidMappings", [{"containerID": 0, "hostID": 0, "size": 1}])), InvalidInput, "new user namespace"),
    (
        edited(
            ("linux/namespaces", [{"type": "mount"}, {"type": "uts"}, {"type": "user", "path": "/x"}]),
            ("linux/uidMappings", [{"containerID": 0, "hostID": 0, "size": 1}]),
        ),
        InvalidInput,
        "map ids: linux.uidMappings",
    ),
    (edited(("linux/timeOffsets", {"boottime": {"secs": 1}})), InvalidInput, "new time namespace"),
    (edited(("linux/sysctl", {"kernel.panic": "1"})), Unsupported, "whole machine"),
    (
        edited(("linux/namespaces", [{"type": "mount"}, {"type": "uts"}]), ("linux/sysctl", {"net.x": "1"})),
        InvalidInput,
        "network namespace, which the container shares",
    ),
    (edited(("linux/sysctl", {"kernel.hostname": "other"})), InvalidInput, "hostname is box"),
    (edited(("mounts/2/destination", "/elsewhere"), ("process/terminal", True)), InvalidInput, "no devpts"),
    (edited(("mounts/0", {"destination": "/"})), InvalidInput, "neither a type"),
    (edited(("mounts/0", {"destination": "/", "type": "tmpfs"})), InvalidInput, "that is the root"),
    (edited(("mounts/0", {"destination": "/proc", "type": "tmpfs"})), InvalidInput, "nothing but a procfs"),
    (edited(("mounts/0", {"destination": "/a", "options": ["bind"]})), InvalidInput, "no source"),
    (edited(("mounts/0", COPIED)), InvalidInput, "only a tmpfs"),
    (edited(("linux/rootfsPropagation", "up")), InvalidInput, "linux.rootfsPropagation is 'up'"),
    (edited(("linux/namespaces", [{"type": "pid"}, {"type": "uts"}])), InvalidInput, "mount namespace that others use"),
    (edited(("linux/seccomp", {"defaultAction": "SCMP_ACT_NOTIFY"})), InvalidInput, "default action"),
    (edited(("linux/netDevices", {"a/b": {}})), InvalidInput, "a/b"),
    (edited(("linux/devices", [{"type": "c", "path": "/dev/x"}])), InvalidInput, "no major and minor"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("document", "error", "complaint"), CONTRADICTIONS, ids=[c[2] for c in CONTRADICTIONS]
)
def test_contradictions(document: Document, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        check(document)


def test_unknown_properties_are_passed_over() -> None:
    document = edited(("process/new", 1))
    document["x-extension"] = {"a": [1]}
    document["linux"]["future"] = "yes"
    document["hostname"] = None
    check(document)


def test_a_process_alone() -> None:
    check_process({"cwd": "/", "args": ["x"]})
    with pytest.raises(InvalidInput, match=r"read process: user\.uid is -1, and not an integer from 0"):
        check_process({"cwd": "/", "args": ["x"], "user": {"uid": -1}})
