"""What `lamina info` tells: where the store is, and every answer of the host."""

from __future__ import annotations

import errno
import os

from lamina.linux.probe import Host, No, Yes, probe
from lamina.store.root import default_root
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.linux.probe_cgroups import Hierarchy


def architecture() -> str:
    """This machine's, as images have it: "amd64"."""
    from lamina.image.platform import current

    return current().architecture


@value
class Fact:
    """One answer about the host: `area` and `name` as the probe has them, `question` in words.

    `good` is whether the host can do it; None where the question is not one of yes or no, and `answer` is text.
    """

    area: str
    name: str
    question: str
    good: bool | None
    answer: str


def facts(host: Host | None = None) -> list[Fact]:
    """Every question there is, asked. Nothing on the host is changed."""
    found = [_default_network(), *_of_networks()] if host is None else []
    for area, name, question, answer in (host or probe()).everything():
        if isinstance(answer, Yes):
            since = f"since Linux {answer.since}" if answer.since else ""
            found.append(Fact(area, name, question, True, ", ".join(filter(None, (since, answer.note)))))
        elif isinstance(answer, No):
            found.append(Fact(area, name, question, False, answer.why))
        else:
            found.append(Fact(area, name, question, None, _text(name, answer)))
    return found


def _default_network() -> Fact:
    from lamina.engine.checking import VARIABLE
    from lamina.engine.default_network import usual

    named = os.environ.get(VARIABLE, "")
    network, why = (named, f"${VARIABLE}") if named else usual()
    question = "Which network has a container of an image for which none is named?"
    return Fact("network", "default", question, None, ": ".join(filter(None, (network, why))))


def _of_networks() -> list[Fact]:
    """Whether bridges can be had here, and what networks have changed for all of this host, or somebody else has."""
    from lamina.errors import KernelError
    from lamina.linux.nftables import dropping, generation_of, open_nftables
    from lamina.network.forwarding import FORWARDING, read

    settings = [
        f"net.{name.replace('/', '.')} = {setting}" for name in FORWARDING.values() if (setting := read(name))
    ]
    question = "Does this host pass packets on? (a network that is not internal has it do so)"
    found = [Fact("network", "forwarding", question, None, ", ".join(settings) or "there is no IP")]
    try:
        with open_nftables() as channel:
            generation_of(channel)
            others = dropping(channel, "forward")
    except KernelError as error:
        found.append(
            Fact("network", "nf_tables", "Rules of networks?", False, (error.strerror or "").lower())
        )
    else:
        found.append(Fact("network", "nf_tables", "Rules of networks?", True, ""))
        question = (
            "Does somebody's chain drop what is passed on? (containers of bridges then reach nobody outside)"
        )
        answer = ", ".join(others) or "none of nf_tables"
        found.append(Fact("network", "forward_policy", question, None, answer))
    return found


def operating_system() -> str:
    """What this system calls itself: os-release(5)."""
    import platform

    try:
        found = platform.freedesktop_os_release()
    except OSError:
        return "Linux"
    return found.get("PRETTY_NAME") or found.get("NAME") or "Linux"


def confinement() -> list[str]:
    """What confines containers here where nothing else is asked for, in docker's words."""
    return ["name=seccomp,profile=builtin", "name=cgroupns", *(["name=rootless"] if os.geteuid() else [])]


def store_path(root: str | bytes | None = None) -> str:
    """Where containers are kept; it need not exist yet."""
    return os.path.realpath(os.fsdecode(root if root is not None else default_root()))


def _text(name: str, answer: Any) -> str:
    if name in ("kernel", "stable_release"):
        return ".".join(map(str, answer))
    if name in ("capabilities", "bounding_set"):
        return _capabilities(answer if name == "bounding_set" else answer.effective)
    if name == "rlimits":
        return ", ".join(f"{key.removeprefix('RLIMIT_')} {_limits(*pair)}" for key, pair in answer.items())
    if name == "cgroup_hierarchies":
        return ", ".join(_hierarchy(tree) for tree in answer) or "none"
    if name == "in_user_namespace":
        refused = {key: errno.errorcode.get(code, str(code)) for key, code in vars(answer).items() if code}
        return ", ".join(f"{key}: {code}" for key, code in refused.items()) or "everything asked for"
    if isinstance(answer, dict):
        return ", ".join(f"{key} {setting}" for key, setting in answer.items())
    if type(answer) in (tuple, list):
        return ", ".join(map(str, answer)) or "none"
    return str(answer)


def _limits(soft: int, hard: int) -> str:
    said = ["unlimited" if number == -1 else str(number) for number in (soft, hard)]
    return said[0] if soft == hard else f"{said[0]} (at most {said[1]})"


def _hierarchy(tree: Hierarchy) -> str:
    what = "+".join(tree.controllers) or tree.name or "no controllers"
    return (
        f"v{tree.version} {what} at {os.fsdecode(tree.mount_point)}{'' if tree.writable else ' (read-only)'}"
    )


def _capabilities(mask: int) -> str:
    from lamina.linux.capabilities import CAPABILITIES

    missing = [name for name, number in CAPABILITIES.items() if not mask >> number & 1]
    if len(missing) == len(CAPABILITIES):
        return "none"
    if not missing:
        return "all"
    present = [name for name, number in CAPABILITIES.items() if mask >> number & 1]
    return f"all but {', '.join(missing)}" if len(missing) < len(present) else ", ".join(present)
