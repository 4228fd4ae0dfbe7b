"""`lamina top`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="top",
    arguments=(Argument("name", "NAME", complete="running"), Argument("words", "PS-OPTION", "*")),
    interspersed=False,
    details="""The processes with their numbers and users on this machine. PS-OPTIONs are those of ps(1): -ef (the
    default), -e, aux, -x, or -o with columns: user uid group gid pid ppid pgid sid c pcpu pmem vsz rss ni nlwp s stat
    stime etime tty time comm args cmd command.""",
    examples="""
lamina top web
lamina top web -o pid,user,rss,args
""",
)


def do(args: Arguments) -> int:
    """Print a table of its processes."""
    from lamina.cli import output
    from lamina.cli.quoting import harmless
    from lamina.engine import Engine

    words = args.words[1:] if args.words[:1] == ("--",) else args.words
    found = Engine(args.root).container(args.name).top(words)
    rows = [[harmless(cell) for cell in row] for row in found["Processes"]]
    output.columns([harmless(title) for title in found["Titles"]], rows)
    return 0
