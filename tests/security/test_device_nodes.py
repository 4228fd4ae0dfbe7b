"""A root that may make device nodes opens the host's disks with them, whatever its mounts are."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import lamina

pytestmark = pytest.mark.root


def disk() -> tuple[int, int]:
    """The device of the root file system, or any other number of a block device."""
    device = os.stat("/").st_dev
    return os.major(device), os.minor(device)


def test_root_in_the_container_cannot_make_the_hosts_disk() -> None:
    major, minor = disk()
    script = (
        f"for at in /dev /tmp /root; do mknod $at/disk b {major} {minor} && head -c 1 $at/disk; done; true"
    )
    done = lamina.run("host", ["sh", "-c", script], capture_output=True, text=True, rm=True)
    assert done.stdout == ""
    assert done.stderr.count("Operation not permitted") == 3


def test_a_node_that_lies_in_the_layers_does_not_open(tmp_path: Path) -> None:
    node = tmp_path / "null"
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    done = lamina.run("host", ["cat", str(node)], capture_output=True, text=True, rm=True)
    assert done.returncode != 0
    assert "Permission denied" in done.stderr


def test_memory_and_ports_have_no_node() -> None:
    done = lamina.run("host", ["sh", "-c", "ls /dev"], capture_output=True, text=True, rm=True)
    nodes = {
        "fd",
        "full",
        "mqueue",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
    }
    assert set(done.stdout.split()) == nodes | {"urandom", "zero"}
