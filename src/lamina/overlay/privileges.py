"""What can be wrong with who mounts and with the machine, in the manner of `causes`."""

from __future__ import annotations

import os
import re
from errno import ENODEV

from lamina.overlay.causes import Case, Cause, setting_of
from lamina.overlay.directories import initial_user_namespace

# what the kernel allows to nobody but root of the initial user namespace: forged attributes could lead anywhere
_PRIVILEGED = (
    ("redirect_dir", "on"),
    ("redirect_dir", "follow"),
    ("metacopy", "on"),
    ("verity", "on"),
    ("verity", "require"),
)


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def not_allowed(case: Case) -> Cause | None:
    """Too little privilege to mount anything at all."""
    status = _read("/proc/self/status")
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.M)
    if found and not int(found[1], 16) >> 21 & 1:  # CAP_SYS_ADMIN
        if os.geteuid() == 0:
            return Cause(
                "this root has no CAP_SYS_ADMIN (it is that of a container, or gave it up)",
                "give the container CAP_SYS_ADMIN, or make a user namespace: unshare --user --map-root-user --mount",
            )
        return Cause(
            "only root may mount, or root of a user namespace",
            "run it as root, or with userxattr inside: unshare --user --map-root-user --mount",
        )
    for confinement in ("/proc/self/attr/apparmor/current", "/proc/self/attr/current"):
        if _read(confinement).startswith("unprivileged_userns"):
            return Cause(
                "AppArmor takes all privileges from user namespaces of ordinary users on this machine",
                "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile that allows userns",
            )
    return None


def privileged_option(case: Case) -> Cause | None:
    """An option that overlayfs refuses in user namespaces."""
    if initial_user_namespace():
        return None
    for option in _PRIVILEGED:
        if option in case.options.items():
            return Cause(
                f"{setting_of(option)} is only for root of the machine, not of a user namespace",
                f"leave {option[0]} away",
            )
    if case.spec.datadirs:
        return Cause(
            "data-only layers are only for root of the machine, not of a user namespace", "merge them first"
        )
    return None


def user_namespace(case: Case) -> Cause | None:
    """Allowed, but trusted.* attributes are kept for nobody but root of the initial user namespace."""
    if case.spec.upperdir is None or case.spec.userxattr or initial_user_namespace():
        return None
    return Cause(
        "in a user namespace overlayfs cannot keep its trusted.overlay.* attributes: removing and making again, or"
        " renaming a directory would fail",
        "add userxattr, to keep user.overlay.* instead",
    )


def work_not_writable(case: Case) -> Cause | None:
    """A workdir that the kernel cannot use, so that it mounts the stack read-only."""
    for directory in case.writable:
        if directory.role == "workdir":
            return Cause(
                f"the kernel could not make its own directory in {directory}, and would mount the stack read-only",
                "both must belong to the user who mounts (inside the user namespace), with space left on the disk",
            )
    return None


# -- the machine ---------------------------------------------------------------------------------------------------


def no_overlay(case: Case) -> Cause | None:
    """A kernel without overlayfs."""
    if re.search(r"^nodev\s+overlay$", _read("/proc/filesystems"), re.M) and case.errno == ENODEV:
        return None
    return Cause(
        "this kernel has no overlay file system",
        "modprobe overlay; or use a kernel with CONFIG_OVERLAY_FS",
    )


def no_room(case: Case) -> Cause | None:
    """As many mounts as a mount namespace may have."""
    if case.call not in ("move_mount", "mount", "fsmount"):
        return None
    most = _read("/proc/sys/fs/mount-max").strip()
    if most and len(case.table.mounts) + 1 >= int(most):
        return Cause(
            f"this mount namespace is full, it has {len(case.table.mounts)} mounts", "raise fs.mount-max"
        )
    return None


def no_descriptors(case: Case) -> Cause | None:
    """EMFILE, ENFILE."""
    return Cause("no file descriptors are left", "close some, or raise the limit (ulimit -n)")
