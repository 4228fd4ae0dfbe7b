"""What is wrong or weak on this host for running containers as this user, and the command that mends it.

The commands are those of Debian and Ubuntu. Nothing is changed here; the answers are the probe's (`lamina info`).
"""

from __future__ import annotations

import os

from lamina.engine.flaws import flaws_of
from lamina.errors import KernelError
from lamina.linux.capabilities import CAPABILITIES
from lamina.linux.probe import Host, probe
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCKS = "blocks"  # no container runs, or none of the usual kind
WEAK = "weak"  # they run, with less than could be had
NOTE = "note"  # good to know
LEVELS = (BLOCKS, WEAK, NOTE)


@value
class Finding:
    """Something to mend. `level` is BLOCKS, WEAK or NOTE; `what` is the matter; `effect` is what it keeps from working.

    `remedy` are shell commands for Debian and Ubuntu, one a line ("" if there are none); `advice` is what to do in
    words where commands do not suffice.
    """

    level: str
    what: str
    effect: str
    remedy: str = ""
    advice: str = ""


def doctor(root: str | bytes | None = None, host: Host | None = None) -> list[Finding]:
    """Examine this host for the calling user, and the directory *root* (by default the user's own) as the store.

    What blocks comes first; an empty list means that all is well. Nothing is changed on the host.
    """
    host = host or probe()
    found = [finding for check in CHECKS for finding in check(host)]
    found += _store(host, os.fsencode(root) if root is not None else None)
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


_REQUIRED = (
    "clone3", "clone_clear_sighand", "pidfd_open", "waitid_pidfd", "close_range", "openat2", "mount_api",
    "mount_setattr", "seccomp",
)  # fmt: skip
_NEWER_KERNEL = "sudo apt update && sudo apt full-upgrade && sudo reboot"


def _kernel(host: Host) -> Iterator[Finding]:
    missing = [(name, getattr(host, name)) for name in _REQUIRED if not getattr(host, name)]
    if not missing:
        return
    forbidden = any("forbidden" in answer.why for _, answer in missing)
    yield Finding(
        BLOCKS,
        "; ".join(dict.fromkeys(answer.why for _, answer in missing)),
        "no container can be started",
        remedy="" if forbidden else _NEWER_KERNEL,
        advice="run Lamina outside this container, or give the container --privileged"
        if forbidden
        else "Lamina needs Linux 5.12 (Debian 12 and Ubuntu 22.04 have a later one)",
    )


def _overlay(host: Host) -> Iterator[Finding]:
    if not host.overlay:
        yield Finding(
            BLOCKS,
            host.overlay.why,
            "no container can be started: its file system is an overlay",
            remedy="sudo modprobe overlay && echo overlay | sudo tee /etc/modules-load.d/lamina.conf",
            advice="if there is no such module, install a kernel that has it (linux-image-amd64, linux-generic)",
        )
    elif not host.overlay_lowerdir_plus:
        yield Finding(
            WEAK,
            host.overlay_lowerdir_plus.why,
            "all layers of a container together must fit into 4 KiB of mount options",
            remedy=_NEWER_KERNEL,
            advice="use Linux 6.8 or later",
        )


def _root_privileges(host: Host) -> Iterator[Finding]:
    if host.uid != 0:
        return
    if not host.capabilities.effective >> CAPABILITIES["CAP_SYS_ADMIN"] & 1:
        yield Finding(
            BLOCKS,
            "this root lacks CAP_SYS_ADMIN: it is the root of a container",
            "nothing can be mounted, so no container can be started",
            advice="run Lamina on the host, give the outer container --privileged, or run it as an ordinary user",
        )
    elif not host.bounding_set >> CAPABILITIES["CAP_SYS_RESOURCE"] & 1:
        yield Finding(
            NOTE,
            "this root lacks CAP_SYS_RESOURCE",
            "a container's hard limits cannot be above those of this process; they are lowered to them",
        )


def _setting(name: str, number: int) -> str:
    """Commands that change a kernel setting now and for good."""
    return f"echo {name}={number} | sudo tee /etc/sysctl.d/60-lamina.conf && sudo sysctl --system"


def _user_namespaces(host: Host) -> Iterator[Finding]:
    if host.user_namespaces:
        if not host.overlay_in_user_namespace and host.overlay and host.uid:
            why = host.overlay_in_user_namespace.why
            yield Finding(BLOCKS, why, "only root can start containers", remedy=_NEWER_KERNEL)
        return
    remedy = advice = ""
    if host.max_user_namespaces == 0:
        remedy = _setting("user.max_user_namespaces", 15000)
    elif "unprivileged_userns_clone" in host.user_namespaces.why:
        remedy = _setting("kernel.unprivileged_userns_clone", 1)
    elif not host.apparmor_permits:
        remedy = _setting("kernel.apparmor_restrict_unprivileged_userns", 0)
    else:
        advice = "run Lamina outside of the sandbox that it is in, or as root"
    if host.uid:
        effect = "this user cannot start containers: without root they need a user namespace"
        yield Finding(BLOCKS, f"user namespaces: {host.user_namespaces.why}", effect, remedy, advice)
    else:
        effect = "containers with users of their own cannot be started"
        yield Finding(WEAK, f"user namespaces: {host.user_namespaces.why}", effect, remedy, advice)


def _other_users(host: Host) -> Iterator[Finding]:
    """What root should know of the others: these settings do not concern root."""
    if host.uid == 0 and host.user_namespaces and not host.apparmor_permits:
        yield Finding(
            NOTE,
            f"AppArmor: {host.apparmor_permits.why}",
            "ordinary users of this host cannot start containers, root can",
            remedy=_setting("kernel.apparmor_restrict_unprivileged_userns", 0),
        )


def _id_maps(host: Host) -> Iterator[Finding]:
    if host.uid == 0 or not host.user_namespaces:
        return
    from lamina.linux.probe_users import user_name

    effect = "the users of a container are all this one: package managers, su and services fail in it"
    programs = [answer.why for answer in (host.newuidmap, host.newgidmap) if not answer]
    if programs:
        lost = [why.partition(" has lost")[0] for why in programs if "has lost" in why]
        remedy = f"sudo chmod u+s {' '.join(lost)}" if lost else "sudo apt install uidmap"
        yield Finding(WEAK, "; ".join(programs), effect, remedy=remedy)
    lacking = [
        (file, option, f"--add-sub{kind}s")
        for file, option, kind in (
            ("/etc/subuid", host.subordinate_uids, "uid"),
            ("/etc/subgid", host.subordinate_gids, "gid"),
        )
        if not option
    ]
    if lacking:
        first = _free_range()
        options = " ".join(f"{option} {first}-{first + 65535}" for _, _, option in lacking)
        yield Finding(
            WEAK,
            f"{user_name(host.uid)} has no subordinate ids in {' and '.join(file for file, _, _ in lacking)}",
            effect,
            remedy=f"sudo usermod {options} {user_name(host.uid)}",
        )


def _free_range(files: tuple[str, ...] = ("/etc/subuid", "/etc/subgid")) -> int:
    """Where 65,536 ids begin that nobody has; two users with the same ones could reach into each other's containers."""
    taken = []
    for path in files:
        try:
            with open(path, errors="replace") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        for line in lines:
            _, _, numbers = line.partition(":")
            start, _, count = numbers.strip().partition(":")
            if start.isdecimal() and count.isdecimal():
                taken.append((int(start), int(start) + int(count)))
    first = 100_000
    while over := [end for start, end in taken if start < first + 65_536 and first < end]:
        first += -(-(max(over) - first) // 65_536) * 65_536
    return first


_DELEGATE = (
    "sudo mkdir -p /etc/systemd/system/user@.service.d\n"
    "printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n'"
    " | sudo tee /etc/systemd/system/user@.service.d/lamina.conf\n"
    "sudo systemctl daemon-reload"
)


def _cgroups(host: Host) -> Iterator[Finding]:
    options = (
        ("--memory", host.cgroup_memory),
        ("--cpus", host.cgroup_cpu),
        ("--pids-limit", host.cgroup_pids),
    )
    missing = [(option, answer.why) for option, answer in options if not answer]
    if not missing:
        return
    remedy = advice = ""
    if host.cgroup_mode == "none":
        remedy = "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    elif host.uid and host.cgroup_mode == "v2":
        remedy = _DELEGATE
        advice = "log in again, and start lamina with `systemd-run --user --scope -p Delegate=yes lamina ...`"
    elif host.uid:
        advice = (
            "only cgroup v2 can be delegated to users: boot with systemd.unified_cgroup_hierarchy=1 on the kernel's "
            "command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then sudo update-grub && sudo reboot)"
        )
    elif any(option == "--memory" and "no memory" in why for option, why in missing):
        advice = "boot with cgroup_enable=memory on the kernel's command line"
    yield Finding(
        WEAK,
        missing[0][1] + (" (and others likewise)" if len(missing) > 1 else ""),
        f"{', '.join(option for option, _ in missing)} cannot be used",
        remedy=remedy,
        advice=advice,
    )


def _native(host: Host) -> Iterator[Finding]:
    if not host.native:
        yield Finding(
            WEAK,
            "Lamina was installed without its C extension",
            "starting a container takes several times as long, the more so the larger the calling program is",
            remedy="sudo apt install gcc libc6-dev python3-dev",
            advice="then install Lamina again",
        )


def _flaws(host: Host) -> Iterator[Finding]:
    version = ".".join(map(str, host.stable_release))
    for flaw in flaws_of(host):
        yield Finding(
            WEAK,
            f"kernel {host.release} ({version}) is from before {flaw.cve} was mended, unless the distribution did it",
            flaw.what,
            remedy=_NEWER_KERNEL,
        )


def _store(host: Host, root: bytes | None) -> Iterator[Finding]:
    from lamina.linux.probe_overlay import upper
    from lamina.store.root import default_root

    root = root or default_root()
    directory = os.path.abspath(root)
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    shown = os.fsdecode(root)
    elsewhere = "put the store on ext4, xfs, btrfs or tmpfs: export LAMINA_ROOT=DIRECTORY"
    try:
        answer = upper(directory, userxattr=host.uid != 0)
    except KernelError as error:
        yield Finding(
            BLOCKS,
            f"the store {shown} cannot be written to: {error}",
            "no container can be kept",
            "",
            elsewhere,
        )
        return
    if not answer:
        effect = "no container can be started: its writable layer has no place"
        yield Finding(BLOCKS, f"the store {shown}: {answer.why}", effect, "", elsewhere)
    space = os.statvfs(directory)
    if (free := space.f_bavail * space.f_frsize) < 1 << 30:
        what = f"the store {shown} has {free >> 20} MiB of free space left"
        yield Finding(
            WEAK,
            what,
            "containers may run out of space",
            "",
            "remove containers that are not needed: lamina rm",
        )


CHECKS: tuple[Callable[[Host], Iterator[Finding]], ...] = (
    _kernel, _overlay, _root_privileges, _user_namespaces, _other_users, _id_maps, _cgroups, _native, _flaws,
)  # fmt: skip
