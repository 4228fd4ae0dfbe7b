"""An ordinary user's containers with other ids than usual: keep-id, nomap, auto, maps of the user's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.lives import until
from support.rootless import SUBORDINATE, UID, Rootless
from support.small_images import import_tiny

FIRST, COUNT = SUBORDINATE
pytestmark = [
    pytest.mark.userns,
    pytest.mark.root,
    pytest.mark.peer("busybox"),
    pytest.mark.peer("newuidmap"),
]


@pytest.fixture
def user(rootless: Rootless) -> Iterator[Rootless]:
    """With the image `tiny`, and nothing left at the end."""

    def with_tape(tree: Path) -> None:
        (tree / "tape").touch()
        os.chown(tree / "tape", 26, 26)

    import_tiny(rootless, with_tape)
    yield rootless
    rootless.remove_all()


def sh(user: Rootless, script: str, *words: str, image: str = "tiny") -> list[str]:
    return user.ok("run", "--rm", *words, image, "sh", "-ec", script).split()


OWNERS = "stat -c %u:%g / /etc/passwd /tape"


def test_the_user_is_himself(user: Rootless) -> None:
    found = sh(user, f"id -u; id -g; cat /proc/self/uid_map; {OWNERS}", "--userns", "keep-id")
    assert found[:2] == [str(UID), str(UID)]
    assert list(map(int, found[2:11])) == [
        *(0, FIRST, UID),
        *(UID, UID, 1),
        *(UID + 1, FIRST + UID, COUNT - UID),
    ]
    assert found[11:] == ["0:0", "0:0", "26:26"]
    assert sh(user, "id -u; touch /x; stat -c %u /x", "--userns", "keep-id", "--user", "0") == ["0", "0"]
    assert sh(user, "id -u; id -g", "--userns", "keep-id:uid=200,gid=210") == ["200", "210"]
    assert sh(user, "cat /proc/self/gid_map", "--userns", "keep-id:uid=5,gid=5,size=31") == (
        f"0 {FIRST} 5 5 {UID} 1 6 {FIRST + 5} 25".split()
    )


def test_what_he_writes_outside_is_his(user: Rootless) -> None:
    assert (
        sh(user, "touch /h/x; stat -c %u /h /h/x", "--userns", "keep-id", "-v", f"{user.home}:/h")
        == [str(UID)] * 2
    )
    assert (user.home / "x").stat().st_uid == UID


@pytest.mark.parametrize(("mode", "size"), [("nomap", COUNT), ("auto", 1024), ("auto:size=3000", 3000)])
def test_the_user_is_not_there(user: Rootless, mode: str, size: int) -> None:
    found = sh(user, f"id -u; cat /proc/self/uid_map; {OWNERS}; touch /x; stat -c %u /x", "--userns", mode)
    assert found == ["0", "0", str(FIRST), str(size), "0:0", "0:0", "26:26", "0"]
    mine = user.home / "mine"
    mine.write_text("secret")
    user.give(user.home)
    mine.chmod(0o600)
    script = (
        "stat -c %u /h/mine; ! cat /h/mine 2>/dev/null; ! touch /h/x 2>/dev/null; ! rm -f /h/mine 2>/dev/null"
    )
    assert sh(user, script, "--userns", mode, "-v", f"{user.home}:/h") == ["65534"]
    assert mine.read_text() == "secret"


def test_each_has_a_range_of_its_own(user: Rootless) -> None:
    for name in "ab":
        user.ok("run", "-d", "--name", name, "--userns", "auto", "tiny", "sleep", "1000")
    firsts = [int(user.ok("exec", name, "cat", "/proc/self/uid_map").split()[1]) for name in "ab"]
    assert firsts == [FIRST, FIRST + 1024]
    user.ok("rm", "-f", "a")
    assert sh(user, "cat /proc/self/uid_map", "--userns", "auto")[1] == str(FIRST)


def test_one_that_lives(user: Rootless, tmp_path: Path) -> None:
    script = "echo hello >/dev/stdout; echo x >>/made; chown 5:6 /made; exec sleep 1000"
    user.ok("run", "-d", "--name", "box", "--userns", "nomap", "tiny", "sh", "-c", script)
    whose = 'until [ "$(stat -c %u:%g /made 2>/dev/null)" = 5:6 ]; do :; done; id -u'
    assert user.ok("exec", "box", "sh", "-c", whose) == "0\n"
    until(lambda: user.ok("logs", "box") == "hello\n")
    assert user.ok("diff", "box") == "A /made\n"
    archive = user.tmp / "archive.tar"
    for _ in range(2):
        with archive.open("wb") as out:
            assert user.lamina("cp", "box:/made", "-", stdout=out).returncode == 0
        listed = subprocess.run(
            ["tar", "--numeric-owner", "-tvf", archive], capture_output=True, text=True
        ).stdout
        assert " 5/6 " in listed
        user.ok("stop", "-t", "0", "box")
    user.ok("start", "box")
    assert user.ok("exec", "box", "sh", "-c", "until [ $(wc -l </made) = 2 ]; do :; done; id -u") == "0\n"
    user.ok("rm", "-f", "box")


def test_an_image_of_it_is_like_any_other(user: Rootless) -> None:
    script = "echo x >/made; chown 5:6 /made; echo y >/tape"
    for mode in ("nomap", "keep-id", ""):
        userns = ("--userns", mode) if mode else ()
        user.ok("run", "--name", f"of{mode}", *userns, "--user", "0", "tiny", "sh", "-ec", script)
        if mode != "keep-id":
            user.ok(
                "snapshot", "create", f"of{mode}"
            )  # what was frozen with ids of its own is copied as well
        user.ok("commit", f"of{mode}", f"made-{mode}x")
        wanted = ["0:0", "0:0", "26:26", "5:6"]
        for options in ((), ("--userns", "auto"), ("--userns", "keep-id")):
            assert sh(user, f"{OWNERS} /made", *options, image=f"made-{mode}x") == wanted


def test_copies_into_it_are_its_roots(user: Rootless) -> None:
    (user.home / "new").write_text("new")
    user.give(user.home)
    user.ok("create", "--name", "box", "--userns", "nomap", "-v", "v:/v", "tiny", "sleep", "1000")
    user.ok("cp", str(user.home / "new"), "box:/one")
    user.ok("cp", str(user.home / "new"), "box:/v/one")
    user.ok("start", "box")
    user.ok("cp", str(user.home / "new"), "box:/two")
    assert user.ok("exec", "box", "stat", "-c", "%u", "/one", "/two", "/v/one") == "0\n0\n0\n"


def test_a_volume_belongs_to_its_root(user: Rootless) -> None:
    script = "stat -c %u:%g /v /etc2/passwd; touch /v/x"
    for mode in ("nomap", "keep-id"):
        words = ("--userns", mode, "--user", "0", "-v", f"{mode}:/v", "-v", f"{mode}-etc:/etc2")
        assert sh(user, script.replace("etc2/passwd", "etc2"), *words) == ["0:0", "0:0"]
    filled = ("--userns", "nomap", "-v", "filled:/etc")
    assert sh(user, "stat -c %u:%g /etc /etc/passwd; touch /etc/x", *filled) == ["0:0", "0:0"]
    user.ok("volume", "rm", "nomap", "nomap-etc", "keep-id", "keep-id-etc", "filled")


def test_a_source_is_given(user: Rootless) -> None:
    place = user.mkdir("given")
    (place / "file").touch()
    user.give(place / "file")
    assert sh(user, "stat -c %u /h/file", "--userns", "nomap", "--user", "7", "-v", f"{place}:/h:U") == ["7"]
    assert (place / "file").stat().st_uid == FIRST + 7
    assert sh(user, "stat -c %u /h/file", "--userns", "keep-id", "-v", f"{place}:/h:U") == [str(UID)]
    assert (place / "file").stat().st_uid == UID


def test_this_machine(user: Rootless) -> None:
    (user.home / "file").write_text("x")
    user.give(user.home)
    script = "id -u; stat -c %u ~/file; echo more >>~/file; cat ~/file"
    words = ("--userns", "keep-id", "-e", f"HOME={user.home}")
    assert sh(user, script, *words, image="host") == [str(UID), str(UID), "xmore"]
    script = "id -u; stat -c %u ~/file; ! echo more 2>/dev/null >>~/file; touch /made; stat -c %u /made"
    assert sh(user, script, "--userns", "nomap", "-e", f"HOME={user.home}", image="host") == [
        "0",
        "65534",
        "0",
    ]
    assert (user.home / "file").read_text() == "x"


def test_maps_of_his_own(user: Rootless) -> None:
    words = ("--uidmap", "0:1:100", "--uidmap", "1000:0:1", "--gidmap", "0:0:50")
    found = sh(user, "cat /proc/self/uid_map /proc/self/gid_map", *words)
    assert found == f"0 {FIRST} 100 1000 {UID} 1 0 {UID} 1 1 {FIRST} 49".split()
    found = sh(user, "cat /proc/self/uid_map", "--userns", "auto:size=100,uidmapping=50:0:1")
    assert found == f"0 {FIRST} 50 50 {UID} 1 51 {FIRST + 51} 49".split()


def test_what_is_usual_is_named(user: Rootless) -> None:
    for mode in ("", "host", "private", "keep-id:uid=0,gid=0"):
        assert sh(user, "cat /proc/self/uid_map", "--userns", mode)[:3] == ["0", str(UID), "1"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--uidmap", "0:0:70000"), "more than this user has"),
        (("--userns", "auto:size=70000"), "no 70000 in a row are free"),
        (("--userns", "auto:size=10"), "a file belongs to user 26"),
        (("--userns", "nomap", "-v", "/tmp:/x:idmap"), "lets only root map the ids"),
        (("--userns", "nomap", "-v", "/tmp:/x:O"), "contradict"),
    ],
)
def test_what_cannot_be_had(user: Rootless, words: tuple[str, ...], complaint: str) -> None:
    done = user.lamina("run", "--rm", *words, "tiny", "true")
    assert done.returncode == 125 and complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert user.ok("ps", "-aq") == ""


def test_without_subordinate_ids(user: Rootless) -> None:
    for name in ("subuid", "subgid"):
        (user.tmp / "etc" / name).write_text("")
    for mode in ("nomap", "auto"):
        done = user.lamina("run", "--rm", "--userns", mode, "host", "true")
        assert done.returncode == 125 and "subordinate ids" in done.stderr
    assert sh(user, "id -u", "--userns", "keep-id", image="host") == [str(UID)]


def test_copies_of_layers_are_kept_and_collected(user: Rootless) -> None:
    layers = user.tmp / "data/lamina/layers"
    before = set(os.listdir(layers))
    done = [user.lamina("run", "--rm", "--userns", "nomap", "tiny", "true") for _ in range(2)]
    assert ["copied for these ids" in one.stderr for one in done] == [True, False]
    (copy,) = set(os.listdir(layers)) - before
    found = (layers / copy / "fs/tape").stat()
    assert (found.st_uid, found.st_gid) == (FIRST + 26, FIRST + 26)
    user.ok("gc")
    assert set(os.listdir(layers)) == before
