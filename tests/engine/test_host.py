"""What becomes of each file system of the host, decided from a table of mounts."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.engine.host import check_store, compose, stack_depth, visible
from lamina.engine.layers import Layers, furnish
from lamina.engine.places import CLOSED, DIRECTORY, FILE, SPECIAL, HostImage, Place, Stub
from lamina.errors import Unsupported
from lamina.linux.mountinfo import Mount, parse_mountinfo
from lamina.overlay.spec import MountSpec

MACHINE = rb"""
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 21 0:20 / /proc rw,relatime - proc proc rw
23 21 0:21 / /sys rw,relatime - sysfs sysfs rw
24 23 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup rw
25 21 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw
26 25 0:23 / /dev/shm rw - tmpfs tmpfs rw
27 26 0:24 / /dev/shm rw - tmpfs tmpfs rw
28 25 0:25 / /dev/pts rw - devpts devpts rw
29 28 0:26 / /dev/pts rw - devpts devpts rw
30 21 0:27 / /run rw,nosuid,nodev - tmpfs tmpfs rw,mode=755
31 30 0:28 / /run/lock rw - tmpfs tmpfs rw
32 30 0:4 net:[4026531840] /run/netns/x rw - nsfs nsfs rw
33 21 254:1 / /home rw - xfs /dev/vdb rw
34 21 254:2 / /boot/efi rw - vfat /dev/vdc rw
35 21 7:0 / /snap/core/1 ro,nodev - squashfs /dev/loop0 ro
36 21 0:30 / /mnt/ro ro - tmpfs tmpfs rw
37 33 254:0 /srv/data /home/ann/data rw - ext4 /dev/vda rw
38 22 0:31 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw
39 21 254:0 /etc/resolv.conf /etc/resolv.conf rw - ext4 /dev/vda rw
40 21 0:32 / /net rw - autofs auto.net rw
41 40 0:33 / /net/server/share rw - nfs4 server:/share rw
42 21 0:34 / /mnt/auto rw - autofs systemd-1 rw
43 42 254:3 / /mnt/auto rw - ext4 /dev/vdd rw
44 30 0:35 / /run/user/1000/doc rw - fuse.portal portal rw
45 21 0:36 / /mnt/sshfs rw - fuse.sshfs me@there: rw
""".strip()


def kinds(**special: str) -> Callable[[bytes], str]:
    """What is where: directories, except what is named (a leading slash, slashes as __)."""
    named = {b"/" + name.replace("__", "/").encode(): kind for name, kind in special.items()}
    return lambda path: named.get(path, FILE if path == b"/etc/resolv.conf" else DIRECTORY)


def image(text: bytes = MACHINE, **special: str) -> HostImage:
    return compose(parse_mountinfo(text), kind=kinds(**special))


def places(found: HostImage) -> dict[bytes, Place]:
    return {place.at: place for place in found.places}


def said(found: HostImage, place: str) -> str:
    (warning,) = [w for w in found.warnings if w.startswith(place + " ")]
    return warning


# -- a whole machine


def test_every_real_file_system_has_an_overlay_at_its_place() -> None:
    found = image()
    assert [place.at for place in found.places] == [
        b"/", b"/home", b"/home/ann/data", b"/mnt/auto", b"/mnt/ro", b"/mnt/sshfs", b"/run", b"/run/lock",
    ]  # fmt: skip
    assert all(place.lower == place.at and place.skeleton is None for place in found.places)


def test_what_is_read_only_on_the_host_has_no_upper() -> None:
    assert [place.at for place in image().places if not place.writable] == [b"/mnt/ro"]


def test_images_are_bound_as_they_are_without_a_word() -> None:
    found = image()
    assert b"/snap/core/1" in found.readonly
    assert not [w for w in found.warnings if "snap" in w]


def test_what_cannot_be_overlaid_is_read_only_and_named() -> None:
    found = image()
    assert set(found.readonly) == {b"/boot/efi", b"/etc/resolv.conf", b"/snap/core/1"}
    assert (
        said(found, "/boot/efi")
        == "/boot/efi (vfat) is read-only: this kind of file system cannot be overlaid"
    )
    assert "a single file" in said(found, "/etc/resolv.conf")


def test_what_is_reached_through_an_automounter_is_absent_and_named() -> None:
    assert "not there" in said(image(), "/net/server/share")


def test_views_of_the_kernel_are_absent_without_a_word() -> None:
    found = image()
    for place in (b"/proc", b"/sys", b"/dev", b"/run/netns/x", b"/net", b"/run/user/1000/doc"):
        assert not [p for p in (*places(found), *found.readonly) if p == place or p.startswith(place + b"/")]
    assert len(found.warnings) == 3


@pytest.mark.parametrize(("kind", "word"), [(SPECIAL, "socket"), (CLOSED, "may not be looked at")])
def test_sockets_and_closed_places_are_absent_and_named(kind: str, word: str) -> None:
    found = image(run__lock=kind)
    assert b"/run/lock" not in places(found)
    assert b"/run/lock" not in found.readonly
    assert word in said(found, "/run/lock")


# -- one mount over another


def tree(*lines: str) -> list[Mount]:
    """Mounts as `id parent place type`, with a device of their own each."""
    fields = [line.split() for line in lines]
    return parse_mountinfo(
        b"\n".join(f"{i} {p} 8:{i} / {place} rw - {kind} none rw".encode() for i, p, place, kind in fields)
    )


def seen(*lines: str) -> list[int]:
    return [mount.id for mount in visible(tree(*lines))]


def test_the_later_mount_over_the_same_place_wins() -> None:
    assert seen("1 0 / ext4", "2 1 /a ext4", "3 2 /a ext4", "4 3 /a ext4") == [1, 4]
    assert seen("1 0 / ext4", "2 1 /a ext4", "3 1 /a ext4") == [1, 3]


def test_the_root_may_be_covered_too() -> None:
    assert seen("1 0 / rootfs", "2 1 / ext4", "3 1 /a ext4", "4 2 /b ext4") == [2, 4]


def test_what_was_mounted_below_a_covered_place_is_not_seen() -> None:
    assert seen("1 0 / ext4", "2 1 /a/b ext4", "3 2 /a/b/c ext4", "4 1 /a ext4") == [1, 4]
    assert seen("1 0 / ext4", "2 1 /a ext4", "3 2 /a/b ext4", "4 2 /a ext4", "5 4 /a/c ext4") == [1, 4, 5]


def test_a_name_that_begins_alike_is_not_below() -> None:
    assert seen("1 0 / ext4", "2 1 /a ext4", "3 1 /ab ext4", "4 1 /a-b ext4") == [1, 2, 4, 3]


def test_the_order_of_the_table_does_not_matter() -> None:
    mounts = parse_mountinfo(MACHINE)
    wanted = compose(mounts, kind=kinds())
    for seed in range(10):
        random.Random(seed).shuffle(mounts)
        assert compose(mounts, kind=kinds()) == wanted


@given(st.data())
def test_parents_come_before_children(data: st.DataObject) -> None:
    """Random trees of mounts, places over and under each other."""
    lines = ["1 0 / ext4"]
    places_of = {1: "/"}
    for number in range(2, data.draw(st.integers(2, 12))):
        parent = data.draw(st.sampled_from(sorted(places_of)))
        below = data.draw(st.sampled_from(["", "a", "b", "a/b", "a/b/c"]))
        place = os.path.normpath(f"{places_of[parent]}/{below}")
        places_of[number] = "/" + place.lstrip("/")
        lines.append(f"{number} {parent} {places_of[number]} ext4")
    found = [mount.mount_point for mount in visible(tree(*lines))]
    assert len(set(found)) == len(found)
    for index, point in enumerate(found):
        assert not any(point.startswith(later.rstrip(b"/") + b"/") for later in found[index + 1 :])


def test_without_a_root_mount_there_is_no_host() -> None:
    with pytest.raises(Unsupported, match="chroot"):
        compose(tree("2 1 /home ext4"))


def test_odd_bytes_in_mount_points() -> None:
    text = b"1 0 8:1 / / rw - ext4 x rw\n2 1 8:2 / /a\\040b\\012c:\\134,\xff rw - ext4 x rw"
    assert image(text).places[1] == Place(b"/a b\nc:\\,\xff", b"/a b\nc:\\,\xff")


# -- what lies below what is bound


def test_below_a_bound_mount_everything_comes_with_it() -> None:
    text = b"1 0 8:1 / / rw - ext4 x rw\n2 1 8:2 / /boot rw - vfat x rw\n3 2 8:3 / /boot/x rw - ext4 x rw\n"
    text += b"4 3 8:4 / /boot/x/y rw - ext4 x rw"
    found = image(text)
    assert (found.readonly, len(found.places), len(found.warnings)) == ((b"/boot",), 1, 1)


# -- overlays


OVERLAYS = b"""1 0 8:1 / / rw - ext4 x rw
2 1 0:2 / /one rw - overlay x rw,lowerdir=/a:/b,upperdir=/c,workdir=/d
3 1 0:3 / /two rw - overlay x rw,lowerdir=/one/x,upperdir=/e,workdir=/f
4 1 0:4 / /elsewhere rw - overlay x rw,lowerdir=relative,upperdir=/not/here"""


def test_an_overlay_can_be_overlaid_once() -> None:
    mounts = parse_mountinfo(OVERLAYS)
    assert [stack_depth(mount, mounts) for mount in mounts] == [0, 1, 2, 1]
    found = image(OVERLAYS)
    assert set(places(found)) == {b"/", b"/one", b"/elsewhere"}
    assert found.readonly == (b"/two",)
    assert "overlay of overlays" in said(found, "/two")


def test_names_of_overlays_that_lead_to_each_other_are_no_endless_way() -> None:
    """As in a container whose layers are named as its host sees them: 40 layers each, eight levels deep."""
    layers = [":".join(f"/{place}/{number}" for number in range(40)) for place in ("one", "two")]
    text = b"1 0 8:1 / / rw - ext4 x rw\n"
    for number, place, other in ((2, "one", layers[1]), (3, "two", layers[0])):
        text += f"{number} 1 0:{number} / /{place} rw - overlay x rw,lowerdir={other}\n".encode()
    assert set(places(image(text))) | set(image(text).readonly) == {b"/", b"/one", b"/two"}


@pytest.mark.parametrize("step", ["", "/d"])
def test_mounts_over_mounts_may_be_many(step: str) -> None:
    """A program that mounts at each of its starts leaves thousands at one place."""
    lines = ["1 0 / ext4", *(f"{n} {n - 1} /mnt{step * (n - 1)} tmpfs" for n in range(2, 3000))]
    assert seen(*lines) == ([*range(1, 3000)] if step else [1, 2999])


def test_a_root_that_cannot_be_overlaid_is_said() -> None:
    text = b"1 0 8:1 / / rw - overlay x rw,lowerdir=/one/x\n" + OVERLAYS.split(b"\n")[1]
    with pytest.raises(Unsupported, match=r"root file system \(overlay\).*overlay of overlays"):
        image(text)
    with pytest.raises(Unsupported, match="root file system"):
        image(b"1 0 8:1 / / rw - vfat x rw")


def test_a_root_that_is_read_only_still_gets_an_upper() -> None:
    for text in (b"1 0 8:1 / / ro - squashfs x ro", b"1 0 8:1 / / ro - ext4 x rw"):
        assert image(text).places == (Place(b"/", b"/"),)


# -- what is hidden


def hidden(path: bytes, text: bytes = MACHINE, **special: str) -> tuple[bytes, ...]:
    return compose(parse_mountinfo(text), hide=(path,), kind=kinds(**special)).hide


def test_the_store_is_hidden_wherever_it_shows() -> None:
    assert hidden(b"/var/lib/lamina") == (b"/var/lib/lamina",)
    assert hidden(b"/home/ann/store") == (b"/home/ann/store",)
    assert hidden(b"/srv/data/store") == (b"/home/ann/data/store", b"/srv/data/store")
    assert hidden(b"/home/ann/data/store") == (b"/home/ann/data/store", b"/srv/data/store")


def test_a_bind_mount_of_a_part_of_the_store_is_hidden() -> None:
    text = MACHINE + b"\n50 21 254:0 /var/lib/lamina/containers /mnt/x rw - ext4 /dev/vda rw"
    assert hidden(b"/var/lib/lamina", text) == (b"/mnt/x", b"/var/lib/lamina")


def test_what_is_absent_anyway_need_not_be_hidden() -> None:
    assert hidden(b"/dev/shm/store") == ()
    assert hidden(b"/net/server/share/store") == ()


def test_of_two_hidden_directories_one_below_the_other_the_upper_is_enough() -> None:
    found = compose(parse_mountinfo(MACHINE), hide=(b"/var/lib", b"/var/lib/lamina"), kind=kinds())
    assert found.hide == (b"/var/lib",)


# -- where a store may be


@pytest.mark.parametrize(("path", "ok"), [(b"/var/lib/lamina", True), (b"/run/x", True), (b"/home/x", True),
                                          (b"/boot/efi/x", False), (b"/mnt/ro/x", False), (b"/mnt/sshfs/x", False),
                                          (b"/net/server/share/x", False), (b"/proc/x", False)])  # fmt: skip
def test_where_a_store_can_be(path: bytes, ok: bool) -> None:
    mounts = parse_mountinfo(MACHINE)
    if ok:
        check_store(path, mounts)
    else:
        with pytest.raises(Unsupported, match=r"writable layer.*--root"):
            check_store(path, mounts)


def test_a_store_on_an_overlay_is_refused_with_the_remedy() -> None:
    with pytest.raises(Unsupported, match=r"overlay cannot hold the upper.*ext4, xfs, btrfs or tmpfs"):
        check_store(b"/one/x", parse_mountinfo(OVERLAYS))


# -- without root


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A small host below a directory: what a user namespace sees of it is composed from real entries."""
    for name in ("usr/bin", "home/ann", "var/lib/x", "var/log", "proc", "run/lock", "mnt/disk"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "vmlinuz").write_text("kernel")
    (tmp_path / "big").write_bytes(bytes(2 << 20))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "run" / "file").write_text("x")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    return tmp_path


def rootless(
    fake: Path, *mounts: str, hide: tuple[str, ...] = ()
) -> tuple[HostImage, Callable[[bytes], bytes]]:
    """The composition with *fake* in the role of /: every path below it, "/" being a mount above."""
    place = os.fsencode(fake)
    lines = ["1 0 / ext4", f"2 1 {fake} ext4"]
    for number, (where, kind) in enumerate((m.split() for m in mounts), 3):
        lines.append(f"{number} 2 {fake}/{where} {kind}")
    hidden = tuple(place + b"/" + h.encode() for h in hide)
    table = tree(*lines)
    # only what is below the fake host is of interest: everything else of the real / would come with it
    from lamina.engine.host import _Judge
    from lamina.engine.skeleton import _Builder

    found = visible(table)
    judge = _Judge(table, lambda path: DIRECTORY, {})
    for mount in found:
        judge.judge(mount)
    verdicts = {m.mount_point: judge.verdicts[m.id] for m in found}
    builder = _Builder(
        {m.mount_point: m for m in found}, {m.mount_point for m in table}, verdicts, hidden, {}
    )
    builder.mount(next(m for m in found if m.mount_point == place))
    composed = HostImage(
        tuple(builder.places), tuple(builder.readonly), (), tuple(builder.stubs), tuple(builder.warnings)
    )
    return composed, lambda path: path[len(place) :] or b"/"


def test_a_mount_with_nothing_below_needs_no_skeleton(fake: Path) -> None:
    composed, short = rootless(fake)
    assert [(short(p.at), p.skeleton) for p in composed.places] == [(b"/", None)]
    assert composed.stubs == ()


def test_only_the_way_to_a_mount_is_a_skeleton(fake: Path) -> None:
    composed, short = rootless(fake, "mnt/disk ext4", "var/lib/x ext4")
    assert {short(p.at): p.skeleton for p in composed.places} == {
        b"/": 0, b"/home": None, b"/mnt/disk": None, b"/proc": None, b"/run": None, b"/tmp": None, b"/usr": None,
        b"/var/lib/x": None, b"/var/log": None,
    }  # fmt: skip
    stubs = {short(stub.path): stub for stub in composed.stubs}
    assert {path for path, stub in stubs.items() if stub.kind == DIRECTORY} == {
        b"/", b"/home", b"/mnt", b"/mnt/disk", b"/proc", b"/run", b"/tmp", b"/usr", b"/var", b"/var/lib", b"/var/lib/x",
        b"/var/log",
    }  # fmt: skip
    assert stubs[b"/tmp"].mode == 0o1777
    assert (stubs[b"/bin"].kind, stubs[b"/bin"].target) == ("link", b"usr/bin")
    assert stubs[b"/vmlinuz"].kind == "copy"
    assert b"/fifo" not in stubs
    assert [short(path) for path in composed.readonly] == [b"/big"]
    assert len(composed.warnings) == 1
    assert "1 of its files are read-only" in composed.warnings[0]


def test_a_mount_with_mounts_below_gets_a_skeleton_of_its_own(fake: Path) -> None:
    composed, short = rootless(fake, "run tmpfs", "run/lock tmpfs")
    by_place = {short(p.at): p.skeleton for p in composed.places}
    assert by_place[b"/run"] == 1
    assert by_place[b"/run/lock"] is None
    assert {short(s.path) for s in composed.stubs if s.skeleton == 1} == {b"/run", b"/run/lock", b"/run/file"}


def test_absent_mounts_leave_their_mount_point(fake: Path) -> None:
    composed, short = rootless(fake, "mnt/disk nsfs")
    assert b"/mnt/disk" in {short(s.path) for s in composed.stubs}
    assert b"/mnt/disk" not in {short(p.at) for p in composed.places}


def test_a_covered_mount_blocks_too(fake: Path) -> None:
    """The kernel looks at every mount below, also at one that another covers."""
    place = os.fsencode(fake).decode()
    table = tree("1 0 / ext4", f"2 1 {place} ext4", f"3 2 {place}/mnt/disk ext4", f"4 2 {place}/mnt ext4")
    assert [m.id for m in visible(table)] == [1, 2, 4]
    composed, short = rootless(fake, "mnt/disk ext4", "mnt ext4")
    # what is seen at /mnt is overlaid by itself, but the root is a skeleton, and so is /mnt: something is below
    assert {short(p.at) for p in composed.places if p.skeleton is not None} == {b"/", b"/mnt"}


def test_the_store_is_not_walked(fake: Path) -> None:
    (fake / "home" / "ann" / "store" / "x").mkdir(parents=True)
    composed, short = rootless(fake, "home/ann/store/x ext4", hide=("home/ann/store",))
    assert not [p for p in composed.places if b"/home/ann/store" in p.at]
    assert b"/home/ann/store" in {short(s.path) for s in composed.stubs}


def test_a_file_that_goes_after_it_was_listed_is_left_out_of_a_skeleton(tmp_path: Path) -> None:
    home, top = tmp_path / "home", os.fsencode(tmp_path)
    home.mkdir()
    (tmp_path / "there").write_text("x")
    stubs = (
        Stub(0, top, DIRECTORY, 0o755),
        Stub(0, top + b"/gone", "copy", 0o644),
        Stub(0, top + b"/there", "copy", 0o644),
    )
    place = Place(top, top, skeleton=0)
    layers = Layers(((top, MountSpec((top,))),), HostImage((place,), stubs=stubs), os.fsencode(home), ((),))
    furnish(layers)
    assert [path.name for path in (home / "skeleton/0").iterdir()] == ["there"]
