"""What gives a container rights or takes them away: capabilities, security options, devices. Docker's notation, read
into the fields of `further.Further`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamina.engine.further import Device
from lamina.engine.notation import is_number, listed, text_of
from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.capabilities import ALL, capability

if TYPE_CHECKING:
    from typing import Any

LARGEST_PROFILE = 1 << 20
LARGEST_DEVICE = (1 << 32) - 1
BUILTIN, UNCONFINED = "builtin", "unconfined"
LABELS = ("user", "role", "type", "level")


def read_grant(key: str, given: Any, found: dict[str, Any]) -> bool:
    """Read the option *key* into the fields *found*; whether set-uid programs are to have effect."""
    if key in ("cap_add", "cap_drop"):
        found[key] = _capabilities(given, key)
    elif key == "devices":
        for entry in listed(given, "device"):
            _device(entry, found)
    elif key == "gpus":
        _gpus(given, found)
    elif key == "device_cgroup_rules":
        found["device_rules"] = tuple(_rule(entry) for entry in listed(given, "device rule"))
    else:
        return _security(given, found)
    return False


def _capabilities(given: Any, what: str) -> tuple[str, ...]:
    names = [text_of(entry, what).strip() for entry in listed(given, what)]
    words = [part for name in names for part in name.split(",")]
    return tuple(ALL if word.upper() in (ALL, f"CAP_{ALL}") else capability(word) for word in words)


# -- security options


def _security(given: Any, found: dict[str, Any]) -> bool:
    """`--security-opt KEY=VALUE`, or KEY:VALUE."""
    new_privileges = False
    for entry in listed(given, "security_opt"):
        text = text_of(entry, "security option")
        key, _, setting = text.partition("=") if "=" in text else text.partition(":")
        if key == "no-new-privileges":
            if setting.lower() not in ("", "true", "false"):
                raise InvalidInput(f"run: security option {text}: neither true nor false")
            new_privileges = setting.lower() == "false"
        elif key == "seccomp" and setting:
            found["seccomp"] = setting if setting in (BUILTIN, UNCONFINED) else read_profile(setting)
        elif key == "apparmor" and setting:
            found["apparmor"] = setting
        elif key == "label" and setting:
            found["label"] = (*found.get("label", ()), _label(setting, text))
        elif key in ("mask", "unmask") and setting:
            found[key] = (*found.get(key, ()), *_paths(setting, text, key))
        elif text == "systempaths=unconfined":
            found["unmask"] = (*found.get("unmask", ()), ALL)
        else:
            raise Unsupported(
                f"run: security option {text}: not supported so far",
                remedy="no-new-privileges, seccomp=, apparmor=, label=, mask=, unmask=, systempaths=unconfined",
            )
    return new_privileges


def _label(setting: str, text: str) -> str:
    if setting != "disable" and setting.partition(":")[0] not in LABELS:
        raise InvalidInput(
            f"run: security option {text}: not a label", remedy="disable, or user:, role:, type:, level:"
        )
    return setting


def _paths(setting: str, text: str, key: str) -> list[str]:
    """Several are parted by colons, as in podman."""
    if key == "unmask" and setting.upper() == ALL:
        return [ALL]
    paths = [path for path in setting.split(":") if path]
    if not paths or not all(path.startswith("/") for path in paths):
        raise InvalidInput(f"run: security option {text}: not a list of absolute paths")
    return ["/" + os.path.normpath(path).lstrip("/") for path in paths]


def read_profile(path: str) -> str:
    """The text of a seccomp profile, which the container keeps: a change of the file later changes nothing."""
    from lamina.runtime.seccomp.profile import resolve_profile

    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_PROFILE + 1)
    except OSError as error:
        raise InvalidInput(
            f"run: seccomp profile {path}: {(error.strerror or 'cannot be read').lower()}",
            remedy="name a file, builtin or unconfined",
        ) from None
    if len(data) > LARGEST_PROFILE:
        raise InvalidInput(f"run: seccomp profile {path}: larger than {LARGEST_PROFILE} bytes")
    from lamina.document import decode

    profile = decode(data, path)
    if "defaultAction" not in profile:
        raise InvalidInput(f"run: seccomp profile {path}: it has no defaultAction")
    try:
        resolve_profile(profile, ())
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"run: seccomp profile {path}: not a profile ({error})") from None
    return data.decode()


# -- devices


def _device(entry: Any, found: dict[str, Any]) -> None:
    """`--device /dev/fuse[:/dev/inside][:rwm]`, or the name of a device that a CDI file describes."""
    text = text_of(entry, "device")
    if not text.startswith("/") and "=" in text:
        found["cdi"] = (*found.get("cdi", ()), text)
        return
    source, *more = text.split(":")
    access = more.pop() if more and not more[-1].startswith("/") else "rwm"
    target = more.pop() if more else source
    paths = source.startswith("/") and target.startswith("/") and not more
    if not paths or not access or set(access) - set("rwm"):
        raise InvalidInput(
            f"run: device {text}: not DEVICE[:INSIDE][:ACCESS]",
            remedy="such as /dev/fuse or /dev/sdc:/dev/xvdc:r",
        )
    target = "/" + os.path.normpath(target).lstrip("/")
    found["devices"] = (*found.get("devices", ()), Device(source, target, access))


def _gpus(given: Any, found: dict[str, Any]) -> None:
    """`--gpus all|NUMBER|device=ID[,ID]`: of the first kind of GPU that a CDI file describes, as in podman."""
    from lamina.engine.cdi import gpu_names

    text = text_of(given, "gpus").strip('"')
    if text:
        found["cdi"] = (*found.get("cdi", ()), *gpu_names(text))


def _rule(entry: Any) -> str:
    """`--device-cgroup-rule 'c 42:* rmw'`."""
    text = text_of(entry, "device rule")
    kind, _, rest = text.partition(" ")
    numbers, _, access = rest.partition(" ")
    major, colon, minor = numbers.partition(":")
    known = all(part == "*" or (is_number(part) and int(part) <= LARGEST_DEVICE) for part in (major, minor))
    if kind not in ("a", "b", "c") or not colon or not known or not access or set(access) - set("rwm"):
        raise InvalidInput(
            f"run: device rule {text!r}: not TYPE MAJOR:MINOR ACCESS", remedy="such as 'c 42:* rmw'"
        )
    return text
