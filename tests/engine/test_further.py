"""What is rarely asked: docker's notation read, refused, and made into the specification."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lamina.engine import cdi
from lamina.engine.checking import check_options
from lamina.engine.further import INFINITY, Device, Further
from lamina.engine.id_maps import IdMaps
from lamina.engine.translate import Circumstances, ImageConfig, translate
from lamina.errors import InvalidInput, KernelError, LaminaError, NotFound, Unsupported
from lamina.runtime.capabilities import DEFAULT_CAPABILITIES
from lamina.runtime.spec import check
from lamina.runtime.users import User

MANY = "9" * 5000  # digits: more than int() takes
IDENTITY = "0000000a0000000a" + "0" * 48
AROUND = Circumstances(identity="0" * 64, cgroup="/lamina/x", hostname="hosty")
WHOLE = IdMaps(((0, 1000, 1), (1, 100000, 65536)), ((0, 1000, 1), (1, 100000, 65536)))
FILES = {"/etc/group": b"audio:x:29:\nnobody:x:70000:\n"}


def further(**asked: Any) -> Further:
    found = check_options(asked).further
    assert found is not None
    return found


def amended(user: User | None = None, maps: IdMaps | None = None, **asked: Any) -> dict[str, Any]:
    from lamina.engine.amend import amend, profile_of

    options = check_options(asked)
    around = Circumstances(identity="0" * 64, cgroup="/lamina/x", hostname="hosty", maps=maps)
    spec = translate(("true",), options, ImageConfig(), user or User(), around)
    if options.further is not None:
        amend(
            spec,
            options.further,
            maps=maps,
            read=lambda path: FILES.get(path, b""),
            joined={},
            identity=IDENTITY,
        )
        profile_of(options.further, tuple(spec["process"]["capabilities"]["bounding"]))
    check(spec)  # what the runtime will say to it
    return spec


def test_nothing_asked_is_nothing() -> None:
    assert check_options({}).further is None
    assert check_options({"cap_add": [], "privileged": False, "pid": "", "shm_size": None}).further is None


@pytest.mark.parametrize(
    ("asked", "field", "wanted"),
    [
        ({"cap_add": ["net_admin", "CAP_SYS_TIME,all"]}, "cap_add", ("CAP_NET_ADMIN", "CAP_SYS_TIME", "ALL")),
        ({"ulimits": ["nofile=1024", "nproc=5:10", "core=-1"]}, "ulimits",
         (("RLIMIT_NOFILE", 1024, 1024), ("RLIMIT_NPROC", 5, 10), ("RLIMIT_CORE", INFINITY, INFINITY))),
        ({"ulimits": {"cpu": "unlimited"}}, "ulimits", (("RLIMIT_CPU", INFINITY, INFINITY),)),
        ({"ulimits": ["nofile=1", "nofile=2"]}, "ulimits", (("RLIMIT_NOFILE", 2, 2),)),
        ({"sysctls": {"net.core.somaxconn": 12}}, "sysctls", (("net.core.somaxconn", "12"),)),
        ({"shm_size": "1g"}, "shm_size", 1 << 30),
        ({"memory_swap": "-1"}, "memory_swap", -1),
        ({"memory_swap": "2g"}, "memory_swap", 2 << 30),
        ({"oom_score_adj": "-500"}, "oom_score_adj", -500),
        ({"cpuset_cpus": "0-2,4"}, "cpuset_cpus", "0-2,4"),
        ({"devices": ["/dev/fuse"]}, "devices", (Device("/dev/fuse", "/dev/fuse", "rwm"),)),
        ({"devices": ["/dev/a:/dev/b/../c:r"]}, "devices", (Device("/dev/a", "/dev/c", "r"),)),
        ({"devices": ["/dev/a:rw"]}, "devices", (Device("/dev/a", "/dev/a", "rw"),)),
        ({"devices": ["vendor.com/gpu=0"]}, "cdi", ("vendor.com/gpu=0",)),
        ({"device_cgroup_rules": ["c 42:* rmw"]}, "device_rules", ("c 42:* rmw",)),
        ({"device_read_bps": ["/dev/a:1mb"], "device_write_iops": ["/dev/b:9"]}, "throttles",
         (("throttleReadBpsDevice", "/dev/a", 1 << 20), ("throttleWriteIOPSDevice", "/dev/b", 9))),
        ({"security_opt": ["unmask=ALL"]}, "unmask", ("ALL",)),
        ({"security_opt": ["systempaths=unconfined"]}, "unmask", ("ALL",)),
        ({"security_opt": ["mask=/a:/b/../c"]}, "mask", ("/a", "/c")),
        ({"security_opt": ["apparmor=own", "seccomp:unconfined"]}, "seccomp", "unconfined"),
        ({"security_opt": ["label=type:t", "label:level:s0:c1,c2"]}, "label", ("type:t", "level:s0:c1,c2")),
        ({"time_offsets": ["boottime=1.5", "monotonic=-2"]}, "time_offsets",
         (("boottime", 1_500_000_000), ("monotonic", -2_000_000_000))),
    ],
)  # fmt: skip
def test_it_is_read_as_docker_reads_it(asked: dict[str, Any], field: str, wanted: object) -> None:
    assert getattr(further(**asked), field) == wanted


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"cap_add": ["no_such"]}, "capability 'no_such'"),
        ({"cap_add": "NET_ADMIN"}, "not a list"),
        ({"ulimits": ["files=1"]}, "ulimit files: there is none"),
        ({"ulimits": ["nofile=2:1"]}, "above the hard one"),
        ({"ulimits": ["nofile=many"]}, "nofile=many: not numbers"),
        ({"ulimits": ["nofile=1:2:3"]}, "nofile=1:2:3: not numbers"),
        ({"ulimits": ["nofile"]}, "not NAME=VALUE"),
        ({"sysctls": ["a"]}, "not NAME=VALUE"),
        ({"shm_size": "big"}, "not a size"),
        ({"oom_score_adj": 1001}, "from -1000 to 1000"),
        ({"cpuset_cpus": "2-1"}, "not a list of numbers"),
        ({"cpuset_cpus": "a"}, "not a list of numbers"),
        ({"cpuset_cpus": "²"}, "not a list of numbers"),  # a digit, and no number
        ({"cpuset_mems": "0-²"}, "not a list of numbers"),
        ({"cpuset_cpus": f"0-{MANY}"}, "not a list of numbers"),
        ({"cpuset_cpus": "0-4000000000"}, "not a list of numbers"),
        ({"device_read_iops": [f"/dev/a:{MANY}"]}, "not DEVICE:RATE"),
        ({"time_offsets": [f"boottime={MANY}"]}, "not CLOCK=SECONDS"),
        ({"device_cgroup_rules": [f"c {MANY}:1 r"]}, "not TYPE MAJOR:MINOR ACCESS"),
        ({"device_cgroup_rules": ["c 1:4294967296 r"]}, "not TYPE MAJOR:MINOR ACCESS"),
        ({"stop_signal": f"RTMIN+{MANY}"}, "there is no signal"),
        ({"log_opt": [f"max-size={MANY}"]}, "not a size"),
        ({"network": f"slirp4netns:mtu={MANY}"}, "not a number from 68"),
        ({"egress": [f"allow:a.example:{MANY}"], "network": "bridge"}, "egress"),
        ({"cpu_quota": 5, "cpu_period": 1000}, "the least is 1000"),
        ({"devices": ["fuse"]}, "not DEVICE"),
        ({"devices": ["/dev/a:/dev/b:x"]}, "not DEVICE"),
        ({"devices": ["/dev/a:/dev/b:/dev/c:r"]}, "not DEVICE"),
        ({"device_cgroup_rules": ["c 42 r"]}, "not TYPE MAJOR:MINOR ACCESS"),
        ({"device_read_bps": ["/dev/a"]}, "not DEVICE:RATE"),
        ({"device_read_iops": ["/dev/a:1k"]}, "not DEVICE:RATE"),
        ({"blkio_weight_device": ["/dev/a:5"]}, "not DEVICE:WEIGHT"),
        ({"security_opt": ["nonsense"]}, "nonsense: not supported"),
        ({"security_opt": ["seccomp="]}, "not supported"),
        ({"security_opt": ["seccomp=/nowhere"]}, "no such file"),
        ({"security_opt": ["label=colour:red"]}, "not a label"),
        ({"security_opt": ["mask=relative"]}, "not a list of absolute paths"),
        ({"security_opt": ["no-new-privileges=perhaps"]}, "neither true nor false"),
        ({"uts": "others"}, "uts others: not supported"),
        ({"ipc": "container:"}, "ipc container:: not supported"),
        ({"pid": "container:"}, "not supported"),
        ({"userns": "kept"}, "userns kept: there is no such mode"),
        ({"domainname": "a b"}, "not a name"),
        ({"time_offsets": ["realtime=1"]}, "not CLOCK=SECONDS"),
        ({"gpus": "all"}, "gpus all: no file in"),
    ],
)
def test_what_cannot_be_meant_is_said(
    asked: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cdi, "DIRECTORIES", (str(tmp_path),))
    with pytest.raises((InvalidInput, Unsupported, NotFound)) as caught:
        check_options(asked)
    assert said in str(caught.value)


def test_an_unknown_option_is_a_programmers_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        check_options({"nonsense": 1})


def test_capabilities_are_added_and_taken() -> None:
    sets = amended(cap_add=["NET_ADMIN"], cap_drop=["CHOWN"])["process"]["capabilities"]
    assert set(sets["bounding"]) == {*DEFAULT_CAPABILITIES, "CAP_NET_ADMIN"} - {"CAP_CHOWN"}
    assert sets["effective"] == sets["permitted"] == sets["bounding"]
    assert sets["inheritable"] == sets["ambient"] == []


def test_who_is_not_root_holds_none() -> None:
    sets = amended(user=User(1000, 1000), cap_add=["NET_ADMIN"])["process"]["capabilities"]
    assert "CAP_NET_ADMIN" in sets["bounding"]
    assert sets["effective"] == sets["permitted"] == []


def test_all_taken_but_one() -> None:
    assert amended(cap_drop=["ALL"], cap_add=["KILL"])["process"]["capabilities"]["bounding"] == ["CAP_KILL"]


def test_who_may_make_nodes_is_watched_by_a_control_group() -> None:
    assert amended(cap_add=["MKNOD"])["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    assert "devices" not in amended(cap_add=["NET_ADMIN"])["linux"]["resources"]


def test_privileged() -> None:
    spec = amended(privileged=True)
    assert "CAP_SYS_CHROOT" in spec["process"]["capabilities"]["effective"]
    assert spec["process"]["noNewPrivileges"] is False
    assert spec["linux"]["maskedPaths"] == spec["linux"]["readonlyPaths"] == []
    assert spec["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    mounts = {mount["destination"]: mount["options"] for mount in spec["mounts"]}
    assert "ro" not in mounts["/sys"] + mounts["/sys/fs/cgroup"]


def test_paths_are_masked_and_shown() -> None:
    plain, spec = (
        amended()["linux"],
        amended(security_opt=["unmask=/proc/kcore", "mask=/etc/shadow"])["linux"],
    )
    assert "/proc/kcore" in plain["maskedPaths"]
    assert spec["maskedPaths"] == [path for path in plain["maskedPaths"] if path != "/proc/kcore"] + [
        "/etc/shadow"
    ]
    shown = amended(security_opt=["unmask=ALL", "mask=/x"])["linux"]
    assert (shown["maskedPaths"], shown["readonlyPaths"]) == (["/x"], [])


def test_labels() -> None:
    process = amended(security_opt=["apparmor=own", "label=type:t", "label=level:s0:c1"])["process"]
    assert process["apparmorProfile"] == "own"
    assert process["selinuxLabel"] == "system_u:system_r:t:s0:c1"
    spec = amended(security_opt=["label=type:t"])
    assert spec["process"]["selinuxLabel"] == "system_u:system_r:t:s0:c10,c11"  # its own two categories
    assert spec["linux"]["mountLabel"] == "system_u:object_r:container_file_t:s0:c10,c11"
    spec = amended(security_opt=["apparmor=unconfined", "label=disable"])
    assert "apparmorProfile" not in spec["process"]
    assert "selinuxLabel" not in spec["process"]
    assert "mountLabel" not in spec["linux"]


def test_a_profile_of_ones_own_is_read_once(tmp_path: Path) -> None:
    from lamina.engine.amend import profile_of

    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        ],
    }
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile))
    asked = further(security_opt=[f"seccomp={path}"])
    path.unlink()
    found = profile_of(asked, DEFAULT_CAPABILITIES)
    assert found is not None
    assert [rule["names"] for rule in found["syscalls"]] == [["chmod"]]
    found = profile_of(asked, ("CAP_SYS_ADMIN",))
    assert found is not None
    assert found["syscalls"] == []
    assert profile_of(Further(), ()) is None
    assert profile_of(Further(privileged=True), ()) == {}
    assert profile_of(Further(seccomp="unconfined"), ()) == {}


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "{}", '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}']
)
def test_a_profile_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "profile").write_text(text)
    with pytest.raises(InvalidInput, match="profile"):
        check_options({"security_opt": [f"seccomp={tmp_path / 'profile'}"]})


def test_groups_are_those_of_the_image() -> None:
    user = amended(user=User(5, 5, (7,)), group_add=["audio", "7", "9"])["process"]["user"]
    assert user["additionalGids"] == [7, 29, 9]
    with pytest.raises(NotFound, match="no such group"):
        amended(group_add=["nosuch"])
    with pytest.raises(Unsupported, match="no group 70000"):
        amended(group_add=["nobody"], maps=WHOLE)


def test_namespaces() -> None:
    def kinds(**asked: Any) -> set[str]:
        return {entry["type"] for entry in amended(**asked)["linux"]["namespaces"]}

    every = {"mount", "uts", "ipc", "pid", "cgroup", "network"}
    assert kinds() == every
    for kind, key in (("uts", "uts"), ("ipc", "ipc"), ("pid", "pid"), ("cgroup", "cgroupns")):
        assert kinds(**{key: "host"}) == every - {kind}
    assert kinds(time_offsets=["boottime=1"]) == {*every, "time"}
    assert "hostname" not in amended(uts="host")
    with pytest.raises(InvalidInput, match="contradict"):
        amended(uts="host", domainname="x")


def test_negative_offsets_are_whole_seconds_and_a_positive_rest() -> None:
    offsets = amended(time_offsets=["boottime=-1.5"])["linux"]["timeOffsets"]
    assert offsets == {"boottime": {"secs": -2, "nanosecs": 500_000_000}}


def test_limits() -> None:
    asked: dict[str, Any] = {
        "memory": "64m", "memory_swap": "100m", "memory_reservation": "32m", "cpu_shares": 512, "cpuset_cpus": "0",
        "cpu_quota": 50000, "blkio_weight": 300, "pids_limit": 7,
    }  # fmt: skip
    resources = amended(**asked)["linux"]["resources"]
    assert resources == {
        "memory": {"limit": 64 << 20, "swap": 100 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "cpus": "0", "quota": 50000},
        "blockIO": {"weight": 300},
        "pids": {"limit": 7},
    }


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"memory_swap": "64m"}, "without a memory limit"),
        ({"memory": "64m", "memory_swap": "32m"}, "less than memory"),
        ({"memory": "64m", "memory_reservation": "128m"}, "more than memory"),
        ({"cpus": "0.5", "cpu_quota": 5000}, "contradict"),
        ({"devices": ["/dev/nowhere"]}, "there is none"),
        ({"devices": ["/etc/passwd"]}, "not a device"),
        ({"device_read_bps": ["/dev/nowhere:1"]}, "there is none"),
    ],
)
def test_limits_that_contradict_each_other(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(LaminaError, match=said):
        amended(**asked)


def test_devices_are_nodes_and_rules() -> None:
    linux = amended(devices=["/dev/full:/dev/brim:rw"], device_cgroup_rules=["b 8:* r"])["linux"]
    assert [(d["path"], d["type"], d["major"], d["minor"]) for d in linux["devices"]] == [
        ("/dev/brim", "c", 1, 7)
    ]
    assert linux["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rw"},
        {"allow": True, "type": "b", "access": "r", "major": 8},
    ]
    assert "devices" not in amended(devices=["/dev/full"], maps=WHOLE)["linux"]["resources"]
    with pytest.raises(InvalidInput, match="not one of devices"):  # not a walk through the whole machine
        amended(devices=["/:/dev/all"])


VENDOR = {
    "cdiVersion": "0.6.0",
    "kind": "vendor.com/gpu",
    "containerEdits": {"env": ["COMMON=1"], "additionalGids": [44]},
    "devices": [
        {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/full"}]}},
        {"name": "1", "containerEdits": {
            "deviceNodes": [{"path": "/dev/gpu1", "type": "c", "major": 9, "minor": 1, "permissions": "r"}],
            "mounts": [{"hostPath": "/lib/gpu", "containerPath": "/gpu"}]}},
        {"name": "hooked", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/x"}]}},
    ],
}  # fmt: skip


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cdi, "DIRECTORIES", (str(tmp_path / "etc"), str(tmp_path / "run")))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/vendor.json").write_text(json.dumps(VENDOR))
    return tmp_path


@pytest.mark.usefixtures("vendor")
def test_devices_of_vendors() -> None:
    spec = amended(devices=["vendor.com/gpu=0", "vendor.com/gpu=1"])
    assert spec["process"]["env"].count("COMMON=1") == 1
    assert spec["process"]["user"]["additionalGids"] == [44]
    assert [(d["path"], d["major"], d["minor"]) for d in spec["linux"]["devices"]] == [
        ("/dev/gpu0", 1, 7), ("/dev/gpu1", 9, 1)
    ]  # fmt: skip
    assert [rule.get("access") for rule in spec["linux"]["resources"]["devices"]] == ["rwm", "rw", "r"]
    assert spec["mounts"][-1]["destination"] == "/gpu"


@pytest.mark.usefixtures("vendor")
@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("2", ["vendor.com/gpu=0", "vendor.com/gpu=1"]),
        ("device=1", ["vendor.com/gpu=1"]),
        ("all", ["vendor.com/gpu=0", "vendor.com/gpu=1", "vendor.com/gpu=hooked"]),
    ],
)
def test_gpus(asked: str, wanted: list[str]) -> None:
    assert list(further(gpus=asked).cdi) == wanted


@pytest.mark.usefixtures("vendor")
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"gpus": "7"}, "there are 3"),
        ({"gpus": "some"}, "not all, a number"),
        ({"devices": ["vendor.com/gpu=9"]}, "no CDI file describes it"),
        ({"devices": ["other.com/nic=0"]}, "no CDI file describes it"),
        ({"devices": ["vendor.com/gpu=hooked"]}, "hooks is not supported"),
        ({"gpus": MANY}, "not all, a number"),
    ],
)
def test_vendors_that_do_not_say_so(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(LaminaError, match=said):
        amended(**asked)


def test_yaml_of_vendors(vendor: Path) -> None:
    (vendor / "run").mkdir()
    (vendor / "run/v.yaml").write_text(
        "cdiVersion: 0.6.0\nkind: vendor.com/nic\ndevices:\n"
        "- name: a\n  containerEdits:\n    deviceNodes:\n    - path: /dev/zero\n"
    )
    assert [d["path"] for d in amended(devices=["vendor.com/nic=a"])["linux"]["devices"]] == ["/dev/zero"]


@pytest.mark.parametrize(
    "text",
    [
        "[]", "{}", '{"kind": "a/b"}', '{"kind": "ab", "devices": []}', "{", '{"kind": "a/b", "devices": ["x"]}',
        '{"kind": "a/b", "devices": [{"name": "x", "containerEdits": [1]}]}',
        '{"kind": "a/b", "devices": [{"name": "x", "containerEdits": {"mounts": [{}]}}]}',
        '{"kind": "a/b", "devices": [{"name": "x", "containerEdits": {"deviceNodes": [{}]}}]}',
        '{"kind": "a/b", "devices": [{"name": "x", "containerEdits": {"deviceNodes": 1}}]}',
    ],
)  # fmt: skip
def test_files_that_are_none_of_vendors(text: str, vendor: Path) -> None:
    (vendor / "etc/bad.json").write_text(text)
    with pytest.raises(InvalidInput, match="bad"):
        amended(devices=["vendor.com/gpu=0", "a/b=x"])


def test_a_file_of_vendors_that_cannot_be_read_is_named(vendor: Path) -> None:
    (vendor / "etc/gone.json").symlink_to("nowhere")
    with pytest.raises(KernelError, match=r"gone\.json"):
        amended(devices=["vendor.com/gpu=0"])


def test_all_devices_of_this_machine_can_be_asked_for() -> None:
    """For a privileged container: what is in /dev now, none of it twice."""
    paths = [device["path"] for device in amended(privileged=True)["linux"].get("devices", [])]
    assert len(paths) == len(set(paths))
    assert not {"/dev/null", "/dev/tty", "/dev/ptmx"} & set(paths)


def test_a_device_that_goes_while_they_are_looked_for_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gone").touch()
    scandir = os.scandir
    entries = [*scandir("/dev"), *scandir(tmp_path)]
    (tmp_path / "gone").unlink()
    monkeypatch.setattr(os, "scandir", lambda path: entries if path == "/dev" else scandir(path))
    devices = amended(privileged=True)["linux"].get("devices", [])
    assert str(tmp_path / "gone") not in {device["path"] for device in devices}


@pytest.mark.parametrize("gpus", [False, True])
@pytest.mark.usefixtures("vendor")
def test_it_comes_back_from_the_record(gpus: bool, tmp_path: Path) -> None:
    from lamina.engine.further import of_record, record_of

    asked: dict[str, Any] = {
        "cap_add": ["kill"], "devices": ["/dev/a:/dev/b:r", "vendor.com/gpu=1"], "ulimits": ["nofile=1:2"],
        "sysctls": ["net.a=1"], "device_read_bps": ["/dev/a:1mb"], "time_offsets": ["boottime=2"], "memory_swap": -1,
        "security_opt": ["mask=/a", "label=type:t", "seccomp=unconfined"], "pid": "container:x", "privileged": True,
    }  # fmt: skip
    if gpus:
        asked["gpus"] = "all"
    one = further(**asked)
    kept = json.loads(json.dumps(record_of(one)))
    assert of_record(kept, {}) == one
    assert record_of(Further()) == {}
    with pytest.raises(Unsupported, match="newfangled"):
        of_record({**kept, "newfangled": 1}, {"id": "0" * 64})
