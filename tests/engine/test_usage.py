"""What containers use, as their control groups have it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from lamina import Engine
from lamina.engine.usage import Usage
from lamina.runtime.cgroups import reopen
from support.groups import disk_below
from support.lives import state_of, until

pytestmark = pytest.mark.root

MIB = 1 << 20


def test_memory_processes_and_time_are_counted(engine: Engine) -> None:
    script = "sleep 1000 & head -c 20m /dev/zero | tail -c 20m | (sleep 1000) & while :; do :; done"
    box = engine.start("host", ["sh", "-c", script], memory="64m")
    until(lambda: (box.stats().memory_bytes or 0) > 16 * MIB)
    before = box.stats()
    until(lambda: (box.stats().cpu_percent(before) or 0) > 0)
    now = box.stats()
    assert now.memory_limit_bytes == 64 * MIB
    assert now.memory_percent is not None
    assert 25 < now.memory_percent <= 100
    assert now.pids is not None
    assert now.pids >= 3


def test_without_a_limit_it_is_the_machines_memory(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"])
    (line,) = [
        line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:")
    ]
    assert box.stats().memory_limit_bytes == int(line.split()[1]) * 1024


def test_a_network_of_its_own_is_counted_and_the_hosts_is_not(engine: Engine) -> None:
    apart = engine.start("host", ["sleep", "1000"], network="none").stats()
    assert (apart.received_bytes, apart.sent_bytes) == (0, 0)
    shared = engine.start("host", ["sleep", "1000"], network="host").stats()
    assert (shared.received_bytes, shared.sent_bytes) == (None, None)


def test_a_disk_is_counted_and_its_rate_limited(engine: Engine) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        numbers = disk_below(Path(place))
        disk = Path("/dev", Path(f"/sys/dev/block/{numbers}").resolve().name)
        if not disk.is_block_device():
            pytest.skip(f"no node of the disk {numbers} below {place}")
        script = f"dd if=/dev/zero of={place}/file bs=64k count=16 oflag=direct; exec sleep 1000"
        options: dict[str, Any] = {"volumes": [f"{place}:{place}"], "device_write_bps": [f"{disk}:1gb"]}
        box = engine.start("host", ["sh", "-c", script], **options)
        until(lambda: (box.stats().write_bytes or 0) >= MIB)
        paths = reopen(state_of(box)["cgroup"]).paths
        if "blkio" in paths:
            limit = Path(os.fsdecode(paths["blkio"]), "blkio.throttle.write_bps_device").read_text()
            assert limit == f"{numbers} {1 << 30}\n"
        else:
            assert f"{numbers} rbps=max wbps={1 << 30}" in Path(os.fsdecode(paths[""]), "io.max").read_text()
        box.remove(force=True)


def test_one_that_does_not_run_uses_nothing(engine: Engine) -> None:
    found = engine.create("host", ["true"]).stats()
    assert found == Usage(found.at_ns)
    assert (found.memory_percent, found.cpu_percent(found)) == (None, None)


def test_the_share_of_processors_is_what_was_used_between() -> None:
    before, now = Usage(1_000_000_000, cpu_ns=5_000_000), Usage(1_500_000_000, cpu_ns=755_000_000)
    assert now.cpu_percent(before) == 150.0
    assert Usage(1_500_000_000, cpu_ns=0).cpu_percent(before) == 0.0
    assert Usage(1_500_000_000).cpu_percent(before) is None
    assert Usage(0, memory_bytes=1, memory_limit_bytes=4).memory_percent == 25.0
