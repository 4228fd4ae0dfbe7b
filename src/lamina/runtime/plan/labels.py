"""Labels of security modules (LSM): written where the next execve(2) takes them up, or refused where nobody reads them.

https://github.com/opencontainers/runtime-spec/blob/main/config.md#linux-process, apparmor(7), selinux(8)
"""

from __future__ import annotations

from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.plan.procfs import write_steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.linux.program import Step
    from lamina.runtime.bundle import Wiring

APPARMOR, SELINUX = "apparmor", "selinux"
UNCONFINED = "unconfined"
# file systems whose labels the kernel's own policy decides: the option is refused there
_OWN_LABELS = frozenset(("proc", "sysfs", "cgroup", "cgroup2"))


def label_steps(process: dict[str, Any], wiring: Wiring) -> list[Step]:
    """Write `apparmorProfile` and `selinuxLabel`. Raises Unsupported where the host has no such module."""
    steps: list[Step] = []
    profile, label = process.get("apparmorProfile"), process.get("selinuxLabel")
    if profile and not (profile == UNCONFINED and APPARMOR not in wiring.modules):
        _require(APPARMOR, f"confine by AppArmor profile {profile}", wiring)
        text = b"exec " + _text(profile, "apparmorProfile")
        steps += write_steps(wiring.proc, b"self/attr/apparmor/exec", text, note=f"AppArmor: {profile}")
    if label:
        _require(SELINUX, f"label the process {label}", wiring)
        text = _text(label, "selinuxLabel")
        steps += write_steps(wiring.proc, b"self/attr/exec", text, note=f"SELinux: {label}")
    return steps


def mount_label_option(label: str | None, fstype: str, wiring: Wiring) -> tuple[tuple[str, str], ...]:
    """The option that labels a new file system with `linux.mountLabel`."""
    if not label or fstype in _OWN_LABELS:
        return ()
    _require(SELINUX, f"label mounts {label}", wiring)
    # an overlay's options are read as mount(8) reads them: a label may have commas, between categories
    return (("context", f'"{label}"' if fstype == "overlay" else label),)


def _require(module: str, what: str, wiring: Wiring) -> None:
    if module not in wiring.modules:
        raise Unsupported(
            f"{what}: {'AppArmor' if module == APPARMOR else 'SELinux'} does not run on this host",
            remedy="start without it, or enable the module when booting (lsm=)",
        )


def _text(label: str, field: str) -> bytes:
    if any(character in label for character in "\0\n"):
        raise InvalidInput(f"read process.{field}: {label!r} is no label")
    return label.encode("utf-8", "surrogateescape")
