"""Images without root: layers of subordinate ids, unpacked, run, packed and removed in the user's own namespace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.image_archives import ImageSource, digest, layout, old_docker, tar, tree_tar
from support.rootless import SUBORDINATE, Rootless
from support.small_images import busybox_tree

pytestmark = [pytest.mark.userns, pytest.mark.peer("busybox", "newuidmap")]


def owned_tree(place: Path) -> bytes:
    """busybox, with files of several owners, as an archive that root made."""
    place.mkdir()
    busybox_tree(place)
    (place / "home/ann/own").write_text("ann's\n")
    (place / "home/ann/closed").mkdir(mode=0o700)
    (place / "home/ann/closed/in").write_text("closed\n")
    for path in (place / "home/ann", *(place / "home/ann").rglob("*")):
        os.chown(path, 1000, 100)
    return tree_tar(place)


@pytest.mark.root
def test_import_run_save_and_remove(rootless: Rootless, tmp_path: Path) -> None:
    base = owned_tree(tmp_path / "tree")
    top = tar({"etc/": b"", "etc/.wh.image": b"", "etc/new": b"new\n"})
    source = ImageSource(base, top, config={"Cmd": ["sh"], "User": "ann", "Volumes": {"/home/ann": {}}})
    archive = rootless.tmp / "in.tar"
    archive.write_bytes(tar(*old_docker((source, ["tool:1"]))))
    rootless.give(archive)
    done = rootless.lamina("load", "-i", archive)
    assert done.stdout == "Loaded image: tool:1\n", done.stderr
    script = "id -u; cat /home/ann/own /home/ann/closed/in /etc/new; test ! -e /etc/image; stat -c %u:%g /home/ann /etc"
    done = rootless.lamina("run", "--rm", "tool:1", "sh", "-ec", script)
    assert done.stdout == "1000\nann's\nclosed\nnew\n1000:100\n0:0\n", done.stderr
    done = rootless.lamina(
        "run", "--name", "kept", "-v", "data:/home/ann", "tool:1", "sh", "-c", "echo x >/home/ann/x"
    )
    assert done.returncode == 0, done.stderr
    volume = rootless.home.parent / "data/lamina/volumes/data/_data"
    assert (volume / "x").stat().st_uid == SUBORDINATE[0] + 999
    assert rootless.lamina("rm", "-v", "kept").returncode == 0
    done = rootless.lamina("save", "-o", rootless.tmp / "out.tar", "tool:1")
    assert done.returncode == 0, done.stderr
    assert base in (rootless.tmp / "out.tar").read_bytes()
    done = rootless.lamina("rmi", "tool:1")
    assert done.stdout.count("Deleted: ") == 3, done.stdout + done.stderr
    assert os.listdir(rootless.home.parent / "data/lamina/layers") == []
    assert rootless.lamina("load", "-i", rootless.tmp / "out.tar").stdout == "Loaded image: tool:1\n"


@pytest.mark.root
def test_flat_archives(rootless: Rootless, tmp_path: Path) -> None:
    files = rootless.tmp / "files.tar"
    files.write_bytes(owned_tree(tmp_path / "tree"))
    rootless.give(files)
    done = rootless.lamina("import", files, "flat:1", "-c", "USER ann")
    assert done.returncode == 0, done.stderr
    done = rootless.lamina(
        "run", "--name", "x", "flat:1", "sh", "-c", "cat /home/ann/closed/in; echo n >/home/ann/n"
    )
    assert done.stdout == "closed\n", done.stderr
    done = rootless.lamina("export", "-o", rootless.tmp / "out.tar", "x")
    assert done.returncode == 0, done.stderr
    done = rootless.lamina("import", rootless.tmp / "out.tar", "again:1")
    assert done.returncode == 0, done.stderr
    done = rootless.lamina("run", "--rm", "again:1", "stat", "-c", "%u:%g", "/home/ann/n", "/bin/busybox")
    assert done.stdout == "1000:100\n0:0\n", done.stderr


@pytest.mark.root
def test_commit(rootless: Rootless, tmp_path: Path) -> None:
    """Files of subordinate ids, of those that only their owner may read, are in it as they are inside."""
    files = rootless.tmp / "files.tar"
    files.write_bytes(owned_tree(tmp_path / "tree"))
    rootless.give(files)
    assert rootless.lamina("import", files, "flat:1").returncode == 0
    script = "cd /home/ann; rm own; echo n >closed/n; chown 7:8 closed/n; chmod 0400 closed/n; chmod 0 /root"
    done = rootless.lamina("run", "--name", "x", "-e", "A=1", "flat:1", "sh", "-ec", script)
    assert done.returncode == 0, done.stderr
    done = rootless.lamina("commit", "-m", "by hand", "x", "made:1")
    assert done.returncode == 0, done.stderr
    ask = "echo $A; cat closed/n; stat -c '%n %u:%g %a' . closed closed/n /root; ls"
    for _ in range(2):
        done = rootless.lamina("run", "--rm", "-w", "/home/ann", "made:1", "sh", "-ec", ask)
        wanted = "1\nn\n. 1000:100 755\nclosed 1000:100 700\nclosed/n 7:8 400\n/root 0:0 0\nclosed\n"
        assert done.stdout == wanted, done.stderr
        # and the same after it went through an archive
        assert rootless.lamina("save", "-o", rootless.tmp / "out.tar", "made:1").returncode == 0
        assert rootless.lamina("rmi", "-f", "made:1").returncode == 0
        done = rootless.lamina("load", "-i", rootless.tmp / "out.tar")
        assert done.stdout == "Loaded image: made:1\n", done.stderr
    assert rootless.lamina("rm", "x").returncode == 0
    assert rootless.lamina("system", "check").returncode == 0


def test_a_directory_of_one_s_own(rootless: Rootless) -> None:
    tree = rootless.mkdir("tree")
    busybox_tree(tree)
    rootless.give(tree)
    done = rootless.lamina("image", "from-dir", tree, "dir:1")
    assert done.returncode == 0, done.stderr
    done = rootless.lamina("run", "--rm", "dir:1", "stat", "-c", "%u:%g", "/etc/passwd")
    assert done.stdout == "0:0\n", done.stderr


@pytest.mark.root
def test_a_damaged_layer_leaves_nothing(rootless: Rootless, tmp_path: Path) -> None:
    source = ImageSource(owned_tree(tmp_path / "tree"))
    files = layout((source, "tool:1"))
    files["blobs/sha256/" + digest(source.layers[0])[7:]] = source.layers[0][:5000]
    archive = rootless.tmp / "in.tar"
    archive.write_bytes(tar(files))
    rootless.give(archive)
    done = rootless.lamina("load", "-i", archive)
    assert done.returncode == 125 and "what came has the digest" in done.stderr, done.stderr
    assert rootless.lamina("images", "-q").stdout == ""
    assert rootless.lamina("system", "prune", "-f").returncode == 0
    assert os.listdir(rootless.home.parent / "data/lamina/layers") == []
