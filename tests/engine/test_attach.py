"""Being attached to containers of a supervisor: nothing is lost or reordered, and it feels as if it were here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.errors import Conflict
from support.leaks import Leaks
from support.lives import Command, command, is_gone, kill_supervisor, said, state_of, supervisor_of, until
from support.small_images import small_image
from support.terminal import Terminal, lamina

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.usefixtures("tiny")]


# -- start -a, and run through a supervisor


def test_nothing_of_the_beginning_is_missed(engine: Engine, lamina: Command) -> None:
    for number in range(10):
        made = engine.create("tiny", ["sh", "-c", "echo out; echo err >&2; exit 7"], name=f"box{number}")
        done = lamina("start", "-a", made.name)
        assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
        assert made.exit_code == 7


def test_input_and_its_end_are_the_containers(engine: Engine, lamina: Command) -> None:
    engine.create("tiny", ["sh", "-c", "cat; echo end"], name="box", interactive=True, stdin_once=True)
    for text in ("hello\n", "", "x" * 300_000):
        done = lamina("start", "-ai", "box", input=text)
        assert (done.returncode, done.stdout) == (0, text + "end\n"), done.stderr


def test_without_i_there_is_no_input(engine: Engine, lamina: Command) -> None:
    engine.create("tiny", ["cat"], name="box")
    assert lamina("start", "-ai", "box", input="hello").stdout == ""


def test_who_is_not_root_opens_its_standard_streams_by_name(engine: Engine, lamina: Command) -> None:
    script = "echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/stdin"
    engine.create("tiny", ["sh", "-c", script], name="box", user="ann", interactive=True, stdin_once=True)
    done = lamina("start", "-ai", "box", input="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\nin\n", "err\n")


def test_input_that_is_at_its_end_can_be_opened_by_name(engine: Engine, lamina: Command) -> None:
    """A fifo without a writer would keep whoever opens it waiting."""
    script = "sleep 0.5; cat /dev/stdin; cat /dev/stdin; echo end"
    engine.create("tiny", ["sh", "-c", script], name="box", interactive=True, stdin_once=True)
    done = lamina("start", "-ai", "box", input="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "in\nend\n", "")


def test_one_at_a_time(engine: Engine, lamina: Command) -> None:
    for name in ("one", "two"):
        engine.create("tiny", ["true"], name=name)
    done = lamina("start", "-a", "one", "two")
    assert (done.returncode, "one container only" in done.stderr) == (125, True)


def test_what_cannot_be_started_is_said(engine: Engine, lamina: Command) -> None:
    engine.create("tiny", ["nosuch"], name="box")
    done = lamina("start", "-a", "box")
    assert (done.returncode, "nosuch" in done.stderr) == (127, True)


def test_a_container_that_is_removed_at_its_end_is_gone_when_the_command_is(engine: Engine) -> None:
    for _ in range(3):
        with Terminal(
            lamina("run", "-t", "--rm", "--name", "box", "tiny", "sh", "-c", "echo hi; exit 3")
        ) as terminal:
            terminal.expect("hi\r+\n")
            assert terminal.wait() == 3
        assert engine.containers(all=True) == []


APART = """if True:
    import os, sys
    from lamina.cli.entry import command_line
    from lamina.engine import attaching
    from lamina.store import trace
    attaching.PATIENCE = 0.01
    os.environ[trace.VARIABLE] = sys.argv[1]  # for the supervisor
    sys.exit(command_line(sys.argv[2:]))
"""


def test_a_supervisor_that_takes_its_time_to_remove_it_is_waited_for(engine: Engine, tmp_path: Path) -> None:
    """As on a disk that is slow: here it stops itself before that."""

    def start(watched: str) -> list[str]:
        engine.create("tiny", ["true"], name="box", rm=True)
        return [sys.executable, "-c", APART, watched, "start", "-a", "box"]

    steps = tmp_path / "steps"
    for _ in range(2):  # the first of a store makes what the next ones find
        steps.unlink(missing_ok=True)
        assert subprocess.run(start(f"log:{steps}"), timeout=200).returncode == 0
    number = steps.read_text().splitlines().index("end: finish") + 1
    with subprocess.Popen(start(f"signal:{number}:{int(signal.SIGSTOP)}")) as client:
        box = engine.container("box")
        until(lambda: box.state == "exited")
        supervisor = supervisor_of(box)
        until(lambda: Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        time.sleep(0.3)
        assert client.poll() is None
        os.kill(supervisor, signal.SIGCONT)
        assert client.wait(100) == 0
        assert engine.containers(all=True) == []


# -- attach


def test_several_see_the_same_and_type_into_the_same(engine: Engine) -> None:
    box = engine.start("tiny", ["cat"], name="box", interactive=True)
    with command("attach", "box") as one, command("attach", "box") as two:
        seen: dict[int, bytes] = {0: b"", 1: b""}

        def read(number: int, process: subprocess.Popen[bytes]) -> None:
            assert process.stdout is not None
            while data := os.read(process.stdout.fileno(), 4096):
                seen[number] += data

        readers = [threading.Thread(target=read, args=pair) for pair in enumerate((one, two))]
        for reader in readers:
            reader.start()
        assert one.stdin is not None and two.stdin is not None
        # which of them is attached when cannot be seen from outside: until each has seen something
        until(lambda: _typed(one, b"ping\n") and all(seen.values()))
        for number, process in enumerate((one, two)):
            _typed(process, b"from %d\n" % number)
            until(lambda: _all_saw(seen, b"from %d\n" % number))  # noqa: B023
        two.terminate()  # handed on: it ends the container, and with it both
        assert one.wait(100) == two.wait(100) == 143
        for reader in readers:
            reader.join(100)
    assert box.exit_code == 143


def _all_saw(seen: dict[int, bytes], text: bytes) -> bool:
    return all(text in one for one in seen.values())


def _typed(process: subprocess.Popen[bytes], data: bytes) -> bool:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()
    time.sleep(0.05)
    return True


def test_the_end_of_a_clients_input_is_not_the_end_for_the_next(engine: Engine, lamina: Command) -> None:
    box = engine.start(
        "tiny", ["sh", "-c", "while read line; do echo got $line; done"], interactive=True, name="box"
    )
    for word in ("one", "two"):
        with command("attach", "--sig-proxy=false", "box") as client:
            assert client.stdin is not None and client.stdout is not None
            client.stdin.write(f"{word}\n".encode())
            client.stdin.close()
            assert client.stdout.readline() == f"got {word}\n".encode()
            client.terminate()
            assert client.wait(100) == -signal.SIGTERM
    assert box.state == "running"


def test_no_stdin(engine: Engine) -> None:
    box = engine.start("tiny", ["cat"], name="box", interactive=True)
    with command("attach", "--no-stdin", "box") as client:
        _typed(client, b"hello\n")
        time.sleep(0.3)
        assert said(box) == b""


@pytest.mark.parametrize(("proxy", "ends"), [("true", True), ("false", False)])
def test_signals_are_the_containers_or_ours(engine: Engine, proxy: str, ends: bool) -> None:
    script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    box = engine.create("tiny", ["sh", "-c", script], name="box")
    with command("start", "-a", f"--sig-proxy={proxy}", "box") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.terminate()
        assert client.wait(100) == (9 if ends else -signal.SIGTERM)
    assert box.is_alive is not ends


def test_a_default_action_that_process_1_is_spared_is_carried_out(engine: Engine) -> None:
    box = engine.create("tiny", ["sh", "-c", "echo ready; exec sleep 600"], name="box")
    with command("start", "-a", "box") as client:
        assert client.stdout is not None
        client.stdout.readline()
        # until it sleeps: the shell has a handler, which execve(2) takes away, and then the kernel drops the signal
        status = Path(f"/proc/{state_of(box)['pid']}/status")
        until(lambda: status.read_text().startswith("Name:\tsleep\n"))
        until(lambda: "SigCgt:\t0000000000000000\n" in status.read_text())
        client.send_signal(signal.SIGINT)
        assert client.wait(100) == 130
    assert box.exit_code == 130


def test_so_is_that_of_a_key(engine: Engine) -> None:
    box = engine.create("tiny", ["sleep", "600"], name="box", tty=True, interactive=True)
    with Terminal(lamina("start", "-ai", "box")) as terminal:
        until(lambda: terminal.settings() != terminal.untouched and box.is_alive)
        comm = Path(f"/proc/{state_of(box)['pid']}/comm")
        until(lambda: comm.read_text() == "busybox\n" or comm.read_text() == "sleep\n")
        terminal.type("\x03")
        assert terminal.wait() == 130
    assert box.exit_code == 130


def test_who_reads_no_more_leaves_and_the_container_goes_on(engine: Engine) -> None:
    box = engine.start("tiny", ["sh", "-c", "while :; do echo line; sleep 0.05; done"], name="box")
    with command("attach", "box") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"line\n"
        client.stdout.close()
        assert client.wait(100) == 141
    assert box.state == "running"


def test_a_client_that_does_not_read_holds_the_container_back_and_loses_nothing(engine: Engine) -> None:
    box = engine.create("tiny", ["sh", "-c", "seq 200000; echo end"], name="box")
    with command("start", "-a", "box") as client:
        until(lambda: len(said(box)) > 60_000)
        held = len(said(box))
        time.sleep(0.2)
        assert box.state == "running"
        assert len(said(box)) < 1_000_000, held
        assert client.stdout is not None
        text = client.stdout.read()
        assert client.wait(100) == 0
    assert text == b"".join(b"%d\n" % n for n in range(1, 200001)) + b"end\n"
    assert said(box) == text


def test_a_client_that_is_stopped_does_not_keep_the_end_from_being_noted(engine: Engine) -> None:
    box = engine.create("tiny", ["sh", "-c", "while :; do seq 1000; done"], name="box")
    with command("start", "-a", "box") as client:
        until(lambda: box.state == "running")
        client.send_signal(signal.SIGSTOP)
        box.kill()
        assert box.wait() == 137
        until(lambda: box.state == "exited")
        client.send_signal(signal.SIGCONT)
        assert client.stdout is not None
        text = client.stdout.read()
        assert client.wait(100) == 137
    assert text == said(box)


def test_states_that_cannot_be_attached_to(engine: Engine, lamina: Command) -> None:
    box = engine.create("tiny", ["true"], name="box")
    with pytest.raises(Conflict, match="not running"):
        box.attach()
    engine.run("tiny", ["true"], name="foreground")
    done = lamina("attach", "foreground")
    assert (done.returncode, "not running" in done.stderr) == (125, True)
    assert lamina("attach", "none").returncode == 125
    assert lamina("attach", "--detach-keys", "nonsense", "box").returncode == 125


def test_a_container_in_a_directory_with_a_long_name(
    tmp_path: Path, untouched_host: Leaks, lamina: Command
) -> None:
    """Longer than a socket's path may be (unix(7))."""
    root = tmp_path / ("d" * 120)
    small_image(root)
    box = Engine(root).create("tiny", ["echo", "hi"], name="box")
    assert lamina("--root", root, "start", "-a", "box").stdout == "hi\n"
    box.remove(force=True)


def test_who_speaks_nonsense_is_not_served_and_disturbs_nobody(engine: Engine) -> None:
    box = engine.start("tiny", ["cat"], name="box", interactive=True)
    place = os.path.join(os.fsdecode(engine.store.containers), box.id)
    for nonsense in (b"h{", b"h[]", b"hnull", b"r1", b"", b"h" + b"x" * 70_000, b"i" * 65_538):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client, contextlib.chdir(place):
            client.connect("attach")
            client.send(nonsense)
            client.settimeout(100)
            assert client.recv(10) == b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client, contextlib.chdir(place):
        client.connect("attach")
        for packet in (
            b"ihidden",
            b"c",
            b"q",
            b'h{"stdout": true, "stdin": true}',
            b"ihello",
        ):
            client.send(packet)
        client.settimeout(100)
        assert [client.recv(99), client.recv(99)] == [b"h", b"ohello"]
    assert box.state == "running"


# -- terminals


def test_a_terminal_feels_local(engine: Engine) -> None:
    with Terminal(lamina("run", "-it", "--name", "box", "tiny", "sh"), size=(31, 97)) as terminal:
        terminal.expect("# ")
        terminal.type("stty size; tty; echo $TERM\n")
        terminal.expect("31 97\r\n/dev/pts/\\d+\r\nxterm\r\n")
        assert terminal.settings() != terminal.untouched
        terminal.resize(20, 40)
        terminal.type("stty size\n")
        terminal.expect("20 40\r\n")
        terminal.type("sh -c 'echo go; exec sleep 600'\n")
        terminal.expect("600'\r\ngo\r\n")
        terminal.type("\x03")
        terminal.type("echo $?\n")
        terminal.expect("130\r\n")
        terminal.type("sh -c 'trap \"echo back\" CONT; echo go; while :; do sleep 0.05; done'\n")
        terminal.expect("done'\r\ngo\r\n")
        terminal.type("\x1a")
        terminal.expect("Stopped")
        terminal.type("fg\n")
        terminal.expect("back\r\n")
        terminal.type("\x03")
        terminal.expect("# ")
        terminal.type("exit 5\n")
        assert terminal.wait() == 5
        assert terminal.settings() == terminal.untouched
    assert engine.container("box").exit_code == 5


RAW = """
import os, sys, termios, tty
tty.setraw(0)
os.write(1, b"ready")
while (key := os.read(0, 1)) != b"q":
    os.write(1, b"<%d>" % key[0])
"""


def test_a_program_in_raw_mode_gets_every_key(engine: Engine) -> None:
    keys = bytes(number for number in range(1, 128) if number not in (0x10, 0x11, ord("q")))
    words = ("run", "-it", "--rm", "host", sys.executable, "-I", "-S", "-c", RAW)
    with Terminal(lamina(*words)) as terminal:
        terminal.expect("ready")
        terminal.type(keys.decode())
        terminal.expect("".join(f"<{key}>" for key in keys))
        terminal.type("q")
        assert terminal.wait() == 0


def test_its_size_is_there_before_its_first_instruction(engine: Engine) -> None:
    for _ in range(5):
        with Terminal(
            lamina("run", "-t", "--rm", "tiny", "sh", "-c", "stty size"), size=(33, 44)
        ) as terminal:
            assert terminal.wait() == 0
            assert terminal.output.strip() == "33 44"


@pytest.mark.parametrize(("keys", "typed"), [(None, "\x10\x11"), ("ctrl-x,y", "\x18y"), ("Z", "Z")])
def test_detach_and_attach_again(engine: Engine, keys: str | None, typed: str) -> None:
    more = [] if keys is None else ["--detach-keys", keys]
    script = "echo ready; while read line; do echo got $line; done"
    with Terminal(lamina("run", "-it", *more, "--name", "box", "tiny", "sh", "-c", script)) as terminal:
        terminal.expect("ready\r\n")
        terminal.type("one\n")
        terminal.expect("got one\r\n")
        for key in typed:
            terminal.type(key)
            time.sleep(0.05)
        assert terminal.wait() == 0
        assert terminal.settings() == terminal.untouched
    box = engine.container("box")
    assert box.state == "running"
    with Terminal(lamina("attach", *more, "box")) as terminal:
        until(lambda: not terminal.settings()[3] & 0o10)  # raw: no ECHO of ours any more
        terminal.type("two\n")
        terminal.expect("got two\r\n")
        terminal.type(typed)
        assert terminal.wait() == 0
    assert box.state == "running"


def test_a_terminal_that_is_closed_leaves_the_container(engine: Engine) -> None:
    with Terminal(lamina("run", "-it", "--name", "box", "tiny", "sh")) as terminal:
        terminal.expect("# ")
        os.kill(terminal.pid, signal.SIGHUP)
        assert terminal.wait() == 128 + signal.SIGHUP
    assert engine.container("box").state == "running"


def test_a_client_that_is_killed_leaves_the_container(engine: Engine) -> None:
    with Terminal(lamina("run", "-it", "--name", "box", "tiny", "sh")) as terminal:
        terminal.expect("# ")
        os.kill(terminal.pid, signal.SIGKILL)
        terminal.wait()
    assert engine.container("box").state == "running"


# -- a supervisor that sleeps


def asleep(container: Container) -> bool:
    return Path(f"/proc/{supervisor_of(container)}/comm").read_text() == "lamina-idle\n"


def test_a_terminal_survives_that_its_supervisor_sleeps(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMINA_SUPERVISOR_IDLE", "0.05")
    script = "tty; while read line; do echo got $line; done"
    box = engine.start("tiny", ["sh", "-c", script], name="box", tty=True, interactive=True)
    until(lambda: said(box) == b"/dev/pts/0\r\n")
    for word in ("one", "two", "three"):
        until(lambda: asleep(box))
        with Terminal(lamina("attach", "--detach-keys", "Z", "box"), size=(20, 30)) as terminal:
            until(lambda: not terminal.settings()[3] & 0o10)
            terminal.type(f"{word}\n")
            terminal.expect(f"got {word}\r\n")
            terminal.type("Z")
            assert terminal.wait() == 0
    text = b"/dev/pts/0\r\n" + b"".join(b"%s\r\ngot %s\r\n" % (w, w) for w in (b"one", b"two", b"three"))
    until(lambda: said(box) == text)
    box.kill()
    assert box.wait() == 137


def test_who_attaches_wakes_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_SUPERVISOR_IDLE", "0.05")
    box = engine.start("tiny", ["cat"], name="box", interactive=True, log_driver="json-file")
    for word in (b"one", b"two"):
        until(lambda: asleep(box))
        with command("attach", "--sig-proxy=false", "box") as client:
            _typed(client, word + b"\n")
            assert client.stdout is not None
            assert client.stdout.readline() == word + b"\n"
            client.terminate()
            client.wait(100)
    assert said(box) == b"one\ntwo\n"


# -- a supervisor that is killed


def test_who_adopts_goes_on_with_the_log_and_with_those_who_attach(engine: Engine) -> None:
    script = "while read line; do echo got $line; done"
    box = engine.start("tiny", ["sh", "-c", script], name="box", interactive=True)
    for word in ("one", "two", "three"):
        with command("attach", "--sig-proxy=false", "box") as client:
            assert client.stdin is not None and client.stdout is not None
            _typed(client, f"{word}\n".encode())
            assert client.stdout.readline() == f"got {word}\n".encode()
            os.kill(supervisor := supervisor_of(box), signal.SIGKILL)
            assert client.wait(100) == 125
            assert client.stderr is not None
            assert b"what looked after it was killed; it runs on" in client.stderr.read()
        until(lambda: is_gone(supervisor))  # its connections are closed a moment before its locks
        engine.containers()
    assert said(box) == b"got one\ngot two\ngot three\n"
    box.kill()
    assert box.wait() == 137


def test_what_is_written_while_nobody_is_there_is_kept(engine: Engine, tmp_path: Path) -> None:
    """In the fifo, until somebody adopts it."""
    script = (
        f"for n in $(seq 300); do echo $n; done; until [ -e {tmp_path}/one ]; do sleep 0.02; done; echo more;"
        f" touch {tmp_path}/two; until [ -e {tmp_path}/three ]; do sleep 0.02; done; echo end"
    )
    box = engine.create("tiny", ["sh", "-c", script], name="box", volumes=[f"{tmp_path}:{tmp_path}"])
    box.start()
    until(lambda: said(box).endswith(b"\n300\n"))
    kill_supervisor(box)
    (tmp_path / "one").touch()
    until((tmp_path / "two").exists)
    assert not said(box).endswith(b"more\n")
    engine.containers(all=True)  # which adopts it
    (tmp_path / "three").touch()
    until(lambda: box.state == "exited")
    assert said(box) == b"".join(b"%d\n" % n for n in range(1, 301)) + b"more\nend\n"


# -- how much there ever is


@pytest.mark.parametrize("megabytes", [pytest.param(1024, marks=pytest.mark.slow), 64])
def test_a_gigabyte_through_both_ways(engine: Engine, megabytes: int) -> None:
    """What goes in comes out, to the byte, with a log that is rotated on the way."""
    engine.create(
        "tiny", ["cat"], name="box", interactive=True, stdin_once=True, log_opt=["max-size=1m", "max-file=2"]
    )
    block = os.urandom(1 << 20)
    sent, received = hashlib.sha256(), hashlib.sha256()
    with command("start", "-ai", "box", stderr=subprocess.DEVNULL) as client:
        assert client.stdin is not None and client.stdout is not None
        count = 0

        def feed() -> None:
            assert client.stdin is not None
            for number in range(megabytes):
                piece = number.to_bytes(8, "little") + block[8:]
                sent.update(piece)
                client.stdin.write(piece)
            client.stdin.close()

        feeder = threading.Thread(target=feed)
        feeder.start()
        while data := client.stdout.read1(1 << 20):  # type: ignore[attr-defined]
            received.update(data)
            count += len(data)
        feeder.join(200)
        assert client.wait(200) == 0
    assert count == megabytes << 20
    assert received.digest() == sent.digest()
