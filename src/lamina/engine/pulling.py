"""Images from and to registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.digesting import digested
from lamina.engine.unpacking import packing, words
from lamina.errors import InvalidInput, NotFound
from lamina.image.platform import parse as parse_platform
from lamina.image.reference import Reference, parse
from lamina.image.registry.credentials import Login
from lamina.image.registry.session import Registries, registry_name
from lamina.image.tar.limits import given
from lamina.image.transfer.options import Options
from lamina.store.events import event, note
from lamina.store.images import hold, no_such
from lamina.store.leases import lease

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.engine.image_verbs import LayerLimits
    from lamina.image.registry.search import Repository as Repository
    from lamina.store.images import Held
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
    limits: LayerLimits | None = None,
) -> tuple[str, str]:
    """Pull the image *text* and give it that name; its id, and the full name. *platform* is this machine's unless said.

    *events*: see lamina.image.transfer.events. Raises NotFound, InvalidReference, InvalidInput (limits), RegistryError.
    """
    reference, options = parse(text), _options(keep_blobs, limits)
    with Registries(verify=tls_verify) as registries:
        return _pull(store, reference, platform, events, options, registries)


def pull_all(
    store: Store,
    text: str,
    platform: str | None = None,
    events: Events | None = None,
    *,
    keep_blobs: bool = False,
    tls_verify: bool = True,
    limits: LayerLimits | None = None,
) -> list[str]:
    """Pull every tag of the repository *text*; the full names. Raises as `pull`."""
    reference, options = parse(text, default_tag=None), _options(keep_blobs, limits)
    if reference.tag is not None or reference.digest is not None:
        raise InvalidInput(
            f"pull {text}: all tags are asked for, and one is named", remedy="leave out one of them"
        )
    with Registries(verify=tls_verify) as registries:
        tags = list(
            registries.repositories(reference)[-1].tags()
        )  # before anything: one may come or go meanwhile
        return [
            _pull(store, reference.with_tag(tag), platform, events, options, registries)[1] for tag in tags
        ]


def _options(keep_blobs: bool, limits: LayerLimits | None) -> Options:
    found = words()
    return Options(keep_blobs=keep_blobs, words={**found, "limits": given(wanted=limits)}, staged=bool(found))


def _pull(
    store: Store,
    reference: Reference,
    platform: str | None,
    events: Events | None,
    options: Options,
    registries: Registries,
    then: Callable[[str], object] | None = None,
) -> tuple[str, str]:
    """The id of the image and its full name. *then* is called with the id while nobody prunes or evicts it."""
    from lamina.image.transfer.pull import pull as pull_image

    wanted = None if platform is None else parse_platform(platform)
    with lease(store) as held:
        record = pull_image(store, reference, wanted, events, held, options, registries)
        note(store, event("image", "pull", reference.familiar, name=reference.familiar))
        if store.limit is not None:
            from lamina.engine.storage import within_limit

            within_limit(store, [record.id], events)
        if then is not None:
            then(record.id)
    if options.staged and not options.keep_blobs:
        from lamina.store.garbage import collect

        collect(store)  # layers were unpacked by another process, from blobs that nobody needs any more
    return record.id, reference.canonical


def pull_for_run(
    store: Store, text: str, platform: str | None, events: Events | None, limits: LayerLimits
) -> Held:
    """As `pull`, for a start that did not find it: held at once, so that nobody evicts it before it is used. Raises
    NotFound also for an id, which no registry knows.
    """
    if text.startswith("sha256:") or (len(text) == 64 and _HEX.issuperset(text)):
        raise no_such(text)
    if events is not None:
        events("missing", image=text)
    found: list[Held] = []
    try:
        with Registries() as registries:
            _pull(
                store, parse(text), platform, events, _options(False, limits), registries,
                lambda identity: found.append(hold(store, identity)),
            )  # fmt: skip
    except BaseException:
        for held in found:
            held.release()
        raise
    return found[0]


def push(store: Store, text: str, events: Events | None = None, *, tls_verify: bool = True) -> str:
    """Push the image called *text* to where its name says; the digest it has there. Raises NotFound, RegistryError."""
    from lamina.engine.naming import resolve
    from lamina.image.transfer.push import push as push_image

    reference = parse(text)
    if reference.digest is not None:
        raise InvalidInput(f"push {text}: a digest is what comes of it", remedy="name a tag")
    record, name = resolve(store, text)
    if name is None:
        raise InvalidInput(
            f"push {text}: that is an id, and says not where to", remedy="'lamina tag' gives it a name"
        )
    record = digested(store, record, events)
    with Registries(verify=tls_verify) as registries:
        options = Options(packing=packing())
        digest = push_image(store, record, reference, events, options=options, registries=registries).digest
    note(store, event("image", "push", reference.familiar, name=reference.familiar))
    return digest


def push_all(
    store: Store, text: str, events: Events | None = None, *, tls_verify: bool = True
) -> list[tuple[str, str]]:
    """Push every image that is called *text* here, whatever its tag; the names, and the digests they have there. Raises
    as `push`.
    """
    from lamina.store.tags import list_names

    wanted = parse(text, default_tag=None)
    if wanted.tag is not None or wanted.digest is not None:
        raise InvalidInput(
            f"push {text}: all tags are asked for, and one is named", remedy="leave out one of them"
        )
    read = [parse(name.name, default_tag=None) for name in list_names(store)]
    names = sorted(one.familiar for one in read if one.name == wanted.name and one.tag)
    if not names:
        raise NotFound(
            f"push {text}: no image is called so here", remedy="'lamina images' lists what there is"
        )
    return [(name, push(store, name, events, tls_verify=tls_verify)) for name in names]


def search(text: str, limit: int, *, tls_verify: bool = True) -> list[Repository]:
    """See `Engine.search`."""
    from lamina.image.registry import search as searching

    with Registries(verify=tls_verify) as registries:
        return searching.search(text, limit, registries)


def tags(text: str, *, tls_verify: bool = True) -> list[str]:
    """See `Engine.tags`."""
    reference = parse(text, default_tag=None)
    if reference.tag is not None or reference.digest is not None:
        raise InvalidInput(f"list tags of {text}: one is named already", remedy="name the repository alone")
    with Registries(verify=tls_verify) as registries:
        return list(registries.repositories(reference)[-1].tags())


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
