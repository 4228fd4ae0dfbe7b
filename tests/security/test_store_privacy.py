"""What Lamina keeps on disk is nobody else's: closed directories, checked names, no privileged file left in a layer."""

from __future__ import annotations

import os
import stat
import struct
import sys
from pathlib import Path

import pytest

from support.attacker import Attacker
from support.leaks import Leaks
from support.rootless import Rootless

CAPABILITY = "security.capability"
# struct vfs_cap_data (linux/capability.h), revision 2: CAP_NET_RAW permitted and effective
CAP_NET_RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
REVISION, REVISION_3 = 0xFF000000, 0x03000000


def store_of(attacker: Attacker) -> Path:
    if attacker.user is not None:
        return Path(attacker.user.env["XDG_DATA_HOME"], "lamina")
    return Path(os.environ["LAMINA_ROOT"])


def upper_of(attacker: Attacker, path: Path) -> Path | None:
    """The file of a container's layer that stands for *path*."""
    end = str(path).lstrip("/").split("/")
    for found in store_of(attacker).glob("containers/*/upper-*"):
        for start in range(len(end)):
            if os.path.lexists(candidate := found.joinpath(*end[start:])):
                return candidate
    return None


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_cve_2024_25621_the_store_is_closed_whatever_the_mask(attacker: Attacker, mask: int) -> None:
    """CVE-2021-41103 and CVE-2024-25621: who can enter a layer can execute the set-uid programs in it."""
    command = "import os, sys; os.umask(int(sys.argv[1])); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    run = ["-m", "lamina", "run", "--name", "kept", "host", "--", "true"]
    done = attacker.run(sys.executable, "-c", command, str(mask), *run)
    assert done.returncode == 0, done.stdout
    root = store_of(attacker)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    inside = [path for path in root.iterdir() if path.is_dir() and path.name != "empty"]
    open_to_others = [path for path in inside if path.stat().st_mode & 0o077]
    assert open_to_others == []
    assert attacker.lamina("rm", "kept").returncode == 0


@pytest.mark.root
@pytest.mark.userns
def test_cve_2021_41103_another_user_cannot_look_into_it(tmp_path: Path, rootless: Rootless) -> None:
    attacker = Attacker(tmp_path)
    assert attacker.lamina("run", "--name", "kept", "host", "--", "touch", "/made").returncode == 0
    root = store_of(attacker)
    for path in (root / "containers", root / "names", root / "version"):
        assert rootless.run("stat", path).returncode != 0
    assert attacker.lamina("rm", "kept").returncode == 0


NAMES = [
    "../../x",
    "a/b",
    "/abs",
    ".",
    "..",
    "-rf",
    "a\nb",
    "a b",
    "\x1b[2J",
    "a" * 300,
    "é",
    "x\u202ey",
    "a;b",
    "$(id)",
]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_hostile_names(attacker_root: Attacker, name: str) -> None:
    before = sorted(path for path in attacker_root.place.rglob("*") if "store" not in str(path))
    for words in (
        ["run", f"--name={name}", "host", "--", "true"],
        ["rm", "--", name],
        ["inspect", "--", name],
    ):
        done = attacker_root.lamina(*words)
        assert done.returncode not in (0, 126, 127), done.stdout
        assert "\x1b" not in done.stdout and "\u202e" not in done.stdout
    assert sorted(path for path in attacker_root.place.rglob("*") if "store" not in str(path)) == before
    names = store_of(attacker_root) / "names"
    assert not names.exists() or list(names.iterdir()) == []


@pytest.mark.root
def test_cve_2023_0386_a_setuid_program_copied_up(
    tmp_path: Path, rootless: Rootless, untouched_host: Leaks
) -> None:
    """CVE-2021-3847: nosuid is a property of the mount that a copy loses; nobody but root gets at the copy."""
    attacker = Attacker(tmp_path)
    program = tmp_path / "program"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    done = attacker.lamina(
        "run", "--name", "copier", "host", "--", "sh", "-c", f"touch {program}; {program} -u"
    )
    assert done.returncode == 0, done.stdout
    copied = upper_of(attacker, program)
    assert copied is not None
    assert rootless.run(copied, "-u").returncode != 0
    assert attacker.lamina("rm", "copier").returncode == 0


@pytest.mark.root
def test_a_write_drops_a_files_capabilities(tmp_path: Path, untouched_host: Leaks) -> None:
    attacker = Attacker(tmp_path)
    program = tmp_path / "program"
    program.write_bytes(b"#!/bin/sh\n")
    program.chmod(0o755)
    os.setxattr(program, CAPABILITY, CAP_NET_RAW)
    done = attacker.lamina("run", "--name", "writer", "host", "--", "sh", "-c", f"echo evil >> {program}")
    assert done.returncode == 0, done.stdout
    copied = upper_of(attacker, program)
    assert copied is not None
    assert CAPABILITY not in os.listxattr(copied)
    assert os.getxattr(program, CAPABILITY) == CAP_NET_RAW
    assert attacker.lamina("rm", "writer").returncode == 0


@pytest.mark.userns
def test_cve_2021_3493_capabilities_of_a_namespace_are_none_on_the_host(rootless: Rootless) -> None:
    """CVE-2021-3493, 2023-2640, 2023-32629: what an ordinary user's container gives a file holds in no other
    namespace: the kernel writes down whose it is, or refuses.
    """
    attacker = Attacker(rootless.home, rootless)
    program = rootless.home / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    rootless.give(program)
    code = f"import os; os.setxattr({str(program)!r}, {CAPABILITY!r}, {CAP_NET_RAW!r})"
    command = [sys.executable, "-c", code]
    done = attacker.lamina("run", "--name", "giver", "host", "--", *command)
    copied = upper_of(attacker, program)
    if done.returncode == 0 and copied is not None and CAPABILITY in os.listxattr(copied):
        held = os.getxattr(copied, CAPABILITY)
        assert struct.unpack_from("<I", held)[0] & REVISION == REVISION_3
        assert struct.unpack_from("<I", held, 20)[0] == rootless.uid
    assert CAPABILITY not in os.listxattr(program)
    assert attacker.lamina("rm", "giver").returncode == 0


def test_the_store_cannot_be_seen_from_inside(attacker: Attacker) -> None:
    root = store_of(attacker)
    assert attacker.said(f"ls -A {root} 2>/dev/null; cat {root}/version 2>/dev/null; :") == ""
    assert attacker.inside(f"touch {root}/x").returncode != 0


def test_the_store_cannot_be_seen_through_what_is_shown_as_it_is(attacker_root: Attacker) -> None:
    """A file system that cannot be overlaid is bound with all that is mounted below it: the store, for instance."""
    place, store = attacker_root.place / "stage", store_of(attacker_root)
    attacker_root.said(":")  # makes the store
    (store / "containers" / "secret").mkdir()
    script = f"""
        set -e; mkdir {place}; mount -t tmpfs none {place}; cd {place}
        mkdir -p bottom/store once twice
        mount -t overlay none -o lowerdir=bottom:once once
        mount -t overlay none -o lowerdir=once:twice twice
        mount --bind {store} twice/store
        cd twice
        {sys.executable} -m lamina run --rm host -- sh -c 'pwd; ls -A; echo in it: $(ls -A store)'
    """
    try:
        done = attacker_root.run("unshare", "-m", "sh", "-c", script)
        assert (done.returncode, done.stdout) == (0, f"{place}/twice\nstore\nin it:\n")
    finally:
        (store / "containers" / "secret").rmdir()


def test_hostile_words_reach_no_shell(attacker_root: Attacker) -> None:
    """Labels, variables and host names are data, and terminals are not driven by them."""
    made = attacker_root.place / "made"
    words = f"$(touch {made})`touch {made}`;touch {made}\x1b]0;x\x07"
    options = ["--label", f"a={words}", "-e", f"A={words}"]
    done = attacker_root.lamina("run", "--name", "words", *options, "host", "--", "true")
    assert done.returncode == 0, done.stdout
    for listing in (["ps", "-a"], ["inspect", "words"]):
        shown = attacker_root.lamina(*listing)
        assert shown.returncode == 0
        assert "\x1b" not in shown.stdout and "\x07" not in shown.stdout
    assert not made.exists()
    assert attacker_root.lamina("rm", "words").returncode == 0


def test_no_file_of_the_package_is_privileged() -> None:
    """CVE-2020-5291, CVE-2026-41163: nothing of ours is set-uid, and nothing has to be."""
    import lamina

    for path in Path(lamina.__file__).parent.rglob("*"):
        if path.parent.name == "__pycache__":  # others compile what they import, by way of temporary files
            continue
        assert not path.stat().st_mode & 0o6000, path
        assert CAPABILITY not in os.listxattr(path), path
