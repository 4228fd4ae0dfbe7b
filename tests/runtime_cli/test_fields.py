"""Fields of the specification that need their maker's help, or namespaces of somebody else's, by way of the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lamina.linux.constants import CLONE_NEWUSER
from lamina.linux.numbers import number
from lamina.runtime.plan.namespaces import FLAGS
from support.agent import Agent, profile
from support.namespaces import in_mount_namespace
from support.oci import Runtime
from support.starting import FILES, SHIFTED, link, somebody

pytestmark = pytest.mark.root
ASK = "import os; print(os.getppid(), flush=True); os._exit(0)"


def run(runtime: Runtime, bundle: Any, identity: str) -> str:
    """What a container says in its life."""
    done = runtime("run", "--bundle", bundle.write(), identity, capture_output=True)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_a_relative_destination_is_meant_from_the_root(runtime: Runtime) -> None:
    """As config.md has it, for old tools; also of what makes /dev fresh."""
    bundle = runtime.shell(
        "echo a > /mnt/here/a; cat /mnt/here/a; test -c /dev/null; grep -c ' /dev ' /proc/self/mounts"
    )
    bundle.config["mounts"].append({"destination": "mnt/here", "type": "tmpfs", "source": "tmpfs"})
    for mount in bundle.config["mounts"]:
        mount["destination"] = mount["destination"].removeprefix("/")
    assert run(runtime, bundle, "c") == "a\n1\n"


@pytest.mark.parametrize(
    ("directory", "found"),
    [("/tmp/..", "/"), ("/usr/../tmp", "/tmp"), ("/link/../c", "/tmp/a/c"), ("/new/../tmp/new", "/tmp/new"),
     ("/../../tmp", "/tmp")],
)  # fmt: skip
def test_a_working_directory_goes_upward_as_the_kernel_does(
    runtime: Runtime, directory: str, found: str
) -> None:
    """Not by its words: what is before ".." may be a link. What is missing is made; `exec` makes nothing."""
    bundle = runtime.bundle("sh", "-c", "pwd; exec sleep 600", cwd=directory)
    (bundle.rootfs / "tmp/a/b").mkdir(parents=True)
    (bundle.rootfs / "tmp/a/c").mkdir()
    (bundle.rootfs / "link").symlink_to("tmp/a/b")
    runtime.begin("c", bundle)
    done = runtime.ask("exec", "--cwd", directory, "c", "pwd")
    assert (done.stdout, done.stderr) == (f"{found}\n", "")
    assert os.readlink(f"/proc/{runtime.state('c')['pid']}/cwd") == found
    runtime.ask("delete", "--force", "c")


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "cgroup", "pid", "time", "user"])
def test_namespaces_are_joined(runtime: Runtime, kind: str) -> None:
    flags = sum(FLAGS.values()) & ~(0 if kind == "user" else CLONE_NEWUSER)
    with somebody(flags) as pid:
        bundle = runtime.bundle("sleep", "600")
        bundle.config.pop("hostname")
        kept = [n for n in bundle.config["linux"]["namespaces"] if n["type"] not in (kind, "uts")]
        kept.append({"type": kind, "path": f"/proc/{pid}/ns/{FILES.get(kind, kind)}"})
        bundle.config["linux"]["namespaces"] = kept
        identity = f"joined-{kind}-{os.getpid()}"
        runtime.begin(identity, bundle)
        found = int(runtime.state(identity)["pid"])
        assert link(found, kind) == link(pid, kind)
        if kind != "time":
            done = runtime.ask("exec", identity, "readlink", f"/proc/self/ns/{FILES.get(kind, kind)}")
            assert done.stdout.strip() == link(pid, kind), done.stderr
        runtime.ask("delete", "--force", identity)


@pytest.mark.parametrize("privileges", [False, True], ids=["gains none", "may gain privileges"])
@pytest.mark.parametrize("init", [[], ["--init"]], ids=["alone", "init"])
def test_a_filter_that_is_older_than_the_calls_we_make(
    runtime: Runtime, privileges: bool, init: list[str]
) -> None:
    """Profiles were copied from Docker's years ago."""
    bundle = runtime.bundle("sleep", "600", noNewPrivileges=not privileges)
    later = [
        "close_range",
        "openat2",
        "pidfd_open",
        "pidfd_send_signal",
        "faccessat2",
        "clone3",
        "mount_setattr",
    ]
    refused = {"names": later, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
    bundle.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused]}
    runtime.begin("c", bundle, *init)
    done = runtime.ask("exec", "c", "grep", "Seccomp:", "/proc/self/status")
    assert (done.stdout, done.stderr) == ("Seccomp:\t2\n", "")
    assert runtime.ask("exec", "c", "sh", "-c", "ls /proc/self/fd | wc -l").stdout == "4\n"
    pid = runtime.state("c")["pid"]
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]


LOOK = r"""
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int count, char **words)
{
    if (!strcmp(words[1], "make"))
        return creat(words[2], 0644) < 0;
    if (!strcmp(words[1], "wait"))
        return sleep(600);
    DIR *root = opendir("/");
    for (struct dirent *entry; (entry = readdir(root));)
        puts(entry->d_name);
    return 0;
}
"""


@pytest.mark.peer("gcc")
@pytest.mark.parametrize("joined", [False, True], ids=["the caller's", "somebody's"])
def test_who_joins_has_the_root_of_a_container_that_shares_its_mounts(runtime: Runtime, joined: bool) -> None:
    """Its root is one by chroot(2): what setns(2) leads to is the host's."""
    bundle = runtime.bundle("/look", "wait")
    (runtime.directory / "look.c").write_text(LOOK)
    subprocess.run(["gcc", "-static", "-o", bundle.rootfs / "look", runtime.directory / "look.c"], check=True)
    bundle.config.pop("hostname")
    bundle.config["mounts"] = []
    bundle.config["hooks"] = {"startContainer": [{"path": "/look", "args": ["look", "make", "/tmp/made"]}]}
    with somebody(FLAGS["mount"]) as pid:
        shared = [{"type": "mount", "path": f"/proc/{pid}/ns/mnt"}] if joined else []
        bundle.config["linux"]["namespaces"] = [{"type": "pid"}, *shared]
        runtime.begin("c", bundle)
        assert (bundle.rootfs / "tmp/made").exists()
        done = runtime.ask("exec", "c", "/look", "around")
        assert set(done.stdout.split()) - {".", ".."} == set(os.listdir(bundle.rootfs)), done.stderr
        assert runtime.ask("delete", "--force", "c").returncode == 0


def test_fields_that_only_steps_stand_for(runtime: Runtime) -> None:
    bundle = runtime.shell(
        "cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/self/timens_offsets;"
        " uname -m; stat -c %Hr:%Lr /dev/mine; grep -c . /tmp/kept; nice",
        oomScoreAdj=77, scheduler={"policy": "SCHED_OTHER", "nice": 4},
    )  # fmt: skip
    linux = bundle.config["linux"]
    linux["namespaces"].append({"type": "time"})
    linux["timeOffsets"] = {"boottime": {"secs": 1000}}
    linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "81"}
    linux["personality"] = {"domain": "LINUX32"}
    linux["devices"] = [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3}]
    bundle.config["mounts"].append(
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}
    )
    (bundle.rootfs / "tmp/kept").write_text("here\n")
    lines = run(runtime, bundle, f"fields-{os.getpid()}").splitlines()
    assert lines[:2] == ["77", "81"]
    assert lines[3].split() == ["boottime", "1000", "0"]
    assert lines[4:] == ["i686", "1:3", "1", "4"]


def test_what_differs_from_what_was_asked_is_logged(runtime: Runtime) -> None:
    bundle = runtime.bundle("true")
    bundle.config["process"]["capabilities"]["bounding"].append("CAP_OF_TOMORROW")
    log = runtime.directory / "log"
    done = runtime(
        "--log", str(log), "run", "--bundle", bundle.write(), f"said-{os.getpid()}", capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert "CAP_OF_TOMORROW is not given" in log.read_text()


def test_a_user_namespace_of_roots(runtime: Runtime) -> None:
    bundle = runtime.shell(
        "cat /proc/self/uid_map /proc/self/oom_score_adj; stat -c %u /; [ -c /dev/null ]", oomScoreAdj=5
    )
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    bundle.config["linux"].update(uidMappings=SHIFTED, gidMappings=SHIFTED)
    for path in (bundle.rootfs, *bundle.rootfs.iterdir()):
        os.chown(path, 100_000, 100_000, follow_symlinks=False)
    lines = run(runtime, bundle, f"user-{os.getpid()}").splitlines()
    assert lines[0].split() == ["0", "100000", "65536"]
    assert lines[1:] == ["5", "0"]


def test_a_network_device_is_the_containers(runtime: Runtime) -> None:
    def inner() -> str:
        from lamina.linux.namespaces import unshare

        unshare(FLAGS["network"])
        for words in (
            ["link", "add", "one", "type", "veth", "peer", "name", "two"],
            ["addr", "add", "192.0.2.7/24", "dev", "one"],
        ):
            subprocess.run(["ip", *words], check=True)
        bundle = runtime.bundle("/sbin/ip", "-o", "addr")
        bundle.config["linux"]["netDevices"] = {"one": {"name": "eth0"}}
        return run(runtime, bundle, f"net-{os.getpid()}")

    assert "eth0    inet 192.0.2.7/24" in in_mount_namespace(inner)


@pytest.mark.parametrize("privileges", [True, False])
def test_an_agent_answers_for_a_container_and_for_who_joins_it(runtime: Runtime, privileges: bool) -> None:
    python = [os.path.realpath("/usr/bin/python3"), "-I", "-S", "-c", ASK]
    if not Path(python[0]).exists():
        pytest.skip("needs a Python of the system's, which is in /usr")
    place = runtime.directory / "agent"
    bundle = runtime.bundle(*python, noNewPrivileges=privileges)
    bundle.config["linux"]["seccomp"] = profile(place, "getppid")
    identity = f"agent-{os.getpid()}"
    with Agent(place, lambda call: (4711, 0, 0)) as agent:
        assert run(runtime, bundle, identity) == "4711\n"
    assert agent.asked == [number("getppid")]
    assert agent.document["state"]["id"] == identity
    place.unlink()
    bundle.config["process"]["args"] = ["sleep", "600"]
    with Agent(place, lambda call: (1, 0, 0), listeners=2) as agent:
        runtime.begin(identity, bundle)
        done = runtime("exec", identity, *python, capture_output=True)
        assert done.stdout == "1\n", done.stderr
        runtime.ask("delete", "--force", identity)


def test_how_the_kernel_treats_a_process_that_joins(runtime: Runtime) -> None:
    identity = f"treated-{os.getpid()}"
    runtime.begin(identity, runtime.bundle("sleep", "600"))
    process = {
        "args": [
            "/bin/sh",
            "-c",
            "grep Cpus_allowed_list /proc/self/status; nice; cat /proc/self/oom_score_adj",
        ],
        "cwd": "/",
        "env": ["PATH=/usr/bin:/bin"],
        "execCPUAffinity": {"initial": "0", "final": "0"},
        "scheduler": {"policy": "SCHED_OTHER", "nice": 19},
        "oomScoreAdj": 333,
    }
    file = runtime.directory / "process.json"
    file.write_text(json.dumps(process))
    done = runtime("exec", "--process", str(file), identity, capture_output=True)
    assert done.stdout.split()[1:] == ["0", "19", "333"], done.stderr
    process["execCPUAffinity"] = {"final": "0-"}
    file.write_text(json.dumps(process))
    done = runtime("exec", "--process", str(file), identity, capture_output=True)
    assert "process.execCPUAffinity.final" in done.stderr
    runtime.ask("delete", "--force", identity)


def test_what_is_refused_leaves_nothing(runtime: Runtime) -> None:
    bundle = runtime.bundle("true")
    bundle.config["linux"]["sysctl"] = {"kernel.panic": "1"}
    done = runtime("run", "--bundle", bundle.write(), "refused", capture_output=True)
    assert done.returncode == 1
    assert "belongs to the whole machine" in done.stderr
    assert sys.executable
