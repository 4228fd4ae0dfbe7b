"""A container that works against having its root replaced: what it left where mounts are, and who it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.engine.restacking import swapped_to
from lamina.engine.standstill import Guard
from lamina.errors import Conflict
from lamina.runtime.cgroups import reopen
from lamina.runtime.swapping import Write
from lamina.values import replace
from support.chains import Chain, digest
from support.leaks import Leaks
from support.lives import is_gone, remove_all, state_of, until
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Iterator[Engine]:
    engine = Engine(store_root)
    small_image(store_root)
    yield engine
    remove_all(engine)


def frozen(box: Container) -> bool:
    return reopen(state_of(box)["cgroup"]).frozen


def test_mounts_of_a_privileged_container_are_moved_or_keep_it_from_being_replaced(
    engine: Engine, tmp_path: Path
) -> None:
    box = engine.start("tiny", ["sleep", "1000"], privileged=True)
    chain = Chain(box)

    def shell(words: str) -> str:
        return str(box.exec(["sh", "-c", words], check=True, capture_output=True, text=True).stdout)

    # its own, deep and with odd names: they stay what they are
    shell(
        "mkdir -p '/a b/c' && mount -t tmpfs none '/a b/c' && mkdir '/a b/c/d'"
        " && mount -t tmpfs in '/a b/c/d' && echo 1 > '/a b/c/d/f'"
    )
    assert chain.freeze(consistency="refuse").swapped
    assert shell("cat '/a b/c/d/f'; umount '/a b/c/d'; umount '/a b/c'; ls '/a b/c'") == "1\n"
    # who is in a directory over which something was mounted since cannot be made to enter it again
    shell("mkdir -p /m/deep")
    covered = box.exec_detached(["sleep", "1000"], workdir="/m/deep")
    shell("mount -t tmpfs none /m; mkdir /m/deep")
    with pytest.raises(Conflict, match=r"its working directory \(something is mounted over it\) in /m/deep"):
        chain.freeze(consistency="refuse")
    os.kill(covered, signal.SIGKILL)
    until(lambda: is_gone(covered))
    shell("umount /m; rm -r /m")
    assert chain.freeze(consistency="refuse").swapped
    layer = digest(chain.layers[0])
    for make, undo, why in (
        ("mkdir /m; mount --bind /etc /m", "umount /m", "its root mounted once more, at /m"),
        (
            "mount -t tmpfs one /m; mount -t tmpfs two /m",
            "umount /m; umount /m",
            "a mount that is covered or has lost its place, at /m",
        ),
        ("mount --make-shared /", "mount --make-private /", "mounts that are connected with others, at /"),
    ):
        shell(make)
        with pytest.raises(Conflict, match=why):
            chain.freeze(consistency="refuse")
        shell("touch /written")
        shell(undo)
    assert chain.freeze(consistency="refuse").swapped
    assert digest(chain.layers[0]) == layer


def test_who_is_where_no_path_leads_keeps_nobody_from_making_a_state(engine: Engine) -> None:
    """The kernel tells no path that is longer than a page: of a working directory, or of what is open."""
    box = engine.start("tiny", ["sleep", "1000"])
    half = "/".join(["d" * 200] * 15)
    script = f"""
mkdir -p /a/{half} /b/{half}
cd /b/{half}
exec 9> open
sleep 1000 &
cd /
sleep 1000 9>&- &
mv /b /a/{half}/
"""
    box.exec(["sh", "-c", script], check=True)
    with pytest.raises(Conflict, match=r"its working directory in /\(a path that is too long to be told\)"):
        Chain(box).freeze(consistency="refuse")
    box.snapshot("copied")
    [again] = box.fork(name="again")
    assert (again.files / "a").is_dir()


def test_a_fork_bomb_stands_still_as_well(engine: Engine) -> None:
    box = engine.start(
        "tiny",
        ["sh", "-c", "while :; do (cd /tmp; : > /tmp/$$) & : ; wait; done"],
        pids_limit=60,
        workdir="/tmp",
    )
    chain = Chain(box)
    until((chain.upper() / "tmp").is_dir)
    swapped = [chain.freeze(consistency="wait", patience=100).swapped for _ in range(5)]
    assert swapped == [True] * 5
    seen = [digest(one) for one in chain.layers]
    time.sleep(0.05)
    assert [digest(one) for one in chain.layers] == seen
    assert box.state == "running"


MUTE = """
import ctypes, os, time
device = os.open("/dev/fuse", os.O_RDWR)
os.makedirs("/m", exist_ok=True)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % device
assert not ctypes.CDLL(None).mount(b"mute", b"/m", b"fuse", 0, options)
AFTER
print("mounted", flush=True)
time.sleep(1000)
"""
FREEZE = """
import sys
from pathlib import Path
from lamina import Engine
from lamina.runtime import holders
from support.chains import Chain
holders.PATIENCE = 5.0
print(Chain(Engine(Path(sys.argv[1])).container("box")).freeze(consistency="refuse").swapped)
"""


# what it has of a file system that never answers, and what is said of it
MUTE_PLACES = {
    "mounted": ("", ""),
    "let go of": (
        "import socket\nkept = os.open('/m', os.O_PATH); assert not ctypes.CDLL(None).umount2(b'/m', 2)",
        "something of a file system that does not answer",
    ),
    "over a socket": (
        "import socket\nkept = socket.socket(socket.AF_UNIX); kept.bind('/m/s')",
        "a socket bound to /m/s",
    ),
}


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no FUSE here")
@pytest.mark.parametrize("where", MUTE_PLACES)
def test_a_file_system_of_its_own_that_never_answers_is_not_asked(engine: Engine, where: str) -> None:
    """Its server stands still as well: whoever asked would wait until the container is killed."""
    code, said = MUTE_PLACES[where]
    program = MUTE.replace("AFTER", code) if where == "let go of" else MUTE.replace("AFTER", "")
    if where == "over a socket":
        program = program.replace("options =", code + "\noptions =")
    places = [sys.base_prefix, "/lib64", *{os.path.realpath("/lib"), "/usr/lib"}]
    volumes = [f"{one}:{one}:ro" for one in places] + ["/usr/lib:/lib:ro"]
    box = engine.start("tiny", ["sleep", "1000"], name="box", privileged=True, volumes=volumes)
    server = box.popen([os.path.realpath(sys.executable), "-c", program], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "mounted\n"
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(Path(__file__).parents[1])])
    words = [sys.executable, "-c", FREEZE, os.fsdecode(engine.store.path)]
    try:
        done = subprocess.run(
            words,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        if said:
            assert done.returncode == 1 and said in done.stderr, done.stderr
        else:
            assert (done.stdout, done.stderr) == ("True\n", "")
        assert not frozen(box)
    finally:
        server.kill()
        server.communicate()


KILLED = """
import os, signal, sys
from pathlib import Path
from lamina import Engine
from lamina.engine import replacing
from lamina.values import replace
from support.chains import Chain
where = sys.argv[2]
box = Engine(Path(sys.argv[1])).container("box")
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
setattr(replacing.Swap, where, die)
Chain(box).freeze(consistency="wait", patience=100)
"""


@pytest.mark.parametrize(
    ("where", "privileged"),
    [
        ("try_it", False),
        ("_follow", False),
        ("_walk", False),
        ("_walk", True),
        ("finish", False),
        ("finish", True),
    ],
)
def test_killed_in_between_it_goes_on(engine: Engine, where: str, privileged: bool) -> None:
    """Of a privileged one the whole file system was made read-only."""
    words = ["sh", "-c", "cd /tmp; while :; do echo >> /tmp/alive; echo >> here; sleep 0.01; done"]
    box = engine.start("tiny", words, name="box", privileged=privileged)
    ((at, spec),) = Chain(box).stacks
    assert spec.upperdir is not None
    until((Chain(box).upper() / "tmp/here").exists)
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(Path(__file__).parents[1])])
    words = [sys.executable, "-c", KILLED, os.fsdecode(engine.store.path), where]
    killed = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert killed.returncode == -signal.SIGKILL
    until(lambda: not frozen(box))
    after = [(at, replace(spec, upperdir=spec.upperdir.replace(b"/upper-0", b"/upper-1001")))]
    assert swapped_to(box._home, after, {at}) == (where == "finish")

    def size(name: str) -> int:
        done = box.exec(["sh", "-c", f"wc -c < /tmp/{name}"], check=True, capture_output=True)
        return int(done.stdout)

    def grown(name: str, before: int) -> bool:
        return size(name) > before

    for name in ("alive", "here"):
        until(partial(grown, name, size(name)))


def test_whoever_is_killed_while_a_child_of_his_has_the_same_descriptors(tmp_path: Path) -> None:
    """A program may fork without executing anything: then the pipe by which it is watched stays open with the child."""
    (tmp_path / "thaw").touch()
    told, tell = os.pipe()
    doer = os.fork()
    if not doer:
        try:
            thaw = os.open(tmp_path / "thaw", os.O_WRONLY)
            guard = Guard((), (Write(thaw, b"THAWED"),), ())
            assert guard
            child = os.fork()
            if not child:
                time.sleep(60)
                os._exit(0)
            os.write(tell, b"%d\n" % child)
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(tell)
    with open(told) as answers:
        child = int(answers.readline())
    try:
        os.kill(doer, signal.SIGKILL)
        os.waitpid(doer, 0)
        until(lambda: (tmp_path / "thaw").read_text() == "THAWED")
    finally:
        os.kill(child, signal.SIGKILL)
