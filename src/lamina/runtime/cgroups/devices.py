"""Which device nodes a container's processes may open or make: v1's files, v2's BPF program.

The specification's list counts in its order, a later entry over an earlier one; what no entry speaks of is denied, and
the devices that every container has (config-linux.md#default-devices) come last and are allowed, as in runc and crun.
An empty list asks for nothing; of a container of the runtime's that is `implied`, as in runc.
"""

from __future__ import annotations

import os
from errno import EPERM

from lamina.errors import InvalidInput, KernelError, Unsupported
from lamina.runtime.cgroups.resources import number, only
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from lamina.runtime.cgroups.cgroup import Cgroup

ANY = -1
_ACCESS = "rwm"


@value
class Rule:
    """`kind` "b", "c" or "a" (both); `major` and `minor` may be ANY; `access` letters of "rwm" in that order."""

    allow: bool
    kind: str
    major: int
    minor: int
    access: str

    def __str__(self) -> str:
        """As devices.list of v1 has it: devices.rst."""
        major, minor = ("*" if n == ANY else str(n) for n in (self.major, self.minor))
        return f"{self.kind} {major}:{minor} {self.access}"


# to make any node (what may be opened is another matter); null zero full random urandom tty console ptmx and terminals;
# net/tun (decision 0035)
DEFAULTS = (
    Rule(True, "c", ANY, ANY, "m"),
    Rule(True, "b", ANY, ANY, "m"),
    *[Rule(True, "c", 1, minor, "rwm") for minor in (3, 5, 7, 8, 9)],
    *[Rule(True, "c", 5, minor, "rwm") for minor in (0, 1, 2)],
    Rule(True, "c", 136, ANY, "rwm"),
    Rule(True, "c", 10, 200, "rwm"),
)
DENY_ALL = Rule(False, "a", ANY, ANY, "rwm")


def rules_of(entries: Iterable[dict[str, Any]]) -> list[Rule]:
    """The whole list for the specification's entries. Raises InvalidInput, Unsupported."""
    rules = [DENY_ALL]
    known = frozenset(("allow", "type", "major", "minor", "access"))
    for entry in entries:
        only(entry, known, "devices")
        kind = entry.get("type") or "a"
        if kind not in ("a", "b", "c", "u"):
            raise InvalidInput(f"limit devices: {kind!r} is no type of device (a, b, c, u)")
        access = "".join(letter for letter in _ACCESS if letter in str(entry.get("access") or _ACCESS))
        if not access or set(str(entry.get("access") or "")) - set(_ACCESS):
            raise InvalidInput(f"limit devices: {entry.get('access')!r} is no access (letters r, w and m)")
        kind = "c" if kind == "u" else kind  # unbuffered: another word for a character device (mknod(1))
        rules.append(
            Rule(bool(entry.get("allow")), kind, _node(entry, "major"), _node(entry, "minor"), access)
        )
    return [*rules, *DEFAULTS]


def _node(entry: dict[str, Any], key: str) -> int:
    found = number(entry, key, "devices")
    if found is None:
        return ANY
    if not ANY <= found < 1 << 31:
        raise InvalidInput(f"limit devices: {key} {found} is no device number")
    return found


def apply(cgroup: Cgroup, entries: Iterable[dict[str, Any]], *, running: bool = False) -> None:
    """Put the rules into force; *running*: without a moment in which something allowed is denied.

    Raises KernelError, Unsupported. In a user namespace, where no program can be loaded, a note says so.
    """
    rules = rules_of(entries)
    place = cgroup.paths.get("devices")
    if place is not None:
        _write_v1(place, rules, running)
        return
    place = cgroup.paths.get("")
    if place is None:
        raise Unsupported("limit devices: the container has no group of the devices controller")
    from lamina.runtime.cgroups.device_program import attach

    try:
        attach(place, rules)
    except KernelError as error:
        if error.errno != EPERM or not _in_user_namespace():
            raise
        # not even root of a user namespace may make nodes that lead to a device (mknod(2)), and its mounts are nodev
        cgroup.notes.append(
            "devices are not limited: no program may be loaded in a user namespace (nor can nodes be made in one)"
        )


def implied(nodes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the list is where it is absent: the default devices and *nodes* (`linux.devices`). An image can bring others
    along, and the root that a runtime is given need not be mounted nodev. In a user namespace nobody may limit devices.
    """
    if _in_user_namespace():
        return []
    given = [node for node in nodes if node["type"] != "p"]
    allowed = [{key: node.get(key) for key in ("type", "major", "minor")} for node in given]
    return [{"allow": False}, *({"allow": True, **node} for node in allowed)]


def apply_implied(cgroup: Cgroup, entries: Iterable[dict[str, Any]]) -> None:
    """Put `implied` into force where this host can; a note says where it cannot, for nobody asked."""
    try:
        apply(cgroup, entries)
    except (KernelError, Unsupported) as error:
        cgroup.notes.append(f"devices are not limited: {error}")


def _in_user_namespace() -> bool:
    with open("/proc/self/uid_map", "rb") as file:
        return os.geteuid() != 0 or file.read().split() != [b"0", b"0", b"4294967295"]


# -- v1


@value
class Exceptions:
    """What v1 keeps: a default and its exceptions, (kind, major, minor) -> access."""

    allow: bool
    exceptions: dict[tuple[str, int, int], str]


def reduce_rules(rules: Iterable[Rule]) -> Exceptions:
    """The list as v1 can hold it. Raises Unsupported for an exception from an exception, which it cannot."""
    default, exceptions = True, dict[tuple[str, int, int], str]()
    for rule in rules:
        if rule.kind == "a" and (rule.major, rule.minor, rule.access) == (ANY, ANY, _ACCESS):
            default, exceptions = rule.allow, {}
            continue
        for kind in "bc" if rule.kind == "a" else rule.kind:
            key = (kind, rule.major, rule.minor)
            if rule.allow is not default:
                exceptions[key] = _joined(exceptions.get(key, ""), rule.access)
            else:
                _take_back(exceptions, key, rule)
    return Exceptions(default, exceptions)


def _take_back(exceptions: dict[tuple[str, int, int], str], key: tuple[str, int, int], rule: Rule) -> None:
    for other, access in list(exceptions.items()):
        if not set(access) & set(rule.access):
            continue
        if _covers(key, other):
            left = "".join(letter for letter in access if letter not in rule.access)
            if left:
                exceptions[other] = left
            else:
                del exceptions[other]
        elif _overlaps(key, other):
            raise Unsupported(
                f"limit devices: cgroup v1 cannot except {rule} from {Rule(not rule.allow, *other, access)}",
                remedy="name the devices one by one",
            )


def _joined(one: str, other: str) -> str:
    return "".join(letter for letter in _ACCESS if letter in one or letter in other)


def _covers(wide: tuple[str, int, int], narrow: tuple[str, int, int]) -> bool:
    return all(w in (ANY, n) if isinstance(w, int) else w == n for w, n in zip(wide, narrow, strict=True))


def _overlaps(one: tuple[str, int, int], other: tuple[str, int, int]) -> bool:
    return all(a == b or ANY in (a, b) for a, b in zip(one, other, strict=True))


def lines_v1(wanted: Exceptions, now: Exceptions | None = None) -> list[tuple[str, str]]:
    """What to write, (file, text) in order: everything anew, or only what differs from *now*."""
    through, back = ("devices.deny", "devices.allow") if wanted.allow else ("devices.allow", "devices.deny")
    lines = []
    if now is None or now.allow is not wanted.allow or wanted.allow:  # which are denied cannot be read
        lines.append((back, "a"))
        now = Exceptions(wanted.allow, {})
    for key, access in wanted.exceptions.items():
        if new := _without(access, now.exceptions.get(key, "")):
            lines.append((through, str(Rule(True, *key, new))))
    for key, access in now.exceptions.items():
        if old := _without(access, wanted.exceptions.get(key, "")):
            lines.append((back, str(Rule(True, *key, old))))
    return lines


def _without(access: str, other: str) -> str:
    return "".join(letter for letter in access if letter not in other)


def read_v1(text: str) -> Exceptions:
    """What devices.list says: `a *:* rwm` when everything is allowed by default, else what is allowed."""
    exceptions = {}
    for line in text.splitlines():
        kind, numbers, access = line.split()
        if kind == "a":
            return Exceptions(True, {})
        major, minor = (ANY if n == "*" else int(n) for n in numbers.split(":"))
        exceptions[kind, major, minor] = access
    return Exceptions(False, exceptions)


def _write_v1(place: bytes, rules: list[Rule], running: bool) -> None:
    now = None
    if running:
        with open(place + b"/devices.list") as listed:
            now = read_v1(listed.read())
    files: dict[str, int] = {}  # a line is a call, but not each an open file
    try:
        for name, text in lines_v1(reduce_rules(rules), now):
            file_name = place + b"/" + name.encode()
            try:
                if name not in files:
                    files[name] = os.open(file_name, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
                os.write(files[name], text.encode())
            except OSError as error:
                hint = "the group above does not allow it" if error.errno == EPERM else ""
                raise KernelError(
                    f"write {text} to", error.errno or 0, os.fsdecode(file_name), hint=hint
                ) from error
    finally:
        for file in files.values():
            os.close(file)
