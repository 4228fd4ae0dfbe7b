"""What every test of Lamina gets.

Markers: `root` needs uid 0, `userns` needs that ordinary users may make user namespaces (the fixture `rootless` is
such a user), `peer("crun")` needs that program, `slow` takes more than a few seconds, `vm` runs in the virtual machine
of `make test-vm` alone, `cgroup_v1("pids")` where v1 has that controller, `cgroup_v2` where there is a v2 tree (and
that has the controllers named).
With LAMINA_TESTS_MUST_RUN=1 a test that would be skipped fails instead: nothing silently stops being tested.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support.collecting import keep_for_good, shares, undisturbed
from support.leaks import Leaks, show_sign
from support.rootless import SOURCES, Rootless, ordinary_user, place_prefix, why_no_user_namespace

MUST_RUN = os.environ.get("LAMINA_TESTS_MUST_RUN", "") not in ("", "0")
CAP_SYS_ADMIN = 21
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])

# Examples of each property test: LAMINA_EXAMPLES=dev|ci|thorough (the last with `pytest -o timeout=0`); those of the
# overlay, which has most to get wrong, are more (tests/overlay/test_overlay_properties.py)
for _name, _examples in {"dev": 100, "ci": 300, "thorough": 20_000}.items():
    settings.register_profile(
        _name,
        max_examples=_examples,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
settings.load_profile(os.environ.get("LAMINA_EXAMPLES") or ("ci" if MUST_RUN else "dev"))

# a suite that was started in the background (`make test &`, nohup) ignores what the tests send
for _signal in signal.valid_signals():
    if signal.getsignal(_signal) == signal.SIG_IGN and _signal not in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(_signal, signal.default_int_handler if _signal == signal.SIGINT else signal.SIG_DFL)

# what the tests execute finds the sources that are being tested, installed or not
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH", "")]))

# what pytest makes of the modules of tests is kept, whatever the environment wants of other programs: to make it takes
# each worker three times as long as the rest of collecting (12 of 16 s)
sys.dont_write_bytecode = False

# before 3.12 all of a process's calls of the parser share one count of how deep they are; a collection in the middle of
# one runs finalizers, or lets another thread in, and where these parse something as well (a traceback's carets are
# enough), the first call ends in "SystemError: AST constructor recursion depth mismatch" (CPython's issue 106905)
if sys.version_info < (3, 12):
    ast.parse = undisturbed(ast.parse)

# mount(8) from util-linux 2.39 on gives fsconfig(2) what mount(2) took whole: no lowerdir over 255 characters
os.environ["LIBMOUNT_FORCE_MOUNT2"] = "always"

# no test leaves a warm process, or has its command done by one, unless it is about that (tests/warm)
os.environ["LAMINA_WARM"] = "0"

# nor links on this machine: containers have no network unless they ask for one (tests/engine/test_default_network.py)
os.environ["LAMINA_NETWORK"] = "none"


# -- skips -----------------------------------------------------------------------------------------------------


def _may_administer() -> bool:
    """Root in an ordinary container has the uid but not the capability that mounts take."""
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:\t")[2].split()[0], 16) >> CAP_SYS_ADMIN & 1)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and (os.geteuid() != 0 or not _may_administer()):
        pytest.skip("needs root (with CAP_SYS_ADMIN)")
    if item.get_closest_marker("userns") and (why := why_no_user_namespace()):
        pytest.skip(why)
    for marker in item.iter_markers("kernel"):
        if _numbers(os.uname().release) < _numbers(marker.args[0]):
            pytest.skip(f"needs Linux {marker.args[0]}, this is {os.uname().release}")
    for marker in item.iter_markers("peer"):
        for program in marker.args:
            if shutil.which(program, path=SEARCH_PATH) is None:
                pytest.skip(f"needs {program}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Left out, not skipped: tests of the virtual machine, and of a version of cgroups that this machine has not."""
    from lamina.runtime.cgroups import read_layout

    if hasattr(config, "workerinput"):  # which have collected in different orders, see below
        items.sort(key=lambda item: item.path)

    layout = read_layout()

    def belongs_here(item: pytest.Item) -> bool:
        if item.get_closest_marker("vm") and not os.environ.get("LAMINA_VM"):
            return False
        v2 = item.get_closest_marker("cgroup_v2")
        if v2 is not None and (layout.v2 is None or not layout.v2_controllers.issuperset(v2.args)):
            return False
        v1 = item.get_closest_marker("cgroup_v1")
        return v1 is None or all(name in layout.v1 for name in v1.args)

    left_out = [item for item in items if not belongs_here(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if belongs_here(item)]


def _not_skipped(report: Any) -> None:
    if MUST_RUN and report.skipped and not hasattr(report, "wasxfail"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"LAMINA_TESTS_MUST_RUN is set, but: {why}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    report = yield
    _not_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    report = yield
    _not_skipped(report)
    return report


# -- workers ---------------------------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Whoever a killed process leaves is waited for at once, whatever the machine's first process does."""
    for spec in specs:
        if spec.popen and not spec.python:
            spec.python = shlex.join([sys.executable, str(Path(__file__).parent / "support" / "reaper.py")])


def pytest_configure(config: pytest.Config) -> None:
    """Workers that collect all tests begin at different ones."""
    worker = getattr(config, "workerinput", None)
    if worker is not None and config.args == config.getini("testpaths") == ["tests"]:
        config.args[:] = shares(Path(__file__).parent, worker["workerid"], worker["workercount"])


def pytest_collection_finish() -> None:
    """Thousands of tests and their modules stay: to look through them takes a third of a second each time."""
    keep_for_good()


# -- nothing is left behind ------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After the last test there is no mount, process or control group of ours that was not there before."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
    mark = os.environ["LAMINA_TEST_RUN"] = f"{run[:8]}-{os.environ.get('PYTEST_XDIST_WORKER') or 'alone'}"
    with show_sign(mark):
        leaks = Leaks((tmp_path_factory.getbasetemp(), Path(tempfile.gettempdir(), place_prefix())), mark)
        yield
        if nursery := sys.modules.get("lamina.engine.nursery"):  # stays for a while after the last fork
            nursery.let_go()
        left = leaks.left()
    assert not left, "the tests left behind:\n" + "\n".join(left)


@pytest.fixture
def untouched_host(tmp_path: Path) -> Iterator[Leaks]:
    """Fails the test if it leaves mounts, processes or control groups; `.left()` looks at once."""
    leaks = Leaks((tmp_path,))
    yield leaks
    left = leaks.left()
    assert not left, "the test left behind:\n" + "\n".join(left)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """pytest removes the directories of earlier runs recursively; killed tests may have left very deep ones there."""
    sys.setrecursionlimit(100_000)


# -- places and people -----------------------------------------------------------------------------------------


_taken: Counter[str] = Counter()  # names of places


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pytest's own, which for each test looks through the places of all that there were before."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    while True:
        place = f"{name}{_taken[name]}"
        _taken[name] += 1
        with contextlib.suppress(FileExistsError):  # that of another name which ends in a number
            return tmp_path_factory.mktemp(place, numbered=False)


@pytest.fixture(autouse=True)
def store_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a store of its own: nothing is ever written to the machine's."""
    root = tmp_path / "lamina-store"
    monkeypatch.setenv("LAMINA_ROOT", str(root))
    return root


@pytest.fixture
def seed() -> int:
    """For what is random: printed when the test fails, and repeated by LAMINA_STRESS_SEED."""
    found = int(os.environ.get("LAMINA_STRESS_SEED") or secrets.randbelow(1 << 31))
    print(f"LAMINA_STRESS_SEED={found}")
    return found


@pytest.fixture
def rootless() -> Iterator[Rootless]:
    """An ordinary user with subordinate ids, home and XDG directories; `run`, `popen`, `python`, `lamina`."""
    with ordinary_user() as user:
        yield user


@pytest.fixture
def lamina() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the `lamina` command as whoever runs the suite, on this test's store; options as of `subprocess.run`."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"capture_output": True, "text": True, "timeout": 200, **options}
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run([sys.executable, "-m", "lamina", *arguments], **options)

    return run
