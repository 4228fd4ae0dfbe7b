"""Devices of vendors, as their CDI files describe them (Container Device Interface).

    /etc/cdi/*.json *.yaml, /var/run/cdi/...      kind "vendor.com/class", and what each device of it needs

A file in the second directory wins over one in the first.
https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lamina.document import decode
from lamina.engine.notation import is_number
from lamina.errors import InvalidInput, KernelError, NotFound, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Spec = dict[str, Any]

DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
LARGEST = 16 << 20
# what comes of a document that is made otherwise than the specification says
_OTHERWISE = (KeyError, TypeError, AttributeError, ValueError)
EDITS = frozenset(("env", "deviceNodes", "mounts", "hooks", "additionalGids", "intelRdt", "netDevices"))


def gpu_names(text: str) -> list[str]:
    """What `--gpus` means: "all", a number of them, or device=ID[,ID]. Raises NotFound, InvalidInput."""
    known = _known()
    kinds = sorted(kind for kind in known if kind.endswith("/gpu"))
    if not kinds:
        raise NotFound(
            f"run: gpus {text}: no file in {' or '.join(DIRECTORIES)} describes any",
            remedy="let the driver's tools write one (nvidia-ctk cdi generate)",
        )
    kind = kinds[0]
    names = [name for name in known[kind] if name != "all"]
    if text in ("all", "-1"):
        chosen = ["all"] if "all" in known[kind] else names
    elif is_number(text):
        chosen = names[: int(text)]
        if len(chosen) < int(text):
            raise NotFound(f"run: gpus {text}: there are {len(names)}")
    elif text.startswith("device="):
        chosen = text.removeprefix("device=").split(",")
    else:
        raise InvalidInput(f"run: gpus {text}: not all, a number or device=ID", remedy="such as --gpus all")
    return [f"{kind}={name}" for name in chosen]


def inject(spec: Spec, names: Iterable[str]) -> None:
    """Add to *spec* what the devices *names* ("vendor.com/class=name") need.

    Raises NotFound, InvalidInput, Unsupported.
    """
    known = _known()
    done: set[int] = set()
    for full in names:
        kind, _, name = full.partition("=")
        if name not in known.get(kind, {}):
            some = ", ".join(f"{kind}={one}" for kind in sorted(known) for one in known[kind])
            raise NotFound(
                f"run: device {full}: no CDI file describes it", remedy=some and f"there are {some}"
            )
        for edits, whose in known[kind][name]:
            if id(edits) not in done:  # what all devices of a file need is needed once
                done.add(id(edits))
                try:
                    _edit(spec, edits, whose)
                except _OTHERWISE as error:
                    raise _no_cdi_file(whose, error) from None


def _known() -> dict[str, dict[str, list[tuple[dict[str, Any], str]]]]:
    """By kind and name: the edits, and the file they are from."""
    found: dict[str, dict[str, list[tuple[dict[str, Any], str]]]] = {}
    for directory in DIRECTORIES:
        for path in _files(directory):
            document = _read(path)
            kind, common = str(document.get("kind") or ""), document.get("containerEdits") or {}
            try:
                for device in document.get("devices") or []:
                    edits = [(one, path) for one in (common, device.get("containerEdits") or {}) if one]
                    found.setdefault(kind, {})[str(device.get("name"))] = edits
            except _OTHERWISE as error:
                raise _no_cdi_file(path, error) from None
    return found


def _no_cdi_file(path: str, error: Exception) -> InvalidInput:
    return InvalidInput(f"read {path}: not a CDI file: {type(error).__name__} {error}")


def _files(directory: str) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [f"{directory}/{name}" for name in names if name.endswith((".json", ".yaml", ".yml"))]


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST)
    except OSError as error:
        raise KernelError("read CDI file", error.errno or 0, path) from None
    if path.endswith(".json"):
        document = decode(data, path)
    else:
        try:
            import yaml
        except ImportError:
            raise Unsupported(
                f"read {path}: Python's package PyYAML is not installed",
                remedy="pip install 'lamina[cdi]', or write the file as JSON",
            ) from None
        try:
            document = yaml.safe_load(data)
        except yaml.YAMLError as error:
            raise InvalidInput(f"read {path}: not YAML: {error}") from None
    well_formed = isinstance(document, dict) and "/" in str(document.get("kind") or "")
    if not well_formed or not isinstance(document.get("devices"), list):
        raise InvalidInput(f"read {path}: not a CDI file: it has no kind or no devices")
    return document


def _edit(spec: Spec, edits: dict[str, Any], whose: str) -> None:
    if unknown := edits.keys() - EDITS:
        raise Unsupported(f"read {whose}: containerEdits.{sorted(unknown)[0]} is not known")
    for field in ("hooks", "intelRdt", "netDevices"):
        if edits.get(field):
            raise Unsupported(f"read {whose}: containerEdits.{field} is not supported so far")
    process, linux = spec["process"], spec["linux"]
    process["env"] += [str(entry) for entry in edits.get("env") or []]
    groups = process["user"].setdefault("additionalGids", [])
    groups += [gid for gid in edits.get("additionalGids") or [] if gid and gid not in groups]
    for mount in edits.get("mounts") or []:
        spec["mounts"].append(
            {
                "destination": mount["containerPath"],
                "type": mount.get("type") or "bind",
                "source": mount["hostPath"],
                "options": list(mount.get("options") or ["rbind", "nosuid", "nodev", "ro"]),
            }
        )
    for node, access in _nodes(edits, whose):
        linux["devices"] = [*(linux.get("devices") or []), node]
        rules = linux["resources"].setdefault("devices", [{"allow": False, "access": "rwm"}])
        allowed = {key: node[key] for key in ("type", "major", "minor")}
        rules.append({"allow": True, **allowed, "access": access})


def _nodes(edits: dict[str, Any], whose: str) -> Iterator[tuple[dict[str, Any], str]]:
    from lamina.engine.amend import node_of

    for entry in edits.get("deviceNodes") or []:
        path = str(entry["path"])
        node = node_of(str(entry.get("hostPath") or path), path)
        if node is None and not {"type", "major", "minor"} <= entry.keys():
            raise NotFound(f"read {whose}: device {entry.get('hostPath') or path}: there is none")
        said = {
            key: entry[key] for key in ("type", "major", "minor", "fileMode", "uid", "gid") if key in entry
        }
        yield {**(node or {"path": path}), **said}, str(entry.get("permissions") or "rw")
