"""What is rarely asked of a container, as values: security, devices, namespaces, finer limits.

A start that asks for none of it does not load this. Docker's notation is read here and in `grants` (capabilities,
security options, devices); `amend` makes the specification of it.
"""

from __future__ import annotations

from lamina.engine.notation import LARGEST_NUMBER, is_number, listed, size_of, text_of
from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.rlimits import NUMBERS
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Pairs = tuple[tuple[str, str], ...]

INFINITY = (1 << 64) - 1
MOST_CPUS = 1 << 16  # or nodes of memory; the kernel's own limits are below that


@value
class Device:
    """A device node, or a directory with some, of the host at `source`, shown at `target`; `access` is of "rwm"."""

    source: str
    target: str
    access: str = "rwm"


@value
class Further:
    """What was asked beyond `Options`, checked; None and () where nothing was. Numbers are in the kernel's units.

    `seccomp` is "unconfined", "builtin" or the text of a profile; `label` are SELinux's parts. `mask` and `unmask` are
    paths ("ALL" among the latter). `ulimits` are (name of the specification, soft, hard). `throttles` are (field of
    the specification, path of the device, bytes or operations a second). `devices` are of this host, `cdi` names of
    devices that its CDI files describe. `time_offsets` are (clock, nanoseconds). `userns` is as it was written (see
    `user_namespaces.parse`), `uidmap` and `gidmap` are (id inside, id outside, how many).
    """

    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    seccomp: str = "builtin"
    apparmor: str = ""
    label: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    unmask: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    domainname: str = ""
    uts: str = ""
    ipc: str = ""
    pid: str = ""
    cgroupns: str = ""
    cgroup_manager: str = ""
    userns: str = ""
    uidmap: tuple[tuple[int, int, int], ...] = ()
    gidmap: tuple[tuple[int, int, int], ...] = ()
    ulimits: tuple[tuple[str, int, int], ...] = ()
    sysctls: Pairs = ()
    shm_size: int | None = None
    oom_score_adj: int | None = None
    oom_kill_disable: bool = False
    memory_swap: int | None = None
    memory_reservation: int | None = None
    memory_swappiness: int | None = None
    cpu_shares: int | None = None
    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    blkio_weight: int | None = None
    blkio_weight_device: tuple[tuple[str, int], ...] = ()
    throttles: tuple[tuple[str, str, int], ...] = ()
    devices: tuple[Device, ...] = ()
    device_rules: tuple[str, ...] = ()
    cdi: tuple[str, ...] = ()
    annotations: Pairs = ()
    time_offsets: tuple[tuple[str, int], ...] = ()

    @property
    def limits(self) -> bool:
        """Whether a control group is needed for what is asked."""
        numbers = (
            self.memory_swap, self.memory_reservation, self.memory_swappiness, self.cpu_shares, self.cpu_period,
            self.cpu_quota, self.blkio_weight,
        )  # fmt: skip
        texts = (self.cpuset_cpus, self.cpuset_mems, self.blkio_weight_device, self.throttles)
        return any(number is not None for number in numbers) or any(texts) or self.oom_kill_disable


def number(what: str, least: int, most: int) -> Callable[[Any], int | None]:
    """A reader of whole numbers from *least* to *most*."""

    def read(given: Any) -> int | None:
        if given is None:
            return None
        text = str(given).strip()
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 25) or not least <= int(text) <= most:
            raise InvalidInput(f"run: {what} {given}: not a number from {least} to {most}")
        return int(text)

    return read


def size(what: str, *, unlimited: bool = False) -> Callable[[Any], int | None]:
    """A reader of sizes; with *unlimited* -1 is one."""

    def read(given: Any) -> int | None:
        if given is None:
            return None
        if unlimited and str(given).strip() == "-1":
            return -1
        found = given if isinstance(given, int) and not isinstance(given, bool) else size_of(given)
        if found is None or not 0 <= found <= LARGEST_NUMBER:
            raise InvalidInput(f"run: {what} {given}: not a size", remedy="such as 512m or 2g")
        return found or None

    return read


def _text(what: str) -> Callable[[Any], str]:
    return lambda given: "" if given is None else text_of(given, what)


def _words(what: str, *allowed: str) -> Callable[[Any], str]:
    def read(given: Any) -> str:
        text = "" if given is None else text_of(given, what)
        if text not in ("", *allowed):
            raise Unsupported(f"run: {what} {text}: not supported so far", remedy=" or ".join(allowed))
        return text

    return read


def _namespace(what: str, *allowed: str) -> Callable[[Any], str]:
    """A mode of a namespace: one of the words, or another container's."""

    def read(given: Any) -> str:
        text = "" if given is None else text_of(given, what)
        if text in ("", *allowed) or text.removeprefix("container:") not in ("", text):
            return text
        raise Unsupported(
            f"run: {what} {text}: not supported so far", remedy=", ".join((*allowed, "container:NAME"))
        )

    return read


def _cpus(given: Any) -> str:
    """A list of numbers and ranges, as cpuset(7) takes it: "0-2,4"."""
    text = "" if given is None else text_of(given, "cpuset")
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (is_number(first) and is_number(last) and int(first) <= int(last) < MOST_CPUS):
            raise InvalidInput(f"run: cpuset {text}: not a list of numbers", remedy="such as 0-2,4")
    return text


def _texts(what: str) -> Callable[[Any], tuple[str, ...]]:
    return lambda given: tuple(text_of(entry, what) for entry in listed(given, what))


def _pairs(what: str) -> Callable[[Any], Pairs]:
    """NAME=VALUE, or a mapping."""

    def read(given: Any) -> Pairs:
        items = list(given.items()) if hasattr(given, "items") else listed(given, what)
        found = {}
        for item in items:
            name, equals, text = (item[0], "=", item[1]) if isinstance(item, tuple) else _split(item, what)
            if not name or not equals:
                raise InvalidInput(f"run: {what} {item!r}: not NAME=VALUE")
            found[text_of(name, what)] = text_of(str(text), what)
        return tuple(found.items())

    return read


def _split(item: Any, what: str) -> tuple[str, str, str]:
    return text_of(item, what).partition("=")


def read_ulimits(given: Any) -> tuple[tuple[str, int, int], ...]:
    """`--ulimit nofile=1024:2048`; one number is both limits, -1 and "unlimited" mean none."""
    found = {}
    for name, text in _pairs("ulimit")(given):
        full = f"RLIMIT_{name.upper()}"
        if full not in NUMBERS:
            names = ", ".join(sorted(limit.removeprefix("RLIMIT_").lower() for limit in NUMBERS))
            raise InvalidInput(f"run: ulimit {name}: there is none of that name", remedy=names)
        first, colon, second = text.partition(":")
        soft = _limit(first, name, text)
        hard = _limit(second, name, text) if colon else soft
        if soft > hard:
            raise InvalidInput(f"run: ulimit {name}={text}: the soft limit is above the hard one")
        found[full] = (full, soft, hard)
    return tuple(found.values())


def _limit(text: str, name: str, given: str) -> int:
    if text in ("-1", "unlimited"):
        return INFINITY
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > INFINITY:
        raise InvalidInput(f"run: ulimit {name}={given}: not numbers", remedy="SOFT[:HARD], -1 for no limit")
    return int(text)


def throttle(field: str, what: str, *, bytes_: bool) -> Callable[[Any], tuple[tuple[str, str, int], ...]]:
    """A reader of `--device-read-bps /dev/sda:1mb`."""

    def read(given: Any) -> tuple[tuple[str, str, int], ...]:
        found = []
        for entry in listed(given, what):
            path, colon, rate = text_of(entry, what).rpartition(":")
            amount = size_of(rate) if bytes_ else int(rate) if is_number(rate) else None
            if not colon or not path.startswith("/dev/") or amount is None or amount > LARGEST_NUMBER:
                raise InvalidInput(f"run: {what} {entry}: not DEVICE:RATE", remedy="such as /dev/sda:1mb")
            found.append((field, path, amount))
        return tuple(found)

    return read


def read_weights(given: Any) -> tuple[tuple[str, int], ...]:
    """`--blkio-weight-device /dev/sda:200`."""
    found = []
    for entry in listed(given, "blkio weight"):
        path, _, weight = text_of(entry, "blkio weight").rpartition(":")
        amount = number("blkio weight", 0, 1000)(weight)
        if not path.startswith("/dev/") or amount is None or 0 < amount < 10:
            raise InvalidInput(f"run: blkio weight {entry}: not DEVICE:WEIGHT", remedy="such as /dev/sda:200")
        found.append((path, amount))
    return tuple(found)


def read_time_offsets(given: Any) -> tuple[tuple[str, int], ...]:
    """`--time-offset boottime=3600`: seconds, also with a fraction, by which a clock of the container differs."""
    found = {}
    for clock, text in _pairs("time offset")(given):
        whole, _, part = text.removeprefix("-").partition(".")
        digits = whole + part
        if clock not in ("monotonic", "boottime") or not is_number(digits) or len(part) > 9:
            raise InvalidInput(
                f"run: time offset {clock}={text}: not CLOCK=SECONDS", remedy="monotonic or boottime"
            )
        nanoseconds = int(whole or "0") * 10**9 + int(part.ljust(9, "0"))
        if nanoseconds > LARGEST_NUMBER:
            raise InvalidInput(f"run: time offset {clock}={text}: too much")
        found[clock] = -nanoseconds if text.startswith("-") else nanoseconds
    return tuple(found.items())


def _domainname(given: Any) -> str:
    text = "" if given is None else text_of(given, "domain name")
    if len(text) > 64 or not all(c.isascii() and (c.isalnum() or c in "-._") for c in text):
        raise InvalidInput(f"run: domain name {text!r}: not a name", remedy="letters, digits, '-' and '.'")
    return text


def _userns(given: Any) -> str:
    from lamina.engine.user_namespaces import read_mode

    return read_mode(given)


def _id_lines(what: str) -> Callable[[Any], tuple[tuple[int, int, int], ...]]:
    def read(given: Any) -> tuple[tuple[int, int, int], ...]:
        from lamina.engine.user_namespaces import read_lines

        return read_lines(what, given)

    return read


# what is read into the field of the same name
READERS: dict[str, Callable[[Any], Any]] = {
    "privileged": bool,
    "group_add": _texts("group"),
    "domainname": _domainname,
    "uts": _namespace("uts", "private", "host"),
    "ipc": _namespace("ipc", "private", "shareable", "host", "none"),
    "pid": _namespace("pid", "private", "host"),
    "cgroupns": _words("cgroupns", "private", "host"),
    "cgroup_manager": _words("cgroup manager", "cgroupfs", "systemd"),
    "userns": _userns,
    "uidmap": _id_lines("uidmap"),
    "gidmap": _id_lines("gidmap"),
    "ulimits": read_ulimits,
    "sysctls": _pairs("sysctl"),
    "shm_size": size("shm size"),
    "oom_score_adj": number("oom score adjustment", -1000, 1000),
    "oom_kill_disable": bool,
    "memory_swap": size("memory swap", unlimited=True),
    "memory_reservation": size("memory reservation"),
    "memory_swappiness": number("memory swappiness", 0, 100),
    "cpu_shares": number("cpu shares", 0, 262144),
    "cpu_period": number("cpu period", 1000, 1_000_000),
    "cpu_quota": number("cpu quota", -1, LARGEST_NUMBER),
    "cpuset_cpus": _cpus,
    "cpuset_mems": _cpus,
    "blkio_weight": number("blkio weight", 0, 1000),
    "blkio_weight_device": read_weights,
    "annotations": _pairs("annotation"),
    "time_offsets": read_time_offsets,
}
THROTTLES: dict[str, Callable[[Any], tuple[tuple[str, str, int], ...]]] = {
    "device_read_bps": throttle("throttleReadBpsDevice", "device read bps", bytes_=True),
    "device_write_bps": throttle("throttleWriteBpsDevice", "device write bps", bytes_=True),
    "device_read_iops": throttle("throttleReadIOPSDevice", "device read iops", bytes_=False),
    "device_write_iops": throttle("throttleWriteIOPSDevice", "device write iops", bytes_=False),
}
GRANTS = ("cap_add", "cap_drop", "security_opt", "devices", "device_cgroup_rules", "gpus")
KEYS = frozenset((*READERS, *THROTTLES, *GRANTS))


def read_further(asked: dict[str, Any]) -> tuple[Further | None, bool]:
    """The checked form of what of KEYS is in *asked*, None if that is nothing; and whether set-uid programs have effect
    (`--security-opt no-new-privileges=false`). Raises InvalidInput, Unsupported.
    """
    found: dict[str, Any] = {}
    new_privileges = False
    for key, given in asked.items():
        if key in READERS:
            found[key] = READERS[key](given)
        elif key in THROTTLES:
            found["throttles"] = (*found.get("throttles", ()), *THROTTLES[key](given))
        else:
            from lamina.engine.grants import read_grant

            new_privileges |= read_grant(key, given, found)
    further = Further(**found)
    _check(further)
    return (None if further == Further() else further), new_privileges or further.privileged


def _check(further: Further) -> None:
    if further.oom_kill_disable and further.privileged:
        return
    if further.cpu_period is not None and further.cpu_quota not in (None, -1) and further.cpu_quota < 1000:
        raise InvalidInput(f"run: cpu quota {further.cpu_quota}: the least is 1000 microseconds")


# -- what was asked, in the record of a container


def record_of(further: Further) -> dict[str, Any]:
    """*further* as a record keeps it: what was not asked is not in it."""
    unset = vars(Further())
    found = {key: given for key, given in vars(further).items() if given != unset[key]}
    if further.devices:
        found["devices"] = [[device.source, device.target, device.access] for device in further.devices]
    return found


def of_record(kept: dict[str, Any], asked: dict[str, Any]) -> Further:
    """The way back, for the container of the record *asked*. Raises Unsupported for what a newer Lamina wrote."""
    if unknown := sorted(kept.keys() - set(Further.__match_args__)):
        raise Unsupported(
            f"start container {str(asked.get('id'))[:12]}: its record has {', '.join(unknown)}, "
            "which this Lamina does not know",
            remedy="use the newer Lamina that made it",
        )
    found = {key: _frozen(given) for key, given in kept.items()}
    found["devices"] = tuple(Device(*device) for device in found.get("devices", ()))
    return Further(**found)


def _frozen(given: Any) -> Any:
    return tuple(_frozen(one) for one in given) if isinstance(given, list) else given
