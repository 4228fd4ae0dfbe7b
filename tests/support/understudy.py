"""A machine to try things on: an overlay over this one's root, in a private mount namespace.

    with_understudy(tmp_path, lambda: subprocess.run(["lamina", "try", "-y", "rm", "-rf", "/opt"]))

The function sees this machine's files, may apply anything to them, and nothing of it is real. The store lies outside
the overlay (an overlay cannot be the upper of another one), as on a machine that keeps it on a disk of its own.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from lamina.linux.mount import pivot_root
from support.namespaces import in_mount_namespace
from support.sources import REPOSITORY

T = TypeVar("T")
LARGE = 1 << 20  # of larger files the size must do
Manifest = dict[str, tuple[Any, ...]]


def with_understudy(directory: Path, fn: Callable[[], T], timeout: float = 280) -> T:
    """Call *fn* with such a machine as its root. *directory* and what runs Lamina stay what they are."""
    result: T = in_mount_namespace(_play, directory, fn, timeout=timeout)
    return result


def _play(directory: Path, fn: Callable[[], T]) -> T:
    root = directory / "understudy"
    for name in ("upper", "work", "root"):
        (root / name).mkdir(parents=True)
    options = f"lowerdir=/,upperdir={root}/upper,workdir={root}/work,volatile"
    _run("mount", "-t", "overlay", "overlay", "-o", options, str(root / "root"))
    new, home = root / "root", os.stat("/").st_dev
    needed = {Path(sys.base_prefix), Path(sys.prefix), REPOSITORY}
    elsewhere = sorted(
        path for path in needed if path.stat().st_dev != home
    )  # not in the overlay: other disks
    for path in [Path("/proc"), Path("/sys"), Path("/dev"), *elsewhere]:
        os.makedirs(
            f"{new}{path}", exist_ok=True
        )  # the overlay does not show what is below a mount, on /tmp or /home
        _run("mount", "--rbind", str(path), f"{new}{path}")
    os.makedirs(f"{new}{directory}", exist_ok=True)
    _run("mount", "--bind", str(directory), f"{new}{directory}")  # itself, not the root that is mounted in it
    (new / "old-root").mkdir()
    os.chdir(new)
    pivot_root(".", "old-root")  # not the command: Debian 14 has it in a package of its own
    os.chdir("/")
    _run("umount", "--lazy", "/old-root")
    os.rmdir("/old-root")
    return fn()


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=100)


def manifest(*tops: str | Path) -> Manifest:
    """Everything that is to be seen below *tops*: content, kind, mode, owner, times, attributes, links."""
    return {path: _seen(path) for top in tops for path in _walk(os.fspath(top))}


def _walk(path: str) -> Iterator[str]:
    yield path
    if os.path.isdir(path) and not os.path.islink(path):
        for name in sorted(os.listdir(path)):
            yield from _walk(os.path.join(path, name))


def _seen(path: str) -> tuple[Any, ...]:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return ("nothing",)
    kind = stat.S_IFMT(found.st_mode)
    content = ""
    if kind == stat.S_IFREG and found.st_size < LARGE:
        content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in _attributes(path)}
    links = found.st_nlink if kind != stat.S_IFDIR else 0
    return (
        found.st_mode,
        found.st_uid,
        found.st_gid,
        found.st_mtime_ns,
        found.st_rdev,
        links,
        content,
        attributes,
    )


def _attributes(path: str) -> list[str]:
    return [
        name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("trusted.overlay.")
    ]


def differences(before: Manifest, after: Manifest) -> list[str]:
    """What is not as it was, in words."""
    gone = [f"gone: {path}" for path in before.keys() - after.keys()]
    new = [f"new: {path}" for path in after.keys() - before.keys()]
    both = before.keys() & after.keys()
    other = [f"{path}: {before[path]} -> {after[path]}" for path in both if before[path] != after[path]]
    return sorted([*gone, *new, *other])
