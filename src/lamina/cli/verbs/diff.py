"""`lamina diff`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options.changes import EXCLUDE, PATHS_EXPLAINED, SHOW, STATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine import Engine
    from lamina.engine.view_verbs import ViewVerbs

VERB = Verb(
    name="diff",
    options=(
        *SHOW,
        EXCLUDE,
        Option(
            "apply-to", "", "DIRECTORY", "Make this directory, which is like the first state, like the second",
            "How", complete="directory",
        ),
        Option("force", "f", help="With --apply-to: change also what is not as the first state has it", group="How"),
    ),
    arguments=(STATE, Argument("paths", "OTHER|PATH", "*", complete="state")),
    details=f"""
A line for each file that would be added (A), changed (C), deleted (D) or replaced by another kind of file (R).
Directories in which something came or went, and nothing else, have none.

A STATE is a container, a snapshot (CONTAINER@SNAPSHOT) or an image. Alone, it is compared with what it is over: its
image, or this system. With OTHER, what leads from the first to the other is shown. It costs what the two do not have in
common. The first word behind STATE is OTHER if anything is called so; write a path of that name with ./ before it.

--apply-to changes each path at once, by one rename, and refuses before it begins where the directory is not like the
first state (times aside).

{PATHS_EXPLAINED}""",
    examples="""
lamina diff brave_otter
lamina diff --stat brave_otter /etc
lamina diff -p brave_otter '/home/**/*.conf'
lamina diff brave_otter@step-16 brave_otter@step-17
lamina diff -p debian:12 brave_otter /etc
lamina diff brave_otter@step-16 brave_otter --apply-to /srv/copy-of-step-16
lamina diff --format json brave_otter | jq -r '.[] | select(.kind == "deleted").path'
""",
)  # fmt: skip


def do(args: Arguments) -> int:
    """Show the changes the container made, or what leads from one state to another."""
    from lamina.cli.here import absolute
    from lamina.cli.reviewing import forms, show
    from lamina.cli.usage import only_one
    from lamina.engine import Engine
    from lamina.engine.state_names import find_anything
    from lamina.errors import NotFound

    asked = [*forms(args), *(["--apply-to"] if args.apply_to is not None else [])]
    only_one(VERB, asked)
    engine = Engine(args.root)
    first = find_anything(engine.store, args.name)
    second, words = _other(engine, args.paths)
    paths, exclude = absolute(words), absolute(args.exclude)
    if args.apply_to is not None:
        return _apply(first, second, args.apply_to, paths, exclude, args.force)
    try:
        changes = first.changes(paths, exclude) if second is None else first.diff(second, paths, exclude)
    except NotFound as error:
        if second is None and _may_be_state(words):
            remedy = f"no container, snapshot or image is called {words[0]} either; {error.remedy}"
            raise NotFound(error.message, remedy=remedy) from None
        raise
    show(changes, args, (second or first).patch)
    return 0


def _other(engine: Engine, words: tuple[str, ...]) -> tuple[ViewVerbs | None, tuple[str, ...]]:
    """The second state, if the first of *words* is one, and the paths."""
    from lamina.engine.state_names import find_anything
    from lamina.errors import InvalidInput, InvalidReference, NotFound

    if not _may_be_state(words):
        return None, words
    try:
        return find_anything(engine.store, words[0]), words[1:]
    except (NotFound, InvalidInput, InvalidReference):
        if "@" in words[0] and "/" not in words[0].partition("@")[0]:
            raise
        return None, words


def _may_be_state(words: tuple[str, ...]) -> bool:
    return bool(words) and not words[0].startswith(("/", ".")) and not any(c in words[0] for c in "*?[")


def _apply(
    first: ViewVerbs,
    second: ViewVerbs | None,
    directory: str,
    paths: list[str],
    exclude: list[str],
    force: bool,
) -> int:
    from lamina.cli import output
    from lamina.cli.quoting import quote
    from lamina.engine.quantities import plural

    state, since = (first, None) if second is None else (second, first)
    done = state.apply_to(directory, since, paths, exclude, force=force)
    said = f"{quote(directory)}: {plural(len(done.changed), 'path', 'paths')} changed"
    if done.already:
        said += f", {len(done.already):,} were so already"
    if done.forced:
        said += f"; not as in the first state, and changed nevertheless: {', '.join(map(quote, done.forced[:10]))}"
        said += f" and {len(done.forced) - 10:,} more" if len(done.forced) > 10 else ""
    output.line(said)
    return 0
