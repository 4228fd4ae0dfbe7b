"""`lamina cp`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

VERB = Verb(
    name="cp",
    options=(
        Option("archive", "a", "", "Keep the owners of the files (root only)"),
        Option("follow-link", "L", "", "Copy what a symbolic link leads to, where SOURCE is one"),
        Option("quiet", "q", "", "Do not say what was copied"),
    ),
    arguments=(
        Argument("source", "CONTAINER:PATH"),
        Argument("target", "DEST"),
    ),
    details="""
Copies a file or a directory out of a container, whether it runs or not. DEST is a path here, or '-' for a tar archive
on standard output. A directory is copied into DEST where that is a directory already, and becomes DEST where there is
none; of CONTAINER:PATH/. only the content is copied.

The copies are yours, without set-user-id bits, unless -a is given; device nodes are left out. Copying into a container
is not supported so far.
""",
    examples="""
lamina cp web:/etc/nginx/nginx.conf .
lamina cp web:/var/log/. logs
lamina cp web:/srv - | tar -t
""",
)


def do(args: Arguments) -> int:
    """Copy."""
    import os
    import sys

    from lamina.cli.sizes import human
    from lamina.engine import Engine
    from lamina.errors import InvalidInput, Unsupported

    name, path = _split(args.source)
    into, _ = _split(args.target)
    if name and into:
        raise InvalidInput("cp: both are in containers", remedy="copy to a directory here, and from there")
    if into:
        raise Unsupported(
            f"cp to container {into}: copying into a container is not supported so far",
            remedy=f"lamina exec -i {into} sh -c 'cat > FILE' < FILE",
        )
    if not name:
        raise InvalidInput("cp: neither is in a container", remedy="name one as CONTAINER:PATH")
    container = Engine(args.root).container(name)
    if args.target == "-":
        if os.isatty(1):
            raise InvalidInput("cp: standard output is a terminal", remedy="pipe the archive somewhere")
        copied = container.copy_out(path, 1, follow=args.follow_link)
    else:
        copied = container.copy_out(path, args.target, archive=args.archive, follow=args.follow_link)
    if copied.left_out:
        print(f"lamina: cp: {copied.left_out} devices or sockets were left out", file=sys.stderr)
    if not args.quiet and args.target != "-":
        print(f"Successfully copied {human(copied.size)} to {args.target}", file=sys.stderr)
    return 0


def _split(word: str) -> tuple[str, str]:
    """The container and the path in it; no container for a path here, as docker's cp reads it."""
    name, colon, path = word.partition(":")
    if not colon or word.startswith(("/", ".")):
        return "", word
    return name, path
