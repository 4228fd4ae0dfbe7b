"""inotify_init1, inotify_add_watch, inotify_rm_watch, and what is read of them."""

from __future__ import annotations

import os
import select
from errno import EINVAL, ENOENT, ENOTDIR
from pathlib import Path

import pytest

from lamina.errors import KernelError
from lamina.linux import inotify


def events(fd: int) -> list[tuple[int, int]]:
    return list(inotify.read_events(fd))


def test_what_happens_in_a_directory_is_told(tmp_path: Path) -> None:
    with inotify.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC) as fd:
        assert not os.get_inheritable(fd)
        mask = inotify.IN_CREATE | inotify.IN_MODIFY | inotify.IN_MOVED_TO | inotify.IN_DELETE
        wd = inotify.inotify_add_watch(fd, tmp_path, mask | inotify.IN_ONLYDIR)
        with pytest.raises(BlockingIOError):
            events(fd)
        (tmp_path / "a name of some length").write_text("x")
        assert events(fd) == [(wd, inotify.IN_CREATE), (wd, inotify.IN_MODIFY)]
        (tmp_path / "a name of some length").rename(tmp_path / "b")
        (tmp_path / "b").unlink()
        assert events(fd) == [(wd, inotify.IN_MOVED_TO), (wd, inotify.IN_DELETE)]
        # the same directory is the same watch
        assert inotify.inotify_add_watch(fd, os.fsencode(tmp_path), mask) == wd
        inotify.inotify_rm_watch(fd, wd)
        assert events(fd) == [(wd, inotify.IN_IGNORED)]
        with pytest.raises(KernelError) as gone:
            inotify.inotify_rm_watch(fd, wd)
        assert gone.value.errno == EINVAL


def test_a_directory_that_goes_ends_its_watch(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with inotify.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC) as fd:
        wd = inotify.inotify_add_watch(fd, tmp_path / "d", inotify.IN_CREATE)
        (tmp_path / "d").rmdir()
        # when nobody looks at it any more: a search of somebody else's through all of /tmp may have it open
        assert select.select([fd], [], [], 100)[0]
        assert events(fd) == [(wd, inotify.IN_IGNORED)]


def test_what_cannot_be_watched_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with inotify.inotify_init1(os.O_CLOEXEC) as fd:
        for name, number in (("nothing", ENOENT), ("file", ENOTDIR)):
            with pytest.raises(KernelError, match=name) as failed:
                inotify.inotify_add_watch(fd, tmp_path / name, inotify.IN_CREATE | inotify.IN_ONLYDIR)
            assert failed.value.errno == number
