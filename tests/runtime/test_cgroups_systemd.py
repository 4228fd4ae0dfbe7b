"""systemd as the manager: names, properties, and what is said where there is none. It is talked to in the vm tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.cgroups import Cgroup, create, settings
from lamina.runtime.cgroups.systemd import INFINITY, Keeper, bit_mask, properties, unit_of
from support.cgroupfs import FakeV1, FakeV2


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("system.slice:lamina:box", ("system.slice", "lamina-box.scope")),
        (":lamina:box", ("system.slice", "lamina-box.scope")),
        ("a-b.slice::box", ("a-b.slice", "box.scope")),
        ("-:docker:0123", ("-.slice", "docker-0123.scope")),
        ("machine.slice:libpod:a_b.c", ("machine.slice", "libpod-a_b.c.scope")),
    ],
)
def test_a_path_names_a_scope(path, unit):
    assert unit_of(path, user=False) == unit


def test_a_users_scope_is_in_the_users_slice():
    assert unit_of(":lamina:box", user=True) == ("user.slice", "lamina-box.scope")


@pytest.mark.parametrize(
    "path",
    ["/lamina/box", "a:b", "a:b:c:d", "system.slice:x:", "x.scope:a:b", "a/b.slice:a:b", "a--b.slice:a:b",
     "-a.slice:a:b", "a-.slice:a:b", ":a:b/c", ":a:b c", ":a:\u00e4", ":a:x.slice"],
)  # fmt: skip
def test_a_path_that_names_none(path):
    with pytest.raises(InvalidInput, match="make cgroup"):
        unit_of(path, user=False)


def test_properties_in_v2(tmp_path):
    asked = {
        "memory": {"limit": 100, "swap": -1, "reservation": 50}, "pids": {"limit": 7}, "blockIO": {"weight": 10},
        "cpu": {"shares": 1024, "quota": 33_333, "period": 100_000, "cpus": "0-2,9", "mems": "0"},
        "unified": {"memory.high": "90", "memory.min": "max", "memory.oom.group": "1"},
    }  # fmt: skip
    assert dict(properties(settings(asked, FakeV2(tmp_path).layout))) == {
        "MemoryMax": ("t", 100), "MemorySwapMax": ("t", INFINITY), "MemoryLow": ("t", 50), "MemoryHigh": ("t", 90),
        "MemoryMin": ("t", INFINITY), "TasksMax": ("t", 7), "IOWeight": ("t", 1), "CPUWeight": ("t", 100),
        "CPUQuotaPerSecUSec": ("t", 340_000), "CPUQuotaPeriodUSec": ("t", 100_000),
        "AllowedCPUs": ("ay", b"\x07\x02"), "AllowedMemoryNodes": ("ay", b"\x01"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("16M", 16 << 20), ("1g", 1 << 30), ("5", 5), ("max", INFINITY), ("much", None), ("", None)],
)
def test_amounts_as_the_kernel_reads_them(tmp_path, text, wanted):
    """What is none is left to the kernel, which refuses it when it is written."""
    found = dict(properties(settings({"unified": {"memory.high": text}}, FakeV2(tmp_path).layout)))
    assert found == ({} if wanted is None else {"MemoryHigh": ("t", wanted)})


def test_properties_in_v1(tmp_path):
    asked = {
        "memory": {"limit": 100},
        "cpu": {"shares": 5, "quota": 50_000, "period": 200_000},
        "pids": {"limit": -1},
    }
    assert dict(properties(settings(asked, FakeV1(tmp_path).layout))) == {
        "MemoryLimit": ("t", 100), "CPUShares": ("t", 5), "TasksMax": ("t", INFINITY),
        "CPUQuotaPerSecUSec": ("t", 250_000), "CPUQuotaPeriodUSec": ("t", 200_000),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "mask"),
    [("0", b"\x01"), ("1", b"\x02"), ("0-3", b"\x0f"), ("8", b"\x00\x01"), ("0, 2", b"\x05")],
)
def test_a_list_of_processors_as_bits(numbers, mask):
    assert bit_mask(numbers) == mask


@pytest.mark.parametrize("numbers", ["", "a", "1-", "-1", "1,,2", "0-4000000000", "9" * 5000, "0-\u00b2"])
def test_a_list_of_processors_that_is_none(numbers):
    with pytest.raises(InvalidInput, match="no list of numbers"):
        bit_mask(numbers)


def test_the_keeper_lives_until_it_is_closed():
    keeper = Keeper()
    # a parent in vfork goes on a moment before its child has its new name
    while (name := Path(f"/proc/{keeper.pid}/comm").read_text()) != "cat\n":
        assert name.startswith("python"), name
    assert os.getsid(keeper.pid) == keeper.pid  # the terminal's signals are not for it
    keeper.close()
    assert not Path(f"/proc/{keeper.pid}").exists()
    keeper.close()


def test_without_systemd_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nowhere")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/nowhere")
    fake = FakeV2(tmp_path / "v2")
    with pytest.raises(Unsupported, match=r"bus cannot be reached.*use the cgroupfs manager"):
        create(":lamina:box", {"pids": {"limit": 5}}, manager="systemd", layout=fake.layout)


def test_nothing_is_asked_of_systemd_for_nothing(tmp_path):
    assert create(":lamina:box", {}, manager="systemd", layout=FakeV2(tmp_path).layout) is None
    assert Cgroup({}).unit == ""
