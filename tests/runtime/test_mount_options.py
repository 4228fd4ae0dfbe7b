"""Every mount type and option of the specification, for real, as root and in a user namespace of root's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput, LaminaError, StepFailed
from lamina.linux.mount import mount, umount2
from lamina.values import replace
from support.bundles import over_host, small
from support.namespaces import in_mount_namespace
from support.starting import DEV, PROC, SHIFTED, run, said

pytestmark = pytest.mark.root

PLACE = "/srv/lamina-place"


@pytest.fixture(params=["root", "user namespace"])
def user(request: pytest.FixtureRequest) -> bool:
    return bool(request.param != "root")


def spec_for(entry: dict[str, Any], *args: str, user: bool = False) -> dict[str, Any]:
    spec = small(*(args or ("/bin/cat", "/proc/self/mountinfo")))
    spec["mounts"] = [PROC, DEV, {"destination": PLACE, **entry}]
    if user:
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"].update(uidMappings=SHIFTED, gidMappings=SHIFTED)
    return spec


def prepared(at: Path, spec: dict[str, Any], **more: Any) -> Any:
    """A bundle whose root has the place already: a shifted root may not make directories in the host's."""
    bundle = over_host(at, spec, **more)
    (at / "upper/srv").mkdir(exist_ok=True)
    (at / "upper/srv").chmod(0o755)
    (at / "upper" / PLACE[1:]).mkdir(exist_ok=True)
    return bundle


def found(
    directory: Path, entry: dict[str, Any], user: bool = False
) -> tuple[set[str], str, set[str], set[str]]:
    """(options of the mount, its type, of the file system, propagation) of the place, as the container sees it."""
    lines = said(prepared(directory, spec_for(entry, user=user))).splitlines()
    line = next(line for line in lines if f" {PLACE} " in line)
    before, after = line.split(" - ")
    fields = before.split()
    return set(fields[5].split(",")), after.split()[0], set(after.split()[2].split(",")), set(fields[6:])


TMPFS = {"type": "tmpfs", "source": "tmpfs"}


@pytest.mark.parametrize(
    ("options", "expected", "absent"),
    [
        ([], {"rw", "relatime"}, {"nosuid", "nodev", "noexec"}),
        (["defaults"], {"rw", "relatime"}, {"nosuid"}),
        (["ro"], {"ro"}, {"rw"}),
        (["rro"], {"ro"}, {"rw"}),
        (["ro", "rw"], {"rw"}, {"ro"}),
        (["", "ro", ""], {"ro"}, {"rw"}),
        (["nosuid", "nodev", "noexec"], {"nosuid", "nodev", "noexec"}, set()),
        (["nosuid", "suid", "nodev", "dev", "noexec", "exec"], set(), {"nosuid", "nodev", "noexec"}),
        (["rnosuid", "rnodev", "rnoexec"], {"nosuid", "nodev", "noexec"}, set()),
        (["noatime"], {"noatime"}, {"relatime"}),
        (["rnoatime"], {"noatime"}, {"relatime"}),
        (["noatime", "atime"], {"relatime"}, {"noatime"}),
        (["nodiratime"], {"nodiratime"}, set()),
        (["nodiratime", "diratime"], set(), {"nodiratime"}),
        (["strictatime"], set(), {"relatime", "noatime"}),
        (["norelatime"], set(), {"relatime"}),
        (["strictatime", "nostrictatime"], {"relatime"}, set()),
        (["noatime", "relatime"], {"relatime"}, {"noatime"}),
        (["nosymfollow"], {"nosymfollow"}, set()),
        (["nosymfollow", "symfollow"], set(), {"nosymfollow"}),
    ],
    ids=lambda v: "+".join(v) if isinstance(v, list) else "",
)
@pytest.mark.parametrize("bound", [False, True], ids=["new", "bind"])
def test_attributes_of_the_mount(
    tmp_path: Path, user: bool, bound: bool, options: list[str], expected: set[str], absent: set[str]
) -> None:
    entry: dict[str, Any] = {**TMPFS, "options": options}
    if bound:
        (tmp_path / "source").mkdir(exist_ok=True)
        entry = {"type": "bind", "source": str(tmp_path / "source"), "options": ["bind", *options]}
    own, _, _, _ = found(tmp_path, entry, user)
    assert expected <= own
    assert not absent & own


@pytest.mark.parametrize("word", ["ro", "nosuid", "nodev", "noexec", "noatime", "nosymfollow", "nodiratime"])
@pytest.mark.parametrize("deep", [False, True])
def test_recursive_attributes_reach_what_is_mounted_below(tmp_path: Path, word: str, deep: bool) -> None:
    def inner() -> tuple[str, str]:
        source = tmp_path / "source"
        (source / "below").mkdir(parents=True)
        mount("tmpfs", source / "below", "tmpfs")
        option = f"r{word}" if deep else word
        entry = {"type": "bind", "source": str(source), "options": ["rbind", option]}
        lines = said(prepared(tmp_path, spec_for(entry))).splitlines()
        top = next(line for line in lines if f" {PLACE} " in line)
        below = next(line for line in lines if f" {PLACE}/below " in line)
        umount2(source / "below")
        return top.split()[5], below.split()[5]

    top, below = in_mount_namespace(inner)
    assert word in top.split(",")
    assert (word in below.split(",")) is deep


@pytest.mark.parametrize(
    ("options", "top", "below"),
    [
        ("ro,rro", "ro,relatime", "ro,relatime"),
        ("rro,rw", "ro,relatime", "ro,relatime"),
        ("rw,rro", "ro,relatime", "ro,relatime"),
        ("rrw,ro", "rw,relatime", "rw,relatime"),
        ("ro,rrw", "rw,relatime", "rw,relatime"),
        ("rro,rrw", "ro,relatime", "ro,relatime"),
        ("rrw,rro", "ro,relatime", "ro,relatime"),
        ("rsuid,nosuid", "rw,relatime", "rw,relatime"),
        ("rnosuid,suid", "rw,nosuid,relatime", "rw,nosuid,relatime"),
        ("rnosuid,rsuid", "rw,nosuid,relatime", "rw,nosuid,relatime"),
        ("rnoatime,strictatime", "rw,noatime", "rw,noatime"),
        ("noatime,rrelatime", "rw,relatime", "rw,relatime"),
        ("rnoatime,rstrictatime", "rw", "rw"),
        ("rstrictatime,rnoatime", "rw,noatime", "rw,noatime"),
        ("rnodiratime,rdiratime", "rw,nodiratime,relatime", "rw,nodiratime,relatime"),
    ],
)
def test_words_for_all_below_and_plain_ones(tmp_path: Path, options: str, top: str, below: str) -> None:
    """As runc 1.1 and crun 1.21 have it where these agree (or do it at all), else as runc."""

    def inner() -> tuple[str, str]:
        source = tmp_path / "source"
        source.mkdir()
        mount("tmpfs", source, "tmpfs")
        (source / "below").mkdir()
        mount("tmpfs", source / "below", "tmpfs")
        entry = {"type": "bind", "source": str(source), "options": ["rbind", *options.split(",")]}
        lines = said(prepared(tmp_path, spec_for(entry))).splitlines()
        found = [line.split()[5] for line in lines if f" {PLACE} " in line or f" {PLACE}/below " in line]
        umount2(source / "below")
        umount2(source)
        return found[0], found[1]

    assert in_mount_namespace(inner) == (top, below)


@pytest.mark.parametrize(
    ("options", "expected", "absent"),
    [
        (["sync"], {"sync"}, set()),
        (["sync", "async"], set(), {"sync"}),
        (["dirsync"], {"dirsync"}, set()),
        (["lazytime"], {"lazytime"}, set()),
        (["lazytime", "nolazytime"], set(), {"lazytime"}),
        (["mand", "nomand"], set(), {"mand"}),
        (["silent"], {"rw"}, set()),
        (["loud"], {"rw"}, set()),
        (["iversion"], {"rw", "size=64k"}, set()),
        (["iversion", "noiversion"], {"rw", "size=64k"}, set()),
    ],
    ids=lambda v: "+".join(v) if isinstance(v, list) else "",
)
def test_flags_of_the_file_system(
    tmp_path: Path, user: bool, options: list[str], expected: set[str], absent: set[str]
) -> None:
    _, kind, of_fs, _ = found(tmp_path, {**TMPFS, "options": ["size=64k", *options]}, user)
    assert kind == "tmpfs"
    assert expected <= of_fs
    assert not absent & of_fs


@pytest.mark.parametrize("word", ["sync", "dirsync", "lazytime", "mand", "iversion", "tmpcopyup", "size=1"])
def test_a_bind_takes_nothing_that_belongs_to_the_file_system(tmp_path: Path, word: str) -> None:
    entry = {"source": str(tmp_path), "options": ["bind", word]}
    with pytest.raises(InvalidInput, match=word.partition("=")[0]):
        run(prepared(tmp_path, spec_for(entry)))


@pytest.mark.parametrize(
    ("kind", "source", "options"),
    [
        ("tmpfs", "tmpfs", ["size=1m", "mode=700", "nr_inodes=50"]),
        ("proc", "proc", []),
        ("sysfs", "sysfs", ["ro"]),
        ("devpts", "devpts", ["newinstance", "ptmxmode=0666", "mode=0620"]),
        ("mqueue", "mqueue", []),
        ("ramfs", "ramfs", []),
    ],
)
def test_types_of_file_systems(tmp_path: Path, kind: str, source: str, options: list[str]) -> None:
    assert found(tmp_path, {"type": kind, "source": source, "options": options})[1] == kind


@pytest.mark.parametrize("layers", [1, 3])
def test_an_overlay_as_an_ordinary_mount(tmp_path: Path, layers: int) -> None:
    names = [f"lower:{n},with odd\\name" for n in range(layers)]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    for name in ("over", "work2"):
        (tmp_path / name).mkdir()

    def escaped(name: str) -> str:
        path = str(tmp_path / name)
        for special in "\\:,":
            path = path.replace(special, "\\" + special)
        return path

    options = [
        "lowerdir=" + ":".join(map(escaped, names)),
        f"upperdir={tmp_path}/over",
        f"workdir={tmp_path}/work2",
    ]
    entry = {"type": "overlay", "source": "overlay", "options": [*options, "nosuid"]}
    text = said(
        prepared(tmp_path, spec_for(entry, "/bin/sh", "-c", f"cat {PLACE}/who; echo new > {PLACE}/new"))
    )
    assert text == names[0]
    assert (tmp_path / "over/new").read_text() == "new\n"


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ([], "2750"),
        (["size=64k", "nosuid"], "2750"),
        (["ro"], "2750"),
        (["rro", "iversion"], "2750"),
        (["tmpcopyup"], "2750"),
        (["tmpcopyup", "ro"], "2750"),
        (["mode=711"], "711"),
        (["ro", "mode=711"], "711"),
    ],
    ids=lambda v: "+".join(v) if isinstance(v, list) else "",
)
def test_a_tmpfs_has_the_mode_of_what_it_covers(
    tmp_path: Path, user: bool, options: list[str], mode: str
) -> None:
    """Unless it says which: as with runc and crun. Its owner is who mounts it."""
    script = f"stat -c '%a %u %g' {PLACE}; ls {PLACE}; touch {PLACE}/x && echo written; true"
    bundle = prepared(
        tmp_path, spec_for({**TMPFS, "options": options}, "/bin/sh", "-c", f"exec 2>&1; {script}", user=user)
    )
    image, owner = tmp_path / "upper" / PLACE[1:], 100_000 if user else 0
    (image / "there").mkdir()
    os.chown(image, owner + 7, owner + 8)
    image.chmod(0o2750)
    lines = said(bundle).splitlines()
    assert lines[0] == f"{mode} 0 0"
    assert ("there" in lines) == ("tmpcopyup" in options)
    assert (lines[-1] == "written") != bool({"ro", "rro"} & {*options})


def test_a_tmpfs_that_covers_nothing_is_everybodys(tmp_path: Path, user: bool) -> None:
    spec = small("/bin/stat", "-c", "%a", "/tmp/made/here")
    spec["mounts"] = [
        PROC, DEV, {**TMPFS, "destination": "/tmp"}, {**TMPFS, "destination": "/tmp/made/here"},
    ]  # fmt: skip
    if user:
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"].update(uidMappings=SHIFTED, gidMappings=SHIFTED)
    assert said(over_host(tmp_path, spec)) == "1777\n"


@pytest.mark.parametrize("size", ["1m", "4k"])
def test_tmpcopyup_begins_with_what_it_covers(tmp_path: Path, user: bool, size: str) -> None:
    script = (
        f"cd {PLACE}; stat -c '%n %F %a %u %g' a a/file link a/fifo; cat a/file; readlink link; stat -f -c %T .;"
        " echo mine > a/file"
    )
    entry = {**TMPFS, "options": ["tmpcopyup", f"size={size}"]}
    spec = spec_for(entry, "/bin/sh", "-c", script, user=user)
    caps = ["CAP_DAC_OVERRIDE"]
    spec["process"]["capabilities"] = {"bounding": caps, "permitted": caps, "effective": caps}
    bundle = prepared(tmp_path, spec)
    image = tmp_path / "upper" / PLACE[1:]
    owner = 100_000 if user else 0
    (image / "a").mkdir()
    (image / "a/file").write_text("x" * 6000)
    (image / "link").symlink_to("/proc/self/exe")
    os.mkfifo(image / "a/fifo")
    for name in ("a/file", "a/fifo", "a", "link", "."):
        os.chown(image / name, owner + 7, owner + 8, follow_symlinks=False)
    (image / "a/file").chmod(0o4751)
    (image / "a").chmod(0o1750)
    if size == "4k":
        with pytest.raises(
            LaminaError, match=r"copy /srv/lamina-place into its tmpfs: No space left .* too small"
        ):
            run(bundle)
        return
    lines = said(bundle).splitlines()
    assert lines[0].split() == ["a", "directory", "1750", "7", "8"]
    assert lines[1].split() == ["a/file", "regular", "file", "4751", "7", "8"]
    assert lines[2].split()[:3] == ["link", "symbolic", "link"]
    assert lines[2].split()[4:] == ["7", "8"]
    assert lines[3].split()[:2] == ["a/fifo", "fifo"]
    assert lines[4] == "x" * 6000 + "/proc/self/exe"
    assert lines[5] == "tmpfs"
    assert (image / "a/file").read_text() == "x" * 6000


@pytest.fixture
def mapped_file(tmp_path: Path) -> Iterator[Path]:
    source = tmp_path / "owned"
    source.mkdir()
    (source / "file").write_text("")
    os.chown(source / "file", 1000, 1001)
    yield source


@pytest.mark.parametrize("word", ["idmap", "ridmap", ""])
def test_ids_mapped_as_the_mount_says(tmp_path: Path, user: bool, mapped_file: Path, word: str) -> None:
    to = 105_000 if user else 5000
    entry = {
        "type": "bind",
        "source": str(mapped_file),
        "options": ["rbind", *([word] if word else [])],
        "uidMappings": [{"containerID": 1000, "hostID": to, "size": 1}],
        "gidMappings": [{"containerID": 1001, "hostID": to + 1, "size": 1}],
    }
    script = f"stat -c '%u %g' {PLACE}/file"
    text = said(prepared(tmp_path, spec_for(entry, "/bin/sh", "-c", script, user=user)))
    assert text.split() == ["5000", "5001"]
    status = os.stat(mapped_file / "file")
    assert (status.st_uid, status.st_gid) == (1000, 1001)


def test_ids_mapped_as_the_containers_own(tmp_path: Path, mapped_file: Path) -> None:
    entry = {"type": "bind", "source": str(mapped_file), "options": ["bind", "idmap"]}
    script = f"stat -c '%u %g' {PLACE}/file; touch {PLACE}/new"
    text = said(prepared(tmp_path, spec_for(entry, "/bin/sh", "-c", script, user=True)))
    assert text.split() == ["1000", "1001"]
    assert os.stat(mapped_file / "new").st_uid == 0
    with pytest.raises(InvalidInput, match="neither it nor the container has id maps"):
        run(prepared(tmp_path, spec_for(entry)))


def test_ids_of_a_new_file_system_are_mapped_too(tmp_path: Path) -> None:
    entry = {
        **TMPFS,
        "options": ["idmap", "mode=777"],
        "uidMappings": [{"containerID": 0, "hostID": 700, "size": 10}],
        "gidMappings": [{"containerID": 0, "hostID": 700, "size": 10}],
    }
    assert said(prepared(tmp_path, spec_for(entry, "/usr/bin/stat", "-c", "%u %g", PLACE))).split() == [
        "700",
        "700",
    ]


@pytest.mark.parametrize("only", ["uidMappings", "gidMappings"])
def test_maps_of_one_kind_alone_are_refused(tmp_path: Path, only: str) -> None:
    entry = {"source": str(tmp_path), "options": ["bind"], only: [{"containerID": 0, "hostID": 0, "size": 1}]}
    with pytest.raises(InvalidInput, match="belong together"):
        run(prepared(tmp_path, spec_for(entry)))


PROPAGATION = [
    ("private", None),
    ("rprivate", None),
    ("slave", "master"),
    ("rslave", "master"),
    ("shared", "shared"),
    ("rshared", "shared"),
    ("unbindable", "unbindable"),
    ("runbindable", "unbindable"),
]


@pytest.mark.parametrize(("word", "expected"), PROPAGATION)
def test_propagation_of_a_bind(tmp_path: Path, user: bool, word: str, expected: str | None) -> None:
    """And whether it is connected with the host's: a slave and a shared mount see what is mounted there later."""

    def inner() -> list[str]:
        source = tmp_path / "source"
        source.mkdir()
        mount(str(source), source, None, 0x1000)
        mount(None, source, None, 0x100000)  # MS_SHARED
        entry = {"type": "bind", "source": str(source), "options": ["rbind", word]}
        lines = said(prepared(tmp_path, spec_for(entry, user=user))).splitlines()
        line = next(line for line in lines if f" {PLACE} " in line)
        umount2(source)
        return line.split(" - ")[0].split()[6:]

    tags = in_mount_namespace(inner)
    if expected is None:
        assert tags == []
    else:
        assert any(tag.startswith(expected) for tag in tags), tags


@pytest.mark.parametrize(
    "word",
    ["shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable", ""],
)
def test_propagation_of_the_root(tmp_path: Path, word: str) -> None:
    spec = small("/bin/cat", "/proc/self/mountinfo")
    spec["mounts"] = [PROC, DEV]
    spec["linux"]["rootfsPropagation"] = word
    before = Path("/proc/self/mountinfo").read_text()
    line = next(line for line in said(over_host(tmp_path, spec)).splitlines() if line.split()[4] == "/")
    tags = line.split(" - ")[0].split()[6:]
    expected = {"shared": "shared:", "unbindable": "unbindable"}.get(word.removeprefix("r"), "")
    assert [tag for tag in tags if tag.startswith(expected or "none")] == (tags if expected else [])
    assert bool(tags) is bool(expected)
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_slave_root_sees_what_the_host_mounts_in_it(tmp_path: Path) -> None:
    def inner() -> list[str]:
        root = tmp_path / "root"
        for name in ("bin", "proc", "lib", "lib64", "usr", "later", "dev"):
            (root / name).mkdir(parents=True)
        mount(str(root), root, None, 0x1000)
        for name in ("bin", "lib", "lib64", "usr"):
            mount(f"/{name}", root / name, None, 0x5000)
        mount(None, root, None, 0x100000)
        spec = small("/bin/cat", "/proc/self/mountinfo")
        spec["mounts"] = [PROC, DEV]
        spec["linux"]["rootfsPropagation"] = "slave"
        text = said(over_host(tmp_path, spec, rootfs=os.fsencode(root)))
        for name in ("bin", "lib", "lib64", "usr"):
            umount2(root / name)
        umount2(root)
        return next(line for line in text.splitlines() if line.split()[4] == "/").split(" - ")[0].split()[6:]

    assert any(tag.startswith("master:") for tag in in_mount_namespace(inner))


@pytest.mark.parametrize(
    "destination", [f"/nowhere/..{PLACE}/.", f"..{PLACE}", f"/../..{PLACE}/here/..", PLACE[1:] + "/"]
)
def test_a_destination_with_steps_back_is_meant_by_its_names(tmp_path: Path, destination: str) -> None:
    """Whether what they pass is there or not, as with runc and crun."""
    spec = spec_for({**TMPFS, "destination": destination})
    assert f" {PLACE} " in said(prepared(tmp_path, spec))
    assert not (tmp_path / "upper/nowhere").exists()


def test_remount_changes_what_is_mounted_and_by_descriptor(tmp_path: Path) -> None:
    again = {"destination": PLACE, "type": "tmpfs", "source": "tmpfs", "options": ["remount", "ro", "nosuid"]}
    spec = spec_for({**TMPFS, "options": ["size=64k", "nodev"]})
    spec["mounts"].append(again)
    spec["mounts"].append({"destination": PLACE, "options": ["remount", "size=32k"]})
    line = next(line for line in said(prepared(tmp_path, spec)).splitlines() if f" {PLACE} " in line)
    assert {"ro", "nosuid", "nodev"} <= set(line.split()[5].split(","))
    assert {"ro", "size=32k"} <= set(line.split()[-1].split(","))
    spec["mounts"] = [PROC, DEV, again]
    with pytest.raises(StepFailed, match=f"remount {PLACE}|fspick|mount_setattr"):
        run(prepared(tmp_path, spec))


def test_remount_of_a_bind_changes_this_mount_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    spec = spec_for(
        {"type": "bind", "source": str(source), "options": ["bind"]},
        "/bin/sh",
        "-c",
        f"touch {PLACE}/x || echo refused",
    )
    spec["mounts"].append({"destination": PLACE, "type": "bind", "options": ["bind", "remount", "ro"]})
    assert said(prepared(tmp_path, spec)).endswith("refused\n")
    (source / "y").touch()


def test_a_relative_source_belongs_to_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "bundle/data").mkdir(parents=True)
    (tmp_path / "bundle/data/file").write_text("hello")
    spec = spec_for({"type": "bind", "source": "data", "options": ["bind"]}, "/bin/cat", f"{PLACE}/file")
    bundle = replace(prepared(tmp_path, spec), directory=os.fsencode(tmp_path / "bundle"))
    assert said(bundle) == "hello"
    with pytest.raises(InvalidInput, match="relative"):
        run(prepared(tmp_path, spec))


def test_a_procfs_of_the_host_may_be_bound_at_proc_and_nothing_else(tmp_path: Path) -> None:
    spec = small("/bin/sh", "-c", "ls -d /proc/$$")
    spec["linux"]["namespaces"] = [{"type": "mount"}]
    spec["mounts"] = [DEV, {"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]}]
    assert said(over_host(tmp_path, spec)).startswith("/proc/")
    for source in ("/", "/proc/self", "/sys", str(tmp_path)):
        spec["mounts"][1]["source"] = source
        with pytest.raises(InvalidInput, match="nothing but a procfs"):
            run(over_host(tmp_path, spec))


def test_single_files_of_procfs_may_be_covered_by_files_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    spec = small("/bin/cat", "/proc/meminfo")
    covers = {
        "destination": "/proc/meminfo",
        "type": "bind",
        "source": str(tmp_path / "meminfo"),
        "options": ["bind"],
    }
    spec["mounts"] = [PROC, DEV, covers]
    assert said(over_host(tmp_path, spec)) == "MemTotal: 1 kB\n"
    for place in ("/proc/self/exe", "/proc/1", "/proc/sys/kernel/core_pattern", "/proc/kcore"):
        covers["destination"] = place
        with pytest.raises(InvalidInput, match="nothing but a procfs"):
            run(over_host(tmp_path, spec))


def test_without_pivot_root(tmp_path: Path, user: bool) -> None:
    script = (
        "pwd; ls -d /proc/1; cd /..; pwd; stat -c %i / /..; wc -l < /proc/self/mountinfo; [ -e /upper-only ]"
    )
    spec = spec_for({**TMPFS, "options": []}, "/bin/sh", "-c", script, user=user)
    bundle = prepared(tmp_path, spec, no_pivot=True)
    (tmp_path / "upper/upper-only").touch()
    before = Path("/proc/self/mountinfo").read_text()
    lines = said(bundle).splitlines()
    assert lines[0] == lines[2] == "/"
    assert lines[3] == lines[4]
    assert Path("/proc/self/mountinfo").read_text() == before
    spec["process"]["capabilities"] = {"bounding": ["CAP_SYS_ADMIN"]}
    with pytest.raises(InvalidInput, match="without pivot_root"):
        run(bundle)


def test_without_pivot_root_a_chroot_leads_nowhere(tmp_path: Path) -> None:
    """The way out of a chroot: a directory that stays open above a new one, and then up and up."""
    code = (
        "import os; os.mkdir('/mnt/deeper'); "
        "fd = os.open('/', os.O_RDONLY); os.chroot('/mnt/deeper'); os.fchdir(fd); "
        "[os.chdir('..') for _ in range(50)]; os.chroot('.'); print(os.path.exists('/upper-only'), os.listdir('/proc'))"
    )
    caps = ["CAP_SYS_CHROOT"]
    spec = small(
        sys.executable,
        "-I",
        "-S",
        "-c",
        code,
        capabilities={"bounding": caps, "permitted": caps, "effective": caps},
    )
    spec["mounts"] = [DEV, {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}]
    bundle = over_host(tmp_path, spec, no_pivot=True)
    (tmp_path / "upper/upper-only").touch()
    assert said(bundle) == "True []\n"
