"""Capabilities: the table, and what really changes in a child."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable

import pytest

from lamina.errors import KernelError
from lamina.linux.capabilities import (
    CAPABILITIES,
    CapabilitySets,
    ambient_set,
    bounding_set,
    capability_name,
    capability_names,
    capability_set,
    capget,
    capset,
    clear_ambient,
    drop_bounding,
    last_cap,
    lower_ambient,
    raise_ambient,
)
from lamina.values import replace
from support.namespaces import in_user_namespace

CHOWN, RAW = CAPABILITIES["CAP_CHOWN"], CAPABILITIES["CAP_NET_RAW"]


def status(field: str) -> int:
    with open("/proc/thread-self/status") as file:
        found = re.search(rf"^{field}:\s*([0-9a-f]+)$", file.read(), re.MULTILINE)
    assert found
    return int(found[1], 16)


def test_table_is_that_of_the_headers(run_c: Callable[[str], str]) -> None:
    lines = "\n".join(f'#ifdef {n}\nprintf("{n} %d\\n", {n});\n#endif' for n in CAPABILITIES)
    source = f"#include <stdio.h>\n#include <linux/capability.h>\nint main(void) {{\n{lines}\nreturn 0; }}"
    said = dict(line.split() for line in run_c(source).splitlines())
    assert {name: int(number) for name, number in said.items()} == CAPABILITIES
    assert len(CAPABILITIES) == 41


def test_sets_of_this_thread(door: str) -> None:
    assert capget() == CapabilitySets(status("CapEff"), status("CapPrm"), status("CapInh"))
    assert capget(os.getpid()) == capget()
    assert bounding_set() == status("CapBnd")
    assert ambient_set() == status("CapAmb")
    with open("/proc/sys/kernel/cap_last_cap") as file:
        assert last_cap() == int(file.read())
    with pytest.raises(KernelError, match="capget thread 4194305: No such process"):
        capget(4194305)


def test_last_capability_without_procfs(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = last_cap()

    def no_procfs(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "no procfs")

    monkeypatch.setattr("lamina.linux.procfs._last_cap", None)
    monkeypatch.setattr("lamina.linux.procfs.open", no_procfs, raising=False)
    assert last_cap() == real


@pytest.mark.userns
def test_sets_are_set(door: str) -> None:
    def stage() -> None:
        everything = capget()
        assert everything.permitted >> CHOWN & 1
        few = 1 << CHOWN | 1 << RAW | 1 << 38  # one in the upper word
        capset(CapabilitySets(effective=1 << CHOWN, permitted=few, inheritable=1 << RAW | 1 << 38))
        assert (status("CapEff"), status("CapPrm"), status("CapInh")) == (1 << CHOWN, few, 1 << RAW | 1 << 38)
        raise_ambient(RAW)
        raise_ambient(38)
        assert ambient_set() == status("CapAmb") == 1 << RAW | 1 << 38
        lower_ambient(RAW)
        assert ambient_set() == 1 << 38
        clear_ambient()
        assert ambient_set() == 0
        with pytest.raises(KernelError, match="PR_CAP_AMBIENT_RAISE CAP_CHOWN: Operation not permitted"):
            raise_ambient(CHOWN)  # not inheritable
        with pytest.raises(KernelError) as caught:
            capset(everything)
        assert caught.value.errno == errno.EPERM
        capset(replace(capget(), effective=0))
        assert status("CapEff") == 0

    in_user_namespace(stage)


@pytest.mark.userns
def test_bounding_set_shrinks(door: str) -> None:
    def stage() -> None:
        before = bounding_set()
        drop_bounding(RAW)
        assert bounding_set() == before & ~(1 << RAW) == status("CapBnd")
        with pytest.raises(KernelError, match="PR_CAPBSET_DROP 63: Invalid argument"):
            drop_bounding(63)

    in_user_namespace(stage)


def test_names() -> None:
    assert capability_name(0) == "CAP_CHOWN"
    assert capability_name(63) == "63"
    assert capability_set(["CAP_CHOWN", "CAP_KILL", "CAP_CHOWN"]) == 0b100001
    assert capability_names(0b100001) == ["CAP_CHOWN", "CAP_KILL"]
    with pytest.raises(KeyError):
        capability_set(["CAP_NONE"])
