"""systemd as the manager of control groups: the container's are those of a transient scope, asked for over D-Bus.

systemd insists on being the only one who makes groups in what it manages (https://systemd.io/CGROUP_DELEGATION), so
where a distribution's tools say `--systemd-cgroup` the groups are made by it: a scope with `Delegate=yes`, below which
we may do as we like. `cgroupsPath` is `slice:prefix:name`, which names the scope `prefix-name.scope`. Limits that
systemd has a property for are told to it as well, for it writes its own idea of them into the files at every
`daemon-reload`; all of them are then written to the files, which can say more.

A scope without a process ends at once. Until the container's first process has joined, a process of ours lives in it
(`Keeper`), which ends with us, whatever happens.

D-Bus is spoken by jeepney (decision 0015), which is imported here and nowhere else.
"""

from __future__ import annotations

import os

from lamina.errors import Conflict, InvalidInput, LaminaError, TimeoutExpired, Unsupported
from lamina.runtime.cgroups.resources import settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from jeepney import DBusErrorResponse, Message
    from jeepney.io.blocking import DBusConnection

    from lamina.runtime.cgroups.cgroup import Cgroup
    from lamina.runtime.cgroups.layout import Layout
    from lamina.runtime.cgroups.resources import Resources, Setting

    Property = tuple[str, tuple[str, Any]]

MOST_BITS = 1 << 16  # of a list; no machine has so many processors or nodes
INFINITY = (1 << 64) - 1
_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = f"{_NAME}.Manager"
_TIMEOUT = 30.0


# -- names


def unit_of(path: str, *, user: bool) -> tuple[str, str]:
    """The slice and the scope's name for a `cgroupsPath`. Raises InvalidInput."""
    words = path.split(":")
    if len(words) != 3 or not words[2]:
        raise InvalidInput(
            f"make cgroup {path!r}: systemd as the manager takes slice:prefix:name",
            remedy="for example system.slice:lamina:box",
        )
    parent, prefix, name = words
    parent = parent or ("user.slice" if user else "system.slice")
    parent = "-.slice" if parent == "-" else parent
    stem = parent.removesuffix(".slice")
    if "/" in parent or not parent.endswith(".slice") or (stem != "-" and not all(stem.split("-"))):
        raise InvalidInput(f"make cgroup {path!r}: {parent!r} is no slice")
    unit = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    if name.endswith(".slice") or not all(c.isascii() and (c.isalnum() or c in ":-_.\\@") for c in unit):
        raise InvalidInput(f"make cgroup {path!r}: {unit!r} is no name of a scope")
    return parent, unit


# -- properties


def properties(wanted: dict[str, list[Setting]]) -> list[Property]:
    """systemd's properties for what is to be written, as far as it has them (systemd.resource-control(5))."""
    found: dict[str, tuple[str, Any]] = {}
    for made in wanted.values():
        for setting in made:
            file, text = setting[0], setting[1]
            if file in _AMOUNTS:
                if (amount := _amount(text)) is not None:
                    found[_AMOUNTS[file]] = ("t", amount)
            elif file in ("cpuset.cpus", "cpuset.mems"):
                name = "AllowedCPUs" if file == "cpuset.cpus" else "AllowedMemoryNodes"
                found[name] = ("ay", bit_mask(text))
            elif file == "cpu.max":
                quota, _, period = text.partition(" ")
                if (quota == "max" or quota.isdigit()) and (not period or period.isdigit()):
                    found.update(_quota(quota, period))
            elif file == "io.bfq.weight" and setting[3].startswith("default "):
                found["IOWeight"] = ("t", int(setting[3].split()[1]))
            elif file == "cpu.cfs_quota_us":
                period = {other[0]: other[1] for other in made}.get("cpu.cfs_period_us", "")
                found.update(_quota("max" if int(text) < 0 else text, period))
    return list(found.items())


_AMOUNTS = {
    "memory.max": "MemoryMax",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "cpu.weight": "CPUWeight",
    "pids.max": "TasksMax",
    # v1
    "memory.limit_in_bytes": "MemoryLimit",
    "cpu.shares": "CPUShares",
}


def _amount(text: str) -> int | None:
    """What the kernel's memparse() makes of it; None for nothing, which is the kernel's to refuse."""
    if text in ("max", "-1"):
        return INFINITY
    digits, power = (text[:-1], " KMGT".find(text[-1].upper())) if text[-1:].isalpha() else (text, 0)
    return int(digits) << 10 * power if digits.isascii() and digits.isdigit() and power >= 0 else None


def _quota(quota: str, period: str) -> Iterator[tuple[str, tuple[str, Any]]]:
    each = int(period or 100_000)
    if quota == "max":
        yield "CPUQuotaPerSecUSec", ("t", INFINITY)
    else:
        # systemd keeps whole percents: what is written to the file afterwards is exact
        yield "CPUQuotaPerSecUSec", ("t", -(-int(quota) * 1_000_000 // each // 10_000) * 10_000)
    if period:
        yield "CPUQuotaPeriodUSec", ("t", each)


def bit_mask(numbers: str) -> bytes:
    """A list of processors or nodes ("0-2,7") as the bits of bytes, lowest first."""
    mask = 0
    for word in numbers.replace(" ", "").split(","):
        first, dash, last = word.partition("-")
        if not all(_is_bit(one) for one in ((first, last) if dash else (first,))):
            raise InvalidInput(f"limit cpuset: {numbers!r} is no list of numbers")
        for bit in range(int(first), int(last or first) + 1):
            mask |= 1 << bit
    return mask.to_bytes((mask.bit_length() + 7) // 8 or 1, "little")


def _is_bit(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10 and int(text) < MOST_BITS


def _devices_v1(resources: Resources) -> Iterator[Property]:
    """v1: systemd writes devices.list anew at every reload, so it has to know what is allowed."""
    from lamina.runtime.cgroups.devices import ANY, reduce_rules, rules_of

    reduced = reduce_rules(rules_of(resources["devices"]))
    if reduced.allow:
        return  # its default
    allowed = []
    for (kind, major, minor), access in reduced.exceptions.items():
        word = "block" if kind == "b" else "char"
        if ANY not in (major, minor):
            allowed.append((f"/dev/{word}/{major}:{minor}", access))
        elif major == ANY and minor == ANY:
            allowed.append((f"{word}-*", access))
        else:
            name = _driver(word, major)
            if name:
                allowed.append((f"{word}-{name}", access))
    yield "DevicePolicy", ("s", "strict")
    yield "DeviceAllow", ("a(ss)", allowed)


def _driver(word: str, major: int) -> str:
    """The name of a major number in /proc/devices, which is what systemd calls all its nodes by."""
    with open("/proc/devices") as file:
        characters, _, blocks = file.read().partition("Block devices:")
    for line in (blocks if word == "block" else characters).splitlines():
        number, _, name = line.strip().partition(" ")
        if number == str(major):
            return name
    return ""


# -- what keeps a scope alive


class Keeper:
    """A process that does nothing until `close()`, or until this program ends."""

    def __init__(self) -> None:
        theirs, ours = os.pipe()
        try:
            self.pid = os.posix_spawn(
                "/bin/cat",
                ["cat"],
                {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
                ],
                setsid=True,  # a ^C is not for it
            )
        except OSError as error:
            os.close(ours)
            raise Unsupported(f"make a scope: /bin/cat cannot be executed: {error.strerror}") from error
        finally:
            os.close(theirs)
        self._pipe = ours

    def close(self) -> None:
        """End it."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:
                pass  # somebody in this program waits for any child


# -- conversation


class _Systemd:
    """A connection to the manager: the system's, or the user's."""

    def __init__(self, *, user: bool) -> None:
        try:
            from jeepney.io.blocking import open_dbus_connection
        except ImportError as error:
            raise Unsupported(
                "ask systemd: the Python package jeepney is not installed",
                remedy="pip install 'lamina[systemd]', or use the cgroupfs manager",
            ) from error
        try:
            self.bus: DBusConnection = open_dbus_connection(_user_bus() if user else "SYSTEM")
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            which = "this user's" if user else "the system's"
            raise Unsupported(
                f"ask systemd: {which} bus cannot be reached: {error}",
                remedy="is systemd the init system here, and dbus installed? Else use the cgroupfs manager",
            ) from error

    def __enter__(self) -> _Systemd:
        return self

    def __exit__(self, *_: object) -> None:
        self.bus.close()

    def call(self, method: str, signature: str = "", *arguments: Any) -> tuple[Any, ...]:
        """Call a method of the manager. Raises jeepney's DBusErrorResponse when it says no."""
        from jeepney import DBusAddress, new_method_call

        address = DBusAddress(_PATH, bus_name=_NAME, interface=_MANAGER)
        return self._ask(new_method_call(address, method, signature, arguments))

    def control_group(self, unit: str) -> str:
        """Where a scope is, from the root of the hierarchy."""
        from jeepney import DBusAddress, DBusErrorResponse, Properties

        try:
            (path,) = self.call("GetUnit", "s", unit)
            scope = DBusAddress(path, bus_name=_NAME, interface=f"{_NAME}.Scope")
            ((_, place),) = self._ask(Properties(scope).get("ControlGroup"))
        except DBusErrorResponse as answer:  # it has ended already
            raise _refused(f"look at {unit}", answer) from answer
        return str(place)

    def job(self, method: str, signature: str, *arguments: Any) -> str:
        """Call a method that starts a job, wait until that is done, and return how it ended ("done")."""
        from collections import deque

        from jeepney import MatchRule, message_bus

        rule = MatchRule(type="signal", sender=_NAME, interface=_MANAGER, member="JobRemoved", path=_PATH)
        # registered before the call: the job may be done before we have heard of it
        self._ask(message_bus.AddMatch(rule))
        ended: deque[Message] = deque()
        here = MatchRule(type="signal", interface=_MANAGER, member="JobRemoved", path=_PATH)
        with self.bus.filter(here, queue=ended):
            (job,) = self.call(method, signature, *arguments)
            while True:
                try:
                    _, path, _, result = self.bus.recv_until_filtered(ended, timeout=_TIMEOUT).body
                except TimeoutError:
                    raise TimeoutExpired(
                        f"ask systemd: {method} did not end within {_TIMEOUT:g} seconds"
                    ) from None
                if path == job:
                    return str(result)

    def _ask(self, message: Message) -> tuple[Any, ...]:
        from jeepney.wrappers import unwrap_msg

        try:
            body: tuple[Any, ...] = unwrap_msg(self.bus.send_and_get_reply(message, timeout=_TIMEOUT))
        except TimeoutError:
            raise TimeoutExpired(f"ask systemd: no answer within {_TIMEOUT:g} seconds") from None
        return body


def _refused(what: str, answer: DBusErrorResponse) -> LaminaError:
    return LaminaError(f"{what}: systemd refuses: {' '.join(map(str, answer.data)) or answer.name}")


def _user_bus() -> str:
    """The address of the user's bus, as systemd's tools look for it."""
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
    if address:
        return address
    return f"unix:path={os.environ.get('XDG_RUNTIME_DIR') or f'/run/user/{os.getuid()}'}/bus"


# -- what the others call


def start_scope(cgroup: Cgroup, path: str, resources: Resources, layout: Layout) -> str:
    """Have a scope made for `slice:prefix:name`, with our keeper in it; returns its absolute path.

    Raises Unsupported without systemd, Conflict when there is a unit of that name.
    """
    user = os.geteuid() != 0
    parent, unit = unit_of(path, user=user)
    wanted = properties(settings(resources, layout))
    if resources.get("devices") and "devices" in layout.v1:
        wanted += _devices_v1(resources)
    with _Systemd(user=user) as systemd:
        keeper = cgroup.keeper = Keeper()
        asked: list[Property] = [
            ("Description", ("s", f"Lamina container {unit.removesuffix('.scope')}")),
            ("Slice", ("s", parent)),
            ("Delegate", ("b", True)),
            ("PIDs", ("au", [keeper.pid])),
            # or its shutdown would wait for basic.target, and the container be stopped after what it uses
            ("DefaultDependencies", ("b", False)),
            ("CollectMode", ("s", "inactive-or-failed")),
            *((f"{name}Accounting", ("b", True)) for name in ("CPU", "Memory", "Tasks", "IO")),
            *wanted,
        ]
        result = _start(systemd, unit, asked)
        cgroup.unit, cgroup.user = unit, user
        if result != "done":
            raise LaminaError(f"make scope {unit}: systemd's job ended as {result!r}")
        return systemd.control_group(unit)


def _start(systemd: _Systemd, unit: str, asked: list[Property]) -> str:
    from jeepney import DBusErrorResponse

    arguments: tuple[Any, ...] = ("ssa(sv)a(sa(sv))", unit, "fail", asked, [])
    try:
        return systemd.job("StartTransientUnit", *arguments)
    except DBusErrorResponse as answer:
        if not answer.name.endswith(".UnitExists"):
            raise _refused(f"make scope {unit}", answer) from answer
    try:  # one that failed earlier stays until it is told not to
        systemd.call("ResetFailedUnit", "s", unit)
        return systemd.job("StartTransientUnit", *arguments)
    except DBusErrorResponse as answer:
        raise Conflict(f"make scope {unit}: there is a unit of that name") from answer


def stop_unit(cgroup: Cgroup) -> None:
    """Have the scope stopped, whose processes are gone; one that is gone already is no error."""
    from jeepney import DBusErrorResponse

    with _Systemd(user=cgroup.user) as systemd:
        try:
            systemd.job("StopUnit", "ss", cgroup.unit, "replace")
            systemd.call("ResetFailedUnit", "s", cgroup.unit)
        except DBusErrorResponse as answer:
            if not answer.name.endswith((".NoSuchUnit", ".UnitNotLoaded")):
                raise _refused(f"stop {cgroup.unit}", answer) from answer


def set_properties(cgroup: Cgroup, wanted: dict[str, list[Setting]]) -> None:
    """Tell systemd of limits that change, until the next start of the machine."""
    changed = properties(wanted)
    if not changed:
        return
    with _Systemd(user=cgroup.user) as systemd:
        from jeepney import DBusErrorResponse

        try:
            systemd.call("SetUnitProperties", "sba(sv)", cgroup.unit, True, changed)
        except DBusErrorResponse as answer:
            raise _refused(f"update {cgroup.unit}", answer) from answer
