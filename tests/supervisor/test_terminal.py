"""A terminal in the container feels like the user's own, which is afterwards as it was before."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator

import pytest

from lamina.linux import descriptors
from lamina.supervisor import pump
from lamina.supervisor.client import Attached, Client
from lamina.supervisor.foreground import Ended, attend
from lamina.supervisor.packets import SIZE
from lamina.supervisor.signals import Catcher
from lamina.supervisor.stdio import PIPE, Stdio
from lamina.supervisor.terminal import copy_size, is_terminal, size_of
from support.process import FakeContainer


class Desk:
    """A user's terminal: `screen` is the user's side, `tty` the program's."""

    def __init__(self) -> None:
        self.screen, self.tty = os.openpty()
        self.seen = b""

    def settings(self) -> list[object]:
        return list(termios.tcgetattr(self.tty))

    def type(self, text: bytes) -> None:
        os.write(self.screen, text)

    def expect(self, text: bytes, seconds: float = 100) -> bytes:
        """Wait until *text* is on the screen."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0, (text, self.seen)
            if select.select([self.screen], [], [], left)[0]:
                self.seen += os.read(self.screen, 65536)
        return self.seen

    def close(self) -> None:
        os.close(self.screen)
        os.close(self.tty)


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    termios.tcsetwinsize(made.tty, (33, 111))
    yield made
    made.close()


class Session:
    """A command with a terminal, attended in a thread."""

    def __init__(
        self, desk: Desk, *command: str, stdin: int | None = None, catcher: Catcher | None = None
    ) -> None:
        self.stdio = Stdio(desk.tty if stdin is None else stdin, desk.tty, None, tty=True)
        self.container = FakeContainer(command, self.stdio.child, tty=True)
        self.stdio.started(self.container.pty)
        self.ended: Ended | None = None
        self.error: BaseException | None = None
        self.catcher = catcher
        self.thread = threading.Thread(target=self._attend)

    def _attend(self) -> None:
        try:
            self.ended = attend(self.container, self.stdio, catcher=self.catcher)
        except BaseException as error:
            self.error = error

    def start(self) -> Session:
        self.thread.start()
        return self

    def end(self) -> Ended | None:
        self.thread.join(100)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.ended

    def close(self) -> None:
        self.container.close()
        self.thread.join(100)
        self.stdio.close()


@pytest.fixture
def sessions() -> Iterator[list[Session]]:
    made: list[Session] = []
    yield made
    for session in made:
        session.close()


def test_a_shell_answers_echoes_and_ends(desk: Desk, sessions: list[Session]) -> None:
    before = desk.settings()
    # this double of a container gets its size when somebody attends to it (a real one has it from the start)
    sized = "while test \"$(stty size)\" = '0 0'; do sleep 0.01; done; stty size"
    session = Session(desk, "sh", "-c", f"{sized}; read x; echo you said $x; exit 5")
    sessions.append(session.start())
    desk.expect(b"33 111")
    assert desk.settings() != before, "raw while it runs"
    desk.type(b"hello\r")
    desk.expect(b"you said hello\r\n")
    assert session.end() == Ended(5)
    assert b"hello\r\nyou said" in desk.seen, "echoed by the container's own terminal"
    assert desk.settings() == before


def test_ctrl_c_is_the_containers_business(desk: Desk, sessions: list[Session]) -> None:
    session = Session(
        desk, "sh", "-c", "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    )
    sessions.append(session.start())
    desk.expect(b"ready")
    desk.type(b"\x03")
    desk.expect(b"caught")
    assert session.end() == Ended(9)


def test_the_size_follows_the_users(desk: Desk, sessions: list[Session]) -> None:
    catcher = Catcher()
    try:
        session = Session(desk, "sh", "-c", "echo ready; read x; stty size", catcher=catcher)
        sessions.append(session.start())
        desk.expect(b"ready")
        termios.tcsetwinsize(desk.tty, (44, 122))
        os.kill(os.getpid(), signal.SIGWINCH)
        end = time.monotonic() + 100
        assert session.container.pty is not None
        while size_of(session.container.pty) != (44, 122):
            assert time.monotonic() < end
            time.sleep(0.01)
        desk.type(b"\r")
        desk.expect(b"44 122")
        assert session.end() == Ended(0)
    finally:
        catcher.close()


def signalled_once_something_was_typed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    """From now on poll(2) has already looked when the terminal gets another *size*, and sees what was typed alone."""
    really = descriptors.poll

    def late(wanted: list[tuple[int, int]], milliseconds: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = really(wanted, milliseconds)
        if any(events & select.POLLIN and os.path.sameopenfile(fd, desk.tty) for fd, events in found):
            termios.tcsetwinsize(desk.tty, size)
            signal.pthread_kill(threading.get_ident(), signal.SIGWINCH)
        return found

    monkeypatch.setattr(pump, "poll", late)


def test_another_size_is_there_before_what_is_typed_then(
    desk: Desk, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    catcher = Catcher()
    try:
        session = Session(desk, "sh", "-c", "echo ready; read x", catcher=catcher)
        feed, sizes = session.stdio.feed, []
        assert feed is not None

        def take(fd: int, most: int) -> bytes:
            assert session.container.pty is not None
            sizes.append(size_of(session.container.pty))
            return os.read(fd, most)

        feed.take = take
        signalled_once_something_was_typed(desk, monkeypatch, (44, 122))
        sessions.append(session.start())
        desk.expect(b"ready")
        desk.type(b"\r")
        assert session.end() == Ended(0)
        assert sizes[0] == (44, 122)
    finally:
        catcher.close()


def test_who_is_attached_says_another_size_before_what_is_typed_then(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    heard: list[bytes] = []

    def supervise() -> None:
        desk.type(b"x")
        heard.extend(theirs.recv(100) for _ in range(2))
        theirs.send(b'x{"status": 0}')

    signalled_once_something_was_typed(desk, monkeypatch, (44, 122))
    with theirs:
        theirs.settimeout(100)
        supervisor = threading.Thread(target=supervise)
        client = Client(ours.detach(), desk.tty, -1, -1, tty=True)
        supervisor.start()
        assert client.stay() == Attached(status=0)
        supervisor.join(100)
    assert heard == [b"r" + SIZE.pack(44, 122), b"ix"]


def test_the_terminal_is_restored_when_we_are_interrupted(desk: Desk, sessions: list[Session]) -> None:
    before = desk.settings()
    session = Session(desk, "sleep", "60")
    sessions.append(session)
    assert session.container.pty is not None

    def interrupt(_: int) -> int:
        raise KeyboardInterrupt

    session.container.wait = interrupt  # type: ignore[assignment]
    session.stdio.drains[0]._read = interrupt  # type: ignore[method-assign, assignment]
    session.start()
    time.sleep(0.2)
    os.write(session.container.pty, b"x")  # the echo is what it reads
    with pytest.raises(KeyboardInterrupt):
        session.end()
    assert desk.settings() == before


def test_a_megabyte_of_output_is_complete(desk: Desk, sessions: list[Session]) -> None:
    code = "import os\nfor n in range(20000): os.write(1, b'%049d\\n' % n)"
    session = Session(desk, sys.executable, "-I", "-S", "-c", code)
    sessions.append(session.start())
    desk.expect(b"%049d\r\n" % 19999)
    assert session.end() == Ended(0)
    assert desk.seen == b"".join(b"%049d\r\n" % n for n in range(20000))


def test_the_end_of_a_file_is_typed(desk: Desk, sessions: list[Session], tmp_path: object) -> None:
    """`lamina run -it ... < file` ends as it would if somebody typed the file and Ctrl-D, within a line too."""
    for text in (b"one\n", b"one\ntwo", b""):
        reader, writer = os.pipe()
        os.write(writer, text)
        os.close(writer)
        session = Session(desk, "sh", "-c", "stty -echo; cat; echo .end", stdin=reader)
        sessions.append(session.start())
        assert session.end() == Ended(0)
        os.close(reader)
        desk.expect(b".end")
        desk.seen = b""


def test_output_of_a_terminal_can_be_captured() -> None:
    stdio = Stdio(None, PIPE, None, data=b"typed\n", tty=True)
    container = FakeContainer(["sh", "-c", "read x; tty >/dev/null && echo got $x"], stdio.child, tty=True)
    stdio.started(container.pty)
    try:
        assert attend(container, stdio) == Ended(0)
        assert (stdio.captured(1) or b"").endswith(b"got typed\r\n")
    finally:
        container.close()
        stdio.close()


def test_what_is_no_terminal(desk: Desk) -> None:
    reader, writer = os.pipe()
    assert (size_of(reader), size_of(-1), size_of(10**6)) == (None, None, None)
    assert (is_terminal(desk.tty), is_terminal(reader), is_terminal(10**6)) == (True, False, False)
    copy_size(reader, desk.tty)
    assert size_of(desk.tty) == (33, 111)
    os.close(reader)
    os.close(writer)


def test_raw_mode_from_the_background_does_not_stop_us() -> None:
    """tcsetattr of a background process group is answered with SIGTTOU."""
    code = """if True:
        import os, signal, sys, termios, time
        from lamina.supervisor.terminal import RawTerminal
        os.setsid()
        tty = os.open(sys.argv[1], os.O_RDWR)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)  # a background group of the session
            before = termios.tcgetattr(tty)
            raw = RawTerminal(tty)
            assert termios.tcgetattr(tty) != before
            raw.restore()
            assert termios.tcgetattr(tty) == before
            os._exit(7)
        _, status = os.waitpid(child, os.WUNTRACED)
        os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)
    """
    desk = Desk()
    try:
        done = subprocess.run([sys.executable, "-c", code, os.ttyname(desk.tty)], timeout=200, check=False)
        assert done.returncode == 7
    finally:
        desk.close()
