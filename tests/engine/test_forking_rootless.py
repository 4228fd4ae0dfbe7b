"""Forks without root: over an image, over this machine, with ids that are the container's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.rootless import Rootless
from support.small_images import import_tiny

pytestmark = [pytest.mark.userns, pytest.mark.root, pytest.mark.peer("busybox", "newuidmap")]


@pytest.fixture
def user(rootless: Rootless) -> Iterator[Rootless]:
    import_tiny(rootless)
    yield rootless
    rootless.remove_all()


WRITE = "mkdir /d; echo x >/d/x; chown 7:8 /d/x; chmod 711 /; rm /etc/image"
LOOK = "stat -c '%u:%g %a' / /d/x; cat /d/x; ls /etc/image || true"


@pytest.mark.parametrize("userns", ["", "keep-id", "auto"])
def test_over_an_image(user: Rootless, userns: str) -> None:
    words = ["--userns", userns, "--user", "0"] if userns else []
    user.ok("run", "--name", "box", *words, "tiny", "sh", "-ec", WRITE)
    made = user.lamina("fork", "-n", "2", "--start", "-c", "sleep 600", "box", "try")
    assert made.returncode == 0, made.stderr
    assert ("copied for the ids" in made.stderr) == (userns == "auto")
    user.ok("rm", "box")
    user.ok("gc")
    maps = set()
    for name in ("try-1", "try-2"):
        assert user.ok("exec", "--user", "0", name, "sh", "-c", LOOK).split() == [
            "0:0",
            "711",
            "7:8",
            "644",
            "x",
        ]
        maps.add(user.ok("exec", name, "cat", "/proc/self/uid_map"))
    assert len(maps) == (2 if userns == "auto" else 1)


@pytest.mark.parametrize("userns", ["", "keep-id", "auto"])
def test_what_was_in_its_volumes_is_its_own(user: Rootless, userns: str) -> None:
    words = ["--userns", userns, "--user", "0"] if userns else []
    fill = "echo x >/v/x; chown 7:8 /v/x; chmod 4750 /v/x; mkdir /v/d; chmod 700 /v/d; chown 9:9 /v/d"
    look = "stat -c '%u:%g %a' /v /v/x /v/d; cat /v/x; echo y >/v/x"
    user.ok("run", "--name", "box", *words, "-v", "data:/v", "tiny", "sh", "-ec", fill)
    user.ok("snapshot", "create", "--volumes", "box", "one")
    user.ok("fork", "-n", "2", "--start", "-c", "sleep 600", "box@one", "try")
    user.ok("rm", "box")
    for name in ("try-1", "try-2"):
        found = user.ok("exec", "--user", "0", name, "sh", "-c", look)
        assert found.splitlines() == ["0:0 755", "7:8 4750", "9:9 700", "x"]
    assert user.ok("run", "--rm", "-v", "data:/v", "tiny", "stat", "-c", "%s", "/v/x") == "2\n"
    user.ok("rm", "-fv", "try-1", "try-2")


def test_over_this_machine(user: Rootless) -> None:
    place = user.mkdir("work")
    (place / "version").write_text("1\n")
    (place / "version").chmod(0o666)
    user.ok(
        "run",
        "--name",
        "box",
        "host",
        "--",
        "sh",
        "-c",
        f"echo 2 >{place}/version; echo new >{place}/new",
    )
    user.ok("fork", "box", "child")
    assert f"A {place}/new\n" in user.ok("diff", "child", str(place))
    user.ok("rm", "box")
    user.ok("start", "child")
    user.ok("wait", "child")
    user.ok("apply", "child", f"{place}/new")
    assert (place / "new").read_text() == "new\n"
    user.ok("undo", "child")
    assert not (place / "new").exists()
