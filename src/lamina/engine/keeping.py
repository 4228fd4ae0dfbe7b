"""What the record of a container holds besides, if it stays after its end: for `inspect`, `diff` and `apply`."""

from __future__ import annotations

from lamina.engine.moment import moment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.design import Design
    from lamina.engine.options import Options

_ELSEWHERE = ("volumes", "labels")


def lasting(home: bytes, drawn: Design, options: Options) -> dict[str, Any]:
    """The further entries of the record of the container in the directory *home*. Raises OSError."""
    config = drawn.base.config
    return {
        "options": {key: given for key, given in vars(options).items() if key not in _ELSEWHERE},
        "config": {
            **dict(config.rest),
            "entrypoint": list(config.entrypoint),
            "cmd": list(config.cmd),
            "user": config.user,
            "volumes": list(config.volumes),
        },
        "made": _made(drawn),
        "moment": moment(home + b"/moment"),
    }


def _made(drawn: Design) -> list[str]:
    """Places that a start makes if they are missing: what is at them is none of the command's doing."""
    places = [mount["destination"] for mount in drawn.spec["mounts"]]
    return [*places, drawn.spec["process"]["cwd"]]
