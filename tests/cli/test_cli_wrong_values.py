"""Every option of every verb, out of the tables that declare them, with values that cannot be meant.

Whatever is said: an error of ours with docker's status 125, or it was done; no traceback, and nothing is left.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina import Engine
from lamina.argv.declare import Option
from lamina.cli.entry import load
from lamina.cli.verbs import VERBS
from support.leaks import Leaks
from support.namespaces import in_mount_namespace
from support.said import Said, accident

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

WRONG = (
    *("", " ", "-", "-1", "nonsense", "1x", "9" * 40, "-" + "9" * 40, "1e400", "nan", "0", "/../..", "nosuch/"),
    *("=", ",", ":", "a=b=c", "a,b,,c", "a:b:c:d:e", "{{", "{{.Nosuch}}", "\udcff", "a\nb"),
    *("\x1b[31m", "%s%n", "x" * 5000),
)  # fmt: skip
# a container that was made; one that nothing was done about serves the next value as well
BOX = "box"
# where the words of a verb are other than so many that name nothing
WORDS = {
    "create": ["host", "true"], "run": ["host", "true"], "plan": ["host", "true"],
    "container create": ["host", "true"], "container run": ["host", "true"],
    "exec": [BOX, "true"], "events": ["--until", "0"],
    "system events": ["--until", "0"], "stats": ["--no-stream", "nosuch"],
    "pull": ["127.0.0.1:1/x"], "push": ["127.0.0.1:1/x"], "search": ["127.0.0.1:1/x"], "login": ["127.0.0.1:1"],
    "image pull": ["127.0.0.1:1/x"], "image push": ["127.0.0.1:1/x"], "completion": ["bash"],
}  # fmt: skip
# asks at a terminal, and is all of `run` otherwise
ELSEWHERE = ("try",)
# these share their options with `create`, and would be slow
OF_CONTAINERS = ("container", "container@", "running", "stopped", "paused")
AS_CREATE = ("run", "plan")
# any text may be meant, by these; an empty one or one too long is still no reason for a traceback
FREE = frozenset(
    ("name", "hostname", "domainname", "label", "annotation", "env", "message", "author", "comment", "root", "username",
     "password", "format", "entrypoint", "change", "platform", "user", "output", "input", "file", "health-cmd",
     "exclude")
)  # fmt: skip

# the verb does not come to it: our last word for events is another time, and there is no such state
UNREAD = (
    *(
        ("events", "until"),
        ("system events", "until"),
        ("merge", "prefer"),
        ("squash", "from"),
        ("diff", "apply-to"),
    ),
    *((verb, option) for verb in ("explain", "why") for option in ("html", "svg")),
)

VERBS_OF_THEIR_OWN = sorted(
    name for name, (_, module, _) in VERBS.items()
    if name not in ELSEWHERE and not (name.startswith("container ") and name.removeprefix("container ") in VERBS)
)  # fmt: skip


def options(verb: str) -> Iterator[Option]:
    """Those that take a value."""
    known = {option.name for option in load("create").VERB.all_options} if verb in AS_CREATE else set()
    for option in load(verb).VERB.all_options:
        if option.metavar and option.name not in known:
            yield option


def words(verb: str) -> list[str]:
    """The rest of a command line that could be meant: of a container that was made, where the verb takes one."""
    if verb in WORDS:
        return WORDS[verb]
    found = [argument for argument in load(verb).VERB.arguments if argument.count in ("1", "+")]
    return [BOX if argument.complete in OF_CONTAINERS else "nosuch" for argument in found]


@pytest.mark.parametrize("verb", VERBS_OF_THEIR_OWN)
def test_a_value_that_cannot_be_meant(
    verb: str, tmp_path: Path, store_root: Path, untouched_host: Leaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))

    def all_of_them() -> list[str]:
        place = tmp_path / "place"
        place.mkdir()
        os.chdir(place)
        engine, said, found = Engine(store_root), Said(tmp_path), []
        containers = Path(os.fsdecode(engine.store.containers))
        before: list[str] = []
        for option in options(verb):
            refused = 0
            for value in WRONG:
                if not before and BOX in words(verb):
                    engine.create("host", ["true"], name=BOX)
                    before = sorted(os.listdir(containers))
                status, text = said(*verb.split(), f"--{option.name}={value}", *words(verb))
                refused += status != 0 and "no such container" not in text
                if what := accident(status, text):
                    found.append(f"--{option.name}={value[:50]!r} {what}")
                if status == 0:
                    for done in engine.containers(all=True):
                        done.remove(force=True)
                    before = []
                elif (left := sorted(os.listdir(containers))) != before:
                    found.append(f"--{option.name}={value[:50]!r} exits with {status} and leaves {left}")
                    before = left
            if not refused and option.name not in FREE and (verb, option.name) not in UNREAD:
                found.append(f"--{option.name} takes everything")
            for extra in place.iterdir():  # written where a path may be named
                shutil.rmtree(extra) if extra.is_dir() else extra.unlink()
        return found

    assert in_mount_namespace(all_of_them, timeout=240) == []


@pytest.mark.parametrize("verb", VERBS_OF_THEIR_OWN)
def test_an_option_that_is_not_there_or_has_no_value(
    verb: str, tmp_path: Path, store_root: Path, untouched_host: Leaks
) -> None:
    def all_of_them() -> list[tuple[str, int, str]]:
        said, found = Said(tmp_path), []
        wrong = ["--nosuch-option", "--nosuch-option=1", "-^", "--=", "---"]
        wrong += [
            f"--{option.name}" if option.metavar else f"--{option.name}=nonsense"
            for option in load(verb).VERB.all_options
        ]
        for more in wrong:
            status, text = said(*verb.split(), more)
            if status != 125 or not text.startswith("lamina: ") or "Traceback" in text:
                found.append((more, status, text))
        return found

    assert in_mount_namespace(all_of_them, timeout=240) == []
