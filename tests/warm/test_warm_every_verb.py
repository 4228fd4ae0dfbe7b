"""Every verb, cold and warm: the same status, the same output, the same errors."""

from __future__ import annotations

import re
from difflib import unified_diff

import pytest

from lamina.cli.verbs import VERBS
from support.small_images import small_image
from support.warm import House

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox", "unshare")]

ELSEWHERE = "127.0.0.1:1"  # where no registry is

# one after the other, over a store with the image `tiny`
LINES: tuple[tuple[str, ...], ...] = (
    (),
    ("--version",),
    ("--help",),
    ("nosuch",),
    ("help", "run"),
    ("overlay",),
    ("version",),
    ("run",),
    ("run", "--nosuch"),
    ("run", "--memory", "many", "tiny"),
    ("run", "--pull", "never", "nosuch"),
    ("run", "--name", "one", "tiny", "sh", "-c", "echo out; echo err >&2; echo new > /etc/new; exit 3"),
    ("run", "--name", "one", "tiny"),
    ("run", "--rm", "tiny", "nosuch"),
    ("run", "--rm", "tiny", "/etc"),
    ("run", "--rm", "tiny", "sh", "-c", "kill -9 $$"),
    (
        "run",
        "--rm",
        "-e",
        "A=1",
        "--tmpfs",
        "/t",
        "-v",
        "data:/d",
        "tiny",
        "sh",
        "-c",
        "echo $A; echo x > /d/x",
    ),
    ("run", "--rm", "--network", "none", "host", "--", "pwd"),
    ("run", "--rm", "-t", "tiny", "sh", "-c", "tty; echo on a terminal"),
    ("run", "--rm", "-it", "tiny", "sh"),
    ("try", "--", "true"),
    ("ps",),
    ("ps", "-a", "--format", "{{.Names}} {{.Image}} {{.Command}} {{.State}}"),
    ("ps", "--filter", "nosuch=1"),
    ("logs", "one"),
    ("logs", "nosuch"),
    ("inspect", "--format", "{{.Name}}", "one"),
    ("inspect", "nosuch"),
    ("diff", "one"),
    ("cp", "one:/etc/new", "copied"),
    ("container", "cp", "one:/nosuch", "copied"),
    ("cp", "copied", "one:/etc/again"),
    ("cp", "nosuch", "one:/etc"),
    ("apply", "one"),
    ("undo", "one"),
    ("export", "-o", "exported.tar", "one"),
    ("import", "exported.tar", "again"),
    ("squash", "one"),
    ("squash", "--from", "nosuch", "one"),
    ("rebase", "--dry-run", "one", "tiny"),
    ("rebase", "one", "nosuch"),
    ("promote", "one"),
    ("merge", "one", "nosuch"),
    ("merge", "--ours", "--theirs", "one", "one"),
    ("commit", "-m", "by hand", "one", "kept:1"),
    ("container", "commit", "--pause=false", "nosuch"),
    ("images", "--format", "{{.Repository}} {{.Tag}}"),
    ("image", "ls", "-q"),
    ("image", "inspect", "again"),
    ("tag", "tiny", "other:1"),
    ("image", "tag", "tiny", "another:1"),
    ("history", "again"),
    ("image", "history", "again"),
    ("save", "-o", "saved.tar", "again"),
    ("image", "save", "-o", "saved.tar", "nosuch"),
    ("load", "-i", "saved.tar"),
    ("image", "load", "-i", "nosuch.tar"),
    ("image", "import", "nosuch.tar", "never"),
    ("image", "from-dir", "nosuch", "never"),
    ("rmi", "other:1"),
    ("image", "rm", "another:1"),
    ("image", "prune", "--force"),
    ("pull", f"{ELSEWHERE}/nosuch"),
    ("image", "pull", f"{ELSEWHERE}/nosuch"),
    ("push", f"{ELSEWHERE}/nosuch"),
    ("image", "push", f"{ELSEWHERE}/nosuch"),
    ("login", "-u", "me", "-p", "secret", ELSEWHERE),
    ("logout", ELSEWHERE),
    ("search", f"{ELSEWHERE}/nosuch"),
    ("create", "--name", "two", "tiny", "sh", "-c", "echo begun; exec sleep 600"),
    ("container", "create", "--name", "two", "tiny"),
    ("start", "two"),
    ("container", "start", "nosuch"),
    ("container", "exec", "two", "true"),
    ("container", "attach", "nosuch"),
    ("image", "list", "-q"),
    ("volume", "list", "--nosuch"),
    ("exec", "two", "sh", "-c", "echo inside; exit 4"),
    ("exec", "-i", "two", "cat"),
    ("exec", "-it", "two", "sh"),
    ("exec", "nosuch", "true"),
    ("attach", "nosuch"),
    ("restart", "-t", "0", "two"),
    ("container", "restart", "nosuch"),
    ("rename", "two", "three"),
    ("container", "rename", "nosuch", "four"),
    ("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "three"),
    ("container", "stats", "nosuch"),
    ("update", "--memory", "64m", "three"),
    ("container", "update", "three"),
    ("port", "three"),
    ("port", "three", "80"),
    ("container", "port", "nosuch"),
    ("top", "three", "-o", "user,args"),
    ("container", "top", "nosuch"),
    ("healthcheck", "run", "three"),
    ("pause", "three"),
    ("pause", "three"),
    ("ps", "--format", "{{.Names}} {{.Status}}"),
    ("container", "pause", "nosuch"),
    ("unpause", "three"),
    ("container", "unpause", "three"),
    ("kill", "three"),
    ("container", "kill", "three"),
    ("wait", "three"),
    ("container", "wait", "nosuch"),
    ("stop", "three"),
    ("container", "stop", "nosuch"),
    ("run", "-d", "--name", "four", "tiny", "sleep", "600"),
    ("container", "run", "--rm", "tiny", "true"),
    ("container", "ls", "--format", "{{.Names}} {{.State}}"),
    ("container", "logs", "nosuch"),
    ("container", "inspect", "--format", "{{.Name}}", "three"),
    ("container", "diff", "three"),
    ("container", "export", "-o", "exported.tar", "nosuch"),
    ("container", "rm", "-f", "four", "three"),
    ("container", "prune", "--force"),
    ("events", "--since", "1h", "--until", "0m", "--format", "{{.Type}} {{.Action}}"),
    ("network", "create", "--subnet", "10.63.7.0/24", "--driver", "nosuch", "back"),
    ("network", "ls"),
    ("network", "inspect", "nosuch"),
    ("network", "rm", "nosuch"),
    ("network", "prune", "--force"),
    ("network", "reload", "nosuch"),
    ("network", "connect", "nosuch", "nobody"),
    ("network", "disconnect", "-f", "nosuch", "nobody"),
    ("port", "nosuch"),
    ("volume", "create", "mine"),
    ("volume", "ls"),
    ("volume", "inspect", "nosuch"),
    ("volume", "rm", "mine"),
    ("volume", "prune", "--force"),
    ("pin", "tiny"),
    ("unpin", "tiny"),
    ("gc",),
    ("system", "events", "--until", "0s"),
    ("system", "info"),
    ("system", "df", "--format", "nosuch"),
    ("system", "df"),
    ("system", "prune", "--force"),
    ("system", "check"),
    ("system", "start-restartable"),
    ("system", "stop-restartable"),
    ("generate", "systemd", "nosuch"),
    ("system", "warm", "nosuch"),
    ("overlay", "mount", "nosuch"),
    ("overlay", "umount", "nosuch"),
    ("overlay", "diff", "nosuch"),
    ("overlay", "explain", "nosuch"),
    ("plan", "--network", "none", "host", "--", "true"),
    ("info",),
    ("doctor",),
    ("completion", "bash"),
    ("log", "one"),
    ("log", "nosuch"),
    ("diff", "one", "tiny"),
    ("explain", "one", "/etc/new"),
    ("why", "--svg", "-", "one", "/etc"),
    ("explain", "nosuch", "/etc"),
    ("snapshot", "create", "one", "before"),
    ("snapshot", "create", "nosuch"),
    ("snapshot", "ls", "one", "--format", "{{.Name}} {{.Container}} {{.Size}}"),
    ("snapshot", "inspect", "-f", "{{.Name}} {{.Parent}}", "one", "before"),
    ("rewind", "one", "before"),
    ("rollback", "one", "nosuch"),
    ("snapshot", "rm", "one", "before"),
    ("snapshot", "prune", "--force", "one"),
    ("snapshot", "ls", "--tree"),
    ("fork", "one", "forked"),
    ("container", "fork", "one@nosuch"),
    ("rm", "forked"),
    ("rm", "one"),
    ("rm", "one"),
)
# what is another in every run: ids, digests, times, sizes and shares of what is used now, the store's own place
CHANGES = (
    (rb"\b(?:x[0-9a-f]{11}|[0-9a-f]{12})(?:[0-9a-f]{52})?\b", b"ID"),
    (rb"(/|\")(?:cold|warm)\b", rb"\1WAY"),
    (rb"\d+(?:\.\d+)? (?:milli)?seconds?|\d+ minutes?|Less than a second|About an? (?:minute|hour)", b"TIME"),
    (rb"\d{4}-\d\d-\d\d[T ][0-9:.]+(?:Z|[+-]\d\d:?\d\d| [A-Z]+)?", b"DATE"),
    (rb"\d+(?:\.\d+)? ?[kKMGT]?i?B\b", b"SIZE"),
    (rb"\s\d{1,3}(?:,\d{3})+\b|\(\d+%\)", b"NUMBER"),
    (rb" +", b" "),
)


def alike(text: bytes) -> bytes:
    for pattern, replacement in CHANGES:
        text = re.sub(pattern, replacement, text)
    return text


def differences(seen: dict[str, tuple[int, bytes, bytes]]) -> list[str]:
    """What differs, line by line."""
    cold, warm = (b"\n".join(seen[way][1:]).decode(errors="replace").split("\n") for way in ("cold", "warm"))
    return [*unified_diff(cold, warm, "cold", "warm", n=0, lineterm="")]


def test_every_verb_is_among_the_lines() -> None:
    """A new verb gets a line: it is the commands' users who would find out otherwise."""
    said = {" ".join(line[:length]) for line in LINES for length in (1, 2)}
    assert set(VERBS) - said == set()


@pytest.mark.slow
def test_what_a_user_sees_is_the_same(house: House) -> None:
    server = house.warm_up()
    for way in ("cold", "warm"):
        place = house.tmp / way
        place.mkdir()
        small_image(place / "store")
    for line in LINES:
        seen = {}
        for way in ("cold", "warm"):
            place = house.tmp / way
            environment = {"LAMINA_ROOT": str(place / "store"), "COLUMNS": "120"}
            with house.expected(server, warm=way == "warm"):
                status, out, err = house.run(*line, env=environment, cwd=place, way=way)
            # who is attached and whoever starts a container write theirs at the same time
            if line[:1] == ("events",):
                out = b"\n".join(sorted(out.split(b"\n")))
            seen[way] = (status, alike(out), alike(err))
        assert seen["warm"] == seen["cold"], (line, differences(seen))
        assert b"internal error" not in seen["warm"][2], line
