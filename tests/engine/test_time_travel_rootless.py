"""States without root: files of subordinate ids, a top directory that is read-only or somebody else's, this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.rootless import Rootless
from support.small_images import import_tiny

pytestmark = [pytest.mark.userns, pytest.mark.root, pytest.mark.peer("busybox", "newuidmap")]

SCRIPT = """
import json, os, sys
from lamina import Engine

engine = Engine()
seen = {}


def run(box):
    box.start()
    assert box.wait(200) == 0, b"".join(entry.data for entry in box.logs())


def stat(box, path):
    found = (box.files / path).stat()
    return [oct(found.st_mode & 0o7777), found.st_uid, found.st_gid]


image = engine.create("tiny", ["sh", "-ec", sys.argv[1]], name="box")
before = image.snapshot("before")
run(image)
after = image.snapshot("after")
seen["top"] = stat(image, "/")
seen["again"] = image.snapshot().record.new
seen["size"] = after.size
seen["shut"] = stat(image, "d/shut/f")
seen["removed"] = (image.files / "etc/image").exists()
image.rewind("before")
seen["gone"] = (image.files / "d").exists()
seen["back"] = stat(image, "/")
image.rewind("after")
seen["there"] = stat(image, "d/shut")
seen["changes"] = sorted(os.fsdecode(one.path) for one in image.changes() if one.kind == "deleted")
image.remove()

script = "cat /data/n 2>/dev/null || :; echo x >>/data/n; chown -R 7:8 /data; chmod 0700 /data"
filled = engine.create("tiny", ["sh", "-ec", script], name="filled", volumes=["data:/data"])
run(filled)
state = filled.snapshot(volumes=True)
run(filled)
filled.rewind(state)
run(filled)
[fork] = state.fork()
run(fork)
seen["volume"] = [b"".join(entry.data for entry in one.logs()).decode() for one in (filled, fork)]
fork.remove(volumes=True)
filled.remove()
engine.volume("data").remove()
seen["volumes"] = len(engine.volumes())

home = os.path.expanduser("~")
count = f"cd {home}; n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) >n"
host = engine.create("host", ["sh", "-ec", count], name="host")
first = host.snapshot()
run(host)
second = host.snapshot()
run(host)
seen["host"] = [[os.fsdecode(one.path), one.kind] for one in host.changes([home]) if not one.incidental]
host.rewind(second)
run(host)
host.apply([home])
seen["n"] = open(home + "/n").read()
host.remove()
engine.storage.collect()
seen["check"] = [one.problem for one in engine.storage.check().findings]
seen["layers"] = len(os.listdir(engine.store.layers))
print(json.dumps(seen))
"""
MAKE = (
    "mkdir -p /d/shut; echo of seven >/d/shut/f; rm /etc/image; chown -R 7:8 /d; chmod 0400 /d/shut/f;"
    "chmod 0500 /d/shut; chmod 0555 /; chown 1000:100 /"
)


@pytest.fixture
def user(rootless: Rootless) -> Iterator[Rootless]:
    """Somebody with the image `tiny`."""
    import_tiny(rootless)
    yield rootless


def test_states_without_root(user: Rootless) -> None:
    done = user.python(SCRIPT, MAKE, timeout=200)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen == {
        "top": ["0o555", 1000, 100],
        "again": [],
        "size": 9,
        "shut": ["0o400", 7, 8],
        "removed": False,
        "gone": False,
        "back": ["0o755", 0, 0],
        "there": ["0o500", 7, 8],
        "changes": ["/etc/image"],
        "volume": ["x\nx\n", "x\n"],
        "volumes": 0,
        "host": [[f"{user.home}/n", "added"]],
        "n": "2\n",
        "check": [],
        "layers": 1,
    }
