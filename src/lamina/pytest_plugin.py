"""Containers in tests: the fixtures `lamina` and `lamina_session` for pytest, which finds this module by itself.

    def test_it_answers(lamina):
        box = lamina.start("nginx", network="host")
        done = box.exec(["nginx", "-t"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

What a test started is removed after it, whatever happens, and by the kernel where pytest itself is killed. What its
containers wrote is shown where it fails. Nothing of the engine is imported before a test asks for a fixture.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Unpack

    from lamina import Completed, Container, Engine, Process
    from lamina.engine.options import LifeOptions
    from lamina.engine.parameters import Command

__all__ = ["Containers", "lamina", "lamina_session"]

# of what a container wrote, so much is shown: the end
MOST = 64 << 10
NODE_ID = "lamina.pytest"  # the label with the name of the test


class Containers:
    """What the fixtures give: the verbs of an Engine that make containers. These end with the test, or the session."""

    def __init__(self, engine: Engine, node: str) -> None:
        self.engine = engine
        self._node = node
        self._made: list[Container] = []

    def run(self, image: str, command: Command = (), **keywords: Any) -> Completed:
        """`Engine.run`: the container is removed at its end unless `rm=False` is given, and then after the test."""
        done = self.engine.run(image, command, **{"rm": True, **self._labelled(keywords)})
        if keywords.get("rm") is False:
            self._made.append(self.engine.container(done.container))
        return done

    def create(self, image: str, command: Command = (), **options: Unpack[LifeOptions]) -> Container:
        """`Engine.create`: it ends with this process, at the latest, unless another `lifetime` is given."""
        container = self.engine.create(image, command, **{"lifetime": "owner", **self._labelled(options)})
        self._made.append(container)
        return container

    def start(self, image: str, command: Command = (), **options: Unpack[LifeOptions]) -> Container:
        """`Engine.start`, of what `create` makes."""
        container = self.create(image, command, **options)
        container.start()
        return container

    def popen(self, image: str, command: Command = (), **keywords: Any) -> Process[Any]:
        """`Engine.popen`: the container is removed at its end, which is to be waited for."""
        return self.engine.popen(image, command, **{"rm": True, **self._labelled(keywords)})

    def remove(self) -> None:
        """Remove everything that was made. Raises what went wrong, after all was tried."""
        from lamina import LaminaError
        from lamina.errors import NotFound

        failures: list[LaminaError] = []
        while self._made:
            try:
                self._made.pop().remove(force=True, volumes=True)
            except NotFound:
                pass  # the test did so
            except LaminaError as failure:
                failures.append(failure)
        if failures:
            for other in failures[1:]:
                failures[0].add_note(f"and: {other}")
            raise failures[0]

    def sections(self, since: float | None = None) -> Iterator[tuple[str, str]]:
        """In what state each container is, and what it wrote; with *since* (seconds since 1970) only what those wrote
        since then that wrote anything.
        """
        from lamina import LaminaError

        for container in self._made:
            try:
                text = _written(container, since)
                if text or since is None:
                    yield f"container {container.name} ({container.image}), {_state(container)}", text
            except LaminaError as failure:
                yield f"container {container.short_id}", str(failure)

    def _labelled(self, options: Any) -> dict[str, Any]:
        """With the test's name, so that `lamina ps` can say whose it is."""
        given: Any = options.get("labels") or ()
        if hasattr(given, "items"):
            return {**options, "labels": {NODE_ID: self._node, **given}}
        return {**options, "labels": [f"{NODE_ID}={self._node}", *given]}


def _state(container: Container) -> str:
    code = container.exit_code
    return container.status if code is None else f"{container.status} with {code}"


def _written(container: Container, since: float | None) -> str:
    data = b"".join(entry.data for entry in container.logs(since=since))
    cut = f"... {len(data) - MOST} bytes before that\n" if len(data) > MOST else ""
    return cut + data[-MOST:].decode(errors="replace")


_begun = pytest.StashKey[float]()
_containers = pytest.StashKey[Containers]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the store is."""
    group = parser.getgroup("lamina", "containers")
    group.addoption(
        "--lamina-root",
        metavar="DIR",
        help="the store of the fixtures lamina and lamina_session (default: Lamina's own, see `lamina info`)",
    )


def _engine(config: pytest.Config) -> Engine:
    from lamina import Engine

    return Engine(config.getoption("--lamina-root"))


@pytest.fixture
def lamina(request: pytest.FixtureRequest) -> Iterator[Containers]:
    """Containers of one test: `run`, `start`, `create` and `popen` of an Engine, and the `engine` itself."""
    containers = Containers(_engine(request.config), request.node.nodeid)
    request.node.stash[_containers] = containers
    try:
        yield containers
    finally:
        containers.remove()


@pytest.fixture(scope="session")
def lamina_session(request: pytest.FixtureRequest) -> Iterator[Containers]:
    """The same for containers that all tests of a session share."""
    containers = Containers(_engine(request.config), "session")
    request.session.stash[_containers] = containers
    try:
        yield containers
    finally:
        containers.remove()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """From now on, what a container of the session writes may be about this test."""
    item.stash[_begun] = time.time()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the containers of a test that fails have written."""
    report = yield
    if report.failed:
        own, shared = item.stash.get(_containers, None), item.session.stash.get(_containers, None)
        if own is not None:
            report.sections.extend(own.sections())
        if shared is not None:
            report.sections.extend(shared.sections(since=item.stash.get(_begun, None)))
    return report
