"""What a health check is: docker's notation, an image's config, and what comes of both; docker's rules for a result."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.engine.checking import check_options
from lamina.engine.health.checks import SECOND, Healthcheck, combined, read_health
from lamina.engine.health.results import HEALTHY, KEPT, STARTING, UNHEALTHY, Result, judged
from lamina.errors import InvalidInput
from lamina.image.documents.duration import duration

IMAGE = {"test": ["CMD-SHELL", "curl -f localhost"], "interval": 5 * SECOND, "retries": 7}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("1m30s", 90),
        ("500ms", 0.5),
        ("1.5h", 5400),
        ("1h0m2s", 3602),
        ("0", 0),
        ("0s", 0),
        (".5s", 0.5),
    ],
)
def test_a_time_is_written_as_in_go(text: str, seconds: float) -> None:
    assert duration(text) == seconds * SECOND


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1 s", "1x", "1.2.3s", "1s2", "٣s", "1e3s", "m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    assert duration(text) is None
    with pytest.raises(InvalidInput, match="health_interval"):
        read_health({"health_interval": text})


@pytest.mark.parametrize(
    ("given", "test"),
    [
        ("curl -f localhost", ("CMD-SHELL", "curl -f localhost")),
        ("none", ("NONE",)),
        ("NONE", ("NONE",)),
        ("[ -e /ready ]", ("CMD-SHELL", "[ -e /ready ]")),
        ('["CMD", "test", "-e", "/ready"]', ("CMD", "test", "-e", "/ready")),
        ('["CMD-SHELL", "true"]', ("CMD-SHELL", "true")),
        (["test", "-e", "/ready"], ("CMD", "test", "-e", "/ready")),
        (["NONE"], ("NONE",)),
    ],
)
def test_a_command_is_a_text_for_a_shell_or_a_list(given: Any, test: tuple[str, ...]) -> None:
    assert read_health({"health_cmd": given}) == Healthcheck(test)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"health_interval": "999us"}, "least is 1ms"),
        ({"health_interval": -1}, "not a time"),
        ({"health_timeout": float("nan")}, "not a time"),
        ({"health_timeout": 10**10}, "not a time"),
        ({"health_retries": "-1"}, "not a number of times"),
        ({"health_retries": 2.5}, "not a number of times"),
        ({"health_on_failure": "reboot"}, "not one of none, kill, restart, stop"),
        ({"health_cmd": ["CMD"]}, "needs a command"),
        ({"health_cmd": ["CMD-SHELL", "a", "b"]}, "needs one text"),
        ({"health_cmd": "a\0b"}, "NUL"),
        ({"no_healthcheck": True, "health_retries": 3}, "contradict"),
    ],
)
def test_a_wrong_value_is_named(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        check_options(asked)


def test_an_option_that_is_none_is_not_accepted() -> None:
    with pytest.raises(TypeError, match="health_colour"):
        check_options({"health_colour": "red"})


def test_what_is_not_asked_is_as_the_image_says() -> None:
    found, warning = combined(
        read_health({"health_retries": 2, "health_timeout": 1.5}), IMAGE, ["/bin/ash", "-c"]
    )
    assert found is not None
    assert not warning
    assert found["command"] == ["/bin/ash", "-c", "curl -f localhost"]
    assert (found["interval"], found["timeout"], found["retries"]) == (5 * SECOND, 1.5 * SECOND, 2)
    assert found["on_failure"] == "none"


def test_the_image_alone_is_enough_and_can_be_switched_off() -> None:
    assert combined(None, IMAGE, None)[0] is not None
    off, _ = combined(read_health({"no_healthcheck": True}), IMAGE, None)
    assert off is not None
    assert off["test"] == ["NONE"]
    assert "command" not in off
    assert combined(None, None, None) == (None, "")
    assert combined(None, {"test": ["NONE"]}, None)[0] is not None


def test_what_nobody_could_do_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no command"):
        combined(read_health({"health_interval": "5s"}), None, None)
    with pytest.raises(InvalidInput, match="switched off"):
        combined(read_health({"health_on_failure": "kill"}), {"test": ["NONE"]}, None)


@pytest.mark.parametrize(
    "image",
    [
        {"test": ["HTTP", "localhost"]},
        {"test": ["CMD"]},
        {"test": ["CMD-SHELL", "a", "b"]},
        {"test": [""]},
    ],
)
def test_an_images_check_that_docker_does_not_know_is_none(image: dict[str, Any]) -> None:
    found, warning = combined(None, image, None)
    assert found is None
    assert "none that can be done" in warning


def test_times_of_an_image_that_are_none_are_dockers_defaults() -> None:
    image = {**IMAGE, "interval": -5, "timeout": 1, "retries": -1, "start_period": 1 << 70}
    found, _ = combined(None, image, None)
    assert found is not None
    assert (found["interval"], found["timeout"], found["retries"]) == (0, 0, 0)
    assert found["start_period"] == 10**9 * SECOND


def test_an_image_cannot_have_itself_checked_all_the_time() -> None:
    image = {"test": ["CMD", "true"], "interval": 10**6, "start_interval": 10**6, "timeout": 10**6}
    found, warning = combined(None, image, None)
    assert found is not None
    assert (found["interval"], found["start_interval"], found["timeout"]) == (SECOND, SECOND, 10**6)
    assert "a second" in warning
    asked, warning = combined(
        read_health({"health_interval": "1ms", "health_start_interval": "1ms"}), image, None
    )
    assert asked is not None
    assert (asked["interval"], asked["start_interval"]) == (10**6, 10**6)


# -- results


def result(status: int, took: float = 0.0) -> Result:
    return Result(10**18, 10**18 + int(took * SECOND), status, "")


FRESH: dict[str, Any] = {"status": STARTING, "streak": 0, "log": []}


def states(codes: list[int], check: dict[str, Any], lives: float = 100.0) -> list[str]:
    record, found = FRESH, []
    for code in codes:
        record = judged(record, result(code), check, lives)
        found.append(record["status"])
    return found


def test_so_many_failures_in_a_row_are_unhealthy() -> None:
    assert states([1, 1, 0, 1, 1, 1, 0], {"retries": 3}) == [
        *(STARTING, STARTING, HEALTHY, HEALTHY, HEALTHY, UNHEALTHY, HEALTHY),
    ]
    assert states([1, 1, 1], {}) == [STARTING, STARTING, UNHEALTHY]  # docker's default


def test_failures_within_the_start_period_do_not_count() -> None:
    check = {"retries": 1, "start_period": 60 * SECOND}
    assert states([1, 1, 1], check, lives=50) == [STARTING] * 3
    assert states([1], check, lives=60) == [UNHEALTHY]
    # it is when a check begins that counts
    assert judged(FRESH, result(1, took=20), check, 70)["status"] == STARTING
    # nor after the first success
    assert states([0, 1], check, lives=50) == [HEALTHY, UNHEALTHY]


@given(st.lists(st.integers(-1, 3), max_size=20), st.integers(0, 4))
def test_any_history_ends_as_docker_has_it(codes: list[int], retries: int) -> None:
    record = FRESH
    for code in codes:
        record = judged(record, result(code), {"retries": retries}, 100)
    failed = 0
    for code in reversed(codes):
        if code == 0:
            break
        failed += 1
    assert record["streak"] == failed
    assert (record["status"] == UNHEALTHY) == (failed >= (retries or 3))
    assert [one["status"] for one in record["log"]] == codes[-KEPT:]
