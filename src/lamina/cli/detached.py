"""Containers that are made by one command and live on after it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.argv.declare import Arguments
    from lamina.engine import Container


def made(args: Arguments, *, stdin_once: bool = False) -> Container:
    """The container that *args*, of `run` or `create`, ask for; *stdin_once*: see `Engine.create`."""
    from lamina.cli.asked import Making, command, life_options

    wanted = life_options(args)
    with Making(args) as making:
        container = making.engine.create(
            args.image,
            command(args),
            owner=os.getppid(),
            stdin_once=stdin_once,
            **making.hooks,
            **wanted,
        )
    _note_words(container, args)
    return container


def _note_words(container: Container, args: Arguments) -> None:
    """With which words another one like it would be made: for `generate systemd --new`."""
    from lamina.cli.asked import command
    from lamina.cli.options.run import OPTIONS
    from lamina.cli.units import environment_of, words_again
    from lamina.engine.checking import HOST, VARIABLE
    from lamina.engine.creating import note_made_by

    options, values = OPTIONS, vars(args)
    if "cap_add" in values:  # one of the rare options was typed
        from lamina.cli.options.further import OPTIONS as MORE

        options = (*OPTIONS, *MORE)
    named = os.environ.get(VARIABLE)
    if named and args.image != HOST and not args.network:  # a service manager has another environment
        values = {**values, "network": (named,)}
    words = words_again(options, values, args.image, command(args))
    try:
        directory = os.getcwd()
    except FileNotFoundError:  # it was removed
        directory = ""
    note_made_by(container.store, container.id, words, directory, environment_of(values))


def run_detached(args: Arguments) -> int:
    """`run -d`: make it, start it, and print its id."""
    from lamina.cli import output

    container = made(args)
    started(container)
    output.line(container.id)
    return 0


def started(container: Container) -> None:
    """Start it, and say what is not as it could be."""
    from lamina.cli.asked import warn

    for warning in container.start():
        warn(warning)
