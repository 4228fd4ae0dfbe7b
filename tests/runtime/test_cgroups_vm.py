"""What takes a kernel and an init system of its own: all controllers of v2, systemd as manager, delegation to a user.

Run by `make test-vm` as root of a virtual machine whose init is systemd; vdc is a disk that may be written to.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import Conflict, InvalidInput, KernelError
from lamina.runtime.cgroups import Cgroup, create, read_layout, reopen
from lamina.runtime.cgroups.delegation import own
from support.groups import Boxes, eventually, file_of
from support.oci import COMMAND, Runtime

pytestmark = [pytest.mark.vm, pytest.mark.root]
MEGABYTE = 1 << 20
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def boxes() -> Iterator[Boxes]:
    made = Boxes()
    try:
        yield made
    finally:
        made.close()


# -- controllers


def test_this_machine_has_everything():
    layout = read_layout()
    assert layout.v2_controllers >= {"cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"}
    assert not layout.v1


def test_huge_pages_are_limited(boxes):
    cgroup = boxes.make({"hugepageLimits": [{"pageSize": "2MB", "limit": 2 * MEGABYTE}]})
    assert file_of(cgroup, "", "hugetlb.2MB.max").read_text() == f"{2 * MEGABYTE}\n"
    assert file_of(cgroup, "", "hugetlb.2MB.rsvd.max").read_text() == f"{2 * MEGABYTE}\n"
    code = "import mmap; m = mmap.mmap(-1, {} << 21, flags=0x40022); m[0] = 1; input()"  # anonymous, private, huge
    # what is reserved is limited as well, so the second page is refused before it is touched
    refused = boxes.run(cgroup, f"{sys.executable} -c '{code.format(2)}'")
    assert "Cannot allocate memory" in refused.stderr
    process = boxes.start(cgroup, f"exec {sys.executable} -c '{code.format(1)}'", stdin=subprocess.PIPE)

    def one_page() -> bool:
        assert process.poll() is None, process.communicate()
        hugetlb = cgroup.stats().hugetlb
        return hugetlb is not None and hugetlb["2MB"].usage_bytes == 2 * MEGABYTE

    eventually(one_page)
    assert cgroup.stats().hugetlb["2MB"].limit_bytes == 2 * MEGABYTE


def test_writes_to_a_disk_are_slowed_down(boxes):
    """Measured by the pressure that the waiting makes, which is a counter: 24 writes at 8 in a second."""
    disk = {"major": os.major(os.stat("/dev/vdc").st_rdev), "minor": os.minor(os.stat("/dev/vdc").st_rdev)}
    cgroup = boxes.make({"blockIO": {"throttleWriteIOPSDevice": [{**disk, "rate": 8}]}})
    done = boxes.run(cgroup, "dd if=/dev/zero of=/dev/vdc bs=4k count=24 oflag=direct")
    assert done.returncode == 0, done.stderr
    stats = cgroup.stats()
    (device,) = [d for d in stats.io if (d.major, d.minor) == (disk["major"], disk["minor"])]
    assert device.write_bytes == 24 * 4096
    assert device.writes == 24
    assert stats.pressure is not None
    assert stats.pressure["io"].some.total_ns > 1_000_000_000


def test_weights_of_disks(boxes):
    cgroup = boxes.make({"blockIO": {"weight": 500}})
    assert file_of(cgroup, "", "io.weight").read_text() == "default 4950\n"
    subprocess.run(["modprobe", "bfq"], check=True)
    scheduler = Path("/sys/block/vdc/queue/scheduler")
    scheduler.write_text("bfq")
    try:
        bfq = boxes.make({"blockIO": {"weight": 500}}, "bfq")
        assert file_of(bfq, "", "io.bfq.weight").read_text().splitlines()[0] in ("500", "default 500")
    finally:
        scheduler.write_text("none")


def test_swap_alone_is_what_v2_limits(boxes):
    cgroup = boxes.make(
        {"memory": {"limit": 32 * MEGABYTE, "swap": 40 * MEGABYTE, "reservation": 8 * MEGABYTE}}
    )
    assert file_of(cgroup, "", "memory.swap.max").read_text() == f"{8 * MEGABYTE}\n"
    assert file_of(cgroup, "", "memory.low").read_text() == f"{8 * MEGABYTE}\n"
    cgroup.update({"memory": {"swap": 48 * MEGABYTE}})  # memory's own limit stays, and is taken off
    assert file_of(cgroup, "", "memory.swap.max").read_text() == f"{16 * MEGABYTE}\n"


def test_unified_keys(boxes):
    cgroup = boxes.make(
        {
            "unified": {
                "memory.high": "16777216",
                "memory.oom.group": "1",
                "cgroup.max.descendants": "3",
                "cpu.weight": "7",
            }
        }
    )
    shown = {
        name: file_of(cgroup, "", name).read_text().strip() for name in ("memory.high", "memory.oom.group")
    }
    assert shown == {"memory.high": "16777216", "memory.oom.group": "1"}
    assert file_of(cgroup, "", "cgroup.max.descendants").read_text() == "3\n"
    assert file_of(cgroup, "", "cpu.weight").read_text() == "7\n"


def test_a_group_that_dies_together(boxes):
    """memory.oom.group: one process too many, and all go."""
    limits = {"limit": 32 * MEGABYTE, "swap": 32 * MEGABYTE}
    cgroup = boxes.make({"memory": limits, "unified": {"memory.oom.group": "1"}})
    sleeper = boxes.start(cgroup, "exec sleep 60")
    boxes.run(cgroup, "head -c 500m /dev/zero | tail")
    assert sleeper.wait(20) == -signal.SIGKILL
    assert cgroup.oom_kills() >= 2


def test_devices_that_are_not_there_are_refused_by_the_kernel(boxes):
    with pytest.raises(KernelError, match="there is no such device"):
        boxes.make({"rdma": {"mlx5_0": {"hcaHandles": 1}}})
    with pytest.raises(KernelError, match="refuses this misc limit"):
        boxes.make({"unified": {"misc.max": "sev 1"}})
    stats = boxes.make({}, everywhere=True).stats()
    assert stats.rdma == {}
    assert stats.misc is not None


def test_controllers_are_handed_down_to_the_container_and_not_inside(boxes):
    cgroup = boxes.make({"pids": {"limit": 5}}, "a/b")
    assert "pids" in file_of(cgroup, "", "../cgroup.subtree_control").read_text()
    assert file_of(cgroup, "", "cgroup.subtree_control").read_text().strip() == ""


def test_a_group_with_processes_divides_nothing(boxes):
    outer = boxes.make({"pids": {"limit": 50}})
    boxes.start(outer, "exec sleep 60")
    with pytest.raises(Exception, match="it has processes of its own, and then may not divide what it has"):
        create(f"{boxes.parent}/box/inner", {"memory": {"limit": MEGABYTE}})
    assert not file_of(outer, "", "inner").exists()


def test_what_only_v1_has(boxes):
    """net_cls and net_prio were left to v1 on this machine's kernel command line."""
    place = Path("/run/lamina-v1")
    place.mkdir()
    subprocess.run(["mount", "-t", "cgroup", "-o", "net_cls,net_prio", "cgroup", place], check=True)
    try:
        asked = {
            "network": {"classID": 1048577, "priorities": [{"name": "lo", "priority": 5}]},
            "pids": {"limit": 9},
        }
        cgroup = boxes.make(asked)
        assert set(cgroup.paths) == {"net_cls", "net_prio", ""}
        assert list(cgroup.tasks) == ["net_cls,net_prio"]
        assert file_of(cgroup, "net_cls", "net_cls.classid").read_text() == "1048577\n"
        assert "lo 5" in file_of(cgroup, "net_prio", "net_prio.ifpriomap").read_text()
        process = boxes.start(cgroup, "exec sleep 60")
        there = own(read_layout(), process.pid)
        assert {name: there[name] for name in cgroup.paths} == cgroup.paths
        cgroup.kill()
        process.wait(10)
        cgroup.remove()
    finally:
        boxes.close()
        eventually(lambda: subprocess.run(["umount", place]).returncode == 0)
        place.rmdir()


# -- systemd


@pytest.fixture
def scope() -> Iterator[str]:
    """A name for a scope that is gone afterwards."""
    name = f"t{os.urandom(4).hex()}"
    yield f"system.slice:lamina:{name}"
    subprocess.run(["systemctl", "stop", f"lamina-{name}.scope"], capture_output=True)


def show(unit: str, *properties: str) -> dict[str, str]:
    said = subprocess.run(
        ["systemctl", "show", unit, f"--property={','.join(properties)}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.partition("=")[::2] for line in said.stdout.splitlines())


def managed(scope: str, resources: dict[str, object]) -> Cgroup:
    cgroup = create(scope, resources, manager="systemd")
    assert cgroup is not None
    return cgroup


def test_systemd_makes_a_scope(boxes, scope):
    asked = {
        "memory": {"limit": 64 * MEGABYTE}, "cpu": {"shares": 1024, "quota": 20_000, "cpus": "0"},
        "pids": {"limit": 20}, "devices": [{"allow": False, "access": "rwm"}],
    }  # fmt: skip
    cgroup = managed(scope, asked)
    unit = cgroup.unit
    try:
        assert cgroup.paths == {"": f"/sys/fs/cgroup/system.slice/{unit}".encode()}
        process = boxes.start(cgroup, "exec sleep 60")
        keeper = cgroup.keeper
        assert keeper is not None
        cgroup.close()
        assert cgroup.processes() == [process.pid]
        names = (
            "MemoryMax",
            "CPUWeight",
            "CPUQuotaPerSecUSec",
            "TasksMax",
            "AllowedCPUs",
            "Delegate",
            "ActiveState",
        )
        assert show(unit, *names) == {
            "MemoryMax": str(64 * MEGABYTE), "CPUWeight": "100", "CPUQuotaPerSecUSec": "200ms", "TasksMax": "20",
            "AllowedCPUs": "0", "Delegate": "yes", "ActiveState": "active",
        }  # fmt: skip
        # what systemd knows of survives that it writes everything anew
        cgroup = reopen(cgroup.record())
        cgroup.update({"memory": {"limit": 96 * MEGABYTE}, "pids": {"limit": 30}})
        subprocess.run(["systemctl", "daemon-reload"], check=True)
        assert show(unit, "MemoryMax", "TasksMax") == {"MemoryMax": str(96 * MEGABYTE), "TasksMax": "30"}
        assert file_of(cgroup, "", "memory.max").read_text() == f"{96 * MEGABYTE}\n"
        assert file_of(cgroup, "", "pids.max").read_text() == "30\n"
        assert file_of(cgroup, "", "cpu.max").read_text() == "20000 100000\n"
        cgroup.open()
        denied = boxes.run(cgroup, "exec 3</dev/kmsg")
        cgroup.close()
        assert "Operation not permitted" in denied.stderr
        with pytest.raises(Conflict, match="there is a unit of that name"):
            managed(scope, {"pids": {"limit": 5}})
        assert process.poll() is None
        cgroup.freeze()
        assert cgroup.frozen
        cgroup.thaw()
    finally:
        cgroup.kill()
        cgroup.remove()
    assert not os.path.exists(cgroup.paths[""])
    assert show(unit, "LoadState")["LoadState"] == "not-found"


def test_a_scope_can_be_made_again(boxes, scope):
    for _ in range(2):
        cgroup = managed(scope, {"pids": {"limit": 5}})
        assert f"0::/system.slice/{cgroup.unit}\n" in boxes.run(cgroup, "cat /proc/self/cgroup").stdout
        cgroup.close()
        cgroup.remove()


def test_a_start_that_fails_leaves_no_scope(scope):
    with pytest.raises(KernelError):
        managed(scope, {"pids": {"limit": 5}, "unified": {"memory.high": "much"}})
    name = scope.rpartition(":")[2]
    assert not list(Path("/sys/fs/cgroup/system.slice").glob(f"*{name}*"))
    with pytest.raises(InvalidInput, match="slice:prefix:name"):
        managed(f"/lamina/{name}", {"pids": {"limit": 5}})


def has_ended(pid: int) -> bool:
    """Whether nobody is there, or a zombie; it may go while it is looked at."""
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_the_keeper_ends_with_its_program(scope):
    code = (
        "import os, sys\n"
        "from lamina.runtime.cgroups import create\n"
        f"print(create({scope!r}, {{'pids': {{'limit': 5}}}}, manager='systemd').keeper.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    keeper = int(done.stdout)
    eventually(lambda: has_ended(keeper))
    name = scope.rpartition(":")[2]
    eventually(lambda: not list(Path("/sys/fs/cgroup/system.slice").glob(f"*{name}*")))


def test_a_life_under_systemd(tmp_path):
    """As containerd and podman ask for it."""
    runtime = Runtime(tmp_path, [*COMMAND, "--systemd-cgroup"])
    try:
        bundle = runtime.shell("cat /proc/self/cgroup; exec sleep 600")
        name = f"t{os.urandom(4).hex()}"
        bundle.config["linux"]["cgroupsPath"] = f"system.slice:lamina:{name}"
        bundle.config["linux"]["namespaces"].remove({"type": "cgroup"})
        bundle.config["linux"]["resources"] = {
            "memory": {"limit": 64 * MEGABYTE}, "devices": [{"allow": False, "access": "rwm"}],
        }  # fmt: skip
        runtime.begin("c", bundle)
        unit = f"lamina-{name}.scope"
        runtime.wait_output("c", f"0::/system.slice/{unit}\n", patience=60)
        assert show(unit, "MemoryMax", "ActiveState") == {
            "MemoryMax": str(64 * MEGABYTE),
            "ActiveState": "active",
        }
        done = runtime("exec", "c", "cat", "/proc/self/cgroup", stdout=subprocess.PIPE, timeout=100)
        assert f"0::/system.slice/{unit}\n" in done.stdout
        assert runtime.ask("update", "--memory", "96m", "c").returncode == 0
        assert show(unit, "MemoryMax")["MemoryMax"] == str(96 * MEGABYTE)
        assert runtime.ask("delete", "--force", "c").returncode == 0
        assert show(unit, "LoadState")["LoadState"] == "not-found"
    finally:
        runtime.close()


# -- rootless


ROOTLESS = """
import os, subprocess, sys
from lamina.runtime.cgroups import create
cgroup = create("lamina/box", {"pids": {"limit": 5}, "memory": {"limit": 32 << 20}}, own_parent=True)
print(os.fsdecode(cgroup.paths[""]), flush=True)
def join():
    procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=cgroup.v2)
    os.write(procs, b"0")
done = subprocess.run(["/bin/sh", "-c", "head -c 500m /dev/zero | tail"], preexec_fn=join, stdout=subprocess.DEVNULL)
print(done.returncode in (137, -9), cgroup.oom_kills() >= 1, cgroup.stats().pids.limit, flush=True)
cgroup.freeze(); cgroup.thaw(); cgroup.kill(); cgroup.close(); cgroup.remove()
print(os.path.exists(os.path.dirname(cgroup.paths[""])), flush=True)
"""


def as_tester(code: str, *properties: str) -> subprocess.CompletedProcess[str]:
    words = [
        "systemd-run",
        "--quiet",
        "--wait",
        "--pipe",
        "--uid=tester",
        f"--setenv=PYTHONPATH={ROOT / 'src'}",
    ]
    words += [f"--property={text}" for text in properties]
    return subprocess.run([*words, sys.executable, "-c", code], capture_output=True, text=True, timeout=100)


def test_a_user_uses_what_was_delegated():
    done = as_tester(ROOTLESS, "Delegate=yes", "DelegateSubgroup=init")
    place, counted, left = done.stdout.splitlines()
    assert re.fullmatch(r"/sys/fs/cgroup/system\.slice/run-[^/]*\.service/lamina/box", place), done.stderr
    assert counted == "True True 5"
    assert left == "False"


LIMITS = ["--memory", "64m", "--pids-limit", "20", "--cpus", "0.5"]
SHOW = "cat /proc/self/cgroup /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max"
SHOWN = ["0::/", str(64 * MEGABYTE), "20", "50000 100000"]


def test_a_container_with_limits():
    """It sees its own group as the root, read-only."""
    run = [
        sys.executable,
        "-m",
        "lamina",
        "run",
        "--rm",
        *LIMITS,
        "host",
        "--",
        "sh",
        "-c",
        f"{SHOW}; mkdir /sys/fs/cgroup/x",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "LAMINA_ROOT": f"/var/tmp/lamina-{os.urandom(3).hex()}",
    }
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=100)
    assert [line for line in done.stdout.splitlines() if "net_cls" not in line] == SHOWN, done.stderr
    assert "Read-only file system" in done.stderr
    assert not Path("/sys/fs/cgroup/lamina").exists()


def test_a_users_container_with_limits():
    words = ["run", "--rm", *LIMITS[:4], "host", "--", "sh", "-c", SHOW.replace("/sys/fs/cgroup/cpu.max", "")]
    code = f"import sys; from lamina.cli.entry import command_line; sys.exit(command_line({words!r}))"
    done = as_tester(code, "Delegate=yes", "DelegateSubgroup=init", "Environment=HOME=/home/tester")
    assert [line for line in done.stdout.splitlines() if "net_cls" not in line] == SHOWN[:3], done.stderr


def test_a_user_without_delegation_is_told():
    done = as_tester(ROOTLESS)
    assert done.returncode != 0
    assert "Unsupported" in done.stderr
    assert "delegated (see `lamina doctor`)" in done.stderr


def test_a_user_whose_group_was_not_divided_is_told_how():
    """Delegated, but this very process lives where the dividing would have to be done."""
    done = as_tester(ROOTLESS, "Delegate=yes")
    assert done.returncode != 0
    assert "delegated (see `lamina doctor`)" in done.stderr


def test_a_user_has_a_manager_of_its_own():
    uid = pwd.getpwnam("tester").pw_uid
    subprocess.run(["systemctl", "start", f"user@{uid}.service"], check=True, timeout=100)
    try:
        code = ROOTLESS.replace('"lamina/box"', '":lamina:box"').replace(
            "own_parent=True", 'manager="systemd"'
        )
        code = code.replace('os.path.dirname(cgroup.paths[""])', 'cgroup.paths[""]')
        # a process of the user's own manager, whose group that manager may move out of
        runtime = f"/run/user/{uid}"
        words = [
            "systemd-run",
            "--quiet",
            "--wait",
            "--pipe",
            "--user",
            f"--setenv=PYTHONPATH={ROOT / 'src'}",
        ]
        done = subprocess.run(
            ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *words, sys.executable, "-c", code],
            env={"XDG_RUNTIME_DIR": runtime, "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        place, counted, left = done.stdout.splitlines()
        assert place.endswith("/user.slice/lamina-box.scope") or "lamina-box.scope" in place, done.stderr
        assert f"user@{uid}.service" in place
        assert counted == "True True 5"
        assert left == "False"
    finally:
        subprocess.run(["systemctl", "stop", f"user@{uid}.service"], timeout=100)
