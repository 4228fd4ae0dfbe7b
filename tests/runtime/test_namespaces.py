"""Every namespace made, joined and left out, for real: what a process is in is read from outside."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput, KernelError, NotFound
from lamina.linux.constants import CLONE_NEWUSER
from lamina.runtime.plan.namespaces import FLAGS
from support.bundles import over_host, small
from support.leaks import Leaks
from support.starting import DEV, FILES, KINDS, PROC, SHIFTED, WHOLE, link, run, said, somebody, waiting

pytestmark = pytest.mark.root

STATES = ("made", "joined", "absent")
EVERY = sum(FLAGS.values())


@pytest.fixture(scope="module")
def others() -> Iterator[dict[str, int]]:
    """Who has namespaces that can be joined: `root` owns them, or a `user` namespace does."""
    with somebody(EVERY & ~CLONE_NEWUSER) as root, somebody(EVERY) as user:
        yield {"root": root, "user": user}


def spec_for(states: dict[str, str], pid: int) -> dict[str, Any]:
    spec = small("/bin/cat")
    namespaces = []
    for kind, state in states.items():
        if state == "made":
            namespaces.append({"type": kind})
        elif state == "joined":
            namespaces.append({"type": kind, "path": f"/proc/{pid}/ns/{FILES.get(kind, kind)}"})
    spec["linux"]["namespaces"] = namespaces
    if states["user"] == "made":
        spec["linux"].update(uidMappings=WHOLE, gidMappings=WHOLE)
    return spec


def check(directory: Path, states: dict[str, str], pid: int) -> None:
    more = {} if states["mount"] == "made" else {"rootfs": b"/"}
    with waiting(over_host(directory, spec_for(states, pid), **more)) as running:
        for kind, state in states.items():
            found = link(running.pid, kind)
            if state == "joined":
                assert found == link(pid, kind), kind
            elif state == "absent":
                assert found == link("self", kind), kind
            else:
                assert found not in (link(pid, kind), link("self", kind)), kind


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rest", ["made", "absent"])
def test_each_namespace_alone(
    tmp_path: Path, others: dict[str, int], kind: str, state: str, rest: str
) -> None:
    states = {name: state if name == kind else rest for name in KINDS}
    if rest == "made" and kind != "user":
        states["user"] = "absent"
    owner = "user" if states["user"] == "joined" else "root"
    check(tmp_path, states, others[owner])


def _sample(count: int) -> list[tuple[str, ...]]:
    every = list(itertools.product(STATES, repeat=len(KINDS)))
    return random.Random(20).sample(every, count)


@pytest.mark.parametrize("chosen", _sample(80), ids="-".join)
def test_combinations(tmp_path: Path, others: dict[str, int], chosen: tuple[str, ...]) -> None:
    states = dict(zip(KINDS, chosen, strict=True))
    check(tmp_path, states, others["user" if states["user"] == "joined" else "root"])


def test_namespaces_of_different_owners_are_joined_in_an_order_that_is_permitted(
    tmp_path: Path, others: dict[str, int]
) -> None:
    """The network is root's, the rest belongs to the user namespace, which is left once it is entered."""
    spec = small("/bin/cat")
    kinds = {"user": "user", "network": "root", "ipc": "user", "pid": "user", "uts": "root"}
    for order in itertools.permutations(kinds):
        spec["linux"]["namespaces"] = [
            {"type": kind, "path": f"/proc/{others[kinds[kind]]}/ns/{FILES.get(kind, kind)}"}
            for kind in order
        ] + [{"type": "mount"}]
        with waiting(over_host(tmp_path, spec)) as running:
            for kind, owner in kinds.items():
                assert link(running.pid, kind) == link(others[owner], kind)
        if order[0] == "network":  # two dozen orders say it all
            break


def test_who_joins_a_pid_namespace_cannot_be_traced_by_who_is_there(
    tmp_path: Path, others: dict[str, int]
) -> None:
    """It is a process of the namespace, with a copy of the caller's memory that nobody may read before execve(2)."""
    spec = small("/bin/sh", "-c", "grep -E '^(Tgid|NSpid)' /proc/self/status; ls /proc | grep -c '^[0-9]'")
    spec["linux"]["namespaces"] = [
        {"type": "mount"},
        {"type": "pid", "path": f"/proc/{others['root']}/ns/pid"},
    ]
    spec["mounts"] = [PROC, DEV]
    tgid, inside, count = said(over_host(tmp_path, spec)).splitlines()
    assert int(tgid.split()[1]) > 1
    assert inside.split()[1:] == tgid.split()[1:]
    assert int(count) >= 2  # whoever holds the namespace is seen as well


def test_a_namespace_that_is_the_callers_own_already_is_left_as_it_is(tmp_path: Path) -> None:
    for kind in KINDS:
        if kind == "mount":
            continue
        spec = small("/bin/cat")
        path = f"/proc/self/ns/{FILES.get(kind, kind)}"
        spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": kind, "path": path}]
        with waiting(over_host(tmp_path, spec)) as running:
            assert link(running.pid, kind) == link("self", kind)


def test_ids_are_mapped_as_asked_and_files_are_seen_through_the_map(tmp_path: Path) -> None:
    spec = small("/bin/sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map; id -u; stat -c %u /etc")
    spec["linux"]["namespaces"] += [{"type": "user"}]
    spec["linux"].update(uidMappings=SHIFTED, gidMappings=SHIFTED)
    spec["mounts"] = [PROC, DEV]
    uids, gids, uid, owner = said(over_host(tmp_path, spec)).splitlines()
    assert uids.split() == gids.split() == ["0", "100000", "65536"]
    assert (uid, owner) == ("0", "65534")


def test_a_user_namespace_without_root(tmp_path: Path) -> None:
    only = [{"containerID": 1000, "hostID": 0, "size": 1}, {"containerID": 1001, "hostID": 1, "size": 10}]
    spec = small("/bin/sh", "-c", "id -u; id -g", user={"uid": 1000, "gid": 1001})
    spec["linux"]["namespaces"] += [{"type": "user"}]
    spec["linux"].update(uidMappings=only, gidMappings=only)
    assert said(over_host(tmp_path, spec)).split() == ["1000", "1001"]


@pytest.mark.parametrize("joined", [False, True])
def test_clocks(tmp_path: Path, others: dict[str, int], joined: bool) -> None:
    spec = small("/bin/sh", "-c", "cat /proc/uptime /proc/self/timens_offsets")
    spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "time"}, {"type": "pid"}]
    if joined:  # then it is made in a copied child
        spec["linux"]["namespaces"][2]["path"] = f"/proc/{others['root']}/ns/pid"
    spec["linux"]["timeOffsets"] = {"boottime": {"secs": 1_000_000, "nanosecs": 7}, "monotonic": {"secs": -3}}
    spec["mounts"] = [PROC, DEV]
    uptime, monotonic, boottime = said(over_host(tmp_path, spec)).splitlines()
    assert float(uptime.split()[0]) > 1_000_000
    assert monotonic.split() == ["monotonic", "-3", "0"]
    assert boottime.split() == ["boottime", "1000000", "7"]


def test_the_callers_own_namespaces_never_change(tmp_path: Path, others: dict[str, int]) -> None:
    before = {kind: link("thread-self", kind) for kind in KINDS}
    for states in ("joined", "made"):
        check(tmp_path, dict.fromkeys(KINDS, states), others["user"])
    assert {kind: link("thread-self", kind) for kind in KINDS} == before
    assert os.readlink("/proc/thread-self/ns/pid_for_children") == before["pid"]


@pytest.mark.parametrize(
    ("path", "error", "complaint"),
    [
        ("/no/such", NotFound, "join network namespace /no/such: No such file"),
        ("/etc/passwd", InvalidInput, "is no namespace"),
        ("/proc/self/ns/uts", InvalidInput, "that is a uts namespace"),
        ("/etc/shadow/x", NotFound, "Not a directory"),
    ],
)
def test_what_is_no_such_namespace(
    tmp_path: Path, path: str, error: type[Exception], complaint: str, untouched_host: Leaks
) -> None:
    spec = small("/bin/true")
    spec["linux"]["namespaces"] += [{"type": "network", "path": path}]
    with pytest.raises(error, match=complaint):
        run(over_host(tmp_path, spec))


def test_a_pid_namespace_above_ones_own_cannot_be_joined(tmp_path: Path) -> None:
    """The kernel's refusal comes back as an error that says which; nothing is left."""
    spec = small("/bin/true")
    with somebody(EVERY & ~CLONE_NEWUSER) as pid:
        path = f"/proc/{pid}/ns/pid"
        spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "pid", "path": path}]
        bundle = over_host(tmp_path, spec)
        os.kill(pid, 9)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises((KernelError, NotFound)):
            run(bundle)
