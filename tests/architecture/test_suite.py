"""The suite's own promises: who `rootless` is, that skips count as failures where asked, that leaks are found."""

from __future__ import annotations

import ast
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.linux.mount import mount
from support.collecting import shares
from support.leaks import Leaks, show_sign, suites
from support.lives import until
from support.namespaces import in_mount_namespace
from support.rootless import Rootless

TESTS = Path(__file__).resolve().parent.parent


@given(st.integers())
@settings(max_examples=5)
def test_property_tests_may_use_the_suite(number: int) -> None:
    assert isinstance(number, int)


def test_no_two_files_of_tests_have_the_same_name() -> None:
    """pytest would take one for the other."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_every_worker_collects_all_directories_and_begins_at_another() -> None:
    found = [shares(TESTS, f"gw{number}", 3) for number in range(3)]
    assert {tuple(sorted(one)) for one in found} == {tuple(found[0])}
    assert len({one[0] for one in found}) == 3
    assert {os.path.dirname(path) for path in map(str, TESTS.rglob("test_*.py"))} == set(found[0])


@pytest.mark.parametrize("number", ["", "0", "1"])
def test_places_of_tests_are_empty_and_their_own(
    number: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / f"{request.node.name}{number}").mkdir()
    assert len(os.listdir(tmp_path)) == 1
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_rootless_is_an_ordinary_user(rootless: Rootless) -> None:
    said = rootless.python(
        "import os; print(os.getuid(), os.environ['HOME'], os.listdir(os.environ['HOME']))"
    )
    assert said.stdout == f"{rootless.uid} {rootless.home} []\n", said.stderr
    assert rootless.uid != 0
    assert rootless.python("import lamina.errors").returncode == 0
    (rootless.tmp / "closed").mkdir()
    if os.geteuid() == 0:
        (rootless.tmp / "closed").chmod(0o700)
        assert rootless.run("ls", rootless.tmp / "closed").returncode != 0


@pytest.mark.userns
@pytest.mark.peer("newuidmap", "newgidmap")
def test_rootless_has_subordinate_ids(rootless: Rootless) -> None:
    shown = rootless.run("unshare", "--user", "--map-root-user", "--map-auto", "cat", "/proc/self/uid_map")
    assert len(shown.stdout.splitlines()) == 2, shown.stderr
    assert Path("/etc/subuid").read_text().count("lamina-tester") == 0


def _inner_run(directory: Path, *texts: str, **environment: str) -> subprocess.CompletedProcess[str]:
    files = [directory / f"test_inner{number}.py" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LAMINA", "PYTEST"))}
    words = (
        f"-p no:cacheprovider -p no:randomly -p conftest -c {TESTS.parent / 'pyproject.toml'} "
        f"--rootdir {directory} --basetemp={directory / 'temp'} --continue-on-collection-errors"
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *words.split(), *map(str, files)],
        env={**plain, "PYTHONPATH": str(TESTS), **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


SKIPS = {
    "in the test": "import pytest\ndef test_it(): pytest.skip('not today')\n",
    "by a mark": "import pytest\n@pytest.mark.skipif(True, reason='not today')\ndef test_it(): pass\n",
    "of a module": "import pytest\npytest.skip('not today', allow_module_level=True)\n",
    "importorskip": "import pytest\npytest.importorskip('no_such_module_anywhere')\n",
    "for want of a peer": "import pytest\n@pytest.mark.peer('no-such-program')\ndef test_it(): pass\n",
}


def test_a_skip_is_a_failure_where_tests_must_run(tmp_path: Path) -> None:
    may = _inner_run(tmp_path, *SKIPS.values())
    assert may.returncode == 0, may.stdout + may.stderr
    assert f"{len(SKIPS)} skipped" in may.stdout
    must = _inner_run(tmp_path, *SKIPS.values(), LAMINA_TESTS_MUST_RUN="1")
    assert must.returncode == 1, must.stdout + must.stderr
    assert must.stdout.count("LAMINA_TESTS_MUST_RUN is set, but") >= len(SKIPS), must.stdout
    failed = [line for line in must.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    for number, how in enumerate(SKIPS):
        assert [line for line in failed if f"test_inner{number}.py" in line], how


def test_a_process_left_behind_fails_the_run(tmp_path: Path) -> None:
    done = _inner_run(
        tmp_path,
        "import os, subprocess\n"
        "def test_it():\n"
        "    child = subprocess.Popen(['sleep', '1000'])\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "    child.returncode = 0\n",
        LAMINA_LEAKS_PATIENCE="0.5",
    )
    os.kill(int((tmp_path / "pid").read_text()), 9)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the tests left behind" in done.stdout
    assert "sleep 1000" in done.stdout


def test_leaks_wait_for_what_is_going_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_TEST_RUN", "a-mark-of-this-test")
    leaks = Leaks((tmp_path,), "a-mark-of-this-test")
    with subprocess.Popen(["sleep", "1000"]) as child:
        # in the moment in which it is executed it has neither words nor variables
        until(lambda: any("sleep 1000" in left for left in leaks.left(patience=0)))
        child.kill()
    assert leaks.left() == []


@pytest.mark.root
def test_a_directory_whose_name_begins_like_ours_is_not_ours(tmp_path: Path) -> None:
    """Another run's pytest-12 is not this one's pytest-1."""
    ours, theirs = tmp_path / "pytest-1", tmp_path / "pytest-12"

    def left(place: Path) -> list[str]:
        leaks = Leaks((ours,))
        mount("tmpfs", place, "tmpfs")
        # what other tests are just beginning may look like a leak to who has no patience
        return [one for one in leaks.left(patience=0) if one.startswith("mount ")]

    for place in (ours, theirs):
        place.mkdir()
    assert len(in_mount_namespace(left, ours)) == 1
    assert in_mount_namespace(left, theirs) == []


class Groups:
    """A tree that plays the machine's control groups."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree / "lamina"
        self.tree.mkdir(parents=True)
        (self.tree / "cgroup.procs").write_text("")

    def make(self, name: str, processes: str = "") -> str:
        (self.tree / name).mkdir()
        (self.tree / name / "cgroup.procs").write_text(processes)
        return f"control group {self.tree / name}"


def test_whose_a_control_group_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.leaks.CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    groups = Groups(tmp_path / "cgroup")
    ours, theirs = tmp_path / "pytest-of-me/pytest-1", tmp_path / "pytest-of-me/pytest-2"
    for place, identity in ((ours, "kept"), (theirs, "another")):
        (place / "test_it0/lamina-store/containers" / identity).mkdir(parents=True)
    groups.make("older")
    leaks = Leaks((ours,), "me-gw0")
    left, known = [groups.make("kept")], groups.make("another")
    assert known  # a container that another suite's store knows is for that one to clean up after
    groups.make("inhabited", "1\n")
    another = f"another{os.getpid()}"  # on the same machine there may be one that does the same
    with show_sign(f"{another}-gw0"):
        assert {another} <= suites()
        groups.make("orphan")  # whose it is nobody can say
        assert leaks.left(patience=0.1) == left
        assert suites() >= {another}
    with monkeypatch.context() as patched:
        patched.setattr("support.leaks.suites", lambda: {"me"})
        assert leaks.left(patience=0.1) == sorted([*left, f"control group {groups.tree / 'orphan'}"])


def test_the_parser_is_not_interrupted_by_one_that_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a finalizer does that shows a traceback: with CPython 3.11 the first call would fail."""

    class Left:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            ast.parse("x + 1")

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(30):
            Left()
            ast.parse("f(a, b)[c + (d * (e - [g, (h, i)]))]\n" * 20)
    finally:
        gc.set_threshold(*before)
