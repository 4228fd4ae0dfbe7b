"""`lamina-runtime exec`: a further process in a running container."""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.document import decode
from lamina.errors import InvalidInput, NotFound
from lamina.runtime.container.directory import Container
from lamina.runtime.container.further import Joining
from lamina.runtime.container.join import execute
from lamina.runtime_cli.asked import container, path, preserved, warner
from lamina.runtime_cli.options import CONSOLE, HELP, ID, PID_FILE, PIDFD, PRESERVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Process = dict[str, Any]

LARGEST_ID = 0xFFFFFFFE
# what the options say that --process says as well
_OF_A_PROCESS = ("user", "additional_gids", "cwd", "env", "cap", "no_new_privs", "apparmor", "process_label")
# what a document need not say
_OF_THE_CONTAINER = ("capabilities", "apparmorProfile", "selinuxLabel", "oomScoreAdj")


def user(text: str) -> tuple[int, int | None]:
    """`UID[:GID]`: numbers only, for names are the container's own affair. Raises ValueError."""
    uid, colon, gid = text.partition(":")
    return identity(uid), identity(gid) if colon else None


def identity(text: str) -> int:
    """A user's or group's number: digits, nothing else, and no more than the kernel takes."""
    if not (text.isascii() and text.isdigit()) or (len(text) > 1 and text[0] == "0"):
        raise ValueError("is not a number (UID or UID:GID)")
    if len(text) > 10 or int(text) > LARGEST_ID:
        raise ValueError(f"is above {LARGEST_ID}")
    return int(text)


VERB = Verb(
    "exec",
    (
        Option("process", "p", "FILE", "The specification's process, as JSON, instead of the options below"),
        Option("tty", "t", help="Give it a terminal"),
        Option("user", "u", "UID[:GID]", "Whom it runs as", convert=user),
        Option(
            "additional-gids", "g", "GID", "A further group; may be repeated", multiple=True, convert=identity
        ),
        Option("cwd", "", "DIRECTORY", "Where it starts"),
        Option("env", "e", "KEY=VALUE", "Set a variable; may be repeated", multiple=True),
        Option("cap", "c", "CAPABILITY", "Give it a capability; may be repeated", multiple=True),
        Option("no-new-privs", help="It can gain no privileges"),
        Option("apparmor", "", "PROFILE", "Confine it by an AppArmor profile"),
        Option("process-label", "", "LABEL", "Its SELinux label"),
        Option(
            "cgroup",
            "",
            "[CONTROLLER...:]PATH",
            "Run it in this group inside the container's own",
            multiple=True,
        ),
        Option("ignore-paused", help="Also in a paused container, where it waits"),
        Option("detach", "d", help="Do not stay"),
        PID_FILE,
        CONSOLE,
        PIDFD,
        PRESERVE,
        HELP,
    ),
    (ID, Argument("words", "COMMAND", "*")),
    interspersed=False,
)


def do(args: Arguments) -> int:
    """Run it; its exit status, or 0 with --detach."""
    found = container(args)
    process = _from_file(found, args) if args.process else _from_options(found, args)
    if args.tty:
        process["terminal"] = True
    env: list[str] = []
    count = preserved(args, env)
    attended = not args.detach and not args.console_socket
    from lamina.runtime_cli.attending import Attendance

    attendance = Attendance()
    joining = Joining(
        pid_file=path(args.pid_file),
        console_socket=path(args.console_socket),
        pidfd_socket=path(args.pidfd_socket),
        preserve_fds=count,
        environment=tuple(env),
        cgroup=tuple(filter(None, args.cgroup)),
        ignore_paused=args.ignore_paused,
        console=attendance.take if attended else None,
        # what the container itself did not get was said when it was created
        warn=warner(args) if args.process or args.cap else None,
    )
    joined = execute(found, process, joining)
    if args.detach:
        return 0
    attendance.catch_signals(joined.pidfd)
    try:
        attendance.stay(joined.pidfd)
    finally:
        attendance.close()
    return joined.wait()


def _from_file(found: Container, args: Arguments) -> Process:
    """What it does not say of its confinement is the container's, as with runc: it is beside that, not above it."""
    # as runc has it the file counts, and what stands beside it would be lost
    for name in ("words", *_OF_A_PROCESS):
        if getattr(args, name) not in (None, (), False):
            said = "a command" if name == "words" else f"--{name.replace('_', '-')}"
            raise InvalidInput(
                f"exec: {said} and --process exclude each other", remedy="leave one of them out"
            )
    try:
        with open(args.process, "rb") as file:  # a pipe gives what it has in pieces
            data = file.read(16 << 20)
    except FileNotFoundError:
        raise NotFound(f"read {args.process}: there is no such file") from None
    process = decode(data, args.process)
    if missing := [name for name in _OF_THE_CONTAINER if process.get(name) is None]:
        own = found.spec()["process"]
        process.update({name: own[name] for name in missing if name in own})
    return process


def _from_options(found: Container, args: Arguments) -> Process:
    if not args.words:
        raise InvalidInput("exec: no command is given", remedy="name one, or give --process FILE")
    process: Process = dict(found.spec()["process"])
    process.update(args=list(args.words), terminal=False)
    process.pop("consoleSize", None)
    process["env"] = [*(process.get("env") or []), *args.env]
    if args.cwd:
        process["cwd"] = args.cwd
    someone = dict(process.get("user") or {})
    if args.user is not None:
        uid, gid = args.user
        someone["uid"] = uid
        if gid is not None:
            someone["gid"] = gid
    if args.additional_gids:
        someone["additionalGids"] = [*(someone.get("additionalGids") or []), *args.additional_gids]
    process["user"] = someone
    if args.cap:
        process["capabilities"] = _with_capabilities(process.get("capabilities") or {}, args.cap)
    if args.no_new_privs:
        process["noNewPrivileges"] = True
    if args.apparmor:
        process["apparmorProfile"] = args.apparmor
    if args.process_label:
        process["selinuxLabel"] = args.process_label
    return process


def _with_capabilities(sets: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """As runc: in the bounding, effective and permitted set. An inheritable one is nobody's (CVE-2022-29162)."""
    more = {**sets}
    for which in ("bounding", "effective", "permitted"):
        more[which] = [*(more.get(which) or []), *names]
    return more
