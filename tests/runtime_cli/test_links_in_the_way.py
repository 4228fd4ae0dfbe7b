"""Bind mounts at symbolic links of the root file system: where they lead, whether anything is there yet or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.oci import Bundle, Runtime

pytestmark = pytest.mark.root

STUB = "/run/systemd/resolve/stub"


@pytest.fixture
def bundle(runtime: Runtime) -> Bundle:
    """With the links of images; it prints where things are mounted, by the container's mount table."""
    made = runtime.bundle(
        "sh", "-c", "while read a b c d place rest; do echo $place; done </proc/self/mountinfo"
    )
    (made.path / "given").write_text("given\n")
    (made.rootfs / "var").mkdir()
    for name, target in {
        "etc/resolv.conf": f"..{STUB}",
        "etc/chain": "resolv.conf",
        "etc/absolute": f"/nowhere/..{STUB}",
        "etc/out": "../../../../../../../../../outside/x",
        "etc/circle": "circle",
        "var/run": "../run",
    }.items():
        (made.rootfs / name).symlink_to(target)
    return made


def mounted(runtime: Runtime, bundle: Bundle, *mounts: dict[str, Any]) -> set[str]:
    before = {*bundle.path.iterdir()}
    bundle.config["mounts"] += mounts
    done = runtime.ask("run", "--bundle", bundle.write(), "c")
    assert done.returncode == 0, done.stderr
    assert not any(path.name in ("outside", "nowhere") for path in {*bundle.path.iterdir()} - before)
    return {*done.stdout.split()}


def bind(destination: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": "given", "options": ["bind"]}


@pytest.mark.parametrize(
    ("destination", "leads"),
    [
        ("/etc/resolv.conf", STUB),
        ("/etc/chain", STUB),
        ("/etc/absolute", STUB),
        ("/etc/out", "/outside/x"),
        ("/var/run/docker.sock", "/run/docker.sock"),
        ("/var/run", "/run"),
        ("/var/../etc/resolv.conf", STUB),
    ],
)
def test_what_leads_nowhere_is_made_there(
    runtime: Runtime, bundle: Bundle, destination: str, leads: str
) -> None:
    assert leads in mounted(runtime, bundle, bind(destination))
    assert (bundle.rootfs / leads[1:]).read_bytes() == b""
    assert not Path("/outside").exists()


def test_what_it_led_to_may_have_been_covered_by_then(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / STUB[1:]).parent.mkdir(parents=True)
    (bundle.rootfs / STUB[1:]).touch()
    run = {"destination": "/run", "type": "tmpfs", "source": "tmpfs"}
    assert {"/run", STUB} <= mounted(runtime, bundle, run, bind("/etc/resolv.conf"))


def test_a_link_that_is_covered_leads_nobody(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.path / "volume").mkdir()
    (bundle.path / "volume/resolv.conf").touch()
    volume = {"destination": "/etc", "type": "bind", "source": "volume", "options": ["bind"]}
    found = mounted(runtime, bundle, volume, bind("/etc/resolv.conf"))
    assert "/etc/resolv.conf" in found and STUB not in found


def test_a_circle_has_no_end(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["mounts"].append(bind("/etc/circle"))
    done = runtime.ask("run", "--bundle", bundle.write(), "c")
    assert done.returncode == 1
    assert "at /etc/circle: its symbolic links lead in a circle" in done.stderr
