"""Volumes of the store, those that an image declares, layers over directories of the host, memory."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina import Completed, Engine
from lamina.engine.filling import fill, give
from lamina.errors import Conflict, InvalidInput, NotFound, StepFailed
from lamina.store import volumes
from lamina.store.tree import remove_tree
from support.leaks import Leaks
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

Sh = Callable[..., Completed]


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Engine:
    return Engine(store_root)


@pytest.fixture
def sh(engine: Engine) -> Sh:
    def run(script: str, image: str = "tiny", **options: Any) -> Completed:
        options = {"rm": True, "capture_output": True, "text": True, "timeout": 200, **options}
        done = engine.run(image, ["sh", "-ec", script], **options)
        assert done.returncode == 0, done.stderr
        return done

    return run


def data(place: Path) -> None:
    """A directory /data with one of everything."""
    top = place / "data"
    (top / "sub").mkdir(parents=True)
    (top / "file").write_text("image\n")
    (top / "file").chmod(0o640)
    os.chown(top / "file", 7, 8)
    os.link(top / "file", top / "sub/again")
    (top / "link").symlink_to("/etc/passwd")
    os.mkfifo(top / "fifo", 0o600)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(top / "file", "user.note", b"kept")
    os.utime(top / "file", ns=(10**18, 10**18))
    top.chmod(0o1770)
    os.chown(top, 5, 6)


def volume_path(engine: Engine, name: str) -> Path:
    return Path(os.fsdecode(volumes.data_of(engine.store, name)))


# -- named


def test_a_volume_is_made_filled_and_kept(engine: Engine, sh: Sh) -> None:
    small_image(engine.store, data)
    done = sh(
        "stat -c %a:%u:%g:%h /data /data/file; cat /data/sub/again; echo more >/data/own", volumes=["v:/data"]
    )
    assert done.stdout == "1770:5:6:3\n640:7:8:2\nimage\n"
    path = volume_path(engine, "v")
    assert sorted(os.listdir(path)) == ["fifo", "file", "link", "own", "sub"]
    assert os.readlink(path / "link") == "/etc/passwd"
    assert (path / "file").stat().st_ino == (path / "sub/again").stat().st_ino
    assert (path / "file").stat().st_mtime_ns == 10**18
    assert os.getxattr(path / "file", "user.note") == b"kept"
    assert stat.S_ISFIFO((path / "fifo").stat().st_mode)
    (path / "file").unlink()
    assert sh("cat /data/own; test ! -e /data/file", volumes=["v:/data"]).stdout == "more\n"
    assert sh("ls /elsewhere", volumes=["v:/elsewhere"]).stdout == "fifo\nlink\nown\nsub\n"


def test_a_volume_is_not_filled_where_that_is_not_wanted(engine: Engine, sh: Sh) -> None:
    small_image(engine.store, data)
    assert sh("ls -A /data", volumes=["v:/data:nocopy"]).stdout == ""
    assert sh("ls -A /data", mounts=["type=volume,src=w,dst=/data,volume-nocopy"]).stdout == ""
    assert sh("ls /data", volumes=["v:/data"]).stdout == "fifo\nfile\nlink\nsub\n"
    assert (
        engine.run("host", ["ls", "-A", "/etc"], rm=True, capture_output=True, volumes=["x:/etc"]).stdout
        == b""
    )


def test_a_volume_over_a_file_or_nothing_of_the_image_is_empty(engine: Engine, sh: Sh) -> None:
    small_image(engine.store)
    assert sh("ls -A /new/deep; stat -c %a:%u /new/deep", volumes=["v:/new/deep"]).stdout == "755:0\n"


def test_a_broken_filling_is_begun_again(engine: Engine, sh: Sh) -> None:
    small_image(engine.store, data)
    volumes.create(engine.store, "v")
    path = volume_path(engine, "v")
    (path / "file").write_text("half")
    (path.parent / "filling").write_text("begun\n")
    assert sh("cat /data/file; ls /data", volumes=["v:/data"]).stdout == "image\nfifo\nfile\nlink\nsub\n"
    assert sorted(os.listdir(path.parent)) == ["_data", "volume.json"]


def test_what_another_container_has_written_meanwhile_stays(engine: Engine, sh: Sh) -> None:
    """It had the volume before the start that was killed while it filled it."""
    small_image(engine.store, data)
    volumes.create(engine.store, "v")
    path = volume_path(engine, "v")
    (path / "sub").mkdir()
    (path / "sub/half").write_text("half")
    (path / "precious").write_text("another's\n")
    (path.parent / "filling").write_text("begun\n")
    script = "cat /data/file /data/precious; ls /data /data/sub"
    assert (
        sh(script, volumes=["v:/data"]).stdout
        == "image\nanother's\n/data:\nfifo\nfile\nlink\nprecious\nsub\n\n/data/sub:\nagain\n"
    )


@pytest.mark.parametrize("volume", ["v:/data:nocopy", "v:/nothing/there"])
def test_what_was_written_after_a_broken_filling_stays(engine: Engine, sh: Sh, volume: str) -> None:
    small_image(engine.store, data)
    volumes.create(engine.store, "v")
    path = volume_path(engine, "v")
    (path.parent / "filling").write_text("begun\n")
    place = volume.split(":")[1]
    assert sh(f"echo mine >{place}/own", volumes=[volume]).stdout == ""
    assert sh("ls /data", volumes=["v:/data"]).stdout == "own\n"


def test_a_filling_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "layer").mkdir()
    (tmp_path / "volume").mkdir()
    data(tmp_path / "layer")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lamina.engine.filling.copy_content", full)
    with pytest.raises(OSError, match="No space"):
        fill(os.fsencode(tmp_path / "volume"), (os.fsencode(tmp_path / "layer"),), False, "/data")
    assert os.listdir(tmp_path / "volume") == []
    (tmp_path / "volume/precious").write_text("another's")
    with pytest.raises(OSError, match="No space"):
        fill(os.fsencode(tmp_path / "volume"), (os.fsencode(tmp_path / "layer"),), False, "/data")
    assert os.listdir(tmp_path / "volume") == ["precious"]


def test_many_starts_fill_one_volume_once(engine: Engine) -> None:
    small_image(engine.store, data)
    said = []

    def start() -> None:
        options: dict[str, Any] = {"rm": True, "capture_output": True, "volumes": ["v:/data"]}
        said.append(engine.run("tiny", ["sh", "-c", "ls /data | wc -l"], **options).stdout)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == [b"4\n"] * 8
    assert not os.path.lexists(volume_path(engine, "v").parent / "filling")


def test_nothing_in_a_volume_gives_rights(sh: Sh, engine: Engine) -> None:
    small_image(engine.store)
    found = sh("grep ' /data ' /proc/mounts", volumes=["v:/data"]).stdout.split()[3].split(",")
    assert {"nosuid", "nodev", "rw"} <= set(found)
    found = sh("grep ' /data ' /proc/mounts", volumes=["v:/data:suid,ro"]).stdout.split()[3].split(",")
    assert {"nodev", "ro"} <= set(found) and "nosuid" not in found


def test_a_part_of_a_volume(sh: Sh, engine: Engine) -> None:
    small_image(engine.store)
    sh("mkdir -p /v/a/b; echo x >/v/a/b/c", volumes=["v:/v"])
    assert sh("cat /p/c", mounts=["type=volume,src=v,dst=/p,volume-subpath=a/b"]).stdout == "x\n"
    with pytest.raises(NotFound):
        sh("true", mounts=["type=volume,src=v,dst=/p,volume-subpath=nowhere"])


def test_a_link_in_a_volume_does_not_lead_out(sh: Sh, engine: Engine, tmp_path: Path) -> None:
    """A subpath that is a link."""
    small_image(engine.store)
    sh(f"ln -s {tmp_path} /v/out; ln -s / /v/root", volumes=["v:/v"])
    for subpath in ("out", "root/etc"):
        with pytest.raises((NotFound, InvalidInput)):
            sh("ls /p", mounts=[f"type=volume,src=v,dst=/p,volume-subpath={subpath}"])


def test_a_volume_in_use_cannot_be_removed(engine: Engine) -> None:
    from lamina.store.references import ContainerUses

    small_image(engine.store)
    container = engine.container(engine.run("tiny", ["true"], volumes=["v:/v"]).name)
    with pytest.raises(Conflict, match=f"in use by {container.name}"):
        volumes.remove(engine.store, "v", unless_used=ContainerUses(engine.store))
    container.remove(volumes=True)
    assert volume_path(engine, "v").is_dir()  # it has a name
    volumes.remove(engine.store, "v", unless_used=ContainerUses(engine.store))


# -- the image's and the container's own


def test_volumes_that_the_image_declares(engine: Engine, sh: Sh) -> None:
    small_image(engine.store, data, volumes=["/data", "/var/lib/x/"])
    assert sh("cat /data/file; ls -A /var/lib/x; echo x >/data/new").stdout == "image\n"
    assert volumes.identities(engine.store) == []
    done = engine.run("tiny", ["sh", "-c", "echo kept >/data/new"])
    assert len(volumes.identities(engine.store)) == 2
    container = engine.container(done.name)
    found = {mount["Destination"]: mount for mount in container.inspect()["Mounts"]}
    assert found.keys() == {"/data", "/var/lib/x"}
    assert Path(found["/data"]["Source"], "new").read_text() == "kept\n"
    container.remove()
    assert len(volumes.identities(engine.store)) == 2
    other = engine.container(engine.run("tiny", ["true"]).name)
    other.remove(volumes=True)
    assert len(volumes.identities(engine.store)) == 2


def test_what_is_asked_for_takes_the_place_of_what_is_declared(
    engine: Engine, sh: Sh, tmp_path: Path
) -> None:
    small_image(engine.store, data, volumes=["/data"])
    (tmp_path / "here").write_text("x")
    assert sh("ls /data", volumes=[f"{tmp_path}:/data"]).stdout.split().count("here") == 1
    assert sh("ls -A /data", tmpfs=["/data"]).stdout == ""
    sh("true", volumes=["v:/data"])
    assert volumes.identities(engine.store) == ["v"]


def test_a_volume_without_a_name(engine: Engine, sh: Sh) -> None:
    small_image(engine.store, data)
    assert sh("ls /data", volumes=["/data"]).stdout == "fifo\nfile\nlink\nsub\n"
    assert volumes.identities(engine.store) == []


def test_cve_2022_23648_a_declared_volume_that_is_a_link(engine: Engine, sh: Sh, tmp_path: Path) -> None:
    """containerd copied the host's files into it."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("host")

    def hostile(place: Path) -> None:
        (place / "x").symlink_to("/etc")
        (place / "y").symlink_to(secret)
        (place / "z").symlink_to("../../../../../../../../../../etc")
        (place / "w").mkdir()
        (place / "w/up").symlink_to("../../../../../../../.." + str(secret))

    image = small_image(engine.store, hostile, volumes=["/x", "/z"])
    done = sh("cat /x/image; ls /etc | sort | tr '\\n' ' '", image.id)
    assert done.stdout == "busybox\ngroup hostname hosts image passwd resolv.conf "
    for target in ("/y", "/w/up"):
        with pytest.raises(StepFailed, match="a symbolic link in the place of the target leads nowhere"):
            sh("true", small_image(engine.store, hostile, volumes=[target]).id)
    for name in volumes.identities(engine.store):
        assert "key" not in os.listdir(volume_path(engine, name))
    assert os.listdir(secret) == ["key"]


# -- another container's


def test_volumes_of_another_container(engine: Engine, sh: Sh, tmp_path: Path) -> None:
    small_image(engine.store, volumes=["/own"])
    (tmp_path / "bound").mkdir()
    first = engine.run(
        "tiny", ["sh", "-c", "echo own >/own/x; echo named >/named/x; echo bound >/bound/x"], name="first",
        volumes=["v:/named", f"{tmp_path}/bound:/bound"], tmpfs=["/memory"],
    )  # fmt: skip
    assert first.returncode == 0
    done = sh("cat /own/x /named/x /bound/x; echo 2 >/own/y", volumes_from=["first"])
    assert done.stdout == "own\nnamed\nbound\n"
    assert len(volumes.identities(engine.store)) == 2  # the other container's own volume is still there
    assert sh("cat /own/y; ! echo z 2>/dev/null >/own/z", volumes_from=["first:ro"]).stdout == "2\n"
    with pytest.raises(NotFound):
        sh("true", volumes_from=["nobody"])
    last = engine.container(engine.run("tiny", ["true"], volumes_from=["first"]).name)
    engine.container("first").remove(volumes=True)
    assert len(volumes.identities(engine.store)) == 2  # still used
    last.remove(volumes=True)


# -- over, U, memory


def test_a_layer_over_a_directory(engine: Engine, sh: Sh, tmp_path: Path) -> None:
    small_image(engine.store)
    odd = tmp_path / "a,b:c\\d"
    odd.mkdir()
    (odd / "file").write_text("host\n")
    script = "cat /o/file; echo changed >/o/file; touch /o/new; ls /o; grep -c ' /o overlay' /proc/mounts"
    assert sh(script, volumes=[(str(odd), "/o", "O")]).stdout == "host\nfile\nnew\n1\n"
    assert (odd / "file").read_text() == "host\n" and os.listdir(odd) == ["file"]
    done = engine.run("tiny", ["sh", "-c", "echo x >/o/new"], volumes=[(str(odd), "/o", "O")])
    container = engine.container(done.name)
    assert [change.path for change in container.changes() if not change.incidental] == []
    container.remove()
    with pytest.raises(InvalidInput, match="O takes a directory"):
        sh("true", volumes=[(str(odd / "file"), "/o", "O")])


def test_a_source_is_given_to_the_user(engine: Engine, sh: Sh, tmp_path: Path) -> None:
    small_image(engine.store)
    source, outside = tmp_path / "source", tmp_path / "outside"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_text("x")
    outside.write_text("x")
    (source / "link").symlink_to(outside)
    sh("touch /s/sub/mine", user="ann", volumes=[f"{source}:/s:U", "v:/v:U"])
    for path in (source, source / "sub/file", volume_path(engine, "v")):
        assert (path.stat().st_uid, path.stat().st_gid) == (1000, 100)
    assert (source / "link").lstat().st_uid == 1000
    assert outside.stat().st_uid == 0
    with pytest.raises(InvalidInput, match="is not given away by U"):
        sh("true", volumes=["/etc:/e:U"])


def test_what_is_too_deep_to_be_given_away_is_an_error(tmp_path: Path) -> None:
    """A container can make directories as deep as it likes, in a volume as well."""
    deep, names = tmp_path / "deep", ["d"] * 1100
    deep.mkdir()
    fd = os.open(deep, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(OSError, match="Too many levels"):
        give(os.fsencode(deep), os.geteuid(), os.getegid())
    remove_tree(os.fsencode(deep))  # too deep for who cleans up after the tests


def test_memory(engine: Engine, sh: Sh) -> None:
    small_image(engine.store)
    done = sh("grep ' /m ' /proc/mounts; stat -c %a /m; ! dd if=/dev/zero of=/m/x bs=1k count=128 2>/dev/null",
              tmpfs=["/m:size=64k,mode=750"], read_only=True)  # fmt: skip
    assert {"rw", "nosuid", "nodev", "noexec", "size=64k", "mode=750"} <= set(
        done.stdout.split()[3].split(",")
    )
    assert done.stdout.splitlines()[1] == "750"
    assert sh("stat -c %a /shm-like; df -k /dev/shm | tail -1", mounts=["type=tmpfs,dst=/shm-like,tmpfs-mode=0711"],
              tmpfs=["/dev/shm:size=1m"]).stdout.split()[:3] == ["711", "tmpfs", "1024"]  # fmt: skip


def test_mounts_lie_on_each_other_parents_first(sh: Sh, engine: Engine, tmp_path: Path) -> None:
    small_image(engine.store)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/file").write_text("x\n")
    assert sh("cat /o/i/file", volumes=[f"{tmp_path}/inner:/o/i", "v:/o"]).stdout == "x\n"


def test_a_mount_whose_source_is_not_there(sh: Sh, engine: Engine, tmp_path: Path) -> None:
    small_image(engine.store)
    with pytest.raises(NotFound, match="No such file"):
        sh("true", mounts=[f"type=bind,src={tmp_path}/nowhere,dst=/x"])
    assert not (tmp_path / "nowhere").exists()
    assert sh("ls /x", mounts=[f"type=bind,src={tmp_path}/nowhere,dst=/x,bind-create-src"]).stdout == ""
    assert (tmp_path / "nowhere").is_dir()
