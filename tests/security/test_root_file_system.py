"""Hostile root file systems: links where Lamina mounts, masks or writes, and links that change while it does.

The image is this machine's root with a prepared upper layer, which is what an unpacked hostile image would be.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import LaminaError
from lamina.runtime.launch import launch
from support.attacker import Attacker
from support.bundles import full, over_host, small
from support.leaks import Leaks
from support.witness import Witness

pytestmark = pytest.mark.root
AT_FDCWD, RENAME_EXCHANGE = -100, 2
# LAMINA_RACES=10000 for as long as one likes
STARTS = int(os.environ.get("LAMINA_RACES") or 150)

Spec = dict[str, Any]


@pytest.fixture
def outside(tmp_path: Path, untouched_host: Leaks) -> Iterator[Path]:
    """A directory of the host in which nothing may appear, and mounts of the host that may not change."""
    place = tmp_path / "outside"
    place.mkdir()
    before = Path("/proc/self/mountinfo").read_text()
    witness = Witness(place)
    yield place
    assert list(place.iterdir()) == []
    assert witness.names() == set()  # nor was anything that is gone again
    witness.close()
    assert Path("/proc/self/mountinfo").read_text() == before


def start(directory: Path, spec: Spec) -> tuple[int | None, str]:
    """(exit status, output); no status if the start was refused."""
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    with open(reader, "rb") as output:
        try:
            running = launch(over_host(directory, spec), stdin=null, stdout=writer, stderr=writer)
        except LaminaError as error:
            return None, str(error)
        finally:
            os.close(writer)
            os.close(null)
        written = output.read().decode()
    status = running.wait()
    running.close()
    return status, written


def with_link(tmp_path: Path, name: str, target: str) -> None:
    """In the image, *name* is a link."""
    link = tmp_path / "upper" / name.lstrip("/")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def spec_with(mounts: list[str], script: str, **linux: Any) -> Spec:
    spec = small("/bin/sh", "-c", script)
    spec["mounts"] = [mount for mount in full()["mounts"] if mount["destination"] in mounts]
    spec["linux"].update(linux)
    return spec


@pytest.mark.parametrize("name", ["/proc", "/sys", "/dev"])
@pytest.mark.parametrize("up", ["", "/../../../../../.."])
def test_cve_2019_19921_a_mount_point_that_is_a_link(
    tmp_path: Path, outside: Path, name: str, up: str
) -> None:
    """CVE-2019-16884, 2023-27561, 2023-28642 for /proc and /sys, CVE-2026-41579 and 2026-47766 for /dev."""
    with_link(tmp_path, name, f"{up}{outside}")
    status, text = start(tmp_path, spec_with(["/proc", "/sys", "/dev"], "echo started"))
    assert status is None, text


@pytest.mark.parametrize("up", ["", "/../../../../.."])
def test_a_tmpfs_goes_where_a_link_leads_in_the_container(tmp_path: Path, outside: Path, up: str) -> None:
    """As with /var/run, which is a link to /run."""
    (tmp_path / "upper/there").mkdir(parents=True)
    with_link(tmp_path, "/link", f"{up}/there")
    spec = spec_with(["/proc"], "grep -c ' /there tmpfs ' /proc/mounts")
    spec["mounts"].append({"destination": "/link", "type": "tmpfs", "source": "tmpfs"})
    assert start(tmp_path, spec) == (0, "1\n")


def test_cve_2019_19921_a_volume_in_place_of_proc(attacker_root: Attacker, outside: Path) -> None:
    for target in ("/proc", "/proc/self", "/proc/1/attr", "/x/../proc", "/"):
        done = attacker_root.inside("true", "-v", f"{outside}:{target}")
        assert done.returncode == 125, (target, done.stdout)


@pytest.mark.parametrize("target", ["/proc/sys/kernel/core_pattern", "/etc/passwd", "none"])
def test_cve_2025_31133_a_null_device_of_the_images_own(tmp_path: Path, outside: Path, target: str) -> None:
    """Masked paths are covered with the host's null device, looked at by descriptor; never with the image's."""
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    with_link(tmp_path, "/dev/null", target)
    script = (
        "stat -c '%F %t:%T' /proc/keys; cat /proc/keys; (echo spoilt > /proc/keys) 2>/dev/null;"
        " cat /proc/sys/kernel/core_pattern"
    )
    status, text = start(tmp_path, spec_with(["/proc"], script, maskedPaths=["/proc/keys"]))
    assert (status, text) == (0, f"character special file 1:3\n{before}")
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


@pytest.mark.parametrize("up", ["", "/../../../../.."])
@pytest.mark.parametrize("field", ["maskedPaths", "readonlyPaths"])
def test_cve_2025_31133_a_masked_path_that_is_a_link(
    tmp_path: Path, outside: Path, field: str, up: str
) -> None:
    """What the container itself would find there is covered, and nothing outside (the fixture looks)."""
    kept = tmp_path / "upper/kept"
    kept.mkdir(parents=True)
    (kept / "file").write_text("seen")
    with_link(tmp_path, "/link", f"{up}/kept")
    script = "cat /link/file; echo spoilt > /link/file; cat /kept/file; echo over"
    status, text = start(
        tmp_path, spec_with(["/proc"], f"({script}) 2>/dev/null", **{field: ["/link", "/link/file"]})
    )
    assert (status, text) == (0, {"maskedPaths": "over\n", "readonlyPaths": "seenseenover\n"}[field])
    assert (kept / "file").read_text() == "seen"


@pytest.mark.parametrize("field", ["maskedPaths", "readonlyPaths"])
def test_cve_2025_31133_a_masked_path_by_way_of_a_descriptor(
    tmp_path: Path, outside: Path, field: str
) -> None:
    """A link of procfs that stands for something open is nobody's way."""
    with_link(tmp_path, "/link", "/proc/self/root")
    status, text = start(tmp_path, spec_with(["/proc"], "true", **{field: ["/link/etc"]}))
    assert (status, "a link is in the way" in text) == (None, True)


def test_cve_2025_52565_a_console_that_is_a_link(tmp_path: Path, outside: Path) -> None:
    """CVE-2026-88264 as well: the console is only ever made in a /dev of our own."""
    with_link(tmp_path, "/dev/console", f"{outside}/made")
    spec = spec_with(["/proc", "/dev", "/dev/pts"], "stat -c %F /dev/console; tty; exit 0")
    spec["process"]["terminal"] = True
    running = launch(over_host(tmp_path, spec), stdin=-1, stdout=-1, stderr=-1)
    assert running.pty is not None
    assert b"character special file" in os.read(running.pty, 1000)
    running.kill(9)
    running.wait()
    running.close()
    without = spec_with(["/proc"], "true")
    without["process"]["terminal"] = True
    assert start(tmp_path, without)[0] is None


def test_cve_2025_52881_what_is_written_to_procfs_goes_to_procfs(tmp_path: Path, outside: Path) -> None:
    with_link(tmp_path, "/proc", str(outside))
    spec = spec_with([], "true")
    spec["process"]["oomScoreAdj"] = 500
    start(tmp_path, spec)  # refused or not: `outside` looks whether anything was made there


def test_cve_2026_115521_a_read_only_volume_is_so_by_descriptor(tmp_path: Path, outside: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("kept")
    with_link(tmp_path, "/volume", "/proc/self/fd")
    spec = spec_with(
        ["/proc"], f"(echo spoilt > {source}/file) 2>/dev/null; (echo x > /volume/file) 2>/dev/null; :"
    )
    bind = {"destination": "/volume", "type": "bind", "source": str(source), "options": ["rbind", "ro"]}
    spec["mounts"].append(bind)
    start(tmp_path, spec)
    assert (source / "file").read_text() == "kept"
    assert sorted(path.name for path in source.iterdir()) == ["file"]


@pytest.mark.parametrize("options", [[], ["ro"]])
def test_cve_2023_25809_control_groups_without_a_namespace(
    tmp_path: Path, outside: Path, options: list[str]
) -> None:
    """The container sees its own directory, and writes neither to it nor to anybody else's."""
    script = (
        "cd /sys/fs/cgroup; ls; for g in *; do"
        " (mkdir $g/escape || echo 1 > $g/notify_on_release || echo x > $g/release_agent) 2>/dev/null && echo written;"
        " done; cat */pids.max */cgroup.procs | wc -l"
    )
    spec = spec_with(["/proc", "/sys", "/dev"], script)
    spec["mounts"].append(
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}
    )
    spec["linux"].update(cgroupsPath=f"/lamina-test/{os.getpid()}-25809", resources={"pids": {"limit": 30}})
    status, text = start(tmp_path, spec)
    assert status == 0, text
    assert "written" not in text
    assert text.split()[0] == "pids"
    # its own processes and its own limit: of the whole machine there would be many more
    assert int(text.split()[-1]) < 10


@pytest.mark.parametrize("fake", ["directory", "file"])
def test_cve_2025_52881_a_procfs_that_the_image_brings_along(
    tmp_path: Path, outside: Path, fake: str
) -> None:
    """Scores, kernel parameters and clocks go to the kernel, whatever lies where the container's procfs would be."""
    place = tmp_path / "upper/proc/self"
    place.mkdir(parents=True)
    if fake == "file":
        (place / "oom_score_adj").write_text("untouched")
        (place / "timens_offsets").write_text("untouched")
    spec = spec_with(["/dev"], "cat /proc/self/oom_score_adj /proc/self/timens_offsets; true")
    spec["process"]["oomScoreAdj"] = 444
    spec["linux"]["namespaces"] += [{"type": "time"}, {"type": "network"}]
    spec["linux"].update(
        timeOffsets={"boottime": {"secs": 5}}, sysctl={"net.ipv4.ip_unprivileged_port_start": "90"}
    )
    status, text = start(tmp_path, spec)
    assert status == 0
    assert ("untouched" in text) is (fake == "file")
    assert "444" not in text


class Exchange:
    """Exchanges a directory and a link all the time, as a process in another container that shares a volume would."""

    def __init__(self, one: Path, other: Path) -> None:
        self.names = os.fsencode(one), os.fsencode(other)
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.stop = threading.Event()
        self.times = 0
        self.thread = threading.Thread(target=self.work)

    def work(self) -> None:
        while not self.stop.is_set():
            self.libc.renameat2(AT_FDCWD, self.names[0], AT_FDCWD, self.names[1], RENAME_EXCHANGE)
            self.times += 1

    def __enter__(self) -> Exchange:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["outside", "/proc", "/", "/etc"])
def test_cve_2021_30465_a_mount_point_exchanged_for_a_link(
    tmp_path: Path, outside: Path, target: str
) -> None:
    """And CVE-2024-45310, where the race makes files and directories on the host: mount points are found by descriptor,
    and made there. `outside` and the host's mounts are compared afterwards.
    """
    shared = tmp_path / "shared"
    (shared / "place").mkdir(parents=True)
    (shared / "link").symlink_to(str(outside) if target == "outside" else target)
    source = tmp_path / "source"
    source.mkdir()
    (source / "mark").write_text("")
    spec = spec_with(["/proc"], "[ ! -e /mark ] && [ ! -e /etc/mark ] && [ -e /proc/self/exe ]")
    for destination, origin in (("/volume", shared), ("/volume/place/deeper", source)):
        bind = {"destination": destination, "type": "bind", "source": str(origin), "options": ["rbind"]}
        spec["mounts"].append(bind)
    starts, started, end = 0, 0, time.monotonic() + 200
    with Exchange(shared / "place", shared / "link") as exchange:
        # on a busy machine it may take some time until both have had their turns
        while starts < STARTS or ((not started or exchange.times <= STARTS) and time.monotonic() < end):
            starts += 1
            status, text = start(tmp_path, spec)
            assert status in (0, None), text
            started += status == 0
    assert exchange.times > STARTS
    assert started  # a link that is met is followed below the container's root, or the start is refused


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_cve_2024_45310_what_a_mount_is_put_on_is_made_inside(
    tmp_path: Path, outside: Path, kind: str
) -> None:
    """A mount point that is missing, below a directory of a shared volume that is exchanged for a link to the host."""
    shared = tmp_path / "shared"
    (shared / "place").mkdir(parents=True)
    (shared / "link").symlink_to(str(outside))
    source = tmp_path / "source"
    source.mkdir() if kind == "directory" else source.write_text("")
    spec = spec_with(["/proc"], "true")
    for destination, origin in (("/volume", shared), ("/volume/place/new", source)):
        bind = {"destination": destination, "type": "bind", "source": str(origin), "options": ["rbind"]}
        spec["mounts"].append(bind)
    starts, made, end = 0, 0, time.monotonic() + 200
    with Exchange(shared / "place", shared / "link"):
        while starts < max(30, STARTS // 5) or (not made and time.monotonic() < end):
            starts += 1
            status, text = start(tmp_path, spec)
            assert status in (0, None), text
            for place in (shared / "place/new", shared / "link/new"):
                with contextlib.suppress(OSError):
                    place.rmdir() if kind == "directory" else place.unlink()
                    made += 1
    assert made
