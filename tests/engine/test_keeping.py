"""What a container's record keeps is what was asked: options go into it and come back, errors cross processes."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina import errors
from lamina.document import encode
from lamina.engine import answers
from lamina.engine.checking import check_options
from lamina.engine.keeping import image_of, options_of, options_record
from lamina.engine.layers import uppers_of
from lamina.engine.mounted import record_of, volumes_of
from lamina.engine.options import BIND, OVER, RESTARTS, TMPFS, VOLUME, Options, Volume
from lamina.engine.restarting import (
    FIRST,
    LONGEST,
    is_restarted,
    is_started_with_the_machine,
    pause_after,
)
from lamina.errors import Corrupt, InvalidInput, KernelError, LaminaError, Unsupported
from lamina.values import replace

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
# as a path that is not UTF-8 is read from a command line
names = st.binary(min_size=1, max_size=12).filter(lambda data: b"\0" not in data)
paths = names.map(lambda data: b"/" + data)
pairs = st.lists(st.tuples(texts, texts), max_size=3).map(tuple)


def volumes() -> st.SearchStrategy[Volume]:
    flags = {"create": st.booleans(), "copy": st.booleans(), "chown": st.booleans()}
    kinds = st.sampled_from([BIND, OVER, TMPFS, VOLUME])
    options = st.lists(st.sampled_from(["ro", "rbind", "nosuid", "size=64k"]), max_size=3).map(tuple)
    return st.builds(
        Volume,
        source=paths,
        target=paths,
        options=options,
        kind=kinds,
        subpath=st.one_of(st.just(b""), names),
        **flags,
    )


def all_options() -> st.SearchStrategy[Options]:
    number = st.one_of(st.none(), st.integers(1, 2**62))
    return st.builds(
        Options,
        name=st.one_of(st.none(), texts),
        rm=st.booleans(),
        hostname=st.one_of(st.none(), texts),
        env=pairs,
        workdir=st.one_of(st.none(), names.map(lambda data: data.decode("utf-8", "surrogateescape"))),
        user=st.one_of(st.none(), texts),
        memory=number,
        cpu_quota=number,
        pids_limit=number,
        volumes=st.lists(volumes(), max_size=3).map(tuple),
        network=st.sampled_from(["none", "host"]),
        tty=st.booleans(),
        interactive=st.booleans(),
        read_only=st.booleans(),
        init=st.booleans(),
        entrypoint=st.one_of(st.none(), st.lists(texts, max_size=3).map(tuple)),
        labels=pairs,
        platform=st.one_of(st.none(), texts),
        new_privileges=st.booleans(),
        restart=st.tuples(st.sampled_from(RESTARTS), st.integers(0, 9)),
        stop_signal=st.one_of(st.none(), st.integers(1, 64)),
        stop_timeout=st.one_of(st.none(), st.integers(-1, 1000)),
        timeout=st.one_of(st.none(), st.floats(0.1, 1e6)),
        lifetime=st.sampled_from(["container", "owner"]),
    )


def stored(record: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from the disk."""
    found: dict[str, Any] = json.loads(encode(record))
    return found


def test_every_option_is_among_those_tried() -> None:
    tried = set(Options.__match_args__)
    assert {"volumes_from", "pull"} <= tried
    assert set(vars(Options())) == tried


@given(all_options())
def test_options_come_back_from_the_record(options: Options) -> None:
    record = stored({"id": "x", "options": options_record(options), "volumes": record_of(options.volumes)})
    assert options_of(record) == options


@given(st.lists(volumes(), max_size=4))
def test_volumes_come_back_from_the_record(found: list[Volume]) -> None:
    assert list(volumes_of(stored({"volumes": record_of(found)})["volumes"])) == found


def test_volumes_of_others_are_resolved_when_it_is_made() -> None:
    options = Options(volumes_from=(("other", "ro"),))
    assert options_of(stored({"options": options_record(options)})) == replace(options, volumes_from=())


def test_what_a_newer_lamina_wrote_is_not_started() -> None:
    record = {"id": "a" * 64, "options": {**options_record(Options()), "orbit": 1}}
    with pytest.raises(Unsupported, match="orbit"):
        options_of(record)
    with pytest.raises(Corrupt, match="no options"):
        options_of({"id": "a" * 64})


def test_a_container_over_the_host_has_no_image() -> None:
    assert image_of({"image": "host"}) is None
    image = image_of({"image_id": "b" * 64, "layers": ["c" * 64], "config": {"env": ["A=1"]}})
    assert image is not None
    assert (image.layers, image.run) == (("c" * 64,), {"env": ["A=1"]})


# -- what was asked


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("no", ("no", 0)),
        ("always", ("always", 0)),
        ("unless-stopped", ("unless-stopped", 0)),
        ("on-failure", ("on-failure", 0)),
        ("on-failure:5", ("on-failure", 5)),
        ("", ("no", 0)),
        (None, ("no", 0)),
    ],
)
def test_restart_policies(given: str | None, read: tuple[str, int]) -> None:
    assert check_options({"restart": given}).restart == read


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"restart": "sometimes"},
            "restart policy sometimes: not one of no, on-failure, always, unless-stopped",
        ),
        ({"restart": "always:3"}, "only on-failure takes a number"),
        ({"restart": "on-failure:x"}, "'x' is not a number of times"),
        ({"restart": "on-failure:-1"}, "'-1' is not a number of times"),
        ({"restart": "always", "rm": True}, "--rm and --restart contradict each other"),
        ({"stop_signal": "SIGNOTHING"}, "there is no signal"),
        ({"stop_signal": "0"}, "stop signal 0"),
        ({"stop_signal": "99"}, "there is no signal 99"),
        ({"stop_timeout": "soon"}, "stop timeout soon: not a number of seconds"),
        ({"stop_timeout": "-2"}, "stop timeout -2: not a number of seconds"),
        ({"timeout": "soon"}, "timeout soon: not a number of seconds"),
        ({"timeout": "nan"}, "timeout nan: not a number of seconds"),
        ({"timeout": -1}, "timeout -1: not a number of seconds"),
        ({"lifetime": "mine"}, "lifetime mine: not one of container, owner"),
    ],
)
def test_what_cannot_be_meant_is_said(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message.replace("(", r"\(")):
        check_options(asked)


def test_stop_signals_and_times() -> None:
    read = check_options({"stop_signal": "rtmin+3", "stop_timeout": "-1", "timeout": "1.5"})
    assert (read.stop_signal, read.stop_timeout, read.timeout) == (37, -1, 1.5)


# -- when it is started again


def test_pauses_double_up_to_a_minute_and_begin_anew_after_a_long_run() -> None:
    pauses, pause = [], 0.0
    for _ in range(12):
        pause = pause_after(pause, ran=0.2)
        pauses.append(round(pause, 3))
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, LONGEST, LONGEST]
    assert pause_after(51.2, ran=10) == FIRST


@pytest.mark.parametrize(
    ("policy", "status", "restarts", "stopped", "again"),
    [
        (("no", 0), 1, 0, False, False),
        (("on-failure", 0), 0, 0, False, False),
        (("on-failure", 0), 1, 99, False, True),
        (("on-failure", 3), 1, 2, False, True),
        (("on-failure", 3), 1, 3, False, False),
        (("on-failure", 3), 1, 0, True, False),
        (("always", 0), 0, 99, False, True),
        (("always", 0), 137, 0, True, False),
        (("unless-stopped", 0), 0, 0, False, True),
        (("unless-stopped", 0), 0, 0, True, False),
    ],
)
def test_policies(policy: tuple[str, int], status: int, restarts: int, stopped: bool, again: bool) -> None:
    assert is_restarted(policy, status, restarts, stopped=stopped) is again


@pytest.mark.parametrize(
    ("policy", "status", "restarts", "stopped", "begins"),
    [
        (("no", 0), 255, 0, False, False),
        (("always", 0), 0, 0, True, True),
        (("unless-stopped", 0), 0, 0, True, False),
        (("unless-stopped", 0), 0, 0, False, True),
        (("on-failure", 0), 255, 0, False, True),
        (("on-failure", 0), 0, 0, False, False),
        (("on-failure", 0), 143, 0, True, False),
        (("on-failure", 2), 1, 2, False, False),
    ],
)
def test_what_begins_with_the_machine(
    policy: tuple[str, int], status: int, restarts: int, stopped: bool, begins: bool
) -> None:
    assert is_started_with_the_machine(policy, status, restarts, stopped=stopped) is begins


# -- answers of another process

MADE: list[Callable[[], LaminaError]] = [
    lambda: errors.NotFound("container x: no such container", remedy="look"),
    lambda: errors.Conflict("name taken"),
    lambda: errors.InvalidInput("run: no"),
    lambda: errors.Unsupported("not here"),
    lambda: errors.CommandNotFound("execve", errno.ENOENT, index=3, message="execute x: no such command"),
    lambda: errors.CommandNotExecutable("execve", errno.EACCES, hint="a directory"),
    lambda: errors.MountError("mount", errno.EINVAL, "/x"),
    lambda: errors.KernelError("open", errno.ENOSPC, "/x", remedy="free some"),
    lambda: errors.RegistryError("said no", status=404, code="UNKNOWN"),
    lambda: errors.TimeoutExpired("late"),
]


@pytest.mark.parametrize("make", MADE)
def test_an_error_keeps_its_class_and_what_it_says(make: Callable[[], LaminaError]) -> None:
    error = make()
    error.add_note("and more")
    with pytest.raises(LaminaError) as raised:
        answers.decode(answers.encode({"error": answers.error_record(error)}))
    came = raised.value
    assert type(came) is type(error)
    assert (str(came), came.message, came.remedy, came.exit_code) == (
        str(error),
        error.message,
        error.remedy,
        error.exit_code,
    )
    assert came.__notes__ == ["and more"]
    kept = {key: value for key, value in vars(error).items() if isinstance(value, (str, int))}
    assert {key: vars(came).get(key) for key in kept} == kept
    if isinstance(error, KernelError):
        assert isinstance(came, KernelError)
        assert (came.errno, came.strerror, came.filename) == (error.errno, error.strerror, error.filename)


def test_a_fault_of_ours_and_one_of_the_kernel_are_told_apart() -> None:
    with pytest.raises(LaminaError, match="internal error: ZeroDivisionError: why"):
        answers.decode(answers.encode({"error": answers.error_record(ZeroDivisionError("why"))}))
    with pytest.raises(KernelError) as raised:
        answers.decode(answers.encode({"error": answers.error_record(OSError(errno.EMFILE, "x", b"/p\xff"))}))
    assert raised.value.errno == errno.EMFILE


@pytest.mark.parametrize("line", [b"", b'{"started": {}', b'{"error"'])
def test_an_answer_that_broke_off_is_an_error(line: bytes) -> None:
    with pytest.raises(LaminaError, match="ended before it had answered"):
        answers.decode(line)


@pytest.mark.parametrize("name", ["BaseException", "os", "__all__", "NoSuchError"])
def test_an_answer_names_no_class_but_ours(name: str) -> None:
    error = answers.error_of({"class": name, "message": "m"})
    assert type(error) is LaminaError


def test_the_uppers_of_a_record_that_was_just_made_are_found_as_well() -> None:
    """Its paths are bytes, and texts once it was read: a supervisor that starts it again has either."""
    made: list[dict[str, Any]] = [
        {"at": b"/", "upper": b"upper-0"},
        {"at": b"/home", "upper": b"upper-12"},
        {"at": b"/x", "upper": None},
    ]
    read = [{key: part and part.decode() for key, part in entry.items()} for entry in made]
    assert uppers_of(made) == uppers_of(read) == {b"/": 0, b"/home": 12}
