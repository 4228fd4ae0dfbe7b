"""Configuration lists of CNI: where they are, which of them has a name, and whether one is as the specification has it.

https://github.com/containernetworking/cni/blob/main/SPEC.md (1.1.0), section 1; which file is taken is libcni's order.
"""

from __future__ import annotations

import os

from lamina.document import decode
from lamina.errors import InvalidInput, KernelError, NotFound, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PREFIX = "cni:"
# where configurations and plugins are, and what says otherwise (cnitool's words, libcni)
CONFIGURATIONS, PLUGINS = ("NETCONFPATH", ("/etc/cni/net.d",)), ("CNI_PATH", ("/opt/cni/bin", "/usr/lib/cni"))
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
CHECKED, WITH_STATUS = "0.4.0", "1.1.0"  # the first that have CHECK, and STATUS
_LISTS, _SINGLES, _PARTS = (".conflist",), (".conf", ".json"), (".conf",)  # in this order, as libcni has it
_BOOLEANS = {"true": True, "false": False}
_LARGEST = 1 << 20


def directories(of: tuple[str, tuple[str, ...]]) -> list[str]:
    """Where to look for them."""
    variable, usual = of
    given = [one for one in os.environ.get(variable, "").split(":") if one.startswith("/")]
    return given or list(usual)


def find(name: str) -> dict[str, Any]:
    """The configuration list called *name*: the first of them in the order of libcni, which is that of the files'
    names, lists before single configurations.

    Raises NotFound, InvalidInput for one that is none, Unsupported for its version.
    """
    known, unread = [], []
    for path in _files():
        found = _read(path)
        if found is None:
            unread.append(path)
            continue
        if found.get("name") == name:
            return _checked(found, path)
        known.append(str(found.get("name") or ""))
    where = ", ".join(directories(CONFIGURATIONS))
    raise NotFound(
        f"network {PREFIX}{name}: there is no such CNI configuration in {where}",
        remedy="; ".join(
            [f"there is {', '.join(sorted(filter(None, known)))}"] * any(known)
            + [f"{path} is no configuration that can be read" for path in unread]
        )
        or "put NAME.conflist there, or say in NETCONFPATH where there are some",
    )


def _files() -> list[str]:
    found = []
    for directory in directories(CONFIGURATIONS):
        for endings in (_LISTS, _SINGLES):
            found += _files_in(directory, endings)
    return found


def _files_in(directory: str, endings: tuple[str, ...]) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    paths = (f"{directory}/{name}" for name in names if name.endswith(endings))
    return [path for path in paths if not os.path.isdir(path)]


def _read(path: str) -> dict[str, Any] | None:
    """None of one that cannot be read: another one may be meant."""
    try:
        with open(path, "rb") as file:
            found = decode(file.read(_LARGEST), path)
    except (OSError, InvalidInput):
        return None
    if path.endswith(".conflist") or "plugins" in found:
        return found
    lifted: dict[str, Any] = {key: found[key] for key in ("cniVersion", "name") if key in found}
    return {**lifted, "plugins": [found]}


def _checked(found: dict[str, Any], path: str) -> dict[str, Any]:
    own = {key: _truth(found, key, path) for key in ("loadOnlyInlinedPlugins", "disableCheck")}
    plugins = found.get("plugins", [])
    if path.endswith(_LISTS) and not own["loadOnlyInlinedPlugins"] and isinstance(plugins, list):
        plugins = [*plugins, *map(_part, _files_in(f"{os.path.dirname(path)}/{found['name']}", _PARTS))]
    if not isinstance(plugins, list) or not plugins or not all(isinstance(one, dict) for one in plugins):
        raise InvalidInput(
            f"network {PREFIX}{found['name']}: {path} has no list of plugins",
            remedy='"plugins": [{"type": "bridge", ...}], as the specification of CNI has it',
        )
    for one in plugins:
        kind = one.get("type")
        if not isinstance(kind, str) or not kind or "/" in kind or kind in (".", ".."):
            raise InvalidInput(
                f"network {PREFIX}{found['name']}: {path}: {kind!r} is no name of a plugin",
                remedy='"type" is the name of a program in $CNI_PATH, such as "bridge", and no path',
            )
        if not isinstance(one.get("capabilities") or {}, dict):
            raise InvalidInput(
                f"network {PREFIX}{found['name']}: {path}: the capabilities of {kind} are no object",
                remedy='such as {"portMappings": true}, or leave it out',
            )
    others = found.get("cniVersions") or []
    offered = [found.get("cniVersion"), *(others if isinstance(others, list) else ())]
    version = max((one for one in offered if one in VERSIONS), default="")
    if not version:
        raise Unsupported(
            f"network {PREFIX}{found['name']}: {path} has cniVersion {found.get('cniVersion')!r}",
            remedy=f"supported: {', '.join(VERSIONS)}",
        )
    return {**found, **own, "plugins": plugins, "cniVersion": version}


def _truth(found: dict[str, Any], key: str, path: str) -> bool:
    """As libcni takes it: true, or "true"."""
    said = found.get(key, False)
    truth = _BOOLEANS.get(said.lower()) if isinstance(said, str) else said
    if not isinstance(truth, bool):
        raise InvalidInput(
            f"network {PREFIX}{found['name']}: {path}: {key} is neither true nor false",
            remedy=f'"{key}": true, or leave it out',
        )
    return truth


def _part(path: str) -> dict[str, Any]:
    """A plugin that is a file of its own."""
    try:
        with open(path, "rb") as file:
            return decode(file.read(_LARGEST), path)
    except OSError as error:
        raise KernelError("read", error.errno or 0, path) from error
