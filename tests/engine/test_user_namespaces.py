"""Containers of root's with ids of their own: what is whose inside, here, and on the disk."""

from __future__ import annotations

import itertools
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina import Completed, Container, Engine
from lamina.engine.id_maps import IdMaps
from lamina.errors import Conflict, InvalidInput, NotFound, Unsupported
from lamina.linux.constants import CLONE_NEWUSER
from lamina.linux.fd import Fd
from lamina.linux.namespaces import setns
from lamina.store import ranges, volumes
from support.image_archives import ImageSource, old_docker, tar, tree_tar
from support.lives import Command, place_of, said, state_of, until
from support.small_images import busybox_tree

pytestmark = [
    pytest.mark.root,
    pytest.mark.peer("busybox"),
    pytest.mark.usefixtures("tiny"),
    pytest.mark.kernel("5.19"),
]

BASE, SIZE = 700_000, 2000
MAP: dict[str, Any] = {"uidmap": [f"0:{BASE}:{SIZE}"]}
Sh = Callable[..., str]


@pytest.fixture
def sh(engine: Engine) -> Sh:
    def run(script: str, image: str = "tiny", **options: Any) -> str:
        options = {"rm": True, "capture_output": True, "text": True, "timeout": 200, **MAP, **options}
        done: Completed = engine.run(image, ["sh", "-ec", script], **options)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    return run


@pytest.fixture
def box(engine: Engine) -> Container:
    """One that lives, in which ann and root have written something."""
    script = (
        "mkdir -p /made; echo a >/made/file; chown -R 1000:100 /made; rm -f /etc/image; chmod 600 /etc/group; "
        "exec sleep 1000"
    )
    container = engine.start("tiny", ["sh", "-ec", script], name="box", **MAP)
    # the last that it does; the file is there before, with the mode that it had
    until(
        lambda: (group := upper(container) / "etc/group").exists() and group.stat().st_mode & 0o777 == 0o600
    )
    return container


def upper(container: Container) -> Path:
    return place_of(container) / "upper-0"


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


def first_process(container: Container) -> int:
    return int(state_of(container)["pid"])


def maps_of(pid: int) -> list[list[int]]:
    return [list(map(int, line.split())) for line in Path(f"/proc/{pid}/uid_map").read_text().splitlines()]


# -- inside and on the disk


def test_layers_are_seen_with_the_containers_ids(sh: Sh) -> None:
    assert sh("cat /proc/self/uid_map /proc/self/gid_map").split() == ["0", str(BASE), str(SIZE)] * 2
    assert sh("stat -c '%u %g' / /etc /etc/passwd /etc/hosts /etc/hostname /etc/resolv.conf") == "0 0\n" * 6
    assert sh("echo more >>/etc/passwd; stat -c '%u:%g %a' /etc/passwd") == "0:0 644\n"
    assert sh("id -u; stat -c %u /etc/passwd; ! echo x >/etc/passwd", user="ann").split() == ["1000", "0"]


def test_its_root_is_nobody_here(engine: Engine, box: Container) -> None:
    assert maps_of(first_process(box)) == [[0, BASE, SIZE]]
    assert Path(f"/proc/{first_process(box)}").stat().st_uid == BASE
    done = box.exec(
        ["sh", "-c", "id -u; cat /proc/self/uid_map; touch /tmp/x"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split()) == (0, ["0", "0", str(BASE), str(SIZE)])
    assert box.exec(["id", "-u"], user="ann", capture_output=True, text=True).stdout == "1000\n"
    assert {row[0] for row in box.top(["-o", "uid"])["Processes"]} == {str(BASE)}


def test_what_it_writes_has_its_own_ids_on_disk(engine: Engine, box: Container, tmp_path: Path) -> None:
    """So whatever reads an upper reads this one like any other's."""
    assert owner(upper(box)) == (0, 0)
    assert owner(upper(box) / "made/file") == (1000, 100)
    assert owner(upper(box) / "etc/group") == (0, 0)
    assert stat.S_ISCHR((upper(box) / "etc/image").lstat().st_mode)
    found = {os.fsdecode(change.path): change.kind for change in box.changes()}
    assert (
        found["/made/file"] == "added"
        and found["/etc/image"] == "deleted"
        and found["/etc/group"] == "changed"
    )
    for running in (True, False):
        if not running:
            box.stop(timeout=0)
        target = tmp_path / f"copy-{running}"
        box.copy_out("/made", str(target), archive=True)
        assert owner(target / "file") == (1000, 100)


def test_copies_into_it_are_its_roots(engine: Engine, box: Container, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new\n")
    for running in (True, False):
        if not running:
            box.stop(timeout=0)
        box.copy_in(str(tmp_path / "new"), f"/tmp/new-{running}")
        assert owner(upper(box) / f"tmp/new-{running}") == (0, 0)
    box.start()
    seen = box.exec(
        ["sh", "-c", "stat -c %u /tmp/new-*; cat /tmp/new-*"], capture_output=True, text=True
    ).stdout
    assert seen.split() == ["0", "0", "new", "new"]


def test_copies_into_its_volume_are_its_roots(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new\n")
    container = engine.create("tiny", ["sleep", "1000"], volumes=["v:/v", "w:/w:idmap"], **MAP)
    for place, wanted in (("v", (BASE, BASE)), ("w", (0, 0))):
        container.copy_in(str(tmp_path / "new"), f"/{place}/new")
        assert owner(data(engine, place) / "new") == wanted


def test_an_image_of_it_is_like_any_other(engine: Engine, sh: Sh, tmp_path: Path) -> None:
    busybox_tree(tree := tmp_path / "tree")
    (tmp_path / "image.tar").write_bytes(tar(*old_docker((ImageSource(tree_tar(tree)), ["base:latest"]))))
    engine.load(tmp_path / "image.tar")
    script = "mkdir /made; echo a >/made/file; chown -R 1000:100 /made; rm /etc/image; chmod 600 /etc/group"
    done = engine.run("base", ["sh", "-ec", script], **MAP)
    engine.container(done.container).commit("made")
    script = "stat -c %u:%g / /made /made/file /etc/group /etc/passwd; ! test -e /etc/image"
    no_map: dict[str, Any] = {"uidmap": []}
    for options in (no_map, MAP):
        assert sh(script, image="made", **options).split() == ["0:0", "1000:100", "1000:100", "0:0", "0:0"]


def test_it_can_be_started_again_with_the_same_ids(engine: Engine) -> None:
    container = engine.create(
        "tiny", ["sh", "-c", "cat /proc/self/uid_map; cat /kept; echo x >>/kept"], userns="auto"
    )
    other = engine.create("tiny", ["true"], userns="auto")
    for _ in range(2):
        container.start()
        container.wait()
    lines = said(container).decode().splitlines()
    assert lines[0] == lines[2], "the range is the container's"
    assert lines[3] == "x"
    assert range_of(container) != range_of(other)
    container.remove()
    other.remove()
    third = engine.create("tiny", ["true"], userns="auto")
    assert range_of(third)[0] == 0x80000, "it is free again"


def range_of(container: Container) -> tuple[int, int]:
    line = container.record["id_maps"]["uidMappings"][0]
    return line["hostID"], line["size"]


def test_it_says_which_ids_it_has(engine: Engine) -> None:
    found = engine.create("tiny", ["true"], userns="auto:size=10", ipc="shareable").inspect()["HostConfig"]
    assert (found["UsernsMode"], found["IpcMode"]) == ("auto:size=10", "shareable")
    assert found["IDMappings"] == {"UidMap": ["0:524288:10"], "GidMap": ["0:524288:10"]}
    assert engine.create("tiny", ["true"]).inspect()["HostConfig"]["IDMappings"] is None


def test_streams_can_be_opened_by_name(engine: Engine, sh: Sh) -> None:
    assert sh("echo hello >/dev/stdout") == "hello\n"
    assert sh("echo hello >/dev/stdout", user="ann") == "hello\n"
    container = engine.start("tiny", ["sh", "-c", "echo hello >/dev/stdout"], **MAP)
    container.wait()
    assert said(container) == b"hello\n"


def test_a_terminal(lamina: Command) -> None:
    done = lamina("run", "--rm", "-t", "--userns", "auto", "tiny", "sh", "-c", "tty; stat -c %u /dev/console")
    assert done.stdout.split() == ["/dev/pts/0", "0"]


def test_read_only_and_in_memory(sh: Sh) -> None:
    assert (
        sh("! touch /x 2>/dev/null; touch /mem/x; stat -c %u /mem /mem/x", read_only=True, tmpfs=["/mem"])
        == "0\n0\n"
    )


def test_capabilities_of_files_stay_below_its_root(engine: Engine, box: Container) -> None:
    """setcap(8) in the container: the attribute says which root may use it, once the container's, on disk any's."""
    value = "0100000200200000000000000000000000000000"
    path = f"/proc/{first_process(box)}/root/etc/group"
    with (
        Fd(os.open(path, os.O_RDONLY)) as file,
        Fd(os.open(f"/proc/{first_process(box)}/ns/user", os.O_RDONLY)) as user,
    ):
        child = os.fork()
        if child == 0:
            try:
                setns(user, CLONE_NEWUSER)
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
                os.setxattr(file, "security.capability", bytes.fromhex(value))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    assert os.getxattr(upper(box) / "etc/group", "security.capability") == bytes.fromhex(value)
    # seen from here it is the container's root who may use them: revision 3, with his number
    assert os.getxattr(path, "security.capability")[20:] == BASE.to_bytes(4, "little")


def test_this_machine_with_other_ids(sh: Sh, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert (
        sh(f"stat -c %u /etc/passwd {tmp_path}/file; echo more >>{tmp_path}/file", image="host") == "0\n0\n"
    )
    assert (tmp_path / "file").read_text() == "x"


def test_what_it_did_to_this_machine_can_be_applied(engine: Engine, tmp_path: Path) -> None:
    done = engine.run("host", ["sh", "-c", f"echo new >{tmp_path}/new"], **MAP)
    container = engine.container(done.container)
    container.apply()
    assert (owner(tmp_path / "new"), (tmp_path / "new").read_text()) == ((0, 0), "new\n")


# -- volumes


def data(engine: Engine, name: str) -> Path:
    return Path(os.fsdecode(volumes.data_of(engine.store, name)))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    return place


def test_a_directory_of_this_machine_is_shown_as_it_is(sh: Sh, place: Path) -> None:
    (place / "secret").write_text("root's\n")
    (place / "secret").chmod(0o600)
    assert sh(
        "stat -c %u /x/secret; ! cat /x/secret 2>/dev/null; ! touch /x/y 2>/dev/null",
        volumes=[f"{place}:/x"],
    ) == ("65534\n")
    assert (
        sh("stat -c %u /x/secret; cat /x/secret; touch /x/y", volumes=[f"{place}:/x:idmap"]) == "0\nroot's\n"
    )
    assert owner(place / "y") == (0, 0)


def test_a_directory_is_given_to_it(sh: Sh, place: Path) -> None:
    (place / "file").touch()
    assert sh("stat -c %u /x /x/file", volumes=[f"{place}:/x:U"]) == "0\n0\n"
    assert owner(place / "file") == (BASE, BASE)
    assert sh("stat -c %u /x/file", volumes=[f"{place}:/x:U"], user="ann") == "1000\n"
    assert owner(place / "file") == (BASE + 1000, BASE + 100)


def test_a_new_volume_belongs_to_it(engine: Engine, sh: Sh) -> None:
    assert sh("touch /empty/x; stat -c %u /empty", volumes=["empty:/empty"]) == "0\n"
    assert owner(data(engine, "empty")) == owner(data(engine, "empty") / "x") == (BASE, BASE)
    assert sh("stat -c %u /home /home/ann; touch /home/y", volumes=["home:/home"]) == "0\n0\n"
    assert owner(data(engine, "home") / "ann") == (BASE, BASE)


def test_a_volume_with_mapped_ids_is_the_same_for_all(engine: Engine, sh: Sh) -> None:
    assert sh("touch /v/x; stat -c %u /v", volumes=["v:/v:idmap"]) == "0\n"
    assert owner(data(engine, "v") / "x") == (0, 0)
    assert sh("stat -c %u /v/x", volumes=["v:/v:idmap"], uidmap=["0:900000:1000"]) == "0\n"


def test_what_cannot_be_shown(sh: Sh, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="O and --userns contradict"):
        sh("true", volumes=[f"{tmp_path}:/x:O"])
    with pytest.raises(InvalidInput, match="id maps"):
        sh("true", volumes=[f"{tmp_path}:/x:idmap"], uidmap=[])


def test_two_with_ranges_of_their_own_share_nothing_but_what_is_open(engine: Engine) -> None:
    """Through a volume that both mount they are strangers to each other."""
    options: dict[str, Any] = {
        "userns": "auto",
        "volumes": ["shared:/v"],
        "capture_output": True,
        "text": True,
    }
    first = engine.start(
        "tiny",
        ["sh", "-c", "chmod 755 /v; echo a >/v/mine; chmod 600 /v/mine; chmod u+s /v/mine; exec sleep 1000"],
        userns="auto",
        volumes=["shared:/v"],
    )
    until(
        lambda: (
            (data(engine, "shared") / "mine").exists()
            and (data(engine, "shared") / "mine").stat().st_mode & 0o4000
        )
    )
    done = engine.run(
        "tiny",
        [
            "sh",
            "-c",
            "stat -c %u /v/mine; cat /v/mine || echo no; rm /v/mine || echo no; "
            "chown 0 /v/mine || echo no; touch /v/new || echo no",
        ],
        rm=True,
        **options,
    )
    assert done.stdout.split() == ["65534", "no", "no", "no", "no"]
    assert (first.exec(["cat", "/v/mine"], capture_output=True).stdout) == b"a\n"


# -- ranges


def test_ranges_at_once_do_not_overlap(engine: Engine) -> None:
    made: list[Container] = []
    failures: list[BaseException] = []

    def create() -> None:
        try:
            made.append(Engine(engine.store.path).create("tiny", ["true"], userns="auto:size=1000"))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=create) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    found = sorted(range_of(container) for container in made)
    assert all(first + size <= second for (first, size), (second, _) in itertools.pairwise(found))


def test_no_range_is_left(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.engine.user_namespaces.POOL", (800_000, 2500))
    monkeypatch.setattr("lamina.engine.user_namespaces.allotted", list)
    monkeypatch.setattr("lamina.engine.user_namespaces.subordinate", lambda name: ((), ()))
    kept = [engine.create("tiny", ["true"], userns="auto:size=1000") for _ in range(2)]
    with pytest.raises(Conflict, match=r"no 1000 in a row are free"):
        engine.create("tiny", ["true"], userns="auto:size=1000")
    assert len(engine.containers(all=True)) == 2
    kept[0].remove()
    engine.create("tiny", ["true"], userns="auto:size=1000")


def test_a_claim_of_a_container_that_is_gone_is_nobodys(engine: Engine) -> None:
    store = engine.store
    container = engine.create("tiny", ["true"], userns="auto")
    (claim,) = os.listdir(store.ids)
    container.remove()
    assert os.listdir(store.ids) == []
    Path(os.fsdecode(store.ids), os.fsdecode(claim)).touch()  # as one leaves it who was killed before
    other = engine.create("tiny", ["true"], userns="auto")
    assert os.listdir(store.ids) == [claim.replace(container.id.encode(), other.id.encode())]


def test_root_has_the_ranges_of_containers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ranges_of = {"uids": ((1, 3_000_000, 70_000),), "gids": ((1, 3_000_000, 70_000),)}
    monkeypatch.setattr(
        "lamina.engine.user_namespaces.subordinate", lambda name: (ranges_of["uids"], ranges_of["gids"])
    )
    assert range_of(engine.create("tiny", ["true"], userns="auto")) == (3_000_000, 65536)
    ranges_of["gids"] = ((1, 9_000_000, 70_000),)
    with pytest.raises(Unsupported, match=r"no range that is in /etc/subuid and in /etc/subgid"):
        engine.create("tiny", ["true"], userns="auto")


def test_mappings_of_auto(sh: Sh) -> None:
    found = sh(
        "cat /proc/self/uid_map /proc/self/gid_map; stat -c %u /etc",
        uidmap=[],
        userns="auto:size=1000,uidmapping=7:12345:1",
    )
    rows = [list(map(int, line.split())) for line in found.splitlines()[:-1]]
    first = rows[0][1]
    assert rows == [[0, first, 7], [7, 12345, 1], [8, first + 8, 992], [0, first, 1000]]
    assert found.splitlines()[-1] == "0"


# -- the others


def test_host_and_keep_id(sh: Sh) -> None:
    assert sh("cat /proc/self/uid_map", uidmap=[], userns="host").split() == ["0", "0", "4294967295"]
    assert sh("cat /proc/self/uid_map; stat -c %u /etc; touch /x", uidmap=[], userns="keep-id").split() == (
        ["0", "0", "4294967295", "0"]
    )


def test_what_cannot_be_had(sh: Sh) -> None:
    for options, kind, complaint in (
        ({"userns": "nomap"}, InvalidInput, "no user to map"),
        ({"userns": "keep-id:uid=5"}, InvalidInput, "no user to map"),
        ({"userns": "private"}, InvalidInput, "not said which ids"),
        ({"userns": "auto", "uidmap": ["0:1:1"]}, InvalidInput, "contradict each other"),
        ({"userns": "container:x"}, Unsupported, "not supported"),
        ({"userns": "auto:size=0"}, InvalidInput, "size is not a number"),
        ({"userns": "auto:sise=1"}, InvalidInput, "no option 'sise'"),
        ({"userns": "others"}, InvalidInput, "no such mode"),
        ({"uidmap": ["0:5"] * 2}, InvalidInput, "in two maps"),
        ({"uidmap": ["0:4294967295:1"]}, InvalidInput, "goes beyond the last id"),
        ({"uidmap": ["a:b:c"]}, InvalidInput, "not CONTAINER:HOST:SIZE"),
        ({**MAP, "user": "70000"}, Unsupported, "no such ids"),
    ):
        with pytest.raises(kind, match=complaint):
            sh("true", **{"uidmap": [], **options})


def test_no_plan_shows_it(engine: Engine) -> None:
    with pytest.raises(Unsupported, match="no plan shows"):
        engine.plan("tiny", ["true"], userns="auto")


def test_it_is_removed_like_any_other(engine: Engine, box: Container) -> None:
    box.remove(force=True)
    with pytest.raises(NotFound):
        engine.container("box")
    assert not any(Path(os.fsdecode(engine.store.tmp)).iterdir())


def test_the_namespace_is_no_place_to_get_out_of(sh: Sh) -> None:
    """Its root may do nothing to what belongs to this machine."""
    script = (
        "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/uevent_helper; do "
        "! echo x 2>/dev/null >$f || exit 7; done; ! mknod /tmp/null c 1 3 2>/dev/null"
    )
    sh(f"{script}; ! mount -t tmpfs none /tmp 2>/dev/null")
    sh(script, cap_add=["ALL"], security_opt=["seccomp=unconfined"])


def test_maps_are_counted_and_turned() -> None:
    maps = IdMaps(((0, 100, 10), (20, 200, 5)), ((0, 100, 10),))
    assert [maps.outside(uid) for uid in (0, 9, 10, 22)] == [100, 109, -1, 202]
    assert [maps.inside(uid) for uid in (100, 204, 99)] == [0, 24, -1]
    assert maps.root == (100, 100)


def test_gaps_are_found() -> None:
    gaps = ranges._gaps(((0, 100), (200, 30)), [(10, 20), (90, 30), (205, 1)], 20)
    assert gaps == [(30, 60), (206, 24)]
    assert {ranges._anywhere(gaps, 20) for _ in range(200)} == {30, 50, 70, 206}
    # nobody writes all of the places down: there may be two thousand million
    assert ranges._gaps(((0, 1 << 31),), [], 1) == [(0, 1 << 31)]
