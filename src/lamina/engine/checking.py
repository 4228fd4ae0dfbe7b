"""From what was asked of a container to its checked options.

On the path of every start, so what takes more than a look is read by `notation`, which is loaded for who uses it.
"""

from __future__ import annotations

import os

from lamina.engine.options import Options
from lamina.errors import InvalidInput
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from lamina.engine.networking import Joined
    from lamina.store.root import Store

HOST = "host"
VARIABLE = "LAMINA_NETWORK"
FLAGS = frozenset(("rm", "tty", "interactive", "read_only", "init", "auto_snapshot"))
NETWORKS = ("none", "host")
PULLS = ("missing", "always", "never")
NEVER = ("no", 0)
LOGGING = ("log_driver", "log_opt")
HEALTH, NO_HEALTH = "health_", "no_healthcheck"
SOURCES = ("volumes", "mounts", "tmpfs")


def with_default(
    store: Callable[[], Store],
    image: str,
    asked: Mapping[str, Any],
    setting: str | None,
    *,
    trying: bool = True,
) -> Options:
    """The checked form of RunOptions of a container over *image*, with the network that is usual where none is named:
    *setting*, or where that is None the one of the variable; where that is "" see `default_network`, as for *trying*.

    Raises as `check_options` and `default_network`.
    """
    if "network" in asked or image == HOST:
        return check_options(asked)
    named = os.environ.get(VARIABLE, "") if setting is None else setting
    if named:
        return check_options(asked, named)
    from lamina.engine.default_network import default_network

    network, warning = default_network(store, asked, trying=trying)
    checked = check_options(asked, network)
    return replace(checked, warnings=(warning,)) if warning else checked


def check_options(asked: Mapping[str, Any], network: str = "none") -> Options:
    """The checked form of RunOptions. *network* is the one where none is named.

    Raises InvalidInput or Unsupported, naming the option; TypeError for one that does not exist.
    """
    checked: dict[str, Any] = {}
    networks: tuple[Joined, ...] = ()
    if network != "none" and "network" not in asked:
        checked["network"], networks = _networks(network)
    rest: dict[str, Any] = {}
    for key, given in asked.items():
        if key in FLAGS:
            checked[key] = bool(given)
        elif key == "network":
            checked[key], networks = _networks(given)
        elif key == "pull":
            checked[key] = _pull(given)
        elif key.startswith(HEALTH) or key == NO_HEALTH:
            if "health" not in checked:
                from lamina.engine.health.checks import read_health

                checked["health"] = read_health(
                    {name: asked[name] for name in asked if name.startswith(HEALTH) or name == NO_HEALTH}
                )
        elif not _read(key, asked, checked):
            rest[key] = given
    if rest or networks:
        _read_rare(rest, checked, networks)
    if checked.get("volumes"):
        from lamina.engine.mount_notation import check_targets

        check_targets(checked["volumes"])
    if checked.get("rm") and checked.get("restart", NEVER) != NEVER:
        raise InvalidInput(
            "run: --rm and --restart contradict each other: what is removed is not started again",
            remedy="leave one out",
        )
    return Options(**checked)


def _read(key: str, asked: Mapping[str, Any], checked: dict[str, Any]) -> bool:
    """Read what takes more than a look into *checked*; False for what is asked too rarely to be known here."""
    from lamina.engine.notation import READERS, read_cpus, read_env

    given = asked[key]
    if key == "env":
        checked["env"] = read_env(given, os.environ)
    elif key == "cpus":
        checked["cpu_quota"] = read_cpus(given)
    elif key in READERS:
        checked[key] = READERS[key](given)
    elif key in SOURCES:
        from lamina.engine.mount_notation import READERS as MOUNTS

        checked["volumes"] = (*checked.get("volumes", ()), *MOUNTS[key](given))
    elif key == "volumes_from":
        from lamina.engine.mount_notation import read_volumes_from

        checked[key] = read_volumes_from(given)
    elif key in LOGGING:
        if "log" not in checked:
            from lamina.engine.logging import read_log_options

            checked["log"] = read_log_options(*map(asked.get, LOGGING))
    else:
        return False
    return True


def _read_rare(rest: dict[str, Any], checked: dict[str, Any], networks: tuple[Joined, ...]) -> None:
    """What is asked of networks and beyond the usual."""
    from lamina.engine.networking import KEYS as NETWORKING
    from lamina.engine.networking import Joined, read_networking

    if rest.keys() & NETWORKING or len(networks) > 1 or not all(one.is_plain for one in networks):
        linked = {key: rest.pop(key) for key in NETWORKING & rest.keys()}
        networks = networks or (Joined(checked.get("network", "none")),)
        checked["networking"] = read_networking(linked, networks)
    if rest:
        from lamina.engine.further import KEYS, read_further

        if unknown := rest.keys() - KEYS:
            raise _unexpected(min(unknown), (*KEYS, *NETWORKING))
        checked["further"], checked["new_privileges"] = read_further(rest)


def _unexpected(key: str, rare: tuple[str, ...]) -> TypeError:
    """In Python's words, with what was probably meant."""
    from lamina.engine.notation import READERS
    from lamina.engine.other_words import unexpected

    return unexpected(
        "run", key, (*READERS, *FLAGS, *SOURCES, *LOGGING, "network", "env", "cpus", "pull", *rare)
    )


def _networks(given: Any) -> tuple[str, tuple[Joined, ...]]:
    """The first network, and all of them with what was said of each, if that is more than one of NETWORKS."""
    if given in NETWORKS:
        return str(given), ()
    from lamina.engine.networking import read_networks

    found = read_networks(given)
    return found[0].network, found


def _pull(given: Any) -> str:
    if given not in PULLS:
        raise InvalidInput(f"run: pull {given}: not one of {', '.join(PULLS)}")
    return str(given)
