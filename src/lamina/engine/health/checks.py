"""What a health check is: docker's words, in an image's config and as options, read and put together.

Times are nanoseconds as in an image's config, where 0 means: as the image says, or else docker's default
(https://docs.docker.com/reference/dockerfile/#healthcheck).
"""

from __future__ import annotations

from lamina.errors import InvalidInput
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SECOND = 10**9
# docker's
INTERVAL, TIMEOUT, START_INTERVAL, RETRIES = 30 * SECOND, 30 * SECOND, 5 * SECOND, 3
SHELL = ("/bin/sh", "-c")
LEAST, MOST = 10**6, 10**9 * SECOND
# how often an image may have itself checked: it is not the image's processor that this takes
OFTEN = SECOND
MOST_RETRIES = (1 << 31) - 1
NONE, CMD, CMD_SHELL = "NONE", "CMD", "CMD-SHELL"
# podman's: what is done about one that is unhealthy
NOTHING, KILL, RESTART, STOP = "none", "kill", "restart", "stop"
ACTIONS = (NOTHING, KILL, RESTART, STOP)
TIMES = ("interval", "timeout", "start_period", "start_interval")


@value
class Healthcheck:
    """A check: `test` is docker's list, ("NONE",), ("CMD", word...) or ("CMD-SHELL", text); empty: as the image says.
    `on_failure` is one of ACTIONS.
    """

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0
    on_failure: str = ""


# -- what was asked


def read_health(asked: Mapping[str, Any]) -> Healthcheck | None:
    """The options `health_*` and `no_healthcheck` among *asked*; None where none is given. Raises InvalidInput."""
    given = {key.removeprefix("health_"): what for key, what in asked.items() if what is not None}
    off = bool(given.pop("no_healthcheck", False))
    if off:
        if given:
            raise InvalidInput(
                f"run: no_healthcheck and health_{min(given)} contradict each other",
                remedy="leave one of them out",
            )
        return Healthcheck((NONE,))
    if not given:
        return None
    found: dict[str, Any] = {}
    for key, what in given.items():
        if key == "cmd":
            found["test"] = _test(what)
        elif key in TIMES:
            found[key] = _time(what, f"health_{key}")
        elif key == "retries":
            found[key] = _retries(what)
        elif key == "on_failure":
            found[key] = _action(what)
        else:
            raise TypeError(f"run() got an unexpected keyword argument 'health_{key}'")
    return Healthcheck(**found)


def _test(given: Any) -> tuple[str, ...]:
    """A text is for the image's shell, as docker has it; a list, also written as JSON (podman), a command."""
    from lamina.engine.notation import listed, text_of

    if isinstance(given, str):
        text = text_of(given, "health command").strip()
        if text.lower() == "none":  # podman
            return (NONE,)
        words = _json(text)
        if words is None:
            return (CMD_SHELL, text) if text else ()
    else:
        words = [text_of(word, "health command") for word in listed(given, "health command")]
    if not words:
        return ()
    if words[0] not in (NONE, CMD, CMD_SHELL):
        words = [CMD, *words]
    if not is_test(words):
        raise InvalidInput(
            f"run: health command {given!r}: {words[0]} needs {'one text' if words[0] == CMD_SHELL else 'a command'}",
            remedy="such as 'curl -f http://localhost/'",
        )
    return tuple(words)


def is_test(words: list[str]) -> bool:
    """Whether docker could make something of it."""
    if words == [NONE]:
        return True
    if len(words) < 2 or not words[1]:
        return False
    return words[0] == CMD or (words[0] == CMD_SHELL and len(words) == 2)


def _json(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    import json

    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None  # `[ -e /ready ]` is a command
    if isinstance(found, list) and all(isinstance(word, str) and "\0" not in word for word in found):
        return found
    return None


def _time(given: Any, what: str) -> int:
    """Nanoseconds of a text such as `1m30s` or `500ms`, or of a number of seconds; 0 is: as the image says."""
    number = None
    if isinstance(given, str):
        from lamina.image.documents.duration import duration

        number = duration(given)
    elif isinstance(given, (int, float)) and not isinstance(given, bool) and 0 <= given < MOST:
        number = round(given * SECOND)
    if number is None or number > MOST:
        raise InvalidInput(f"run: {what} {given}: not a time", remedy="such as 30s, 1m30s or 500ms")
    if 0 < number < LEAST:
        raise InvalidInput(f"run: {what} {given}: the least is 1ms")
    return number


def _retries(given: Any) -> int:
    text = str(given).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= MOST_RETRIES):
        raise InvalidInput(f"run: health_retries {given}: not a number of times")
    return int(text)


def _action(given: Any) -> str:
    if given not in ACTIONS:
        raise InvalidInput(f"run: health_on_failure {given}: not one of {', '.join(ACTIONS)}")
    return str(given)


# -- what comes of it


def combined(
    asked: Healthcheck | None, image: Mapping[str, Any] | None, shell: list[str] | None
) -> tuple[dict[str, Any] | None, str]:
    """The entry `health` of a container's record, None where there is nothing, and a warning or "".

    *image* is the check in the image's config (what is not asked is as there), *shell* its shell. In the entry are the
    fields of Healthcheck, and `command`, what is executed, where there is a check. Raises InvalidInput where something
    was asked of a check that there is not.
    """
    said, warning = _of_image(image or {})
    own = asked or Healthcheck()
    test = own.test or said["test"]
    if not test:
        if asked is not None and asked != Healthcheck():
            raise InvalidInput(
                "run: a health check has no command, and the image has none either",
                remedy="name one: --health-cmd",
            )
        return None, warning
    found: dict[str, Any] = {"test": list(test), "on_failure": own.on_failure or NOTHING}
    for name in (*TIMES, "retries"):
        found[name] = getattr(own, name) or said[name]
    if test[0] == CMD:
        found["command"] = list(test[1:])
    elif test[0] == CMD_SHELL:
        found["command"] = [*(shell or SHELL), test[1]]
    elif own.on_failure not in ("", NOTHING):
        raise InvalidInput(
            f"run: health_on_failure {own.on_failure}: the image's health check is switched off"
        )
    return found, warning


def _of_image(image: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What an image says, which is hostile: what docker makes nothing of is nothing."""
    test = [str(word) for word in image.get("test") or ()]
    warning = ""
    if test and not is_test(test):
        warning = f"the image's health check is none that can be done ({test[0]!r}...): there is none"
        test = []
    found: dict[str, Any] = {"test": test}
    for name in (*TIMES, "retries"):
        number, least = image.get(name) or 0, 1 if name == "retries" else LEAST
        usable = isinstance(number, int) and number >= least
        found[name] = min(number, MOST_RETRIES if name == "retries" else MOST) if usable else 0
    for name in ("interval", "start_interval"):
        if test and 0 < found[name] < OFTEN:
            found[name] = OFTEN
            warning = f"the image's health check has a shorter {name} than a second: it is a second"
    return found, warning


def command_of(asked: Mapping[str, Any]) -> list[str] | None:
    """What the health check of the container with the record *asked* executes; None where there is none."""
    found: list[str] | None = (asked.get("health") or {}).get("command")
    return found


def seconds(check: Mapping[str, Any], name: str) -> float:
    """A time of the entry `health`, docker's default where nothing was said."""
    default = {"interval": INTERVAL, "timeout": TIMEOUT, "start_interval": START_INTERVAL}.get(name, 0)
    return float((check[name] or default) / SECOND)
