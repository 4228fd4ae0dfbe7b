"""Questions about user namespaces and subordinate ids; see `probe`. user_namespaces(7), subuid(5), newuidmap(1)."""

from __future__ import annotations

import os
import stat
from errno import EINVAL, ENOSPC, ENOSYS, EPERM, EUSERS

from lamina.errors import KernelError, Unsupported
from lamina.linux import constants as c
from lamina.linux.probe import No, Yes
from lamina.linux.probe_system import read_setting
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.probe import Answer, Host

MAX_USER_NAMESPACES = "/proc/sys/user/max_user_namespaces"
UNPRIVILEGED_CLONE = "/proc/sys/kernel/unprivileged_userns_clone"
APPARMOR_RESTRICTION = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_SEARCH = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin")


@value
class IdRange:
    """A range of ids that a user may map into his user namespaces."""

    start: int
    count: int

    def __str__(self) -> str:
        return f"{self.start}-{self.start + self.count - 1}"


@value
class InUserNamespace:
    """What happened to a child in a user namespace of its own, as errnos (0: it worked).

    `made`: creating the namespace; `capable`: doing something there that takes CAP_SYS_ADMIN; `overlay`: configuring
    an overlay as far as is possible without mounting it.
    """

    made: int
    capable: int
    overlay: int


def in_user_namespace(host: Host) -> InUserNamespace:
    """What a child process may do in a user namespace of its own (0: no error)"""
    from lamina.linux.process import waitid
    from lamina.linux.program import Reg, Step, assemble

    anything = tuple(range(1, 128))
    context = Reg("overlay")
    steps = [
        Step("unshare", c.CLONE_NEWUTS, tolerate=anything),
        Step("fsopen", b"overlay", c.FSOPEN_CLOEXEC, save=context, tolerate=anything, skip=1),
        # no directories are given, so nothing can come of it but the answer: EPERM, or EINVAL
        Step("fsconfig", context, c.FSCONFIG_CMD_CREATE, None, None, 0, tolerate=anything),
    ]
    flags = c.CLONE_NEWUSER | c.CLONE_NEWNS | c.CLONE_VM | c.CLONE_VFORK
    try:
        child = assemble(steps).spawn(flags)
    except Unsupported:  # no numbers for this machine
        return InUserNamespace(ENOSYS, ENOSYS, ENOSYS)
    except OSError as error:
        errno = error.errno or EPERM
        return InUserNamespace(errno, errno, errno)
    with child.pidfd:
        try:
            waitid(c.P_PIDFD, child.pidfd)
        except KernelError:  # somebody else waits for all children of this program
            pass
        capable, opened, created = (-result if result < 0 else 0 for result in child.outcome().results)
    if created == EINVAL:  # it may be done; only it makes no sense without directories
        created = 0
    return InUserNamespace(0, capable, opened or created)


def user_namespaces(host: Host) -> Answer:
    """Whether this user can make user namespaces, and be root in them"""
    seen = host.in_user_namespace
    if not seen.made and not seen.capable:
        return Yes("3.8")
    if host.max_user_namespaces == 0:
        return No(
            "user.max_user_namespaces is 0" if os.path.exists(MAX_USER_NAMESPACES) else "the kernel has none"
        )
    if read_setting(UNPRIVILEGED_CLONE) == "0" and host.uid:
        return No("kernel.unprivileged_userns_clone is 0")
    if not host.apparmor_permits and host.uid:
        return No("AppArmor takes the privileges away: kernel.apparmor_restrict_unprivileged_userns is 1")
    if seen.made == ENOSYS:
        return No(f"kernel {host.release} has no clone3(2)")
    if seen.made in (ENOSPC, EUSERS):
        return No(
            "the limit of user namespaces is reached (user.max_user_namespaces, or 32 within each other)"
        )
    if seen.made == EPERM:
        return No("it is forbidden: a seccomp filter, a chroot, or the policy of a security module")
    return No(f"making one fails: {os.strerror(seen.made or seen.capable)}")


def max_user_namespaces(host: Host) -> int:
    """How many user namespaces each user may have"""
    return int(read_setting(MAX_USER_NAMESPACES) or 0)


def apparmor_permits(host: Host) -> Answer:
    """Whether AppArmor leaves ordinary programs their privileges in user namespaces (Ubuntu since 23.10 does not)"""
    setting = read_setting(APPARMOR_RESTRICTION)
    if setting in (None, "0"):
        return Yes()
    return No(f"kernel.apparmor_restrict_unprivileged_userns is {setting}")


def subordinate_uids(host: Host) -> tuple[IdRange, ...]:
    """The user ids that this user may map, besides the own (/etc/subuid)"""
    return subordinate_ids("/etc/subuid", os.getuid())


def subordinate_gids(host: Host) -> tuple[IdRange, ...]:
    """The group ids that this user may map, besides the own (/etc/subgid)"""
    return subordinate_ids("/etc/subgid", os.getuid())


def subordinate_ids(path: str, user: int) -> tuple[IdRange, ...]:
    """The ranges of a *user* in a file like /etc/subuid; lines that are none are passed over, as newuidmap(1) does."""
    names = {str(user), user_name(user)}
    found = []
    for line in (read_setting(path) or "").splitlines():
        owner, _, numbers = line.strip().partition(":")
        start, _, count = numbers.partition(":")
        if owner in names and start.isdecimal() and count.isdecimal() and int(count):
            found.append(IdRange(int(start), int(count)))
    return tuple(found)


def newuidmap(host: Host) -> Answer:
    """Whether the set-user-id program that maps subordinate user ids is there"""
    return _privileged_program("newuidmap")


def newgidmap(host: Host) -> Answer:
    """Whether the set-user-id program that maps subordinate group ids is there"""
    return _privileged_program("newgidmap")


def id_maps(host: Host) -> Answer:
    """Whether a container of this user can have more than one user id"""
    if host.uid == 0:
        return Yes()
    for ranges, file in ((host.subordinate_uids, "/etc/subuid"), (host.subordinate_gids, "/etc/subgid")):
        if not ranges:
            return No(f"{user_name(host.uid)} has no ids in {file}: a container of his has a single user")
    return host.newuidmap and host.newgidmap


def user_name(user: int) -> str:
    """The name of a user id; the number where it has none."""
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _privileged_program(name: str) -> Answer:
    path = _find(name)
    if path is None:
        return No(f"there is no {name}")
    status = os.stat(path)
    if status.st_mode & stat.S_ISUID and status.st_uid == 0:
        return Yes("", path)
    try:
        os.getxattr(path, "security.capability")
    except OSError:
        if os.geteuid() == 0:
            return Yes("", path)
        return No(f"{path} has lost its set-user-id bit")
    return Yes("", path)


def _find(name: str) -> str | None:
    for directory in (*os.environ.get("PATH", "").split(os.pathsep), *_SEARCH):
        path = os.path.join(directory or ".", name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None
