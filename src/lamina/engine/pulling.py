"""Images from and to registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.naming import resolve
from lamina.engine.storage import within_limit
from lamina.engine.unpacking import packing, words
from lamina.errors import InvalidInput
from lamina.image.platform import parse as parse_platform
from lamina.image.reference import parse
from lamina.image.registry.credentials import Login
from lamina.image.registry.session import Registries, registry_name
from lamina.image.transfer import Options
from lamina.image.transfer import pull as pull_image
from lamina.image.transfer import push as push_image
from lamina.store.images import no_such
from lamina.store.leases import lease

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.store.root import Store

    Events = Callable[..., None]

_HEX = frozenset("0123456789abcdef")


def pull(
    store: Store, text: str, platform: str | None = None, events: Events | None = None
) -> tuple[str, str]:
    """Pull the image *text* and give it that name; its id, and the full name. *platform* is this machine's unless said.

    *events*: see lamina.image.transfer.events. Raises NotFound, InvalidReference, RegistryError.
    """
    reference = parse(text)
    wanted = None if platform is None else parse_platform(platform)
    found = words()
    options = Options(words=found, staged=bool(found))
    with lease(store) as held:
        record = pull_image(store, reference, wanted, events, held, options)
        within_limit(store, [record.id], events)
    return record.id, reference.canonical


def pull_for_run(store: Store, text: str, platform: str | None, events: Events | None) -> str:
    """As `pull`, for a start that did not find it; the id. Raises NotFound also for an id, which no registry knows."""
    if text.startswith("sha256:") or (len(text) == 64 and _HEX.issuperset(text)):
        raise no_such(text)
    return pull(store, text, platform, events)[0]


def push(store: Store, text: str, events: Events | None = None) -> str:
    """Push the image called *text* to where its name says; the digest it has there. Raises NotFound, RegistryError."""
    reference = parse(text)
    if reference.digest is not None:
        raise InvalidInput(f"push {text}: a digest is what comes of it", remedy="name a tag")
    record, name = resolve(store, text)
    if name is None:
        raise InvalidInput(
            f"push {text}: that is an id, and says not where to", remedy="'lamina tag' gives it a name"
        )
    return push_image(store, record, reference, events, options=Options(packing=packing())).digest


def login(server: str | None, username: str, password: str) -> None:
    """Try the password at the registry, and keep it. Raises RegistryError."""
    with Registries() as registries:
        registries.login(registry_name(server or ""), Login(username, password))


def logout(server: str | None) -> str:
    """Forget the password of the registry; its name."""
    name = registry_name(server or "")
    with Registries() as registries:
        registries.logout(name)
    return name
