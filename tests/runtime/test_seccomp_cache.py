"""Compiled programs by content: found again, and never believed when they should not be."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput
from lamina.runtime import kept
from lamina.runtime.capabilities import DEFAULT_CAPABILITIES
from lamina.runtime.seccomp import compile_filter, default_filter, default_profile, filter_for

PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}],
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "seccomp"


def only_file(place: Path) -> Path:
    (found,) = place.iterdir()
    return found


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Counts how often the compiler is asked."""
    from lamina.runtime.seccomp import compiler

    asked: list[Any] = []

    def counted(seccomp: dict[str, Any], **options: Any) -> bytes:
        asked.append(seccomp)
        return compile_filter(seccomp, **options)

    monkeypatch.setattr(compiler, "compile_filter", counted)
    return asked


def test_compiled_once(place: Path, compilations: list[Any]) -> None:
    first = filter_for(PROFILE, os.fsencode(place)).program()
    assert first == compile_filter(PROFILE)
    assert filter_for(dict(PROFILE), os.fsencode(place)).program() == first
    assert len(compilations) == 1
    assert place.stat().st_mode & 0o777 == 0o700
    assert only_file(place).stat().st_mode & 0o777 == 0o600


def test_other_content_is_another_program(place: Path, compilations: list[Any]) -> None:
    filter_for(PROFILE, os.fsencode(place)).program()
    other = {**PROFILE, "defaultErrnoRet": 38}
    assert filter_for(other, os.fsencode(place)).program() == compile_filter(other)
    assert len(compilations) == 2
    assert len(list(place.iterdir())) == 2


def test_the_default(place: Path, compilations: list[Any]) -> None:
    for capabilities in (DEFAULT_CAPABILITIES, (), DEFAULT_CAPABILITIES[::-1]):
        expected = compile_filter(default_profile(capabilities))
        assert default_filter(capabilities, os.fsencode(place)).program() == expected
    assert len(compilations) == 2  # the order of the names does not matter


def test_two_contents_with_one_hash(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's name is no proof: the content it was made from is in it."""
    monkeypatch.setattr(kept, "_hash", lambda data: 7)
    other = {**PROFILE, "defaultAction": "SCMP_ACT_KILL"}
    for profile in (PROFILE, other, PROFILE):
        assert filter_for(profile, os.fsencode(place)).program() == compile_filter(profile)
    assert len(list(place.iterdir())) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:10],
        lambda data: data[:-8],
        lambda data: data + b"\0" * 8,
        lambda data: data[:-4] + b"\xff\xff\xff\x7f",
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[:16] + b"\xff" * 8 + data[24:],
        lambda data: data.replace(b"SCMP_ACT_ALLOW", b"SCMP_ACT_TRACE"),
    ],
)
def test_a_damaged_file_is_made_again(place: Path, damage: Any) -> None:
    expected = filter_for(PROFILE, os.fsencode(place)).program()
    file = only_file(place)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert filter_for(PROFILE, os.fsencode(place)).program() == expected
    assert only_file(place).read_bytes() == whole


def test_a_file_that_others_may_write_is_not_believed(place: Path, compilations: list[Any]) -> None:
    filter_for(PROFILE, os.fsencode(place)).program()
    only_file(place).chmod(0o622)
    filter_for(PROFILE, os.fsencode(place)).program()
    assert len(compilations) == 2
    assert only_file(place).stat().st_mode & 0o777 == 0o600


@pytest.mark.root
def test_a_file_of_somebody_else_is_not_believed(place: Path, compilations: list[Any]) -> None:
    filter_for(PROFILE, os.fsencode(place)).program()
    os.chown(only_file(place), 12345, 12345)
    filter_for(PROFILE, os.fsencode(place)).program()
    assert len(compilations) == 2


def test_a_link_or_a_pipe_is_not_believed(place: Path, tmp_path: Path, compilations: list[Any]) -> None:
    filter_for(PROFILE, os.fsencode(place)).program()
    file = only_file(place)
    moved = file.rename(tmp_path / "elsewhere")
    file.symlink_to(moved)
    filter_for(PROFILE, os.fsencode(place)).program()
    assert not file.is_symlink()
    file.unlink()
    os.mkfifo(file)
    filter_for(PROFILE, os.fsencode(place)).program()
    assert file.is_file()
    assert len(compilations) == 3


def test_a_directory_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert filter_for(PROFILE, os.fsencode(place)).program() == compile_filter(PROFILE)


def test_nothing_is_kept_for_a_profile_that_cannot_be_compiled(place: Path) -> None:
    for wrong in ({"defaultAction": "SCMP_ACT_NONSENSE"}, {"defaultAction": object()}, {}):
        with pytest.raises(InvalidInput):
            filter_for(wrong, os.fsencode(place)).program()
    assert not place.exists()


def test_the_oldest_are_dropped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT", 5)
    for number in range(12):
        filter_for({**PROFILE, "defaultErrnoRet": number}, os.fsencode(place)).program()
    assert len(list(place.iterdir())) == 5


def test_many_at_once(place: Path) -> None:
    expected = compile_filter(PROFILE)
    got: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: got.append(filter_for(PROFILE, os.fsencode(place)).program()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [expected] * 8
    assert len(list(place.iterdir())) == 1


def test_a_start_imports_no_compiler(place: Path) -> None:
    """Only what the interpreter has loaded anyway, and this room."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "from lamina.runtime.seccomp.cache import default_filter\n"
        f"default_filter(('CAP_KILL',), {os.fsencode(place)!r}).program()\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    for expected in (False, True):
        done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
                              capture_output=True, text=True, check=True, timeout=200)  # fmt: skip
        loaded = set(done.stdout.split())
        assert ("json" not in loaded) is expected
    needed = "os os.path stat errno marshal posixpath _stat abc _abc _collections_abc genericpath __future__"
    assert {name for name in loaded if not name.startswith("lamina")} <= set(needed.split())


def test_what_is_too_large_to_be_read_is_not_written(place: Path) -> None:
    made = []

    def make() -> bytes:
        made.append(1)
        return b"x" * kept.LARGEST

    for _ in range(2):
        assert kept.kept(b"content", os.fsencode(place), b".bpf", make) == b"x" * kept.LARGEST
    assert len(made) == 2 and not place.exists()


def test_every_module_that_compiles_a_filter_is_among_the_sources() -> None:
    """Or a program of an older Lamina would be found where the compiler is another."""
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from lamina.runtime.seccomp import compile_filter, default_profile\n"
        "compile_filter(default_profile(()))\n"
        "print(*(m.__file__ for n, m in sorted(sys.modules.items()) if n.startswith('lamina.') and m.__file__))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=200
    )
    executed = {os.path.normpath(path) for path in done.stdout.split() if path.endswith(".py")}
    # packages, which only have names; errors that are raised
    beside = {path for path in executed if path.endswith(("__init__.py", "/errors.py"))}
    assert executed - beside <= set(kept.FILTERS)
    assert all(os.path.exists(path) for path in kept.FILTERS)
