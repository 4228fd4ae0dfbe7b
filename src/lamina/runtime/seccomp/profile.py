"""Profiles: Docker's files, reduced to the `linux.seccomp` object of the OCI runtime specification.

Docker's (and podman's, and containerd's) profile files say more than the specification: rules hold only with or without
certain capabilities, architectures or kernels. What remains for one container is a plain list.
https://github.com/moby/profiles/tree/main/seccomp
https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from lamina.errors import InvalidInput
from lamina.runtime.seccomp.architectures import BY_NAME, native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    Profile = dict[str, Any]

DEFAULT = Path(__file__).with_name("default.json")
_PASSED_ON = ("defaultAction", "defaultErrnoRet", "flags", "listenerPath", "listenerMetadata")
_CONDITIONS = {"arches", "caps", "minKernel"}


def default_profile(capabilities: Collection[str], arch: str = "") -> Profile:
    """The default profile for a container with *capabilities*, in the specification's form."""
    return resolve_profile(json.loads(DEFAULT.read_bytes()), capabilities, arch)


def resolve_profile(
    profile: Profile, capabilities: Collection[str], arch: str = "", kernel: str = ""
) -> Profile:
    """Reduce *profile* to what holds with *capabilities* (CAP_* names, the bounding set), *arch* and *kernel*.

    *arch* is as of uname(2) ("x86_64"), *kernel* a release ("6.1.0-rc4"); both default to this machine's. A profile
    that is in the specification's form already comes back the same, but for its comments. Raises InvalidInput.
    """
    machine = BY_NAME[arch] if arch else native()
    release = _release(kernel or os.uname().release)
    reduced: Profile = {key: profile[key] for key in _PASSED_ON if key in profile}
    if "archMap" in profile and profile.get("architectures"):
        raise InvalidInput(
            "read seccomp profile: it has both architectures and archMap", remedy="keep one of them"
        )
    reduced["architectures"] = list(profile.get("architectures") or [])
    for entry in profile.get("archMap") or []:
        if entry["architecture"] == machine.scmp:
            reduced["architectures"] = [machine.scmp, *(entry.get("subArchitectures") or [])]
    reduced["syscalls"] = [
        _plain(rule)
        for rule in profile.get("syscalls") or []
        if _holds(rule, frozenset(capabilities), machine.docker, release)
    ]
    return reduced


def _plain(rule: Profile) -> Profile:
    if rule.get("name") and rule.get("names"):
        raise InvalidInput("read seccomp profile: a rule has both name and names", remedy="keep one of them")
    names = rule.get("names") or [rule.get("name")]
    kept = {"names": list(names), "action": rule["action"]}
    return {**kept, **{key: rule[key] for key in ("errnoRet", "args") if rule.get(key) not in (None, [])}}


def _holds(rule: Profile, capabilities: frozenset[str], arch: str, release: tuple[int, int]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if unknown := (includes.keys() | excludes.keys()) - _CONDITIONS:
        raise InvalidInput(f"read seccomp profile: unknown condition {sorted(unknown)[0]!r}")
    if (wanted := includes.get("arches")) and arch not in wanted:
        return False
    if any(capability not in capabilities for capability in includes.get("caps") or []):
        return False
    if (oldest := includes.get("minKernel")) and release < _release(oldest):
        return False
    if arch in (excludes.get("arches") or []):
        return False
    if any(capability in capabilities for capability in excludes.get("caps") or []):
        return False
    return not ((newest := excludes.get("minKernel")) and release >= _release(newest))


def _release(text: object) -> tuple[int, int]:
    """Of "6.1.0-rc4" what counts, also of "6" and "6-rc1", whose second number is 0."""
    found = re.match(r"(\d+)(?:\.(\d+)|(?![.\w]))", text) if isinstance(text, str) else None
    if found is None:
        raise InvalidInput(
            f"read seccomp profile: {text!r} is no kernel version", remedy='write it like "4.8"'
        )
    return int(found[1]), int(found[2] or 0)
