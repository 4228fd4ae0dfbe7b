"""Every word of `linux.rootfsPropagation`, read back inside of the container, beside crun and runc.

The specification has one sentence about it ("sets the rootfs's mount propagation"). Lamina does what crun does, but for
a slave: that stays one of the host's mounts, or it would be another word for private. With runc the root itself is
always private, and the words without r leave what is below it shared with the host.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.oci import Bundle
from support.peers import PeerRoot, lamina_runtime

pytestmark = [pytest.mark.root, pytest.mark.peer("unshare", "nsenter", "mount", "busybox")]
PRIVATE, BELOW, SLAVE = ("-", "-", "-"), ("-", "shared", "-"), ("master", "master", "-")
SHARED, ALL_SHARED = ("shared", "-", "-"), ("shared", "shared", "shared")
# with crun the recursive word reaches the host's mounts before they are copied, and then they cannot be; with runc the
# root as well, which is made anew later
LOST, LEFT = ("unbindable", "absent", "unbindable"), ("-", "absent", "-")
UNBINDABLE, ALL_UNBINDABLE = ("unbindable", "-", "-"), ("unbindable", "unbindable", "unbindable")
# of the root itself, of a mount of the host below it, of one of the document's: by word and whether the host's are
# private or shared; as Lamina, crun and runc do it
WORDS = {
    ("", "private"): (PRIVATE, PRIVATE, PRIVATE),
    ("shared", "private"): (SHARED, SHARED, PRIVATE),
    ("rshared", "private"): (ALL_SHARED, ALL_SHARED, BELOW),
    ("slave", "private"): (PRIVATE, PRIVATE, PRIVATE),
    ("rslave", "private"): (PRIVATE, PRIVATE, PRIVATE),
    ("private", "private"): (PRIVATE, PRIVATE, PRIVATE),
    ("rprivate", "private"): (PRIVATE, PRIVATE, PRIVATE),
    ("unbindable", "private"): (UNBINDABLE, UNBINDABLE, PRIVATE),
    ("runbindable", "private"): (ALL_UNBINDABLE, LOST, LEFT),
    ("", "shared"): (PRIVATE, PRIVATE, ("-", "master", "-")),
    ("shared", "shared"): (SHARED, SHARED, BELOW),
    ("rshared", "shared"): (ALL_SHARED, ALL_SHARED, BELOW),
    ("slave", "shared"): (SLAVE, PRIVATE, BELOW),
    ("rslave", "shared"): (SLAVE, PRIVATE, ("-", "master", "-")),
    ("private", "shared"): (PRIVATE, PRIVATE, BELOW),
    ("rprivate", "shared"): (PRIVATE, PRIVATE, PRIVATE),
    ("unbindable", "shared"): (UNBINDABLE, UNBINDABLE, BELOW),
    ("runbindable", "shared"): (ALL_UNBINDABLE, LOST, LEFT),
}

HOST = """
set -eu
cd {bundle}
mount --bind rootfs rootfs
mount --make-private rootfs
mount -t tmpfs below rootfs/below
mount --make-r{host} rootfs
"""


def kind(fields: list[str]) -> str:
    return "+".join(sorted({field.partition(":")[0] for field in fields})) or "-"


def seen(text: str) -> tuple[str, ...]:
    """The root, /below and /own of that mountinfo."""
    found = {}
    for line in text.splitlines():
        fields = line.split(" - ")[0].split()
        found[fields[4]] = kind(fields[6:])
    return tuple(found.get(place, "absent") for place in ("/", "/below", "/own"))


@pytest.mark.parametrize("host", ["private", "shared"])
def test_every_word(make_peer_root: Callable[..., PeerRoot], tmp_path: Path, host: str) -> None:
    root = make_peer_root(binds=(tmp_path,), hide_v2=True)
    bundle = Bundle(tmp_path / "bundle", "/busybox", "cat", "/proc/self/mountinfo")
    shutil.copy(str(shutil.which("busybox")), bundle.rootfs / "busybox")
    (bundle.rootfs / "below").mkdir()
    # nothing of the host is bound: nobody but Lamina can do that where the root is to be unbindable
    bundle.config["mounts"] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/own", "type": "tmpfs", "source": "tmpfs"},
    ]
    commands = {"lamina": lamina_runtime(tmp_path), "crun": "crun", "runc": "runc"}
    told: dict[str, tuple[tuple[str, ...], ...]] = {}
    for word in (word for word, where in WORDS if where == host):
        bundle.config["linux"]["rootfsPropagation"] = word
        bundle.write()
        for name, command in commands.items():
            script = HOST.format(bundle=bundle.path, host=host)
            script += f"exec {command} --root {tmp_path}/{name} run -b . box-{word or 'none'}"
            words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
            told[word] = (*told.get(word, ()), seen(root.run(words, check=True).stdout))
    assert told == {word: expected for (word, where), expected in WORDS.items() if where == host}
