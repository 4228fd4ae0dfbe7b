"""The same without root: an ordinary user's containers, with subordinate ids."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lamina.linux.constants import CLONE_NEWUSER
from lamina.runtime.plan.namespaces import FLAGS
from support.rootless import SUBORDINATE, Rootless

pytestmark = pytest.mark.userns

RUN = """
import json, os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from lamina.runtime.bundle import Bundle
from support.oci import Bundle as Box
from support.starting import link, run, waiting
directory = Path.home() / "box"
spec = json.loads(sys.argv[1])
def bundle(spec):
    box = Box(directory)
    (box.rootfs / "mnt").mkdir(exist_ok=True)
    binds = [mount for mount in box.config["mounts"] if mount.get("type") == "bind"]
    for mount in binds:
        (box.rootfs / mount["destination"][1:]).mkdir(exist_ok=True)
    root = os.fsencode(box.rootfs)
    return Bundle({{**spec, "mounts": spec["mounts"] + binds}}, root, root)
"""
SIMPLE = "status, text = run(bundle(spec)); print(text); sys.exit(status)"


def rootless_run(user: Rootless, spec: dict[str, Any], script: str = SIMPLE) -> str:
    from support.sources import REPOSITORY

    code = RUN.format(tests=str(REPOSITORY / "tests")) + script
    done = user.python(code, json.dumps(spec))
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def spec_for(user: Rootless, *args: str, **process: Any) -> dict[str, Any]:
    from support.bundles import small
    from support.starting import DEV, PROC

    spec = small(*args, **process)
    spec["linux"]["namespaces"] += [{"type": kind} for kind in ("user", "network", "ipc", "uts")]
    maps = [{"containerID": 0, "hostID": user.uid, "size": 1}]
    if user.as_root:  # else nobody knows which subordinate ids there are
        maps.append({"containerID": 1, "hostID": SUBORDINATE[0], "size": 1000})
    spec["linux"].update(uidMappings=maps, gidMappings=maps)
    spec["mounts"] = [PROC, DEV]
    return spec


def test_fields_of_the_process_and_of_namespaces(rootless: Rootless) -> None:
    spec = spec_for(
        rootless,
        "/bin/sh",
        "-c",
        "id -u; cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni;"
        " nice; cat /proc/sys/kernel/hostname; stat -c %Hr:%Lr /dev/null",
        oomScoreAdj=900,
        scheduler={"policy": "SCHED_OTHER", "nice": 19},  # the suite may be niced already
        ioPriority={"class": "IOPRIO_CLASS_IDLE"},
    )
    spec["hostname"] = "box"
    spec["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "70", "kernel.shmmni": "99"}
    assert rootless_run(rootless, spec).split() == ["0", "900", "70", "99", "19", "box", "1:3"]


def test_clocks(rootless: Rootless) -> None:
    spec = spec_for(rootless, "/bin/cat", "/proc/self/timens_offsets")
    spec["linux"]["namespaces"].append({"type": "time"})
    spec["linux"]["timeOffsets"] = {"monotonic": {"secs": 77}}
    assert rootless_run(rootless, spec).split()[:3] == ["monotonic", "77", "0"]


def test_tmpcopyup(rootless: Rootless) -> None:
    spec = spec_for(rootless, "/bin/sh", "-c", "cat /mnt/file; stat -c %u /mnt/file; stat -f -c %T /mnt")
    copied = {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}
    spec["mounts"].append(copied)
    script = (
        "made = bundle(spec); (directory / 'rootfs/mnt/file').write_text('here ');"
        " status, text = run(made); print(text); sys.exit(status)"
    )
    assert rootless_run(rootless, spec, script).split() == ["here", "0", "tmpfs"]


@pytest.mark.parametrize("ids", ["subordinate", "one"])
def test_a_container_joins_the_namespaces_of_another_one(rootless: Rootless, ids: str) -> None:
    """The user namespace first, for only there its owner has power over the others; and the pid namespace as well. In
    one that has the user's own group alone nobody may change groups.
    """
    first = spec_for(rootless, "/bin/cat")
    if ids == "one":
        maps = first["linux"]["uidMappings"][:1]
        first["linux"].update(uidMappings=maps, gidMappings=maps)
    kinds = ["user", "network", "ipc", "uts", "pid"]
    script = (
        "with waiting(bundle(spec)) as first:\n"
        "    second = json.loads(sys.argv[1])\n"
        "    second['linux'] = {'namespaces': [{'type': 'mount'}]}\n"
        f"    for kind in {kinds!r}:\n"
        "        name = {'network': 'net'}.get(kind, kind)\n"
        "        path = f'/proc/{first.pid}/ns/{name}'\n"
        "        second['linux']['namespaces'].append({'type': kind, 'path': path})\n"
        "    script = 'id -u; readlink /proc/self/ns/*; ls /proc | grep -c ^[0-9]'\n"
        "    second['process']['args'] = ['/bin/sh', '-c', script]\n"
        "    status, text = run(bundle(second))\n"
        f"    print(text, [link(first.pid, kind) for kind in {kinds!r}])\n"
        "sys.exit(status)\n"
    )
    said, _, links = rootless_run(rootless, first, script).rpartition(" [")
    assert said.split()[0] == "0"
    for name in links.strip("]\n").split(", "):
        assert name.strip("'") in said
    assert int(said.split()[-1]) >= 2
    assert CLONE_NEWUSER in FLAGS.values()
