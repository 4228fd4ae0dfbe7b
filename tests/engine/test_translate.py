"""From options to the OCI specification: golden documents, and what must hold for every one of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lamina.engine.id_maps import IdMaps
from lamina.engine.options import Options, check_options
from lamina.engine.translate import Circumstances, ImageConfig, arguments, translate
from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.capabilities import DEFAULT_CAPABILITIES
from lamina.runtime.users import User
from lamina.values import replace

GOLDEN = Path(__file__).parent / "golden"
ID = "0123456789abcdef" * 4
AROUND = Circumstances(identity=ID, cgroup="", hostname="hosty")
WHOLE = IdMaps(((0, 1000, 1), (1, 100000, 65536)), ((0, 1000, 1), (1, 100000, 65536)))
SINGLE = IdMaps(((0, 1000, 1),), ((0, 1000, 1),))
IMAGE = ImageConfig(
    env=("PATH=/image/bin", "LANG=C.UTF-8"), entrypoint=("/entry",), cmd=("serve",), workdir="/srv"
)

VARIANTS = {
    "plain": ({}, ImageConfig(), User(), AROUND),
    "everything": (
        {
            "hostname": "h.example", "env": ["LANG=de_DE", "A=1"], "workdir": "/x/../y", "memory": "64m", "cpus": "0.5",
            "pids_limit": 10, "volumes": ["/a:/b:ro", ("/c:d", "/e", "nosuid,rslave")], "tty": True, "read_only": True,
        },
        IMAGE,
        User(1000, 100, (4, 27), "/home/ann"),
        Circumstances(identity=ID, cgroup="/lamina/x", hostname="hosty", seccomp={"defaultAction": "SCMP_ACT_ERRNO"},
                      size=(24, 80)),
    ),
    "image": (
        {"env": ["A=asked"], "tmpfs": ["/run:size=64k", "/dev/shm"],
         "volumes": ["/a:/b/c", "/d:/b"], "mounts": ["type=bind,src=/e,dst=/etc/hosts,ro"]},
        ImageConfig(env=("PATH=/image/bin", "A=image", "HOSTNAME"), entrypoint=("/entry",), workdir="/srv",
                    user="ann", labels=(("a", "b"),), volumes=("/data",)),
        User(1000, 100, (26,), "/home/ann"),
        Circumstances(identity=ID, cgroup="", hostname="hosty",
                      files=((b"/etc/hosts", b"/box/hosts"), (b"/etc/hostname", b"/box/hostname"))),
    ),
    "rootless": (
        {"network": "host"}, ImageConfig(), User(0, 0, (10, 70000), "/root"),
        Circumstances(identity=ID, cgroup="", hostname="hosty", maps=WHOLE),
    ),
    "rootless-single": (
        {}, ImageConfig(), User(0, 0, (10,), "/root"),
        Circumstances(identity=ID, cgroup="", hostname="hosty", maps=SINGLE),
    ),
}  # fmt: skip


def spec(asked=None, config=IMAGE, user=None, around=AROUND, words=("true",)):
    options = check_options(asked or {})
    around = replace(around, volumes=options.volumes)
    return translate(words, options, config, user or User(), around)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_specification_is_the_golden_one(name):
    """After a wanted change: LAMINA_GOLDEN=write pytest tests/engine/test_translate.py, and read the difference."""
    text = json.dumps(spec(*VARIANTS[name]), indent=1) + "\n"
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("LAMINA_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("name", VARIANTS)
def test_no_privilege_beyond_the_defaults(name):
    found = spec(*VARIANTS[name])
    process = found["process"]
    assert process["noNewPrivileges"] is True
    assert set(process["capabilities"]["bounding"]) == set(DEFAULT_CAPABILITIES)
    assert process["capabilities"]["inheritable"] == process["capabilities"]["ambient"] == []
    if process["user"]["uid"]:
        assert process["capabilities"]["effective"] == process["capabilities"]["permitted"] == []
    assert {"mount", "pid", "ipc", "uts", "cgroup"} <= {n["type"] for n in found["linux"]["namespaces"]}
    by_place = {mount["destination"]: mount for mount in found["mounts"]}
    assert {"ro", "rro"} & set(by_place["/sys"]["options"])
    assert "ro" in by_place["/sys/fs/cgroup"]["options"]
    for place in ("/proc", "/sys", "/dev/shm", "/dev/mqueue", "/sys/fs/cgroup"):
        assert {"nosuid", "nodev", "noexec"} <= set(by_place[place]["options"]), place
    assert {"/proc/kcore", "/sys/firmware", "/proc/keys"} <= set(found["linux"]["maskedPaths"])
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(found["linux"]["readonlyPaths"])


def test_the_network_is_shared_only_on_request():
    def kinds(asked):
        return {n["type"] for n in spec(asked)["linux"]["namespaces"]}

    assert "network" in kinds({})
    assert "network" in kinds({"network": "none"})
    assert "network" not in kinds({"network": "host"})


def test_the_host_name():
    assert spec()["hostname"] == ID[:12]
    assert spec({"network": "host"})["hostname"] == "hosty"
    assert spec({"network": "host", "hostname": "own"})["hostname"] == "own"
    assert "HOSTNAME=own" in spec({"hostname": "own"})["process"]["env"]


def test_variables_of_the_option_come_over_those_of_the_image_and_those_over_the_defaults():
    env = spec({"env": ["LANG=de", "HOME=/elsewhere"], "tty": True})["process"]["env"]
    assert env == [
        "PATH=/image/bin",
        f"HOSTNAME={ID[:12]}",
        "TERM=xterm",
        "LANG=de",
        "HOME=/elsewhere",
    ]
    assert "HOME=/home/ann" in spec(user=User(5, 5, (), "/home/ann"))["process"]["env"]
    assert not [e for e in spec()["process"]["env"] if e.startswith("TERM=")]


@pytest.mark.parametrize(
    ("command", "entrypoint", "wanted"),
    [
        ((), None, ("/entry", "serve")),
        (("a", "b"), None, ("/entry", "a", "b")),
        (("a",), "/other", ("/other", "a")),
        ((), "/other", ("/other",)),
        (("a",), "", ("a",)),
        (("a",), ["/other", "-x"], ("/other", "-x", "a")),
    ],
)
def test_what_is_executed(command, entrypoint, wanted):
    assert arguments(command, check_options({"entrypoint": entrypoint}), IMAGE) == wanted


@pytest.mark.parametrize("command", [(), ("",), ("", "x")])
def test_nothing_to_execute(command):
    with pytest.raises(InvalidInput, match="no command"):
        arguments(command, Options(), ImageConfig())


@pytest.mark.parametrize(
    ("maps", "user"), [(SINGLE, User(1, 0)), (SINGLE, User(0, 1)), (WHOLE, User(70000, 0))]
)
def test_a_user_the_container_does_not_have(maps, user):
    around = Circumstances(identity=ID, cgroup="", hostname="hosty", maps=maps)
    with pytest.raises(Unsupported, match="no such ids"):
        spec(user=user, around=around)


def test_without_setgroups_there_are_no_additional_groups():
    around = Circumstances(identity=ID, cgroup="", hostname="hosty", maps=SINGLE)
    assert "additionalGids" not in spec(user=User(0, 0, (10,)), around=around)["process"]["user"]


def test_limits_only_where_asked():
    assert spec()["linux"]["resources"] == {}
    assert spec({"memory": "10m"})["linux"]["resources"] == {"memory": {"limit": 10 << 20, "swap": 20 << 20}}
    assert spec({"cpus": 2})["linux"]["resources"] == {"cpu": {"quota": 200_000, "period": 100_000}}
    assert spec({"pids_limit": 7})["linux"]["resources"] == {"pids": {"limit": 7}}


def test_new_privileges_only_where_they_are_asked_for() -> None:
    assert spec()["process"]["noNewPrivileges"] is True
    assert spec({"security_opt": ["no-new-privileges"]})["process"]["noNewPrivileges"] is True
    assert spec({"security_opt": ["no-new-privileges=false"]})["process"]["noNewPrivileges"] is False
