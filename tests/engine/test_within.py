"""What an ordinary user's container made as another id, or closed to everybody: compared, applied, removed."""

from __future__ import annotations

import json
import os
import pickle
import select
import socket
import subprocess
from typing import Any

import pytest

from lamina import errors
from lamina.engine import file_service, within
from lamina.engine.within import Carried
from lamina.linux.fd import Fd
from support.rootless import Rootless

userns = pytest.mark.userns

PRELUDE = """
import json, os, sys
import lamina
from lamina import Engine
from lamina.engine import id_maps
def tell(**found): print(json.dumps(found))
engine = Engine()
home = os.environ["HOME"]
def sh(script, name="x"):
    done = engine.run("host", ["sh", "-ec", "cd " + home + "; " + script], name=name, capture_output=True)
    assert done.returncode == 0, done.stderr
    return engine.container(name)
def below(path): return os.path.relpath(os.fsdecode(path), home)
def listed(container, **more):
    return {below(c.path): c.kind for c in container.changes(**more) if not c.incidental}
def left(): return sum((os.listdir(p) for p in (engine.store.containers, engine.store.tmp, engine.store.running)), [])
"""


@pytest.fixture
def user(rootless: Rootless) -> Rootless:
    """A user with subordinate ids."""
    if not tell(rootless, "tell(whole=id_maps.id_maps().whole)")["whole"]:
        pytest.skip("no subordinate ids on this machine")
    return rootless


def tell(user: Rootless, code: str, **options: Any) -> Any:
    """Run *code* as the user; what it told. Nobody says anything else, also no process of ours that was interrupted."""
    done = user.python(PRELUDE + code, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout.splitlines()[-1])


@userns
def test_files_of_other_ids_are_compared_shown_and_removed(user: Rootless) -> None:
    (user.home / "d").mkdir()
    (user.home / "d/old").write_text("old\n")
    user.give(user.home)
    found = tell(
        user,
        """
container = sh("mkdir -m 700 a; echo secret >a/b; chmod 600 a/b; chown -R 7:8 a; "
               "echo new >d/old; chown -R 9 d; chmod 700 d")
changes = {below(c.path): c for c in container.changes()}
owners = [(changes[p].after.uid, changes[p].after.gid) for p in ("a", "a/b", "d/old")]
patch = b"".join(container.patch(container.changes())).decode()
own = os.getgid()
some = listed(container, paths=[home + "/a"])
container.remove()
tell(kinds={p: c.kind for p, c in changes.items() if not c.incidental}, owners=owners, patch=patch, some=some,
     uid=os.getuid(), gid=own, left=left())
""",
    )
    first = 2_000_000 - 1  # the container's id 1
    assert found["kinds"] == {"a": "added", "a/b": "added", "d": "changed", "d/old": "changed"}
    assert found["owners"] == [[first + 7, first + 8], [first + 7, first + 8], [first + 9, found["gid"]]]
    assert found["some"] == {"a": "added", "a/b": "added"}
    assert "+secret\n" in found["patch"]
    assert "-old\n" in found["patch"]
    assert found["left"] == []


@userns
def test_the_command_line_too(user: Rootless) -> None:
    script = f"cd {user.home}; mkdir -m 700 a; echo secret >a/b; chown -R 7:8 a"
    assert user.lamina("run", "--name", "x", "host", "--", "sh", "-c", script).returncode == 0
    for option in ("--stat", "-p", "--format=json"):
        done = user.lamina("diff", option, "x")
        assert (done.returncode, done.stderr) == (0, "")
        assert "a/b" in done.stdout
    done = user.lamina("apply", "x")
    assert done.returncode == 125
    assert f"{user.home}/a: it belongs to" in done.stderr
    assert "hint: " in done.stderr
    assert not (user.home / "a").exists()
    assert (user.lamina("rm", "x").stdout, user.lamina("ps", "-aq").stdout) == ("x\n", "")


@userns
def test_what_is_somebody_elses_is_refused_and_the_rest_can_be_applied_and_undone(user: Rootless) -> None:
    found = tell(
        user,
        """
container = sh("mkdir -m 700 a; touch a/b; chown -R 7:8 a; echo mine >c; touch g; chgrp 5 g")
said = []
for paths in ([], [home + "/g"], [home + "/a/b"]):
    try:
        container.apply(paths)
    except lamina.LaminaError as error:
        said.append([type(error).__name__, str(error)])
there = os.listdir(home)
applied = [below(c.path) for c in container.apply(exclude=[home + "/a", home + "/g"]).changes if not c.incidental]
content = open("c").read()
undone = [below(path) for path in container.undo().paths]
container.remove()
tell(said=said, there=there, applied=applied, content=content, after=os.listdir(home), left=left())
""",
    )
    assert [kind for kind, _ in found["said"]] == ["Unsupported"] * 3
    assert all("exclude" in text for _, text in found["said"])
    assert "/a: it belongs to 2000006:2000007, and so do 2 more:" in found["said"][0][1]
    assert "/g: it belongs to" in found["said"][1][1]
    assert found["there"] == found["after"] == found["left"] == []
    assert (found["applied"], found["content"]) == (["c"], "mine\n")


@userns
@pytest.mark.parametrize("single", [False, True])
def test_what_is_ones_own_but_closed_is_applied_and_undone(rootless: Rootless, single: bool) -> None:
    user = rootless
    (user.home / "old").write_text("old\n")
    user.give(user.home)
    found = tell(
        user,
        ("id_maps._has_helpers = lambda: False\n" if single else "")
        + """
container = sh("echo new >old; chmod 0 old; mkdir -m 0 d; echo in >d/f; chmod 0 d/f")
patch = b"".join(container.patch(container.changes())).decode()
clashes = container.clashes()
container.apply()
modes = [os.lstat(path).st_mode & 0o7777 for path in ("old", "d")]
os.chmod("d", 0o700)
os.chmod("d/f", 0o600)
inside = open("d/f").read()
os.chmod("d/f", 0)
os.chmod("d", 0)
undone = len(container.undo(force=True).paths)
content = open("old").read()
container.remove()
tell(patch=patch, clashes=len(clashes), modes=modes, inside=inside, content=content, after=os.listdir(home),
     left=left())
""",
    )
    assert "+new\n" in found["patch"]
    assert "+in\n" in found["patch"]
    assert (found["clashes"], found["modes"], found["inside"]) == (0, [0, 0], "in\n")
    assert (found["content"], found["after"], found["left"]) == ("old\n", ["old"], [])


@userns
def test_the_callers_process_is_not_changed(user: Rootless) -> None:
    found = tell(
        user,
        """
import signal, threading
def self(): return [os.readlink("/proc/self/ns/user"), os.getresuid(), os.getpgrp(), os.getcwd(), os.umask(0o22),
                    sorted(os.listdir("/proc/self/fd"))[:-1], threading.active_count(), str(signal.getsignal(2)),
                    str(signal.pthread_sigmask(0, ()))]
container = sh("mkdir -m 700 a; touch a/b; chown -R 7:8 a")
before = self()
list(container.patch(container.changes()))
after = self()
next(container.patch(container.changes()))  # and is not asked for more
again = self()
container.remove()
tell(before=before, after=after, again=again)
""",
    )
    assert found["before"] == found["after"] == found["again"]


@userns
def test_a_host_that_has_no_user_namespaces_any_more_says_so(user: Rootless) -> None:
    found = tell(
        user,
        '''
container = sh("mkdir -m 700 a; touch a/b; chown -R 7:8 a")
from lamina.engine import within
within.MAIN = """
import sys
sys.path.insert(0, sys.argv[1])
from lamina.errors import KernelError
from lamina.linux import namespaces
def refuse(flags): raise KernelError("unshare", 1)
namespaces.unshare = refuse
from lamina.engine.within import serve
serve()
"""
try:
    container.changes()
except lamina.LaminaError as error:
    tell(kind=type(error).__name__, said=str(error))
''',
    )
    assert found["kind"] == "Unsupported"
    assert "lamina doctor" in found["said"]


@userns
def test_an_interrupt_ends_what_is_done_there_and_nothing_is_left_of_it(user: Rootless) -> None:
    found = tell(
        user,
        """
import signal, time
from lamina.engine.within import _Within, maps_of
def interrupt(*_): raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
said = []
for work, args in ((time.sleep, (1000,)), (os.urandom, (1 << 26,)), (time.sleep, (1000,))):
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        for _ in _Within(maps_of(None), work, args, {}, False).frames(): time.sleep(1000)
    except KeyboardInterrupt:
        said.append("interrupted")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    said.append("none left")
tell(said=said, fds=len(os.listdir("/proc/self/fd")))
""",
    )
    assert found["said"] == ["interrupted"] * 3 + ["none left"]
    assert found["fds"] == 4


@userns
def test_an_interrupt_while_it_says_what_came_of_it_is_not_complained_of(user: Rootless) -> None:
    """Who interrupts has closed its ears: the error of that is on its way when the signal comes."""
    found = tell(
        user,
        '''
from lamina.engine.within import _Within, maps_of
from lamina.errors import Corrupt
CODE = """
import signal
class Interrupted:
    def __reduce__(self):
        signal.raise_signal(signal.SIGINT)
error = ValueError()
error.note = Interrupted()
raise error
"""
try:
    list(_Within(maps_of(None), exec, (CODE, {}), {}, False).frames())
except Corrupt as error:
    tell(said=str(error))
''',
    )
    assert "ended without an answer" in found["said"]


@userns
@pytest.mark.parametrize("moment", ["_spawn", "receive", "send"])
def test_an_interrupt_the_moment_it_is_begun_leaves_nothing_either(user: Rootless, moment: str) -> None:
    """And says nothing: it is ours alone."""
    found = tell(
        user,
        f"moment = {moment!r}"
        """
import signal, time
from lamina.engine import within
def interrupt(*_): raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
said, really = [], getattr(within, moment)
def interrupted(*args):
    begun = really(*args)
    signal.raise_signal(signal.SIGALRM)
    return begun
setattr(within, moment, interrupted)
try:
    for _ in within._Within(within.maps_of(None), time.sleep, (1000,), {}, False).frames(): said.append("begun")
except KeyboardInterrupt:
    said.append("interrupted")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    said.append("none left")
tell(said=said, fds=len(os.listdir("/proc/self/fd")))
""",
    )
    assert (found["said"], found["fds"]) == (["interrupted", "none left"], 4)


ERRORS = [
    errors.InvalidInput("no", remedy="yes"),
    errors.HostChanged("changed", clashes=(1, 2)),
    errors.KernelError("open", 13, "/x", hint="closed", remedy="open it"),
    errors.StepFailed("mount()", 22, index=3),
    errors.ContainerFailed(["x"], 4, stdout=b"out"),
    PermissionError(13, "not allowed", b"/y"),
    KeyboardInterrupt(),
    UnicodeError("odd"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_arrives_as_it_was(error: BaseException) -> None:
    error.add_note("and a note")
    arrived = pickle.loads(pickle.dumps(Carried(error)))
    assert type(arrived) is type(error)
    assert (str(arrived), arrived.args, vars(arrived)) == (str(error), error.args, vars(error))
    for name in ("errno", "strerror", "filename", "remedy", "clashes"):
        assert getattr(arrived, name, None) == getattr(error, name, None)


def test_a_bug_arrives_as_an_error_that_names_it() -> None:
    arrived = pickle.loads(pickle.dumps(Carried(ZeroDivisionError("by zero"))))
    assert isinstance(arrived, errors.LaminaError)
    assert str(arrived) == "ZeroDivisionError: by zero"


def test_an_answer_is_heard_of_a_process_that_ended_while_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """poll(2) looks at one descriptor after the other: it finds nothing in the pipe, then the process answers and ends,
    and then it finds that.
    """
    really = select.poll

    class Between:
        def __init__(self) -> None:
            self.poll_, self.descriptors = really(), list[int]()

        def register(self, descriptor: int, events: int) -> None:
            self.descriptors.append(int(descriptor))
            self.poll_.register(descriptor, events)

        def poll(self, milliseconds: int | None = None) -> list[tuple[int, int]]:
            found = self.poll_.poll(milliseconds)
            return found if milliseconds == 0 else [one for one in found if one[0] == self.descriptors[-1]]

    monkeypatch.setattr(select, "poll", Between)
    reader, writer = os.pipe()
    process = subprocess.Popen(["true"])
    try:
        with Fd(os.pidfd_open(process.pid)) as alive:
            really_ended = select.select([alive], [], [], 100)[0]
            within.send(writer, within.RESULT, "the answer")
            os.close(writer)
            assert really_ended
            assert within.receive(reader, alive) == (within.RESULT, "the answer")
            with pytest.raises(errors.Corrupt, match="ended without an answer"):
                within.receive(reader, alive)
    finally:
        process.wait()
        os.close(reader)


@userns
def test_a_process_that_dies_is_noticed_although_another_holds_its_pipes(user: Rootless) -> None:
    found = tell(
        user,
        """
import signal
from lamina.engine import within
really, forked = within._spawn, []
def spawn(*words):
    process = really(*words)
    forked.append(os.fork())  # as another thread would in this moment
    if not forked[-1]:
        signal.pause()
    return process
within._spawn = spawn
try:
    for _ in within._Within(within.maps_of(None), os.kill, (0, signal.SIGKILL), {}, False).frames(): pass
except lamina.LaminaError as error:
    tell(kind=type(error).__name__, said=str(error))
os.kill(forked[0], signal.SIGKILL)
os.waitpid(forked[0], 0)
""",
    )
    assert found["kind"] == "Corrupt"
    assert "ended without an answer" in found["said"]


def test_a_file_that_is_handed_over_is_inherited_by_nobody_from_its_first_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another thread may execute a program just then, before anybody could have said that it is not to have it."""
    monkeypatch.delattr(os, "set_inheritable")
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull) as file:
        socket.send_fds(theirs, [b"f"], [file.fileno()])
        with file_service._received(ours.fileno()) as found:
            assert not os.get_inheritable(found)
