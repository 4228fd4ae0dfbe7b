"""What this host can do: every question asked once, answered Yes(since) or No(why).

    host = probe()
    host.overlay_lowerdir_plus      # Yes("6.8")    No("kernel 5.15.0: overlayfs takes lowerdir+ since 6.8")
    if host.cgroup_memory: ...      # answers are true or false

A question is asked when it is first read, so what a caller does not need costs nothing; `host.everything()` asks them
all. Asking changes nothing: not the caller's process, not the machine's mounts. Two answers (user namespaces, overlays
in them) take a child process that lives for a millisecond and runs no Python.

The questions are the functions in the probe_* modules; their docstrings say what is asked.
"""

from __future__ import annotations

import os

from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeAlias

    from lamina.linux.capabilities import CapabilitySets
    from lamina.linux.probe_cgroups import Hierarchy
    from lamina.linux.probe_users import IdRange, InUserNamespace

    Answer: TypeAlias = "Yes | No"


@value
class Yes:
    """The host can. `since` is the version of Linux that brought it ("" if that is not the point); `note` says more."""

    since: str = ""
    note: str = ""
    why = ""  # both kinds of answer can be asked for everything

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        since = f" (since {self.since})" if self.since else ""
        return f"yes{since}{', ' if self.note else ''}{self.note}"


@value
class No:
    """The host cannot, and `why`."""

    why: str
    since = note = ""

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"no: {self.why}"


# area: (module, questions); the order is that of `lamina info`
QUESTIONS: dict[str, tuple[str, str]] = {
    "system": (
        "probe_system",
        "release kernel stable_release machine native lsm uid capabilities bounding_set rlimits time_namespaces "
        "cgroup_namespaces",
    ),
    "calls": (
        "probe_calls",
        "clone3 clone_into_cgroup clone_clear_sighand pidfd_open pidfd_getfd pidfd_info pidfd_exit_status "
        "waitid_pidfd close_range openat2 seccomp seccomp_actions seccomp_notify keyrings landlock",
    ),
    "mounts": (
        "probe_calls",
        "mount_api mount_setattr idmapped_mounts move_mount_beneath statmount listmount statmount_options "
        "open_tree_attr",
    ),
    "overlay": (
        "probe_overlay",
        "overlay overlay_in_user_namespace overlay_lowerdir_plus overlay_layer_fds overlay_redirect_dir "
        "overlay_metacopy overlay_index overlay_xino overlay_nfs_export overlay_volatile overlay_userxattr "
        "overlay_uuid overlay_data_only overlay_verity overlay_xattr_whiteouts overlay_idmapped_layers "
        "overlay_override_creds overlay_defaults fuse",
    ),
    "users": (
        "probe_users",
        "user_namespaces in_user_namespace max_user_namespaces apparmor_permits subordinate_uids "
        "subordinate_gids newuidmap newgidmap id_maps",
    ),
    "cgroups": (
        "probe_cgroups",
        "cgroup_mode cgroup_hierarchies cgroup_memory cgroup_cpu cgroup_cpuset cgroup_pids cgroup_io cgroup_freeze "
        "cgroup_kill",
    ),
}
_HOMES = {name: module for module, names in QUESTIONS.values() for name in names.split()}


class Host:
    """This host's answers. An attribute is a question of QUESTIONS; it is asked when first read, and kept.

    `Host(overlay=No("..."))` knows some answers beforehand: that is how tests and plans for other hosts are made.
    """

    release: str
    kernel: tuple[int, int, int]
    stable_release: tuple[int, int, int]
    machine: str
    native: Answer
    lsm: tuple[str, ...]
    uid: int
    capabilities: CapabilitySets
    bounding_set: int
    rlimits: dict[str, tuple[int, int]]
    time_namespaces: Answer
    cgroup_namespaces: Answer

    clone3: Answer
    clone_into_cgroup: Answer
    clone_clear_sighand: Answer
    pidfd_open: Answer
    pidfd_getfd: Answer
    pidfd_info: Answer
    pidfd_exit_status: Answer
    waitid_pidfd: Answer
    close_range: Answer
    openat2: Answer
    seccomp: Answer
    seccomp_actions: tuple[str, ...]
    seccomp_notify: Answer
    keyrings: Answer
    landlock: Answer

    mount_api: Answer
    mount_setattr: Answer
    idmapped_mounts: Answer
    move_mount_beneath: Answer
    statmount: Answer
    listmount: Answer
    statmount_options: Answer
    open_tree_attr: Answer

    overlay: Answer
    overlay_in_user_namespace: Answer
    overlay_lowerdir_plus: Answer
    overlay_layer_fds: Answer
    overlay_redirect_dir: Answer
    overlay_metacopy: Answer
    overlay_index: Answer
    overlay_xino: Answer
    overlay_nfs_export: Answer
    overlay_volatile: Answer
    overlay_userxattr: Answer
    overlay_uuid: Answer
    overlay_data_only: Answer
    overlay_verity: Answer
    overlay_xattr_whiteouts: Answer
    overlay_idmapped_layers: Answer
    overlay_override_creds: Answer
    overlay_defaults: dict[str, str]
    fuse: Answer

    user_namespaces: Answer
    in_user_namespace: InUserNamespace
    max_user_namespaces: int
    apparmor_permits: Answer
    subordinate_uids: tuple[IdRange, ...]
    subordinate_gids: tuple[IdRange, ...]
    newuidmap: Answer
    newgidmap: Answer
    id_maps: Answer

    cgroup_mode: str
    cgroup_hierarchies: tuple[Hierarchy, ...]
    cgroup_memory: Answer
    cgroup_cpu: Answer
    cgroup_cpuset: Answer
    cgroup_pids: Answer
    cgroup_io: Answer
    cgroup_freeze: Answer
    cgroup_kill: Answer

    def __init__(self, **known: object) -> None:
        unknown = known.keys() - _HOMES.keys()
        if unknown:
            raise TypeError(f"Host: there is no question {sorted(unknown)}")
        self.__dict__.update(known)

    if not TYPE_CHECKING:  # or every misspelt question would have a type

        def __getattr__(self, name):
            home = _HOMES.get(name)
            if home is None:
                raise AttributeError(f"Host has no attribute {name!r}: there is no such question")
            answer = self.__dict__[name] = getattr(_module(home), name)(self)
            return answer

    def at_least(self, version: str) -> bool:
        """Whether the kernel calls itself *version* ("6.8") or later; distributions may have more than it says."""
        wanted = tuple(map(int, version.split(".")))
        return self.kernel[: len(wanted)] >= wanted

    def everything(self) -> Iterator[tuple[str, str, str, Any]]:
        """Every question in order, asked if need be: (area, name, what is asked, answer).

        An answer is Yes or No, or where the question is no yes-or-no question a plain value.
        """
        for area, (module, names) in QUESTIONS.items():
            for name in names.split():
                meaning = (getattr(_module(module), name).__doc__ or "").partition("\n")[0]
                yield area, name, meaning, getattr(self, name)


def _module(name: str) -> Any:
    return __import__(
        f"lamina.linux.{name}", fromlist=["QUESTIONS"]
    )  # importlib's own import costs a millisecond


_known: tuple[tuple[int, int], Host] | None = None


def probe() -> Host:
    """The host's answers, for this process and user; the same object each time, so that nothing is asked twice."""
    global _known
    me = os.getpid(), os.geteuid()  # a forked child may be somebody else, or somewhere else
    if _known is None or _known[0] != me:
        _known = me, Host()
    return _known[1]
