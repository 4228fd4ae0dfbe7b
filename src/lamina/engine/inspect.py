"""Everything known of a container, in the words of `docker inspect`, so that templates and scripts carry over."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from lamina.engine.host_config import host_config, is_own_volume, volume_words
from lamina.engine.keeping import entrypoint_and_cmd, exposed_ports, one_by_one, publishable, said_of
from lamina.engine.options import TMPFS
from lamina.store.containers import DEAD, LIVING, PAUSED, RESTARTING, RUNNING
from lamina.store.successors import now_called

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.store.containers import Home

PROPAGATIONS = ("private", "rprivate", "slave", "rslave", "shared", "rshared")
NEVER = "0001-01-01T00:00:00Z"


def inspect(home: Home, asked: dict[str, Any]) -> dict[str, Any]:
    """The document of one container, whose record is *asked*. Raises Corrupt, NotFound."""
    from lamina.engine.settling import state_of

    state, end, status = home.read("state") or {}, home.read("exit") or {}, state_of(home)
    spec = home.read("spec") or _before_the_first_start(home, asked)
    command = [str(word) for word in asked["command"]]
    image = str(asked.get("image_id") or "")
    return {
        "Id": home.id,
        "Name": asked["name"],
        "Image": f"sha256:{now_called(home.store, image)}" if image else asked["image"],
        "Created": timestamp(asked["created"]),
        "Path": command[0],
        "Args": command[1:],
        "State": {**_state(status, state, end, home.read("failed") or {}), **_health(home, asked, status)},
        "RestartCount": (end or state).get("restarts", 0),
        "Platform": "linux",
        "Driver": "overlay2",
        **_labels(spec),
        **_own_files(home),
        "Config": _config(asked, spec),
        "HostConfig": host_config(asked),
        "NetworkSettings": _networks(home, asked, status),
        "Mounts": _mounts(asked, os.fsdecode(home.store.path)),
        "GraphDriver": {"Name": "overlay2", "Data": _directories(home, asked.get("overlays") or [])},
        "LogPath": _log_path(home, asked),
        "Warnings": [*(asked.get("warnings") or []), *(state.get("notes") or [])],
    }


def _state(status: str, state: dict[str, Any], end: dict[str, Any], failed: dict[str, Any]) -> dict[str, Any]:
    return {
        "Status": status,
        "Running": status in LIVING,
        "Paused": status == PAUSED,
        "Restarting": status == RESTARTING,
        "Dead": status == DEAD,
        "Pid": state.get("pid", 0) if status in (RUNNING, PAUSED) else 0,
        "ExitCode": end.get("status", failed.get("status", 0)),
        "Error": failed.get("message", ""),
        "OOMKilled": bool(end.get("oom_kills")),
        "TimedOut": bool(end.get("timed_out")),
        "StartedAt": timestamp(state.get("started")),
        "FinishedAt": timestamp(end.get("finished")),
    }


def _before_the_first_start(home: Home, asked: dict[str, Any]) -> dict[str, Any]:
    """What is known of its specification, which a start writes: but for HOME, which the image's files say."""
    from lamina.engine.translate import variables

    options, config = said_of(asked), asked.get("config") or {}
    hostname = str(options.get("hostname") or home.id[:12])
    env = variables(
        config.get("env") or (), options.get("env") or (), hostname=hostname, tty=bool(options.get("tty"))
    )
    return {
        "hostname": hostname,
        "domainname": (options.get("further") or {}).get("domainname") or "",
        "process": {
            "env": [f"{name}={text}" for name, text in env.items()],
            "cwd": options.get("workdir") or config.get("workdir") or "/",
        },
    }


def _config(asked: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    options, process = said_of(asked), spec.get("process") or {}
    return {
        "Hostname": spec.get("hostname", ""),
        "Domainname": spec.get("domainname", ""),
        "Tty": bool(options.get("tty")),
        "OpenStdin": bool(options.get("interactive")),
        "Env": process.get("env") or [],
        "WorkingDir": process.get("cwd") or "",
        "Labels": asked.get("labels") or {},
        "Image": asked["image"],
        **_of_image(asked, options),
        "Healthcheck": _healthcheck(asked),
        "HealthcheckOnFailureAction": (asked.get("health") or {}).get("on_failure") or "none",
        "StopSignal": _signal(asked.get("stop_signal")),
        "StopTimeout": asked.get("stop_timeout"),
    }


def _log_path(home: Home, asked: dict[str, Any]) -> str:
    from lamina.engine.logging import NONE, PASSTHROUGH, driver_of, path_of

    driver = driver_of(asked)
    return "" if driver in (NONE, PASSTHROUGH) else os.fsdecode(path_of(home.path, driver, home.id))


def _of_image(asked: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """What the image says, under what was asked."""
    config = asked.get("config") or {}
    entrypoint, words = entrypoint_and_cmd(asked, config.get("entrypoint") or ())
    places = [*(config.get("volumes") or ())]
    places += [one["target"] for one in asked.get("volumes") or () if is_own_volume(asked, one)]
    exposed = exposed_ports(options, config.get("exposed_ports") or ())
    return {
        "User": options.get("user") or config.get("user") or "",
        "Entrypoint": entrypoint or None,
        "Cmd": words or None,
        "Volumes": {path: {} for path in dict.fromkeys(places)} or None,
        "ExposedPorts": {port: {} for port in exposed} or None,
        "Shell": config.get("shell") or None,
        "OnBuild": config.get("onbuild") or None,
    }


def _labels(spec: dict[str, Any]) -> dict[str, str]:
    """What confines its processes, and labels its files, where it was asked for or the system has it."""
    process = spec.get("process") or {}
    return {
        "MountLabel": (spec.get("linux") or {}).get("mountLabel") or "",
        "ProcessLabel": process.get("selinuxLabel") or "",
        "AppArmorProfile": process.get("apparmorProfile") or "",
    }


def _directories(home: Home, overlays: list[dict[str, Any]]) -> dict[str, Any]:
    """All overlays of its root, and the directories of that at / by docker's names: `LowerDir` is top first, as for
    overlayfs. There is no `MergedDir`: where they are mounted nobody outside of the container sees them.
    """
    found: dict[str, Any] = {"Overlays": overlays}
    for one in overlays:
        if one.get("at") == "/":
            below = [
                os.path.normpath(os.path.join(home.path, os.fsencode(path)))
                for path in one.get("lower") or ()
            ]
            found["LowerDir"] = ":".join(map(os.fsdecode, below))
            for word, key in (("UpperDir", "upper"), ("WorkDir", "work")):
                if one.get(key):
                    found[word] = os.fsdecode(home.path) + "/" + one[key]
    return found


def _own_files(home: Home) -> dict[str, str]:
    """Where the files of /etc are that it has of its own, since it was started first."""
    found = {}
    for word, name in (
        ("ResolvConfPath", b"resolv.conf"),
        ("HostnamePath", b"hostname"),
        ("HostsPath", b"hosts"),
    ):
        path = home.path + b"/" + name
        found[word] = os.fsdecode(path) if os.path.exists(path) else ""
    return found


def _signal(given: Any) -> str:
    """Its name, or an image's own word for one that there is not."""
    from lamina.linux.signals import signal_name

    return signal_name(given) if isinstance(given, int) else str(given or "SIGTERM")


def healthcheck(kept: dict[str, Any] | None) -> dict[str, Any] | None:
    """A health check as an image's record keeps it, in docker's words."""
    if not kept:
        return None
    return {"".join(part.capitalize() for part in key.split("_")): text for key, text in kept.items() if text}


def _healthcheck(asked: dict[str, Any]) -> dict[str, Any] | None:
    """The check that it has, with what the image says where nothing else was asked."""
    own = asked.get("health")
    if own is None:
        return healthcheck((asked.get("config") or {}).get("healthcheck"))
    return healthcheck({key: what for key, what in own.items() if key not in ("command", "on_failure")})


def _health(home: Home, asked: dict[str, Any], status: str) -> dict[str, Any]:
    """`Health` with the last results, of one that has a check and was started."""
    if not asked.get("health"):
        return {}
    from lamina.engine.health.results import NONE, health_of, read

    health = health_of(home, asked, status)
    if health == NONE:
        return {}
    found = read(home) or {"streak": 0, "log": []}
    log = [
        {
            "Start": timestamp(one["start"]),
            "End": timestamp(one["end"]),
            "ExitCode": one["status"],
            "Output": one["output"],
        }
        for one in found["log"]
    ]
    return {"Health": {"Status": health, "FailingStreak": found["streak"], "Log": log}}


def _networks(home: Home, asked: dict[str, Any], status: str) -> dict[str, Any]:
    """What is exposed and not published is at no place, as in docker. What does not run has no address."""
    from lamina.engine.network_facts import settings_of

    said = said_of(asked)
    names = []
    if status not in LIVING:
        joined = (said.get("networking") or {}).get("joined") or ()
        names = [str(said.get("network") or "none"), *(str(one[0]) for one in joined)]
    own = [
        name for name in names if name not in ("none", "host") and not name.startswith(("container:", "ns:"))
    ]
    found = settings_of(home, own)
    return {**found, "Ports": {**dict.fromkeys(one_by_one(publishable(asked))), **found["Ports"]}}


def _mounts(asked: dict[str, Any], store: str) -> list[dict[str, Any]]:
    """What was mounted from elsewhere, in docker's words."""
    found = []
    for volume in asked.get("volumes") or ():
        name, options = volume.get("name"), volume["options"]
        source = f"{store}/volumes/{name}/_data" if name else volume["source"]
        found.append(
            {
                "Type": {"over": "bind"}.get(volume["kind"], volume["kind"]),
                **({"Name": name, "Driver": "local"} if name else {}),
                "Source": "" if volume["kind"] == "tmpfs" else source,
                "Destination": volume["target"],
                "Mode": _mode(asked, volume),
                "RW": not {"ro", "rro"} & set(options),
                "Propagation": "" if name else next((word for word in options if word in PROPAGATIONS), ""),
            }
        )
    return found


def _mode(asked: dict[str, Any], volume: dict[str, Any]) -> str:
    """What was typed; docker says "z" of a volume with a name where nothing was, and nothing of a tmpfs."""
    if volume["kind"] == TMPFS:
        return ""
    usual = "z" if volume.get("name") and not is_own_volume(asked, volume) else ""
    return ",".join(volume_words(volume)) or usual


def timestamp(nanoseconds: int | None) -> str:
    """RFC 3339 with nanoseconds, UTC; docker's year 1 for never."""
    if not nanoseconds:
        return NEVER
    seconds, rest = divmod(int(nanoseconds), 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
