"""Run a function in a forked child that has namespaces of its own, and bring its result or exception back.

    result = in_mount_namespace(lambda: mount_and_look(tmp_path))
    in_user_namespace(walk_through, tmp_path)             # "rootless": full capabilities there, none outside

The function may be a closure (it is forked, not pickled); its result must be picklable. What it mounts is
gone with the child, even if the child is killed: nothing ever reaches the machine's own mount namespace.
Assertions, skips and Lamina's errors come back as themselves, with the child's traceback as a note. This is
test support, deliberately independent of `lamina.linux`: the thing under test does not build its own stage.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import pickle
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class ChildDied(Exception):
    """The child ended without a result: killed by a signal, or it called os._exit."""


class ChildTimeout(Exception):
    """The child did not finish in time and was killed (its stack is on stderr)."""


class ChildFailed(Exception):
    """The child raised something that cannot be sent back as itself; the text is its traceback."""


def in_mount_namespace(fn: Callable[..., T], *args: Any, timeout: float = 280.0, **kwargs: Any) -> T:
    """Call `fn(*args, **kwargs)` in a private mount namespace (needs root)."""

    def stage() -> None:
        _unshare(CLONE_NEWNS)
        _make_private()

    return _in_child(stage, None, fn, args, kwargs, timeout)


def in_user_namespace(
    fn: Callable[..., T],
    *args: Any,
    timeout: float = 280.0,
    uid: int | None = None,
    ids: int = 1,
    **kwargs: Any,
) -> T:
    """Call `fn(*args, **kwargs)` as root of a new user namespace, in a private mount namespace.

    By default the caller's own id becomes 0 there, so files of the caller (`tmp_path`) stay its own. `uid`
    (needs root) becomes that user first, really unprivileged: import what `fn` needs beforehand, and make the
    paths reachable. `ids` > 1 (needs root) maps that many ids, from the caller's on, so that chown works.
    """

    def stage() -> None:
        if uid is not None:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            _die_with_parent()
        _unshare(CLONE_NEWUSER | CLONE_NEWNS)

    base = os.getuid() if uid is None else uid

    def map_ids(pid: int) -> None:
        if os.getuid() != 0:
            Path(f"/proc/{pid}/setgroups").write_text("deny")
        Path(f"/proc/{pid}/uid_map").write_text(f"0 {base} {ids}")
        Path(f"/proc/{pid}/gid_map").write_text(f"0 {os.getgid() if uid is None else uid} {ids}")

    return _in_child(stage, map_ids, fn, args, kwargs, timeout)


def user_namespaces_work() -> bool:
    """Whether this machine lets this user make a user namespace and mount in it."""
    try:
        return in_user_namespace(lambda: True, timeout=100)
    except OSError:
        return False


def _unshare(flags: int) -> None:
    if _libc.unshare(ctypes.c_int(flags)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")


def _make_private() -> None:
    flags = ctypes.c_ulong(MS_REC | MS_PRIVATE)
    if _libc.mount(b"none", b"/", None, flags, None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount --make-rprivate /: {os.strerror(code)}")


def _die_with_parent() -> None:
    _libc.prctl(ctypes.c_int(PR_SET_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)


def _in_child(
    stage: Callable[[], None],
    map_ids: Callable[[int], None] | None,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    timeout: float,
) -> T:
    result_reader, result_writer = os.pipe()
    go_reader, go_writer = os.pipe()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    with warnings.catch_warnings():
        # 3.12+ warns of any fork beside threads (xdist has one); this child only runs Python code of ours
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(result_reader)
        os.close(go_writer)
        _child(stage, map_ids is not None, fn, args, kwargs, result_writer, go_reader)
    os.close(result_writer)
    os.close(go_reader)
    reaped = False
    try:
        chunks = _messages(result_reader, pid, timeout)
        packed = next(chunks, b"")
        if packed == b"s":  # staged: its user namespace waits for a map
            assert map_ids is not None
            map_ids(pid)
            os.write(go_writer, b"g")
            packed = b""
        packed += b"".join(chunks)
        _, status = os.waitpid(pid, 0)
        reaped = True
    finally:
        os.close(result_reader)
        os.close(go_writer)
        if not reaped:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if not packed:
        raise ChildDied(f"the child ended without a result, wait status {status:#x}")
    result: T = _unpack(packed)
    return result


def _messages(reader: int, pid: int, timeout: float) -> Iterator[bytes]:
    """What the child writes: first one byte by itself (staged, or the first of the result), then the rest."""
    deadline = time.monotonic() + timeout
    size = 1
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(pid, signal.SIGUSR1)  # "where are you?"
            time.sleep(0.2)
            raise ChildTimeout(f"the child (pid {pid}) did not finish in {timeout} s")
        data = os.read(reader, size)
        if not data:
            return
        size = 1 << 16
        yield data


def _child(
    stage: Callable[[], None],
    wait: bool,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    writer: int,
    go: int,
) -> None:
    gc.freeze()  # what the parent let go of in circles is never collected here: it may close descriptors, or complain
    try:
        os.setsid()
        _die_with_parent()
        with contextlib.suppress(Exception):
            faulthandler.register(signal.SIGUSR1, file=2)  # no timer thread: fn may unshare
        try:
            stage()
            if wait:
                os.write(writer, b"s")
                if os.read(go, 1) != b"g":
                    os._exit(1)
                _make_private()
            packed = _pack((True, fn(*args, **kwargs)))
        except BaseException as error:
            packed = _pack((False, _describe(error)))
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        view = memoryview(packed)
        while view:
            view = view[os.write(writer, view) :]
    finally:
        os._exit(0)


def _pack(outcome: tuple[bool, Any]) -> bytes:
    try:
        packed = pickle.dumps(outcome)
        _unpickled_error(outcome) if not outcome[0] else pickle.loads(packed)
        return packed
    except Exception:
        text = outcome[1][-1] if not outcome[0] else f"unpicklable result {outcome[1]!r}"
        kind = (ChildFailed.__module__, ChildFailed.__qualname__)
        return pickle.dumps((False, (kind, (text,), {}, (None, None, None), text)))


def _describe(error: BaseException) -> tuple[Any, ...]:
    """An exception as plain values: its own pickling calls the constructor, which needs other arguments."""
    text = "".join(traceback.format_exception(error))
    os_fields = (None, None, None)
    if isinstance(error, OSError):
        os_fields = (error.errno, error.strerror, error.filename)  # type: ignore[assignment]
    state = {}
    for name, field in vars(error).items():
        try:
            pickle.dumps(field)
        except Exception:
            field = repr(field)
        state[name] = field
    args = tuple(a if _picklable(a) else repr(a) for a in error.args)
    return (type(error).__module__, type(error).__qualname__), args, state, os_fields, text


def _picklable(something: Any) -> bool:
    try:
        pickle.loads(pickle.dumps(something))
    except Exception:
        return False
    return True


def _unpickled_error(outcome: tuple[bool, Any]) -> BaseException:
    (module, name), args, state, os_fields, text = outcome[1]
    kind: Any = sys.modules[module]
    if module == "builtins" and not hasattr(kind, name):  # pytest's skip and fail call themselves builtins
        kind = sys.modules["_pytest.outcomes"]
    for part in name.split("."):
        kind = getattr(kind, part)
    error: BaseException = kind.__new__(kind, *args) if issubclass(kind, OSError) else kind.__new__(kind)
    error.args = args
    for field, known in zip(("errno", "strerror", "filename"), os_fields, strict=True):
        if known is not None:  # an explicit filename=None would be printed
            setattr(error, field, known)
    error.__dict__.update(state)
    error.add_note(f"in the child:\n{text}")
    return error


def _unpack(packed: bytes) -> Any:
    ok, outcome = pickle.loads(packed)
    if ok:
        return outcome
    raise _unpickled_error((ok, outcome))
