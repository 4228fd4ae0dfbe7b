"""Questions about the system at large; see `probe`."""

from __future__ import annotations

import os

from lamina.linux.probe import No, Yes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.capabilities import CapabilitySets
    from lamina.linux.probe import Answer, Host


def release(host: Host) -> str:
    """The kernel's release, as uname(2) gives it"""
    return os.uname().release


def kernel(host: Host) -> tuple[int, int, int]:
    """The kernel's version in numbers"""
    return _numbers(host.release)


def stable_release(host: Host) -> tuple[int, int, int]:
    """The stable release of Linux that the distribution made this kernel from"""
    # Debian calls the kernel 6.1.0-18-amd64 and names 6.1.76 in the build's version; Ubuntu has a file for it
    words = [*os.uname().version.split(), *(read_setting("/proc/version_signature") or "").split()[-1:]]
    for word in words:
        version = _numbers(word)
        if version[:2] == host.kernel[:2]:
            return max(version, host.kernel)
    return host.kernel


def machine(host: Host) -> str:
    """The processor architecture"""
    return os.uname().machine


def native(host: Host) -> Answer:
    """Whether Lamina's C extension was built: without it, starts are slower, most of all from large programs"""
    try:
        import lamina.linux._native  # noqa: F401
    except ImportError as error:
        return No(f"it was not built: {error}")
    return Yes()


def lsm(host: Host) -> tuple[str, ...]:
    """The security modules that are active"""
    try:
        with open("/sys/kernel/security/lsm") as file:
            return tuple(file.read().strip().split(","))
    except OSError:  # securityfs is not mounted here
        found = []
        if read_setting("/sys/module/apparmor/parameters/enabled") == "Y":
            found.append("apparmor")
        if os.path.exists("/sys/fs/selinux/enforce"):
            found.append("selinux")
        return tuple(found)


def uid(host: Host) -> int:
    """The user that containers would be run by"""
    return os.geteuid()


def capabilities(host: Host) -> CapabilitySets:
    """What the calling thread may do"""
    from lamina.linux.capabilities import capget

    return capget()


def bounding_set(host: Host) -> int:
    """Which capabilities can be had at all"""
    from lamina.linux import capabilities

    return capabilities.bounding_set()


def rlimits(host: Host) -> dict[str, tuple[int, int]]:
    """The resource limits: soft, hard (-1: none)"""
    import resource

    return {
        name: resource.getrlimit(getattr(resource, name))
        for name in sorted(vars(resource))
        if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
    }


def time_namespaces(host: Host) -> Answer:
    """Whether a container can have clocks of its own (boot time, monotonic)"""
    return _namespace(host, "time", "5.6")


def cgroup_namespaces(host: Host) -> Answer:
    """Whether a container can have a view of its own on control groups"""
    return _namespace(host, "cgroup", "4.6")


def _numbers(version: str) -> tuple[int, int, int]:
    """6.1.76-1 -> (6, 1, 76); what is not there is 0."""
    numbers = []
    for part in version.split(".", 2):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch


def _namespace(host: Host, name: str, since: str) -> Answer:
    if os.path.exists(f"/proc/self/ns/{name}"):
        return Yes(since)
    return No(f"kernel {host.release} has no {name} namespaces (since {since})")


def read_setting(path: str) -> str | None:
    """The text of a small file of the kernel, without white space around it; None if it cannot be read."""
    try:
        with open(path) as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return None
