"""A container taken out of a network at the wrong moment: what it has of it must not be somebody else's as well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lamina.engine import connecting, plugging
from lamina.engine.keeping import options_of
from lamina.engine.network_record import attachments_in
from lamina.errors import Conflict
from support.lives import until
from support.network_host import Host, on_host

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]


def test_nobody_disconnects_what_is_just_being_started(store_root: Path) -> None:
    """It would begin with an address that the next one gets too, and with rules that stay for ever."""
    said: list[str] = []

    def test(host: Host) -> None:
        host.engine.networks.create("back")
        begin = plugging.connection

        def meanwhile(home: Any, attachments: Any) -> Any:
            try:
                connecting.disconnect(home, "back")
            except Conflict as error:
                said.append(error.message)
            return begin(home, attachments)

        plugging.connection = meanwhile
        with host.engine.popen("tiny", ["sleep", "600"], network="back") as process:
            plugging.connection = begin
            assert "somebody is busy with it" in said[0]
            [place] = attachments_in(host.engine.container(process.container)._home)
            other = host.start("sleep 1000", name="other", network="back")
            [others] = attachments_in(other._home)
            assert place.addresses != others.addresses
            process.kill()

    on_host(store_root, test)


def test_what_was_disconnected_is_not_back_when_it_begins_again(store_root: Path) -> None:
    """Nor what was connected gone: by its restart policy, under who looks after it, who began before that."""

    def test(host: Host) -> None:
        front, back = (host.engine.networks.create(name) for name in ("front", "back"))
        box = host.start("sleep 1000", network="front", restart="always")
        back.connect(box.id)
        front.disconnect(box.id)
        first = box.attrs["State"]["Pid"]
        os.kill(first, signal.SIGKILL)
        until(lambda: box.attrs["State"]["Pid"] not in (0, first))
        assert [one.network.name for one in attachments_in(box._home)] == ["back"]
        assert box.networks == ["back"]

    on_host(store_root, test)


def test_whose_start_was_killed_keeps_no_port_when_it_is_disconnected(store_root: Path) -> None:
    def test(host: Host) -> None:
        host.engine.networks.create("back")
        box = host.engine.create("tiny", ["true"], network="back", publish=["8080:80"])
        plugging.take(box._home, "box", options_of(box._home.asked()))
        assert "tcp:8080:*" in host.left()
        connecting.disconnect(box._home, "back")
        assert host.left() == []

    on_host(store_root, test)


# how long the kernel has whoever opens a file wait for who has a lease on it
LEASE_BREAK = int(Path("/proc/sys/fs/lease-break-time").read_text())
HOLDER = """if True:
    import fcntl, os, signal, sys
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    for path in sys.argv[2:]:
        fcntl.fcntl(os.open(path, os.O_RDONLY), fcntl.F_SETLEASE, getattr(fcntl, sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["F_WRLCK", "F_RDLCK"])
def test_a_lease_on_its_own_hosts_keeps_nobody_waiting(store_root: Path, kind: str) -> None:
    """Whoever opens what somebody has a lease on waits for LEASE_BREAK: for each file, with the container's lock."""

    def test(host: Host) -> None:
        front, back = (host.engine.networks.create(name) for name in ("front", "back"))
        box = host.start("sleep 1000", name="box", network="front")
        root = f"/proc/{box.attrs['State']['Pid']}/root"
        files = [f"{root}/etc/{name}" for name in ("hosts", "hostname", "resolv.conf")]
        before = Path(files[0]).read_text()
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, kind, *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            if holder.stdout.readline() != b"ready\n":
                pytest.skip("this file system has no leases")
            began = time.monotonic()
            back.connect(box.id)
            other = host.start("sleep 1000", network="container:box")
            assert "localhost" in Path(f"/proc/{other.attrs['State']['Pid']}/root/etc/hosts").read_text()
            front.disconnect(box.id)
            assert time.monotonic() - began < LEASE_BREAK
        finally:
            holder.communicate()
        assert Path(files[0]).read_text() == before
        assert [one.network.name for one in attachments_in(box._home)] == ["back"]

    on_host(store_root, test)
