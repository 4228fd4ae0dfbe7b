"""`lamina exec`: nothing is imported here that joining a container does not need."""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine.executing import ExecOptions

VERB = Verb(
    name="exec",
    options=(
        Option("detach", "d", "", "Do not stay with it"),
        Option("detach-keys", "", "KEYS", "What is typed to leave it: ctrl-p,ctrl-q", convert=keys),
        Option("env", "e", "KEY=VALUE", "Set a variable; KEY alone takes it from here", multiple=True),
        Option("env-file", "", "FILE", "Read variables from a file", multiple=True, complete="file"),
        Option("interactive", "i", "", "Let the command read standard input"),
        Option("privileged", "", "", "Give it every capability"),
        Option("tty", "t", "", "Give it a terminal"),
        Option("user", "u", "USER[:GROUP]", "Whom it runs as: names or numbers"),
        Option("workdir", "w", "DIRECTORY", "Where it starts"),
    ),
    arguments=(Argument("name", "NAME", complete="running"), Argument("words", "COMMAND", "+")),
    interspersed=False,
    details="""
The command runs beside what runs in the container already: with its files, its network, its limits, its user and its
rights. It ends when the container does.

The exit status is the command's: 128 + n after signal n, 127 if there is no such command, 126 if it cannot be executed,
125 if Lamina failed.
""",
    examples="""
lamina exec -it brave_otter sh
lamina exec -u postgres -w /tmp -e PGDATABASE=shop db psql -c 'select 1'
lamina exec -d brave_otter touch /tmp/ready
""",
)


def do(args: Arguments) -> int:
    """Run the command and, unless detached, wait for it; its exit status."""
    from lamina.cli.asked import check_terminal, variables
    from lamina.engine.engine import Engine

    if not args.detach:
        check_terminal(args, "exec")
    words = args.words[1:] if args.words[:1] == ("--",) else args.words
    container = Engine(args.root).container(args.name)
    asked: ExecOptions = {"tty": args.tty, "interactive": args.interactive, "privileged": args.privileged}
    if args.env or args.env_file:
        asked["env"] = [*variables(args.env_file, "exec"), *args.env]
    if args.user is not None:
        asked["user"] = args.user
    if args.workdir is not None:
        asked["workdir"] = args.workdir
    if args.tty:
        asked["detach_keys"] = args.detach_keys
    if args.detach:
        container.exec_detached(words, **asked)
        return 0
    done = container.exec(words, forward_signals=True, **asked)
    if done.warnings:
        from lamina.cli.asked import warn

        for warning in done.warnings:
            warn(warning)
    return done.returncode
