"""`lamina generate systemd`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.units import POLICIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.cli.units import Subject, Wishes
    from lamina.engine import Container


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError("not a number of seconds")
    return int(text)


VERB = Verb(
    name="generate systemd",
    options=(
        Option("files", "f", help="Write a file here, and print its path"),
        Option("name", "n", help="Call it by its name, not by its id"),
        Option("new", help="Make a container like it at each start, and remove it at each stop"),
        Option("restartable", help="A unit that starts with the machine what restart policies say"),
        Option(
            "restart-policy",
            "",
            "POLICY",
            "When systemd starts it again",
            choices=POLICIES,
            default="on-failure",
        ),
        Option("restart-sec", "", "SECONDS", "How long systemd waits before that", convert=_seconds),
        Option(
            "stop-timeout", "t", "SECONDS", "What a stop waits before it kills: its own", convert=_seconds
        ),
        Option("container-prefix", "", "TEXT", "What the unit's name begins with", default="container"),
        Option("separator", "", "TEXT", "What comes between that and the name", default="-"),
        Option("wants", "", "UNIT", "Another unit that it wants", multiple=True),
        Option("after", "", "UNIT", "Another unit that it is started after", multiple=True),
        Option("requires", "", "UNIT", "Another unit that it requires", multiple=True),
        Option("no-header", help="Without the comments at the beginning"),
    ),
    arguments=(Argument("container", "NAME", "?", complete="container"),),
    details="""The unit is printed. systemd then starts and stops the container, and has its output and exit status. A
    container that systemd looks after is best made without --restart.""",
    examples="""
lamina create --name web registry.example/web:1
lamina generate systemd --name --files web
lamina generate systemd --restartable > /etc/systemd/system/lamina-restart.service
""",
)


def do(args: Arguments) -> int:
    """Print the unit, or write its file."""
    import os

    from lamina.cli.asked import warn
    from lamina.cli.units import (
        CONFIGURATION,
        RESTARTABLE,
        container_unit,
        environment_file,
        restartable_unit,
    )
    from lamina.cli.usage import only_one
    from lamina.cli.verbs.version import versions
    from lamina.engine import Engine
    from lamina.errors import InvalidInput
    from lamina.values import replace

    only_one(VERB, ["--restartable", "NAME"] if args.restartable and args.container else [])
    engine, version = Engine(args.root), versions()["lamina"]
    if args.restartable:
        root = engine.store.path.decode("utf-8", "surrogateescape")
        return _out(args, RESTARTABLE, restartable_unit(root, version, header=not args.no_header))
    if not args.container:
        raise InvalidInput("generate systemd: no container is named", remedy="name one, or say --restartable")
    container = engine.container(args.container)
    about, wishes = _subject(container, args), _wishes(container, args)
    name = (f"{args.container_prefix}{args.separator}" if args.container_prefix else "") + about.name
    unit = f"{name}.service"
    if not all(char.isascii() and (char.isalnum() or char in ":-_.\\@") for char in unit) or len(unit) > 255:
        raise InvalidInput(f"generate systemd: {unit!r} is no name of a unit", remedy="see systemd.unit(5)")
    variables = (container.record.get("made_by") or {}).get("environment") if args.new else None
    if not variables:
        return _out(args, unit, container_unit(unit, about, wishes, version))
    # units are read by everybody, whatever the mode of their file (systemctl show)
    place = os.path.abspath(f"{name}.env") if args.files else f"{CONFIGURATION}lamina/{name}.env"
    values = environment_file(variables)
    text = container_unit(unit, replace(about, environment=place), wishes, version)
    if args.files:
        _write(f"{name}.env", values, 0o600)
    else:
        warn(
            f"the values of {', '.join(variables)} are not in the unit: it reads them from /etc/lamina/{name}.env "
            f"(a user's: ~/.config/lamina/{name}.env); --files writes such a file"
        )
    return _out(args, unit, text)


def _subject(container: Container, args: Arguments) -> Subject:
    from lamina.cli.units import Subject
    from lamina.engine.life import stop_signal
    from lamina.errors import Unsupported

    root = container.store.path.decode("utf-8", "surrogateescape")
    number = stop_signal(container.record)
    if not args.new:
        return Subject(container.name if args.name else container.id, root, number)
    made = container.record.get("made_by")
    if not made:
        raise Unsupported(
            f"generate systemd: it is not known with which words container {container.name} was made",
            remedy="make it with 'lamina create' or 'lamina run -d', or leave --new out",
        )
    return Subject(container.name, root, number, tuple(made["words"]), made["directory"])


def _wishes(container: Container, args: Arguments) -> Wishes:
    from lamina.cli.units import Wishes
    from lamina.engine.life import STOP_TIMEOUT

    own = container.record.get("stop_timeout", STOP_TIMEOUT)
    return Wishes(
        new=args.new,
        restart_policy=args.restart_policy,
        restart_sec=args.restart_sec,
        stop_timeout=int(own if args.stop_timeout is None else args.stop_timeout),
        header=not args.no_header,
        wants=tuple(args.wants),
        after=tuple(args.after),
        requires=tuple(args.requires),
    )


def _out(args: Arguments, unit: str, text: str) -> int:
    from lamina.cli import output

    if args.files:
        _write(unit, text, 0o644)
    else:
        output.text(text)
    return 0


def _write(name: str, text: str, mode: int) -> None:
    """Write the file *name* here, whole, and print its path. Raises KernelError."""
    import os

    from lamina.cli import output
    from lamina.errors import KernelError

    stage = f".{name}.{os.urandom(4).hex()}"
    try:
        descriptor = os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.rename(stage, name)
    except OSError as error:
        if os.path.lexists(stage):
            os.unlink(stage)
        raise KernelError("write unit", error.errno or 0, name) from None
    output.line(os.path.abspath(name))
