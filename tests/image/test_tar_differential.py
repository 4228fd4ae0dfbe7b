"""Archives as GNU tar, bsdtar and Python write them, in all their formats: unpacked as GNU tar unpacks them."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from support.archives import read, unpack
from support.snapshots import Snapshot, snapshot
from support.stacks import ACL, CAPABILITY

pytestmark = pytest.mark.root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Names, links, sizes and times that the formats have to stretch for, as far as the oldest of them go."""
    root = tmp_path / "tree"
    (root / "d/e").mkdir(parents=True)
    (root / "d/f").write_bytes(b"x" * 1000)
    (root / "empty").write_bytes(b"")
    os.chmod(root / "d/f", 0o6755)
    os.chown(root / "d/e", 1000, 33)
    os.chmod(root / "d/e", 0o2770)
    os.link(root / "d/f", root / "linked")
    os.symlink("../somewhere", root / "s")
    os.lchown(root / "s", 5, 6)
    os.mkfifo(root / "p", 0o640)
    os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    os.utime(root / "d/f", ns=(10**9, 1_700_000_000 * 10**9))
    os.utime(root / "s", ns=(10**9, 1_600_000_000 * 10**9), follow_symlinks=False)
    for name in ("d/e", "d", "."):
        os.utime(root / name, ns=(10**9, 1_500_000_000 * 10**9))
    return root


def stretch(root: Path) -> None:
    """What the newer formats alone can say."""
    deep = root / "/".join(["n" * 60] * 4)
    deep.mkdir(parents=True)
    (deep / ("l" * 200)).write_bytes(b"long name")
    os.symlink("t" * 300, root / "longer")
    os.link(deep / ("l" * 200), root / "long-linked")
    with (root / "holes").open("wb") as file:
        for n in range(40):
            file.seek(n * 300_000)
            file.write(b"piece")
        file.truncate(20_000_000)
    (root / "odd \udcff\n").write_bytes(b"odd")


def enrich(root: Path) -> None:
    """What pax alone can say."""
    os.setxattr(root / "d/f", "user.a=b%", b"\0b")
    os.setxattr(root / "d/f", "security.capability", CAPABILITY)
    os.setxattr(root / "d", "user.empty", b"")
    (root / "acl").write_bytes(b"")
    os.setxattr(root / "acl", "system.posix_acl_access", ACL)
    os.chown(root / "acl", 3_000_000, 4_000_000)
    os.utime(root / "acl", ns=(1, 1_700_000_000_123_456_789))
    os.utime(root / "d/e", ns=(1, -1_500_000_000))


def gnu_tar(data: bytes, place: Path) -> None:
    place.mkdir()
    command = [
        "tar",
        "-x",
        "--numeric-owner",
        "-p",
        "--same-owner",
        "--xattrs",
        "--xattrs-include=*",
        "-C",
        str(place),
    ]
    subprocess.run(command, input=data, check=True, capture_output=True)


def same(data: bytes, tmp_path: Path, *, unsorted: bool = False) -> None:
    """*unsorted*: GNU tar loses the times of directories to which an archive comes back."""

    def plain(found: Snapshot) -> dict[bytes, tuple[object, ...]]:
        times = {
            path: None if unsorted and record[0].startswith("0o4") else record[5]
            for path, record in found.items()
        }
        return {path: (*record[:5], times[path], *record[7:]) for path, record in found.items()}

    gnu_tar(data, tmp_path / "theirs")
    unpack(data, tmp_path / "ours")
    assert plain(snapshot(os.fsencode(tmp_path / "ours"))) == plain(
        snapshot(os.fsencode(tmp_path / "theirs"))
    )


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("v7", ""), ("ustar", ""), ("oldgnu", ""), ("oldgnu", "--sparse"), ("gnu", ""), ("gnu", "--sparse"),
        ("posix", ""),
        ("posix", "--sparse"), ("posix", "--sparse --sparse-version=0.0"), ("posix", "--sparse --sparse-version=0.1"),
    ],
)  # fmt: skip
def test_gnu_tar(tmp_path: Path, tree: Path, form: str, words: str) -> None:
    if form == "v7":
        (tree / "null").unlink()
        (tree / "p").unlink()
        os.utime(tree, ns=(10**9, 1_500_000_000 * 10**9))
    elif form in ("oldgnu", "gnu"):
        stretch(tree)
    elif form == "posix":
        stretch(tree)
        enrich(tree)
    extra = ["--xattrs", "--xattrs-include=*"] if form == "posix" else []
    command = [
        "tar",
        "-c",
        f"--format={form}",
        "--numeric-owner",
        *words.split(),
        *extra,
        "-C",
        str(tree),
        ".",
    ]
    same(subprocess.run(command, check=True, capture_output=True).stdout, tmp_path)


def test_gnu_tar_with_a_label_and_incrementally(tmp_path: Path, tree: Path) -> None:
    for number, word in enumerate(("--label=a label", f"--listed-incremental={tmp_path / 'state'}")):
        command = ["tar", "-c", "--format=gnu", word, "-C", str(tree), "."]
        data = subprocess.run(command, check=True, capture_output=True).stdout
        unpack(data, tmp_path / f"{number}")
        assert (tmp_path / f"{number}/d/f").read_bytes() == b"x" * 1000


@pytest.mark.peer("bsdtar")
@pytest.mark.parametrize("form", ["ustar", "pax", "gnutar", "v7"])
def test_bsdtar(tmp_path: Path, tree: Path, form: str) -> None:
    if form == "v7":
        (tree / "null").unlink()
        (tree / "p").unlink()
        os.utime(tree, ns=(10**9, 1_500_000_000 * 10**9))
    elif form in ("pax", "gnutar"):
        stretch(tree)
        (tree / "odd \udcff\n").unlink()
    if form == "pax":
        os.setxattr(tree / "d/f", "user.a", b"\0b")
    command = ["bsdtar", "-c", "--format", form, "--numeric-owner", "-C", str(tree), "."]
    data = subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
    ).stdout
    same(data, tmp_path, unsorted=True)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_python(tmp_path: Path, tree: Path, form: int) -> None:
    if form != tarfile.USTAR_FORMAT:
        stretch(tree)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=form) as archive:
        archive.add(tree, ".")
    same(out.getvalue(), tmp_path)


def test_what_python_reads_in_it_is_what_we_read(tmp_path: Path, tree: Path) -> None:
    stretch(tree)
    enrich(tree)
    command = ["tar", "-c", "--format=posix", "--sparse", "-C", str(tree), "."]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        theirs = [
            (os.fsencode(m.name).rstrip(b"/"), m.size, m.mode, m.uid, m.gid, os.fsencode(m.linkname))
            for m in archive
        ]
    ours = [(e.name.rstrip(b"/"), e.size, e.mode, e.uid, e.gid, e.target) for e, _ in read(data)]
    assert ours == theirs
