"""What can be asked of a container, in Docker's notation, and what is refused."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.engine.checking import check_options
from lamina.engine.further import KEYS as FURTHER
from lamina.engine.mount_notation import read_volume
from lamina.engine.networking import KEYS as NETWORKING
from lamina.engine.notation import (
    LARGEST_NUMBER,
    read_cpus,
    read_env,
    read_memory,
    read_pids_limit,
)
from lamina.engine.options import Options, Volume
from lamina.errors import InvalidInput, LaminaError, Unsupported

G = 1 << 30


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("512m", 512 << 20), ("512M", 512 << 20), ("512mb", 512 << 20), ("512MiB", 512 << 20), ("1g", G),
        ("1.5g", 3 * G // 2), ("0.25 GB", G // 4), ("6291456", 6 << 20), ("6291456b", 6 << 20), (7 << 20, 7 << 20),
        ("2t", 2 << 40), ("1p", 1 << 50), ("10240k", 10 << 20), ("0", None), (0, None), (None, None),
    ],
)  # fmt: skip
def test_memory(given: object, wanted: int | None) -> None:
    assert read_memory(given) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    ["", "m", "x", "-1", "-5m", "1e9", "0x10", "5mm", "5i", "5ib", "1.2.3m", "1.m", ".5g", "５m", "1 2m", "9" * 30,
     str(LARGEST_NUMBER + 1), "8388608t", "5m", 100, True, -1, "nan", "inf"],
)  # fmt: skip
def test_memory_that_is_none(given: object) -> None:
    with pytest.raises(InvalidInput, match="memory"):
        read_memory(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("1", 100_000), (1, 100_000), (0.5, 50_000), ("0.5", 50_000), (".5", 50_000), ("0.01", 1000), ("1.0", 100_000),
     ("0", None), ("0.0", None), (None, None), ("0.123456789", 12345)],
)  # fmt: skip
def test_cpus(given: object, wanted: int | None) -> None:
    assert read_cpus(given) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given", ["", ".", "x", "-1", "0.001", "1e1", "1,5", "0.1234567890", "1000000", "nan", "1.2."]
)
def test_cpus_that_are_none(given: str) -> None:
    with pytest.raises(InvalidInput, match="cpus"):
        read_cpus(given)


@pytest.mark.parametrize(
    ("given", "wanted"), [("5", 5), (5, 5), ("0", None), (-1, None), ("-1", None), (None, None)]
)
def test_pids_limit(given: object, wanted: int | None) -> None:
    assert read_pids_limit(given) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["", "x", "-2", "1.5", "99999999999999999999", 1 << 23])
def test_pids_limit_that_is_none(given: object) -> None:
    with pytest.raises(InvalidInput, match="pids limit"):
        read_pids_limit(given)  # type: ignore[arg-type]


def test_variables_with_values_from_here_and_from_nowhere() -> None:
    here = {"HERE": "yes", "EMPTY": ""}
    asked = ["A=1", "B=x=y", "C=", "HERE", "EMPTY", "GONE", "A=2"]
    wanted = (("A", "1"), ("B", "x=y"), ("C", ""), ("HERE", "yes"), ("EMPTY", ""), ("A", "2"))
    assert read_env(asked, here) == wanted
    assert read_env({"A": "1", "HERE": None, "GONE": None}, here) == (("A", "1"), ("HERE", "yes"))
    assert read_env(None, here) == ()


@pytest.mark.parametrize("given", [["=x"], [""], ["A\0=1"], "A=1", 5, [5], {"": "x"}, {"A=B": "x"}, {"A": 5}])
def test_variables_that_are_none(given: object) -> None:
    with pytest.raises(InvalidInput):
        read_env(given, {})


BIND = ("rbind", "rprivate")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("/a:/b", Volume(b"/a", b"/b", BIND)),
        ("/a:/b:ro", Volume(b"/a", b"/b", (*BIND, "rro"))),
        ("/a:/b:rw,nosuid", Volume(b"/a", b"/b", (*BIND, "rw", "nosuid"))),
        ("/a:/b:ro,rslave,cached", Volume(b"/a", b"/b", ("rbind", "rro", "rslave"))),
        ("/a:/b:bind,ro", Volume(b"/a", b"/b", ("rprivate", "bind", "rro"))),
        ("/a/:/b/../c/./d//", Volume(b"/a", b"/c/d", BIND)),
        ("/a://b", Volume(b"/a", b"/b", BIND)),
        (("/with:colon", "/to:there"), Volume(b"/with:colon", b"/to:there", BIND)),
        ((b"/\xff", "/new\nline", "ro"), Volume(b"/\xff", b"/new\nline", (*BIND, "rro"))),
    ],
)
def test_volumes(given: object, wanted: Volume) -> None:
    assert read_volume(given) == wanted


def test_a_relative_source_is_the_callers() -> None:
    assert read_volume("./x:/b").source == os.fsencode(os.path.abspath("x"))
    assert read_volume(".:/b").source == os.fsencode(os.getcwd())


@pytest.mark.parametrize(
    "given",
    ["", "a", ":/a", "/",
     "/a:/b:ro:x", "/a:b", "/a:", "/a:/", "/a:/..", "/a:/b:nonsense", "/a:/b:ro,rw", "/a:/b:shared,private",
     5, None, ["/a"], "/a\0:/b"],
)  # fmt: skip
def test_volumes_that_are_none(given: object) -> None:
    with pytest.raises(InvalidInput):
        read_volume(given)


def test_a_target_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="twice"):
        check_options({"volumes": ["/a:/x", "/b:/x/."]})


@pytest.mark.parametrize(
    "asked",
    [
        {"hostname": "a b"}, {"hostname": "x" * 65}, {"hostname": "-a"}, {"hostname": "a/b"}, {"hostname": "ä"},
        {"hostname": "a\0"}, {"workdir": "relative"}, {"workdir": "/a\0b"}, {"user": True}, {"user": 1.5},
        {"user": "a\0b"}, {"name": "../x"}, {"name": ""}, {"labels": ["=x"]}, {"labels": {"": "x"}}, {"entrypoint": 5},
        {"volumes": "/a:/b"}, {"volumes": {"/a": {"bind": "/b", "mode": "ro"}}}, {"publish": {"80/tcp": 8080}},
        {"devices": {"/dev/null": "/dev/x"}}, {"dns": {"10.0.0.1": ""}}, {"group_add": {"7": ""}},
    ],
)  # fmt: skip
def test_what_cannot_be_meant(asked: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        check_options(asked)


@pytest.mark.parametrize("network", ["pasta:x", "cni:", "", None, "-x", "ns:relative", "container:", "a b"])
def test_what_is_no_network(network: object) -> None:
    with pytest.raises((InvalidInput, Unsupported)):
        check_options({"network": network})


def test_an_option_that_does_not_exist_is_a_mistake_in_the_program() -> None:
    with pytest.raises(TypeError, match="'memry'; did you mean 'memory'"):
        check_options({"memry": "5m"})
    with pytest.raises(TypeError, match="'cwd'; did you mean 'workdir'"):
        check_options({"cwd": "/tmp"})
    with pytest.raises(TypeError, match=r"argument 'shell': a command line is the command"):
        check_options({"shell": True})
    with pytest.raises(TypeError, match=r"argument 'colour'$"):
        check_options({"colour": True})


def test_everything_together() -> None:
    asked = {
        "name": "web", "rm": True, "hostname": "h.example", "env": ["A=1"], "workdir": "/srv/../tmp", "user": 1000,
        "memory": "64m", "cpus": "0.5", "pids_limit": 10, "volumes": ["/a:/b"], "network": "host", "tty": True,
        "interactive": True, "read_only": True, "entrypoint": "/bin/sh", "labels": ["a=b", "c", "a=d"],
    }  # fmt: skip
    assert check_options(asked) == Options(
        name="web", rm=True, hostname="h.example", env=(("A", "1"),), workdir="/tmp", user="1000",
        memory=64 << 20, cpu_quota=50_000, pids_limit=10, volumes=(Volume(b"/a", b"/b", BIND),), network="host",
        tty=True, interactive=True, read_only=True, entrypoint=("/bin/sh",), labels=(("a", "d"), ("c", "")),
    )  # fmt: skip


def test_nothing_asked_is_docker_s_default() -> None:
    nothing = {"hostname": None, "env": None, "workdir": None, "user": None, "memory": None, "volumes": None}
    assert check_options(nothing) == check_options({}) == Options()


KEYS = sorted(
    vars(Options()).keys()
    - {"cpu_quota", "new_privileges", "further", "log", "networking", "health", "warnings"}
    | {"cpus", "mounts", "tmpfs", "log_driver", "log_opt"}
    | FURTHER
    | NETWORKING
)
ANYTHING = st.none() | st.text() | st.integers() | st.floats() | st.binary() | st.lists(st.text(), max_size=3)


@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4))
def test_anything_is_taken_or_refused_with_a_clear_word(asked: dict[str, object]) -> None:
    try:
        check_options(asked)
    except LaminaError as error:
        assert str(error)
