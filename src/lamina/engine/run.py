"""One container in the foreground, from what was asked to its exit status."""

from __future__ import annotations

from lamina.engine.design import HOST
from lamina.engine.session import Session
from lamina.store import containers
from lamina.supervisor.signals import Undisturbed
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.engine.completed import Completed
    from lamina.engine.options import Io, Options
    from lamina.store.images import Held
    from lamina.store.root import Store
    from lamina.supervisor.foreground import Ended


@value
class Hooks:
    """Who wants to know: `warn` gets each warning, `created` the id, both before the command starts. `events` hears how
    the image is pulled, if it has to be.
    """

    warn: Callable[[str], None] | None = None
    created: Callable[[str], None] | None = None
    events: Callable[..., None] | None = None


def run(
    store: Store,
    image: str,
    command: tuple[str, ...],
    options: Options,
    io: Io,
    hooks: Hooks,
    attend: Callable[[Session], Ended] = Session.attend,
) -> Completed:
    """Make a container, run *command* in it, stay with it to its end, by *attend*.

    Raises LaminaError, KeyboardInterrupt.
    """
    begun: list[Session] = []
    try:
        session = begin(store, image, command, options, io, hooks, begun)
        return session.conclude(attend(session))
    except BaseException as failure:
        for session in begun:
            session.abandon(failure)
        raise


def begin(
    store: Store,
    image: str,
    command: tuple[str, ...],
    options: Options,
    io: Io,
    hooks: Hooks,
    begun: list[Session],
    held: Held | None = None,
) -> Session:
    """Make a container and start *command* in it: `attend` until it has ended, and `conclude`. *held* is its image
    where that was obtained already; it is released here.

    It is in *begun* before anything could be raised: then it is to be abandoned by whoever called. Raises as `run`.
    """
    try:
        if image != HOST and held is None:
            from lamina.engine.obtain import obtain

            held = obtain(store, image, options, hooks)
        with Undisturbed():
            home, name = containers.create(store, options.name)
            begun.append(Session(store, home, name, image, held, options, io, hooks))
        begun[0].begin(command)
        return begun[0]
    finally:
        if held is not None:
            held.release()
