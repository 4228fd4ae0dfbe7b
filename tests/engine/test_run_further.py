"""What is rarely asked of a container, seen from inside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.engine import Engine
from lamina.errors import Conflict, LaminaError, NotFound
from support.leaks import Leaks

pytestmark = pytest.mark.root

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]


def inside(script: str, **options: Any) -> str:
    done = Engine().run("host", ["sh", "-c", script], rm=True, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def capabilities(**options: Any) -> dict[str, int]:
    lines = inside("grep -E '^Cap|^Seccomp:|^NoNewPrivs' /proc/self/status", **options).splitlines()
    return {name: int(text, 16) for name, text in (line.split(":") for line in lines)}


def test_capabilities() -> None:
    usual = capabilities()
    more = capabilities(cap_add=["NET_ADMIN"], cap_drop=["CHOWN"])
    assert more["CapEff"] == more["CapBnd"] == more["CapPrm"] == (usual["CapEff"] | 1 << 12) & ~1
    assert more["CapInh"] == more["CapAmb"] == 0
    assert capabilities(cap_drop=["ALL"])["CapBnd"] == 0
    ours = int(Path("/proc/self/status").read_text().partition("CapBnd:")[2].split()[0], 16)
    everything = capabilities(privileged=True)
    assert everything["CapEff"] == ours
    assert (everything["Seccomp"], everything["NoNewPrivs"]) == (0, 0)
    assert (usual["Seccomp"], usual["NoNewPrivs"]) == (2, 1)


def test_the_filter_follows_the_capabilities() -> None:
    """Docker's profile lets those chroot(2) who may, and so on: here unshare(2), which needs SYS_ADMIN."""
    assert inside("unshare -m true && echo yes || echo no") == "no\n"
    assert inside("unshare -m true && echo yes || echo no", cap_add=["SYS_ADMIN"]) == "yes\n"


def test_seccomp_of_ones_own(tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 17}],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    asked = {"security_opt": [f"seccomp={tmp_path / 'profile.json'}"]}
    assert "File exists" in inside("mkdir /tmp/new 2>&1 || true", **asked)
    assert capabilities(security_opt=["seccomp=unconfined"])["Seccomp"] == 0


def test_masks() -> None:
    assert inside("cat /proc/timer_list | head -c 1 | wc -c").strip() == "0"
    assert (
        inside("cat /proc/timer_list | head -c 1 | wc -c", security_opt=["unmask=/proc/timer_list"]).strip()
        == "1"
    )
    assert inside("wc -c < /etc/passwd", security_opt=["mask=/etc/passwd"]).strip() == "0"


def test_limits_of_the_process() -> None:
    said = inside(
        "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d ' ' -f 2",
        ulimits=["nofile=100:200"],
        oom_score_adj=300,
        shm_size="2m",
    )
    assert said.split() == ["100", "200", "300", "2048"]


def test_names_and_parameters() -> None:
    said = inside(
        "cat /proc/sys/kernel/domainname /proc/sys/net/core/somaxconn; id -G",
        domainname="example.org",
        sysctls=["net.core.somaxconn=77"],
        group_add=["12345"],
        user="1000:1000",
    )
    assert said.split() == ["example.org", "77", "1000", "12345"]


def test_a_parameter_of_the_host_is_refused() -> None:
    with pytest.raises(LaminaError, match=r"kernel\.panic"):
        inside("true", sysctls=["kernel.panic=1"])


def test_namespaces_of_the_host() -> None:
    def own(kind: str, **options: Any) -> bool:
        return inside(f"readlink /proc/self/ns/{kind}", **options).strip() != os.readlink(
            f"/proc/self/ns/{kind}"
        )

    for kind, key in (("uts", "uts"), ("ipc", "ipc"), ("pid", "pid"), ("cgroup", "cgroupns")):
        assert own(kind)
        assert not own(kind, **{key: "host"})
    assert inside("cat /proc/sys/kernel/hostname", uts="host").strip() == os.uname().nodename


def test_memory_that_is_shared_with_the_host() -> None:
    name = f"lamina-test-{os.getpid()}"
    path = Path("/dev/shm", name)
    path.write_text("seen\n")
    try:
        assert inside(f"cat /dev/shm/{name}", ipc="host") == "seen\n"
        assert inside(f"test -e /dev/shm/{name} || echo private") == "private\n"
    finally:
        path.unlink()
    assert inside("test -e /dev/shm/x || touch /dev/shm/x || echo none", ipc="none") != ""


def test_what_is_left_running_on_the_host_is_killed(untouched_host: Leaks) -> None:
    inside("setsid sleep 1000 > /dev/null 2>&1 & echo started", pid="host")
    assert untouched_host.left() == []


def test_a_clock_that_differs() -> None:
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert float(inside("cut -d ' ' -f 1 /proc/uptime", time_offsets=["boottime=100000"])) > uptime + 99_000


@pytest.mark.cgroup_v1("devices")
def test_devices() -> None:
    assert inside("stat -c %t:%T /dev/log", devices=["/dev/kmsg:/dev/log"]) == "1:b\n"
    opened = "(: > /dev/log) 2>/dev/null && echo writable || echo refused"
    assert inside(opened, devices=["/dev/kmsg:/dev/log:r"]) == "refused\n"
    assert inside(opened, devices=["/dev/kmsg:/dev/log:rw"]) == "writable\n"
    assert inside(opened, devices=["/dev/kmsg:/dev/log:r"], device_cgroup_rules=["c 1:11 w"]) == "writable\n"


@pytest.mark.cgroup_v1("devices")
def test_who_may_make_nodes_may_not_use_them_all() -> None:
    script = "mknod /tmp/n c 1 3 && echo x > /tmp/n && echo null; mknod /tmp/k c 1 1 && (head -c 1 /tmp/k 2>&1 || true)"
    said = inside(script, cap_add=["MKNOD"])
    assert said.startswith("null\n")
    assert "not permitted" in said


@pytest.mark.cgroup_v1("memory")
@pytest.mark.cgroup_v1("cpu")
def test_finer_limits() -> None:
    script = (
        "cd /sys/fs/cgroup; cat memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes "
        "cpu/cpu.shares cpuset/cpuset.cpus"
    )
    said = inside(
        script, memory="64m", memory_swap="100m", memory_reservation="32m", cpu_shares=512, cpuset_cpus="0"
    )
    assert said.split() == [str(100 << 20), str(32 << 20), "512", "0"]


RUNNING = """
import sys
from lamina.engine import Engine
Engine().run("host", ["sh", "-c", "echo up; exec sleep 1000"], name="other", stdout=1)
"""


def test_the_pid_namespace_of_another_container(untouched_host: Leaks) -> None:
    with subprocess.Popen([sys.executable, "-c", RUNNING], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "up\n"
        try:
            # it has said so before it is another program
            script = (
                "until tr '\\0' ' ' < /proc/1/cmdline | grep '^sleep'; do :; done; readlink /proc/self/ns/pid"
            )
            assert inside(script, pid="container:other").startswith("sleep 1000 \npid:[")
        finally:
            other.kill()
    with pytest.raises((Conflict, NotFound)):
        inside("true", pid="container:other")
    Engine().container("other").remove(force=True)
    with pytest.raises(NotFound):
        inside("true", pid="container:nobody")


def test_typed(lamina: Lamina) -> None:
    done = lamina(
        *("run", "--rm", "--cap-drop", "all", "--cap-add=kill", "--ulimit", "nofile=50", "--shm-size=1m"),
        *("host", "sh", "-c", "grep CapBnd /proc/self/status; ulimit -n"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["CapBnd:", f"{1 << 5:016x}", "50"]
    done = lamina("run", "--rm", "--uts", "others", "host", "true")
    assert done.returncode == 125
    assert "uts others: not supported so far" in done.stderr
    helped = lamina("run", "--help").stdout
    assert "--cap-add" in helped
    assert "--device-read-bps" in helped


def test_many_at_once(untouched_host: Leaks) -> None:
    """Filters and plans of different containers do not get mixed up in what is kept."""
    failures = []

    def one(number: int) -> None:
        wanted = {"kill": 1 << 5, "chown": 1, "net_raw": 1 << 13}
        name = list(wanted)[number % 3]
        got = capabilities(cap_drop=["ALL"], cap_add=[name])["CapBnd"]
        if got != wanted[name]:
            failures.append((name, got))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert untouched_host.left() == []
