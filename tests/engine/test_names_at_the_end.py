"""A container that is renamed takes its name along when it goes, whoever does what at the same moment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina import Engine
from lamina.engine import life
from lamina.errors import NotFound
from lamina.store import names
from lamina.store.containers import Home
from support.lives import until

pytestmark = pytest.mark.root


def called(store_root: Path) -> list[str]:
    return sorted(os.listdir(store_root / "names"))


@pytest.mark.parametrize("end", ["its end", "an interruption"])
def test_one_that_was_renamed_while_its_command_stayed_with_it(
    engine: Engine, store_root: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    with engine.popen("host", ["sleep", "600"], rm=True, name="one") as process:
        engine.container("one").rename("two")
        if end == "an interruption":
            monkeypatch.setattr("lamina.store.events.ending", lambda *_: 1 / 0)
        process.kill()
        if end == "its end":
            assert process.wait() == 137
        else:
            with pytest.raises(ZeroDivisionError):
                process.wait()
            process.returncode = 137
    assert called(store_root) == []
    assert engine.storage.check().findings == ()


def test_what_is_told_of_its_end_names_it_as_it_was_called_then(engine: Engine) -> None:
    from threading import Thread

    thread = Thread(target=lambda: done.append(engine.run("host", ["sleep", "600"], name="one", rm=True)))
    done: list[object] = []
    thread.start()
    until(lambda: any(one.name == "one" and one.state == "running" for one in engine.containers()))
    engine.container("one").rename("two")
    engine.container("two").kill()
    thread.join(100)
    assert getattr(done[0], "name") == "two"  # noqa: B009


@pytest.mark.parametrize("step", ["write", "remark"])
def test_one_that_goes_while_it_is_renamed(
    engine: Engine, store_root: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    box = engine.create("host", ["true"], name="one")
    home = Home(box.store, box.id)
    done = getattr(Home, step)

    def gone(self: Home, *words: object, **more: object) -> None:
        monkeypatch.setattr(Home, step, done)
        other = Home(box.store, box.id)
        assert other.hold()
        other.discard("one")
        done(self, *words, **more)

    monkeypatch.setattr(Home, step, gone)
    with pytest.raises(NotFound):
        life.rename(home, "two")
    assert called(store_root) == []
    assert names.holder(box.store.names, "two") is None
