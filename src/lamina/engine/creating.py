"""Containers that are made first and started then, by whom ever and as often as one likes."""

from __future__ import annotations

from lamina.engine.design import HOST
from lamina.engine.options import OWNER, Io
from lamina.engine.session import Session
from lamina.errors import InvalidInput
from lamina.runtime.identity import identity_of
from lamina.store import containers
from lamina.store.containers import Home
from lamina.store.events import about, note
from lamina.supervisor.logs import PASSTHROUGH
from lamina.supervisor.signals import Undisturbed
from lamina.supervisor.stdio import DEVNULL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.options import Options
    from lamina.engine.run import Hooks
    from lamina.store.images import Held
    from lamina.store.root import Store


def create(
    store: Store,
    image: str,
    command: tuple[str, ...],
    options: Options,
    hooks: Hooks,
    *,
    owner: int | None = None,
    stdin_once: bool = False,
    held: Held | None = None,
) -> Home:
    """Make a container over *image* that executes *command* once it is started; nobody holds it afterwards.

    *owner* is the process whose end ends it, where that was asked for. With *stdin_once* the end of input of the first
    who attaches to it is its own. *held* is its image where that was obtained already; it is released here. Raises as
    `run` does; then there is no container.
    """
    session = None
    try:
        further = _further(options, owner, stdin_once=stdin_once)
        if image != HOST and held is None:
            from lamina.engine.obtain import obtain

            held = obtain(store, image, options, hooks)
        with Undisturbed():
            home, name = containers.create(store, options.name)
            session = Session(store, home, name, image, held, options, Io(stdin=DEVNULL), hooks, further)
        session.prepare(command)
        if hooks.created is not None:
            hooks.created(home.id)
        assert session.record is not None
        note(store, about(session.record, "create"))
        if options.lifetime != OWNER:  # the mark has every command look whether its owner is still there
            home.unmark()
        home.release()
        return home
    except BaseException as failure:
        if session is not None:
            session.abandon(failure)
        raise
    finally:
        if held is not None:
            held.release()


def note_made_by(
    store: Store, identity: str, words: list[str], directory: str, environment: dict[str, str]
) -> None:
    """Have the record of a container say with which *words* of `lamina run`, said in *directory*, one like it is made;
    *environment* is what they took from the environment. Raises NotFound.
    """
    made_by = {
        "words": words,
        "directory": directory,
        **({"environment": environment} if environment else {}),
    }
    Home(store, identity).change_asked(lambda asked: {**asked, "made_by": made_by})


def _further(options: Options, owner: int | None, *, stdin_once: bool) -> dict[str, Any]:
    """What its record says of its life."""
    further: dict[str, Any] = {"detached": True}
    if stdin_once:
        further["stdin_once"] = True
    if options.log is not None and options.log[0] == PASSTHROUGH:
        raise InvalidInput(
            f"create container: the log driver {PASSTHROUGH} is for one that 'run' stays with, without a terminal",
            remedy="another --log-driver",
        )
    if options.lifetime == OWNER:
        further["owner"] = _identity(owner)
    return further


def _identity(owner: int | None) -> dict[str, Any]:
    if owner is None or (found := identity_of(owner))["start_time"] is None:
        raise InvalidInput(f"run: lifetime {OWNER}: there is no process {owner} that could own the container")
    return found
