"""`lamina login`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options import TLS_VERIFY

VERB = Verb(
    name="login",
    options=(
        Option("username", "u", "NAME", "The user's name"),
        Option(
            "password", "p", "PASSWORD", "The password or token; others may see it in the list of processes"
        ),
        Option("password-stdin", help="Read the password from standard input"),
        TLS_VERIFY,
    ),
    arguments=(Argument("server", "SERVER", "?"),),
    details="Tries the password, and keeps it where docker and podman look for it. Without SERVER it is docker.io.",
    examples="lamina login -u ann registry.example\npass token | lamina login -u ann --password-stdin registry.example",
)


def do(args: Arguments) -> int:
    """Log in."""
    import sys

    from lamina.cli import output
    from lamina.cli.report import say
    from lamina.cli.usage import only_one
    from lamina.engine import Engine
    from lamina.errors import InvalidInput

    only_one(VERB, ["--password", "--password-stdin"] if args.password and args.password_stdin else [])
    name, password = args.username, args.password
    if args.password_stdin:
        if not name:
            raise InvalidInput("login: --password-stdin needs --username", remedy="add -u NAME")
        password = sys.stdin.read().rstrip("\r\n")
        if not password:
            raise InvalidInput("login: standard input has no password", remedy="pipe it in")
    elif password:
        say("warning: a password on the command line is seen by others; --password-stdin is safer")
    if not name or not password:
        if not sys.stdin.isatty():
            raise InvalidInput("login: there is no terminal to ask on", remedy="use -u NAME --password-stdin")
        name, password = _ask(name, password)
    Engine(args.root).login(args.server, name, password, tls_verify=args.tls_verify != "false")
    output.line("Login Succeeded")
    return 0


def _ask(name: str | None, password: str | None) -> tuple[str, str]:
    """What is missing, from the terminal. Raises InvalidInput where nothing is typed."""
    import sys
    from getpass import getpass

    from lamina.errors import InvalidInput

    try:
        name = name or input("Username: ").strip()
        password = password or (getpass("Password: ") if name else "")
    except (EOFError, KeyboardInterrupt) as error:
        sys.stderr.write("\n")  # the prompt's line
        if isinstance(error, KeyboardInterrupt):
            raise
        name = password = ""
    if not name or not password:
        raise InvalidInput("login: a name and a password are needed", remedy="nothing was typed")
    return name, password
