"""Containers with ids of their own: their root is nobody here, whatever it leaves behind, and to its neighbours."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lamina import Container, Engine
from lamina.store import volumes
from support.leaks import Leaks
from support.lives import place_of, remove_all, state_of, until
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.kernel("5.19")]

BASE = 700_000
STRANGER = 61234


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Any:
    small_image(store_root)
    engine = Engine(store_root)
    yield engine
    remove_all(engine)


def leave(engine: Engine, script: str, **options: Any) -> Container:
    """A container that goes on living after *script*."""
    options = {"uidmap": [f"0:{BASE}:2000"], **options}
    box = engine.start("tiny", ["sh", "-c", f"{script}; touch /tmp/done; exec sleep 1000"], **options)
    until(lambda: box.exec(["test", "-e", "/tmp/done"]).returncode == 0)
    return box


def as_stranger(*words: str) -> subprocess.CompletedProcess[str]:
    """As an ordinary user of this machine."""
    become = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    return subprocess.run([*become, *words], capture_output=True, text=True)


def test_its_set_user_id_programs_are_in_nobodys_reach(engine: Engine) -> None:
    """On disk they belong to root (decision 0051): so no way may lead there, neither the store's nor the process's."""
    box = leave(engine, "cp /bin/busybox /bin/mine; chmod 4755 /bin/mine")
    program = place_of(box) / "upper-0/bin/mine"
    found = program.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o4755)
    assert engine.store.path and stat.S_IMODE(os.stat(engine.store.path).st_mode) == 0o700
    for way in (program, Path(f"/proc/{state_of(box)['pid']}/root/bin/mine")):
        assert as_stranger(str(way), "id", "-u").returncode != 0
    # and inside they give no rights either: the mount has nosuid, the process no_new_privs
    assert box.exec(["/bin/mine", "id", "-u"], user="ann", capture_output=True).stdout in (b"1000\n", b"")


def test_what_it_leaves_in_a_volume_is_not_roots(engine: Engine) -> None:
    leave(
        engine,
        "cp /bin/busybox /v/mine; chmod 6755 /v/mine; mkfifo /v/fifo; ! mknod /v/null c 1 3",
        volumes=["v:/v"],
    )
    place = Path(os.fsdecode(volumes.data_of(engine.store, "v")))
    for path in (place, *place.iterdir()):
        assert path.lstat().st_uid == BASE
    assert not [path for path in place.iterdir() if path.is_char_device() or path.is_block_device()]


def test_neighbours_are_strangers(engine: Engine) -> None:
    """Both are root in their containers, both mount one volume: neither reads, changes or takes what the other has."""
    leave(engine, "chmod 777 /v; echo secret >/v/file; chmod 600 /v/file; mkdir -m 700 /v/dir; touch /v/dir/x",
          volumes=["v:/v"])  # fmt: skip
    script = """
        cat /v/file; ls /v/dir; chmod 666 /v/file; chown 0 /v/file; ln /v/file /v/mine; mv /v/dir/x /v/x
        echo x >/v/file; setfattr -n security.capability -v 0x01 /v/file; echo end
    """
    done = engine.run("tiny", ["sh", "-c", script], rm=True, capture_output=True, text=True, volumes=["v:/v"],
                      uidmap=[f"0:{BASE + 2000}:2000"])  # fmt: skip
    assert done.stdout == "end\n"
    place = Path(os.fsdecode(volumes.data_of(engine.store, "v")))
    assert (place / "file").read_text() == "secret\n"
    assert stat.S_IMODE((place / "file").stat().st_mode) == 0o600
    assert (place / "file").stat().st_uid == BASE


def test_its_root_reads_nothing_of_roots_but_its_image(engine: Engine, tmp_path: Path) -> None:
    """A directory of this machine is shown as it is: id 0 on disk is not the container's."""
    place = tmp_path / "place"
    place.mkdir(mode=0o755)
    (place / "secret").write_text("root's")
    (place / "secret").chmod(0o600)
    (place / "open").mkdir(mode=0o777)
    (place / "open").chmod(0o777)
    script = "cat /x/secret; chmod 644 /x/secret; rm -f /x/secret; touch /x/new; touch /x/open/new; echo end"
    done = engine.run("tiny", ["sh", "-c", script], rm=True, capture_output=True, text=True, uidmap=[f"0:{BASE}:2000"],
                      volumes=[f"{place}:/x"], cap_add=["ALL"], security_opt=["seccomp=unconfined"])  # fmt: skip
    assert done.stdout == "end\n"
    assert sorted(path.name for path in place.iterdir()) == ["open", "secret"]
    assert (place / "open/new").stat().st_uid == BASE


@pytest.mark.parametrize("image", ["tiny", "host"])
def test_no_mount_of_a_start_is_seen_here(engine: Engine, image: str) -> None:
    """The helper's mount namespace, the room in which it mounts, and the mapped mounts end with it."""
    before = Path("/proc/self/mountinfo").read_text()
    for _ in range(5):
        engine.run(image, ["true"], rm=True, uidmap=[f"0:{BASE}:65536"])
    with pytest.raises(Exception, match=r"[Nn]o such"):
        engine.run(image, ["/no/such"], rm=True, uidmap=[f"0:{BASE}:65536"])
    assert Path("/proc/self/mountinfo").read_text() == before
    assert os.listdir(engine.store.merged) == []


def test_the_layers_of_the_image_stay_as_they_are(engine: Engine) -> None:
    def seen() -> dict[str, tuple[int, ...]]:
        layers = Path(os.fsdecode(engine.store.layers))
        return {
            str(path): (found.st_uid, found.st_gid, found.st_mode, found.st_size, found.st_mtime_ns)
            for path in layers.rglob("*")
            for found in [path.lstat()]
        }

    before = seen()
    leave(engine, "chown -R 5:5 /etc /bin; rm -rf /home; chmod -R 700 /root; echo x >>/etc/passwd")
    assert seen() == before
