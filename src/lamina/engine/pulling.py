"""Images from and to registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.naming import resolve
from lamina.engine.storage import within_limit
from lamina.engine.unpacking import packing, words
from lamina.errors import InvalidInput
from lamina.image.platform import parse as parse_platform
from lamina.image.reference import Reference, parse
from lamina.image.registry.credentials import Login
from lamina.image.registry.session import Registries, registry_name
from lamina.image.transfer import Options
from lamina.image.transfer import pull as pull_image
from lamina.image.transfer import push as push_image
from lamina.store.events import event, note
from lamina.store.garbage import collect
from lamina.store.images import no_such
from lamina.store.leases import lease

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.store.root import Store

    Events = Callable[..., None]

_HEX = frozenset("0123456789abcdef")


def pull(
    store: Store,
    text: str,
    platform: str | None = None,
    events: Events | None = None,
    *,
    keep_blobs: bool = False,
    tls_verify: bool = True,
) -> tuple[str, str]:
    """Pull the image *text* and give it that name; its id, and the full name. *platform* is this machine's unless said.

    *events*: see lamina.image.transfer.events. Raises NotFound, InvalidReference, RegistryError.
    """
    reference = parse(text)
    with Registries(verify=tls_verify) as registries:
        return _pull(store, reference, platform, events, keep_blobs, registries)


def pull_all(
    store: Store,
    text: str,
    platform: str | None = None,
    events: Events | None = None,
    *,
    keep_blobs: bool = False,
    tls_verify: bool = True,
) -> list[str]:
    """Pull every tag of the repository *text*; the full names. Raises as `pull`."""
    reference = parse(text, default_tag=None)
    if reference.tag is not None or reference.digest is not None:
        raise InvalidInput(
            f"pull {text}: all tags are asked for, and one is named", remedy="leave out one of them"
        )
    with Registries(verify=tls_verify) as registries:
        tags = list(registries.repositories(reference)[-1].tags())
        return [
            _pull(store, reference.with_tag(tag), platform, events, keep_blobs, registries)[1] for tag in tags
        ]


def _pull(
    store: Store,
    reference: Reference,
    platform: str | None,
    events: Events | None,
    keep_blobs: bool,
    registries: Registries,
) -> tuple[str, str]:
    wanted = None if platform is None else parse_platform(platform)
    found = words()
    options = Options(keep_blobs=keep_blobs, words=found, staged=bool(found))
    with lease(store) as held:
        record = pull_image(store, reference, wanted, events, held, options, registries)
        note(store, event("image", "pull", reference.familiar, name=reference.familiar))
        within_limit(store, [record.id], events)
    if options.staged and not keep_blobs:
        collect(store)  # layers were unpacked by another process, from blobs that nobody needs any more
    return record.id, reference.canonical


def pull_for_run(store: Store, text: str, platform: str | None, events: Events | None) -> str:
    """As `pull`, for a start that did not find it; the id. Raises NotFound also for an id, which no registry knows."""
    if text.startswith("sha256:") or (len(text) == 64 and _HEX.issuperset(text)):
        raise no_such(text)
    return pull(store, text, platform, events)[0]


def push(store: Store, text: str, events: Events | None = None, *, tls_verify: bool = True) -> str:
    """Push the image called *text* to where its name says; the digest it has there. Raises NotFound, RegistryError."""
    reference = parse(text)
    if reference.digest is not None:
        raise InvalidInput(f"push {text}: a digest is what comes of it", remedy="name a tag")
    record, name = resolve(store, text)
    if name is None:
        raise InvalidInput(
            f"push {text}: that is an id, and says not where to", remedy="'lamina tag' gives it a name"
        )
    with Registries(verify=tls_verify) as registries:
        options = Options(packing=packing())
        digest = push_image(store, record, reference, events, options=options, registries=registries).digest
    note(store, event("image", "push", reference.familiar, name=reference.familiar))
    return digest


def login(server: str | None, username: str, password: str, *, tls_verify: bool = True) -> None:
    """Try the password at the registry, and keep it. Raises RegistryError."""
    with Registries(verify=tls_verify) as registries:
        registries.login(registry_name(server or ""), Login(username, password))


def logout(server: str | None) -> str:
    """Forget the password of the registry; its name."""
    name = registry_name(server or "")
    with Registries() as registries:
        registries.logout(name)
    return name
