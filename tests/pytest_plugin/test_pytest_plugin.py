"""The fixtures for pytest: what they give, that nothing stays, and what is shown where a test fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from lamina import Engine
from support.leaks import Leaks
from support.small_images import small_image
from support.sources import REPOSITORY

pytest_plugins = ["pytester"]
pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]


@pytest.fixture(autouse=True)
def a_session_of_its_own(
    pytester: pytest.Pytester, store_root: Path, untouched_host: Leaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the user's pytest is like: our plugin and no other, and an image `tiny`."""
    small_image(store_root)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\naddopts = -p lamina.pytest_plugin\n")


@pytest.fixture
def engine(store_root: Path) -> Engine:
    return Engine(store_root)


def test_containers_live_as_long_as_the_test(pytester: pytest.Pytester, engine: Engine) -> None:
    pytester.makepyfile("""
        seen = []

        def test_one(lamina):
            box = lamina.start("tiny", ["sleep", "1000"], name="box", labels=["a=b"])
            assert box.exec(["echo", "hi"], capture_output=True, text=True).stdout == "hi\\n"
            assert box.labels == {"a": "b", "lamina.pytest": "test_containers_live_as_long_as_the_test.py::test_one"}
            assert lamina.create("tiny", ["true"]).status == "created"
            assert lamina.run("tiny", ["echo", "x"], capture_output=True).stdout == b"x\\n"
            lamina.run("tiny", ["true"], rm=False, labels={"c": "d"})
            with lamina.popen("tiny", ["cat"], stdin=-1, stdout=-1) as process:
                assert process.communicate(b"y") == (b"y", None)
            assert len(lamina.engine.containers(all=True)) == 3

        def test_two(lamina):
            assert lamina.engine.containers(all=True) == []
            lamina.start("tiny", ["sleep", "1000"]).remove(force=True)
    """)
    pytester.runpytest_subprocess().assert_outcomes(passed=2)
    assert engine.containers(all=True) == []


def test_containers_of_the_session_are_shared(pytester: pytest.Pytester, engine: Engine) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.fixture(scope="session")
        def box(lamina_session):
            return lamina_session.start("tiny", ["sleep", "1000"])

        @pytest.mark.parametrize("number", range(3))
        def test_it(box, lamina, number):
            assert [one.id for one in lamina.engine.containers()] == [box.id]
    """)
    pytester.runpytest_subprocess().assert_outcomes(passed=3)
    assert engine.containers(all=True) == []


def test_what_they_wrote_is_shown_where_a_test_fails(pytester: pytest.Pytester, engine: Engine) -> None:
    pytester.makepyfile("""
        import time
        import pytest

        @pytest.fixture
        def box(lamina):
            box = lamina.start("tiny", ["sh", "-c", "echo from the box; echo and err >&2; exit 3"], name="box")
            box.wait()
            while box.status != "exited":
                time.sleep(0.01)
            return box

        @pytest.fixture(scope="session")
        def server(lamina_session):
            return lamina_session.start("tiny", ["sh", "-c", "echo early; while read x; do echo $x; done"],
                                        name="server", interactive=True)

        def test_passes(box, server):
            for entry in server.logs(follow=True):
                break

        def test_fails(box, server):
            server.exec(["sh", "-c", "echo late >/proc/1/fd/1"], check=True)
            for entry in server.logs(follow=True, since=time.time() - 60):
                if b"late" in entry.data:
                    break
            assert False

        @pytest.fixture
        def broken(box):
            raise ZeroDivisionError

        def test_in_its_setup(broken):
            pass
    """)
    done = pytester.runpytest_subprocess()
    done.assert_outcomes(passed=1, failed=1, errors=1)
    done.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_in_its_setup*",
            "*container box (tiny), exited with 3*",
            "from the box",
            "and err",
            "*test_fails*",
            "*container box (tiny), exited with 3*",
            "from the box",
            "*container server (tiny), running*",
            "late",
        ]
    )
    # of what is shared only what was written meanwhile
    assert "early" not in done.stdout.str()
    assert engine.containers(all=True) == []


def test_much_output_is_shown_from_its_end(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_fails(lamina):
            lamina.start("tiny", ["seq", "100000"]).wait()
            assert False
    """)
    said = pytester.runpytest_subprocess().stdout.str()
    assert "bytes before that\n" in said
    assert "\n99999\n100000\n" in said
    assert "\n1000\n" not in said


def test_a_failure_to_remove_is_the_tests_error(pytester: pytest.Pytester, engine: Engine) -> None:
    pytester.makepyfile("""
        from lamina import Container, LaminaError

        def test_it(lamina):
            for _ in range(2):
                box = lamina.create("tiny", ["true"], lifetime="container")
            box.remove = refuse

        def refuse(**options):
            raise LaminaError("remove container: the disk is on holiday")
    """)
    done = pytester.runpytest_subprocess()
    done.assert_outcomes(passed=1, errors=1)
    done.stdout.fnmatch_lines(["*the disk is on holiday*"])
    [left] = engine.containers(all=True)  # the other one was removed all the same
    left.remove()


def test_another_store(pytester: pytest.Pytester, engine: Engine, tmp_path: Path) -> None:
    small_image(tmp_path / "other")
    pytester.makepyfile(f"""
        def test_it(lamina, lamina_session):
            assert lamina.engine.store.path == lamina_session.engine.store.path == b"{tmp_path}/other"
            assert lamina.run("tiny", ["true"]).returncode == 0
    """)
    pytester.runpytest_subprocess(f"--lamina-root={tmp_path}/other").assert_outcomes(passed=1)


def test_pytest_that_is_killed_leaves_nothing(pytester: pytest.Pytester, engine: Engine) -> None:
    pytester.makepyfile("""
        import time

        def test_it(lamina, lamina_session):
            lamina_session.start("tiny", ["sleep", "1000"])
            lamina.start("tiny", ["sleep", "1000"])
            print("begun", flush=True)
            time.sleep(1000)
    """)
    command = [sys.executable, "-m", "pytest", "-s", "-p", "lamina.pytest_plugin"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        for line in process.stdout:
            if "begun" in line:
                break
        assert len(engine.containers()) == 2
        os.kill(process.pid, signal.SIGKILL)
    end = time.monotonic() + 100
    while engine.containers(all=True) and time.monotonic() < end:
        time.sleep(0.05)
    assert engine.containers(all=True) == []


def test_who_does_not_use_it_does_not_pay_for_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_it():
            loaded = [name for name in sys.modules if name.startswith("lamina")]
            assert sorted(loaded) == ["lamina", "lamina.pytest_plugin"], loaded
    """)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_pytest_finds_it_by_itself() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"lamina": "lamina.pytest_plugin"}
