"""Rows of the first table about what a runtime does around a root file system: configuration, nodes, checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.oci import Runtime
from support.witness import CHANGES, OPEN, Witness

pytestmark = pytest.mark.root


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Witness]:
    """What happens in a directory of the host that a hostile root leads to."""
    place = tmp_path / "outside"
    place.mkdir(mode=0o777)
    (place / "ptmx").write_text("the host's")
    witness = Witness(place)
    yield witness
    witness.close()


@pytest.mark.parametrize("target", ["{outside}", "../../../../../../../..{outside}"])
def test_cve_2026_47766_no_node_and_no_ptmx_where_dev_leads(
    runtime: Runtime, tmp_path: Path, outside: Witness, target: str
) -> None:
    """`/dev` is a link: devices, `ptmx` and the links of `/dev` are neither made nor removed behind it."""
    bundle = runtime.bundle("true")
    (bundle.rootfs / "dev").rmdir()
    (bundle.rootfs / "dev").symlink_to(target.format(outside=tmp_path / "outside"))
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] != "/dev"]
    bundle.config["linux"]["devices"] = [{"path": "/dev/node", "type": "c", "major": 1, "minor": 3}]
    done = runtime.ask("run", "--bundle", bundle.write(), "box")
    assert done.returncode == 1
    assert "link" in done.stderr
    assert outside.names() == set()


def test_cve_2026_119101_no_checkpoint_is_restored(
    runtime: Runtime, tmp_path: Path, outside: Witness
) -> None:
    """Nor looked at: links in it could have external mounts, or what is bound for writing, lead anywhere."""
    image = tmp_path / "checkpoint"
    image.mkdir()
    for name in ("descriptors.json", "mountpoints-1.img", "inventory.img"):
        (image / name).symlink_to(tmp_path / "outside")
    looked = Witness(image, CHANGES | OPEN)
    bundle = runtime.bundle("true").write()
    place = str(image)
    for words in (["--image-path", place], ["--image-path", place, "--detach", "--lazy-pages"], []):
        done = runtime.ask("restore", *words, "--bundle", bundle, "box")
        assert done.returncode == 1
        assert "not supported" in done.stderr
    assert looked.names() == outside.names() == set()
    assert runtime.ask("list", "--quiet").stdout == ""
    looked.close()


def test_cve_2019_18837_no_configuration_is_read_from_a_root(runtime: Runtime, tmp_path: Path) -> None:
    """Whatever a root calls the files in which runtimes and libraries look for settings: here nobody opens them. (And
    CVE-2025-24965 and 2026-84042, where they were followed as links, and written to.)
    """
    bundle = runtime.bundle("/bin/true")
    etc = bundle.rootfs / "etc"
    names = (".krun_config.json", ".krun_vm.json", "krun-sev.json", ".dockerenv", "lamina.json")
    settings = (
        "lamina",
        "containers.conf",
        "resolv.conf",
        "hosts",
        "hostname",
        "nsswitch.conf",
        "subuid",
        "ld.so.preload",
    )
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    for place in [*(bundle.rootfs / name for name in names), *(etc / name for name in settings)]:
        place.symlink_to(victim)
    os.mkfifo(etc / "passwd")  # whoever waits for an answer waits for ever
    looked = [Witness(tmp_path, OPEN), Witness(etc, OPEN)]
    bundle.config["annotations"] = {
        "run.oci.handler": "krun",
        "krun.ram_mib": "1",
        "run.oci.hooks.stderr": str(victim),
    }
    done = runtime.ask("run", "--bundle", bundle.write(), "box")
    assert done.returncode == 0, done.stderr
    assert "victim" not in looked[0].names()
    # the loader of the command itself, inside, looks for ld.so.preload and follows it there
    assert looked[1].names() <= {"passwd", ""}
    assert victim.read_text() == "untouched"
    for witness in looked:
        witness.close()
