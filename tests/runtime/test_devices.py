"""Device nodes: the default ones and linux.devices, in a fresh /dev, in an image's own, and in user namespaces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput, NotFound, Unsupported
from lamina.runtime.launch import launch
from support.bundles import over_host, small
from support.starting import DEV, PROC, SHIFTED, run, said

pytestmark = pytest.mark.root

DEFAULT = {"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0"}
PTS = ["newinstance", "ptmxmode=0666", "mode=0620"]
LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "ptmx": "pts/ptmx"}


def spec_for(*args: str, user: bool = False, fresh: bool = True) -> dict[str, Any]:
    spec = small(*args)
    spec["mounts"] = [PROC, *([DEV] if fresh else [])]
    if user:
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"].update(uidMappings=SHIFTED, gidMappings=SHIFTED)
    return spec


def prepared(at: Path, spec: dict[str, Any]) -> Any:
    """With a /dev that a shifted root may write to."""
    bundle = over_host(at, spec)
    (at / "upper/dev").mkdir(exist_ok=True)
    (at / "upper/dev").chmod(0o755)
    if any(n["type"] == "user" for n in spec["linux"]["namespaces"]):
        os.chown(at / "upper/dev", 100_000, 100_000)
    return bundle


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "image's"])
@pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
def test_default_devices_and_links(tmp_path: Path, user: bool, fresh: bool) -> None:
    script = (
        "cd /dev; for n in " + " ".join(DEFAULT) + "; do stat -c '%n %Hr:%Lr %a %F' $n; done; "
        "for l in " + " ".join(LINKS) + "; do readlink $l; done; echo x > null; head -c 3 zero | wc -c"
    )
    lines = said(prepared(tmp_path, spec_for("/bin/sh", "-c", script, user=user, fresh=fresh))).splitlines()
    for (name, number), line in zip(DEFAULT.items(), lines, strict=False):
        assert line == f"{name} {number} 666 character special file"
    assert lines[len(DEFAULT) :] == [*LINKS.values(), "3"]


@pytest.mark.parametrize("what", ["file", "link", "device", "fifo"])
@pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
def test_what_an_image_has_in_its_dev_is_covered_and_not_followed(
    tmp_path: Path, user: bool, what: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    spec = spec_for(
        "/bin/sh", "-c", "stat -c '%Hr:%Lr' /dev/null; echo spoilt > /dev/null", user=user, fresh=False
    )
    bundle = prepared(tmp_path, spec)
    place = tmp_path / "upper/dev/null"
    if what == "file":
        place.write_text("image's")
    elif what == "link":
        place.symlink_to(outside)
    elif what == "device":
        os.mknod(place, 0o20666, os.makedev(1, 5))
    else:
        os.mkfifo(place)
    assert said(bundle) == "1:3\n"
    assert outside.read_text() == "kept"
    if what == "file":
        assert place.read_text() == "image's"


@pytest.mark.parametrize("what", ["nothing", "device", "file", "link", "directory"])
@pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
def test_an_images_own_ptmx_gives_way_to_the_link(tmp_path: Path, user: bool, what: str) -> None:
    """As debootstrap makes a device: without this its mode and owner were the image's. A directory stays."""
    bundle = prepared(tmp_path, spec_for("/bin/readlink", "/dev/ptmx", user=user, fresh=False))
    place = tmp_path / "upper/dev/ptmx"
    if what == "device":
        os.mknod(place, 0o20600, os.makedev(5, 2))
    elif what == "file":
        place.write_text("image's")
    elif what == "link":
        place.symlink_to("elsewhere")
    elif what == "directory":
        place.mkdir()
    if what == "directory":
        assert run(bundle) == (1, "")
    else:
        assert said(bundle) == "pts/ptmx\n"


def test_a_ptmx_that_was_asked_for_stays(tmp_path: Path) -> None:
    spec = spec_for("/usr/bin/stat", "-c", "%F %a", "/dev/ptmx", fresh=False)
    spec["linux"]["devices"] = [{"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2, "fileMode": 0o640}]
    assert said(prepared(tmp_path, spec)) == "character special file 640\n"


@pytest.mark.parametrize("fresh", [True, False], ids=["new /dev", "the image's /dev"])
@pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
def test_terminals_are_the_containers_own_whatever_is_said_of_ptmx(
    tmp_path: Path, user: bool, fresh: bool
) -> None:
    """Of a user namespace the host's node would be bound, which finds no terminals in the container."""
    spec = spec_for("/bin/sh", "-c", "exec 3<>/dev/ptmx && ls /dev/pts", user=user, fresh=fresh)
    spec["mounts"].append({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": PTS})
    spec["linux"]["devices"] = [{"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}]
    bundle = prepared(tmp_path, spec)
    (tmp_path / "upper/dev/pts").mkdir(exist_ok=True, parents=True)
    assert said(bundle).split() == ["0", "ptmx"]


def test_a_root_that_is_used_twice(tmp_path: Path) -> None:
    spec = spec_for("/usr/bin/stat", "-c", "%Hr:%Lr", "/dev/full", fresh=False)
    for _ in range(2):
        assert said(prepared(tmp_path, spec)) == "1:7\n"


def test_no_devices_are_made_in_a_dev_that_is_the_hosts(tmp_path: Path) -> None:
    def names(found: list[str]) -> list[str]:
        """Without those of disks, which others attach meanwhile."""
        return sorted(name for name in found if not name.startswith(("loop", "dm-", "nbd")))

    before = names(os.listdir("/dev"))
    spec = spec_for("/bin/ls", "/dev", fresh=False)
    spec["mounts"].append({"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]})
    assert names(said(over_host(tmp_path, spec)).split()) == before
    assert names(os.listdir("/dev")) == before


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "image's"])
def test_devices_with_mode_and_owner(tmp_path: Path, fresh: bool) -> None:
    spec = spec_for(
        "/usr/bin/stat",
        "-c",
        "%n %F %Hr:%Lr %a %u:%g",
        "/dev/mine",
        "/dev/deep/er/block",
        "/dev/pipe",
        "/opt/u",
        fresh=fresh,
    )
    spec["linux"]["devices"] = [
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8},
        {"path": "/dev/deep/er/block", "type": "b", "major": 7, "minor": 300, "fileMode": 0o600},
        {"path": "/dev/pipe", "type": "p", "uid": 9},
        {"path": "/opt/u", "type": "u", "major": 250, "minor": 1048575},
    ]
    assert said(prepared(tmp_path, spec)).splitlines() == [
        "/dev/mine character special file 1:3 640 7:8",
        "/dev/deep/er/block block special file 7:300 600 0:0",
        "/dev/pipe fifo 0:0 666 9:0",
        "/opt/u character special file 250:1048575 666 0:0",
    ]


def test_a_device_of_the_specification_replaces_the_default_one(tmp_path: Path) -> None:
    spec = spec_for("/usr/bin/stat", "-c", "%Hr:%Lr %a", "/dev/tty")
    spec["linux"]["devices"] = [{"path": "/dev/tty", "type": "c", "major": 5, "minor": 0, "fileMode": 0o600}]
    assert said(prepared(tmp_path, spec)) == "5:0 600\n"


def test_in_a_user_namespace_the_hosts_device_is_bound_and_its_mode_is_noted(tmp_path: Path) -> None:
    spec = spec_for("/usr/bin/stat", "-c", "%Hr:%Lr %a", "/dev/deeper/null", user=True)
    device = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600}
    spec["process"]["args"][-1] = "/dev/null"
    spec["linux"]["devices"] = [device]
    null = os.open("/dev/null", os.O_RDWR)
    running = launch(prepared(tmp_path, spec), stdin=null, stdout=null, stderr=null)
    os.close(null)
    assert running.wait() == 0
    running.close()
    assert running.notes == ("/dev/null is the host's: so are its mode and owner",)
    device.update(minor=5)
    with pytest.raises(Unsupported, match="this host's /dev/null is not c 1:5"):
        run(prepared(tmp_path, spec))
    device.update(path="/dev/no-such")
    with pytest.raises(NotFound, match="/dev/no-such"):
        run(prepared(tmp_path, spec))


@pytest.mark.parametrize(
    ("device", "complaint"),
    [
        ({"path": "/dev/x", "type": "x", "major": 1, "minor": 3}, "type 'x'"),
        ({"path": "/dev/x", "type": "c"}, "no major and minor"),
        ({"path": "/dev/x", "type": "c", "major": 5000, "minor": 3}, "no device number"),
        ({"path": "/dev/x", "type": "c", "major": 1, "minor": -1}, "no device number"),
        ({"path": "/dev/../x", "type": "c", "major": 1, "minor": 3}, r"\.\."),
        ({"path": "dev/x", "type": "c", "major": 1, "minor": 3}, "absolute"),
        ({"path": "/", "type": "c", "major": 1, "minor": 3}, "root itself"),
    ],
)
def test_what_is_no_device(tmp_path: Path, device: dict[str, Any], complaint: str) -> None:
    spec = spec_for("/bin/true")
    spec["linux"]["devices"] = [device]
    with pytest.raises(InvalidInput, match=complaint):
        run(prepared(tmp_path, spec))
    spec["linux"]["devices"] = [
        {"path": "/dev/x", "type": "p"},
        {"path": "/dev/x", "type": "p", "fileMode": 0},
    ]
    with pytest.raises(InvalidInput, match="same path"):
        run(prepared(tmp_path, spec))


def test_a_device_that_is_said_twice_is_one(tmp_path: Path) -> None:
    spec = spec_for("/usr/bin/stat", "-c", "%F", "/dev/x")
    spec["linux"]["devices"] = [{"path": "/dev/x", "type": "p"}] * 2
    assert said(prepared(tmp_path, spec)) == "fifo\n"


@pytest.mark.parametrize("target", ["{outside}", "/../../../../../..{outside}"])
@pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
def test_cve_2026_41579_a_dev_that_is_a_link(tmp_path: Path, target: str, user: bool) -> None:
    """Without a mount at /dev the nodes would be made in the image's, wherever that leads."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o777)
    spec = spec_for("/bin/true", user=user, fresh=False)
    spec["linux"]["devices"] = [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}]
    bundle = over_host(tmp_path, spec)
    (tmp_path / "upper/dev").symlink_to(target.format(outside=outside))
    with pytest.raises(OSError, match="a link is in the way"):
        run(bundle)
    assert list(outside.iterdir()) == []
