"""The same without root: an ordinary user, in a user namespace with the subordinate ids, or with the own id alone."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from support.rootless import Rootless

pytestmark = pytest.mark.userns

PRELUDE = """
import json, os, sys
import lamina
from lamina import Engine
from lamina.engine import id_maps
def tell(**found): print(json.dumps(found))
engine = Engine()
def sh(script, **options):
    options = {"rm": True, "capture_output": True, "text": True, "timeout": 200, **options}
    return engine.run("host", ["sh", "-c", script], **options)
"""
SINGLE = "id_maps._has_helpers = lambda: False\n"


def tell(user: Rootless, code: str, *, single: bool = False) -> Any:
    """Run *code* as the user; what it told."""
    done = user.python(PRELUDE + (SINGLE if single else "") + code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def has_subordinate_ids(user: Rootless) -> bool:
    return bool(tell(user, "tell(whole=id_maps.id_maps().whole)")["whole"])


@pytest.mark.parametrize("single", [False, True])
def test_a_command_runs_as_root_of_its_own(rootless: Rootless, single: bool) -> None:
    found = tell(
        rootless,
        """
done = sh("id -u; cat /proc/self/uid_map; echo x >$HOME/new 2>/dev/null; pwd; exit 5", env=["HOME"])
there = os.path.exists(os.environ["HOME"] + "/new")
tell(status=done.returncode, out=done.stdout.split("\\n"), err=done.stderr, there=there)
""",
        single=single,
    )
    assert (found["status"], found["err"], found["there"]) == (5, "", False)
    assert found["out"][0] == "0"
    assert found["out"][1].split() == ["0", str(rootless.uid), "1"]
    assert found["out"][-2] == str(rootless.home)


def test_it_sees_this_machine_and_leaves_it_alone(rootless: Rootless) -> None:
    (rootless.home / "mine").write_text("before")
    rootless.give(rootless.home)
    found = tell(
        rootless,
        """
script = "cat /etc/passwd | wc -l; cat mine; echo after >mine; rm -f gone; mkdir new; cat mine"
done = sh(script, name="x", rm=False, workdir=os.environ["HOME"])
changes = {os.fsdecode(c.path): c.kind for c in engine.container("x").changes() if not c.incidental}
engine.container("x").remove()
lines = len(open("/etc/passwd").readlines())
tell(out=done.stdout, changes=changes, left=os.listdir(engine.store.containers), lines=lines)
""",
    )
    assert found["out"].split() == [str(found["lines"]), "beforeafter"]
    assert (rootless.home / "mine").read_text() == "before"
    assert found["changes"] == {f"{rootless.home}/mine": "changed", f"{rootless.home}/new": "added"}
    assert found["left"] == []


def test_what_it_did_can_be_applied_and_undone(rootless: Rootless) -> None:
    (rootless.home / "mine").write_text("before")
    rootless.give(rootless.home)
    found = tell(
        rootless,
        """
home = os.environ["HOME"]
sh(f"cd {home}; echo after >mine; echo x >new", name="x", rm=False)
container = engine.container("x")
container.apply([home])
applied = [open(home + "/mine").read(), os.path.exists(home + "/new")]
container.undo()
undone = [open(home + "/mine").read(), os.path.exists(home + "/new")]
container.remove()
tell(applied=applied, undone=undone)
""",
    )
    assert found == {"applied": ["after\n", True], "undone": ["before", False]}


def test_files_of_subordinate_users_are_removed_too(rootless: Rootless) -> None:
    if not has_subordinate_ids(rootless):
        pytest.skip("no subordinate ids on this machine")
    found = tell(
        rootless,
        """
script = "cd $HOME; mkdir -m 700 a; touch a/b; chown -R 7:7 a; mkdir -m 0 c; chown 8:8 c; id -u nobody"
done = sh(script, name="x", rm=False, env=["HOME"])
engine.container("x").remove()
again = sh(script, env=["HOME"])
tell(status=[done.returncode, again.returncode], err=done.stderr,
     left=[os.listdir(place) for place in (engine.store.containers, engine.store.tmp, engine.store.running)])
""",
    )
    assert found == {"status": [0, 0], "err": "", "left": [[], [], []]}


def test_other_users_of_the_container(rootless: Rootless) -> None:
    if not has_subordinate_ids(rootless):
        pytest.skip("no subordinate ids on this machine")
    found = tell(
        rootless,
        'done = sh("id -u; id -g; id -G", user="nobody"); tell(out=done.stdout.split(), err=done.stderr)',
    )
    assert found["out"][0] == "65534"


def test_with_the_own_id_alone_there_are_no_others(rootless: Rootless) -> None:
    found = tell(
        rootless,
        """
try:
    sh("true", user="1")
except lamina.LaminaError as error:
    tell(error=type(error).__name__, said=str(error), left=os.listdir(engine.store.containers))
""",
        single=True,
    )
    assert (found["error"], found["left"]) == ("Unsupported", [])
    assert "--userns" in found["said"]
    assert "doctor" in found["said"]


def test_networks(rootless: Rootless) -> None:
    found = tell(
        rootless,
        """
script = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; ls /sys/class/net | wc -l"
script += "; ! touch /sys/x 2>/dev/null && echo closed"
none = sh(script).stdout.split()
for _ in range(100):  # somebody else may have a link made, or removed, meanwhile
    host, real = sh(script, network="host").stdout.split(), os.listdir("/sys/class/net")
    if sorted(host[:-2]) == sorted(real):
        break
tell(none=none, host=host, real=real)
""",
    )
    assert found["none"] == ["lo", "1", "closed"]
    assert sorted(found["host"][:-2]) == sorted(found["real"])
    assert found["host"][-1] == "closed"


def test_a_network_in_which_nobody_could_be_is_not_made(rootless: Rootless) -> None:
    found = tell(
        rootless,
        """
said = []
for call in (lambda: engine.networks.create("back"), lambda: engine.networks.get("bridge"),
             lambda: engine.networks.create("wire", driver="macvlan", subnets=["192.0.2.0/24"],
                                            options={"parent": "lo"})):
    try:
        call()
    except lamina.errors.Unsupported as error:
        said.append((error.message, error.remedy))
try:
    engine.networks.reload()
except lamina.errors.Unsupported as error:
    assert "only root's have rules" in error.message and "as root" in error.remedy
tell(said=said, known=[one.name for one in engine.networks.list()], pruned=list(engine.networks.prune()))
""",
    )
    assert [message for message, _ in found["said"]] == [
        f"make network {name}: its links and rules take root" for name in ("back", "bridge", "wire")
    ]
    assert all("--network pasta" in remedy for _, remedy in found["said"])
    assert (found["known"], found["pruned"]) == ([], [])


def test_the_store_is_hidden_and_private(rootless: Rootless) -> None:
    found = tell(
        rootless,
        """
path = os.fsdecode(engine.store.path)
tell(out=sh(f"ls -A {path} | wc -l").stdout.strip(), mode=os.stat(path).st_mode & 0o777, path=path)
""",
    )
    assert (found["out"], found["mode"]) == ("0", 0o700)
    assert found["path"] == f"{rootless.tmp}/data/lamina"


def test_a_terminal(rootless: Rootless) -> None:
    found = tell(
        rootless,
        """
done = sh("tty; read x; echo got $x", tty=True, input="hello\\n")
tell(out=done.stdout)
""",
    )
    assert "/dev/pts/0" in found["out"]
    assert "got hello" in found["out"]


def test_limits_that_the_host_does_not_delegate_are_refused(rootless: Rootless) -> None:
    found = tell(
        rootless,
        """
try:
    done = sh("true", memory="64m")
    tell(error="", left=[])
except lamina.LaminaError as error:
    tell(error=str(error), left=os.listdir(engine.store.containers))
""",
    )
    assert found["left"] == []
    if found["error"]:
        assert "memory" in found["error"]


def test_commands_that_do_not_exist(rootless: Rootless) -> None:
    found = tell(
        rootless,
        """
try:
    engine.run("host", ["no-such-command"])
except lamina.LaminaError as error:
    tell(status=error.exit_code, said=str(error), left=os.listdir(engine.store.containers))
""",
    )
    assert (found["status"], found["left"]) == (127, [])
    assert "no-such-command" in found["said"]


def test_an_engine_that_is_killed_leaves_nothing(rootless: Rootless) -> None:
    found = tell(
        rootless,
        """
import signal, subprocess, time
code = 'from lamina import Engine; Engine().run("host", ["sh", "-c", "echo ready; sleep 99"], name="x", rm=True)'
victim = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
victim.stdout.readline()
while not (pid := engine.container("x").inspect()["State"]["Pid"]):  # it may speak before that is written down
    time.sleep(0.01)
victim.kill()
victim.wait()
end = time.monotonic() + 100
while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
    time.sleep(0.01)
alive, listed = os.path.exists(f"/proc/{pid}"), len(engine.containers(all=True))
tell(alive=alive, listed=listed, left=os.listdir(engine.store.containers))
""",
    )
    assert found == {"alive": False, "listed": 0, "left": []}


def test_a_command_line_that_was_told_to_ignore_its_children(rootless: Rootless) -> None:
    """An ignored SIGCHLD is inherited, and takes every exit status away (wait(2))."""
    ignoring = ["env", "--ignore-signal=CHLD", sys.executable]
    done = rootless.run(*ignoring, "-m", "lamina", "run", "--rm", "host", "sh", "-c", "exit 3")
    assert (done.returncode, "No child" in done.stderr) == (3, False)
    found = rootless.run(
        *ignoring,
        "-c",
        PRELUDE
        + """
import signal
from lamina.runtime import launch
def unknown(pidfd): raise OSError(25, "before Linux 6.15")
launch.pidfd_get_info = unknown
done = sh("exit 3", forward_signals=True)
tell(status=done.returncode, again=signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN)
""",
    )
    assert json.loads(found.stdout.splitlines()[-1]) == {"status": 3, "again": True}


def test_a_start_that_cannot_be_is_tried_once(rootless: Rootless) -> None:
    found = tell(
        rootless,
        """
from lamina.engine import session
tries, really = [], session.launch
def counted(*args, **keywords):
    tries.append(1)
    return really(*args, **keywords)
session.launch = counted
try:
    sh("true", workdir="/proc/nothing")
except lamina.LaminaError as error:
    tell(tries=len(tries), said=str(error))
""",
    )
    assert found["tries"] == 1
    assert "/proc/nothing" in found["said"]
