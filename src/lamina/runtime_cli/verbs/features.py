"""`lamina-runtime features`: what it can do here, from the tables that do it.

https://github.com/opencontainers/runtime-spec/blob/main/features.md
"""

from __future__ import annotations

import os
import sys

from lamina.argv.declare import Arguments, Verb
from lamina.document import encode
from lamina.linux import constants
from lamina.linux.capabilities import CAPABILITIES, last_cap
from lamina.linux.seccomp import has_filter_flag
from lamina.runtime.container.directory import OCI_VERSION
from lamina.runtime.hooks import MOMENTS
from lamina.runtime.plan.namespaces import FLAGS as NAMESPACES
from lamina.runtime.plan.options import option_names
from lamina.runtime.seccomp.architectures import ARCHITECTURES
from lamina.runtime.seccomp.rules import ACTIONS, OPERATORS
from lamina.runtime.seccomp.words import FLAGS
from lamina.runtime_cli.options import HELP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("features", (HELP,))


def do(args: Arguments) -> int:
    """Print the document; 0."""
    sys.stdout.write(encode(document()) + "\n")
    return 0


def document() -> dict[str, Any]:
    """The features document of this runtime on this host."""
    last = last_cap()
    flags = sorted(flag for flag in FLAGS if flag.startswith("SECCOMP_FILTER_FLAG_"))
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(MOMENTS),
        "mountOptions": option_names(),
        "linux": {
            "namespaces": sorted(NAMESPACES),
            "capabilities": [name for name, number in CAPABILITIES.items() if number <= last],
            "cgroup": {
                "v1": True,
                "v2": True,
                "systemd": True,
                "systemdUser": True,
                "rdma": True,
            },
            "seccomp": {
                "enabled": True,
                "actions": sorted(ACTIONS),
                "operators": sorted(OPERATORS),
                "archs": sorted(architecture.scmp for architecture in ARCHITECTURES),
                "knownFlags": flags,
                "supportedFlags": [flag for flag in flags if has_filter_flag(getattr(constants, flag))],
            },
            "apparmor": {"enabled": _module("apparmor")},
            "selinux": {"enabled": _module("selinux")},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {},
        "potentiallyUnsafeConfigAnnotations": [],
    }


def _module(name: str) -> bool:
    """Whether a security module runs here."""
    try:
        with open("/sys/kernel/security/lsm", "rb", buffering=0) as file:
            return name.encode() in file.read().strip().split(b",")
    except OSError:
        return os.path.isdir(f"/sys/kernel/security/{name}") or os.path.isdir(f"/sys/fs/{name}")
