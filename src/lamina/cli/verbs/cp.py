"""`lamina cp`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine.copying import Copied

VERB = Verb(
    name="cp",
    options=(
        Option("archive", "a", "", "Keep the owners of the files (root only, where they are copied to here)"),
        Option("follow-link", "L", "", "Copy what a symbolic link leads to, where SOURCE is one"),
        Option("quiet", "q", "", "Say neither how far it is nor what was copied"),
    ),
    arguments=(
        Argument("source", "SOURCE"),
        Argument("target", "DEST"),
    ),
    details="""
Copies a file or a directory out of a container (SOURCE is CONTAINER:PATH) or into one (DEST is CONTAINER:PATH),
whether it runs or not. The other one is a path here, or '-' for a tar archive on standard output or input. A directory
is copied into DEST where that is a directory already, and becomes DEST where there is none; of SOURCE/. only the
content is copied.

The copies are yours, or the container's root's, without set-user-id bits, unless -a is given; device nodes are left
out. An archive that is copied in may be compressed, needs a directory to be unpacked in, and keeps its owners.
""",
    examples="""
lamina cp web:/etc/nginx/nginx.conf .
lamina cp web:/var/log/. logs
lamina cp nginx.conf web:/etc/nginx/
lamina cp web:/srv - | lamina cp - other:/
""",
)


def do(args: Arguments) -> int:
    """Copy."""
    import os
    import sys

    from lamina.cli.copies import Copying
    from lamina.cli.sizes import human
    from lamina.engine import Engine
    from lamina.errors import InvalidInput

    name, path = _split(args.source)
    into, target = _split(args.target)
    if name and into:
        raise InvalidInput(
            "cp: both are in containers",
            remedy="copy to a directory here, and from there; a file here that is called a:b is ./a:b",
        )
    if not (name or into):
        raise InvalidInput("cp: neither is in a container", remedy="name one as CONTAINER:PATH")
    container = Engine(args.root).container(name or into)
    piped = (args.target if name else args.source) == "-"
    # as docker's: what nobody looks at is not said (in a pipe, a job of cron)
    quiet = args.quiet or not os.isatty(1)
    with Copying("from" if name else "to", quiet=quiet) as copying:
        if name:
            _refuse_terminal(args.target, 1, "output", "pipe the archive somewhere")
            out = 1 if piped else args.target
            copied = container.copy_out(
                path, out, archive=args.archive, follow=args.follow_link, progress=copying.at
            )
        else:
            _refuse_terminal(args.source, 0, "input", "pipe an archive into it")
            source = 0 if piped else args.source
            copied = container.copy_in(
                source, target, archive=args.archive, follow=args.follow_link, progress=copying.at
            )
    _say_what_was_left(copied)
    if not quiet:
        print(f"Successfully copied {human(copied.size)} to {args.target}", file=sys.stderr)
    return 0


def _refuse_terminal(word: str, stream: int, what: str, remedy: str) -> None:
    import os

    from lamina.errors import InvalidInput

    if word == "-" and os.isatty(stream):
        raise InvalidInput(f"cp: standard {what} is a terminal", remedy=remedy)


def _say_what_was_left(copied: Copied) -> None:
    import sys

    if copied.left_out:
        print(f"lamina: cp: {copied.left_out} devices or sockets were left out", file=sys.stderr)
    for what, times in copied.skipped:
        print(f"lamina: cp: {what} could not be set on {times} files", file=sys.stderr)


def _split(word: str) -> tuple[str, str]:
    """The container and the path in it; no container for a path here, as docker's cp reads it."""
    name, colon, path = word.partition(":")
    if not colon or word.startswith(("/", ".")):
        return "", word
    return name, path
