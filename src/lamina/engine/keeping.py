"""What the record of a container holds besides, if it stays after its end or is started again: for `inspect`, `diff`
and `apply`, and to draw it up once more.
"""

from __future__ import annotations

from lamina.engine.chains import own_layers
from lamina.engine.moment import moment
from lamina.engine.options import Options
from lamina.errors import Corrupt, Unsupported
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from lamina.engine.design import Design
    from lamina.engine.id_maps import IdMaps
    from lamina.engine.translate import ImageConfig
    from lamina.store.images import ImageRecord

_ELSEWHERE = ("volumes", "health", "warnings")


def lasting(home: bytes, drawn: Design, options: Options) -> dict[str, Any]:
    """The further entries of the record of the container in the directory *home*. Raises OSError."""
    if not drawn.base.id:  # later starts are not made in the directory of this one's caller
        options = replace(options, workdir=drawn.spec["process"]["cwd"])
    return {
        "options": options_record(options),
        "config": _config_record(drawn.base.config),
        "made": _made(drawn),
        "moment": moment(home + b"/moment"),
    }


def options_record(options: Options) -> dict[str, Any]:
    """*options* as a record keeps them, but for the volumes (engine/mounted), the health check (engine/health) and
    the warnings, which have entries of their own.
    """
    found = {key: given for key, given in vars(options).items() if key not in _ELSEWHERE}
    if options.further is not None:
        from lamina.engine.further import record_of

        found["further"] = record_of(options.further)
    if options.networking is not None:
        from lamina.engine.networking import record_of as networking_record_of

        found["networking"] = networking_record_of(options.networking)
    return found


def said_of(asked: dict[str, Any]) -> dict[str, Any]:
    """What the record *asked* has of the options: all, or the few of one that `run --rm` stays with."""
    found: dict[str, Any] = asked.get("options") or asked.get("said") or {}
    return found


def entrypoint_and_cmd(asked: dict[str, Any], of_image: Sequence[str]) -> tuple[list[str], list[str]]:
    """The two parts of the command in the record *asked*; *of_image* is the entrypoint of its image."""
    own = said_of(asked).get("entrypoint")
    entrypoint = [str(word) for word in (of_image if own is None else own)]
    return entrypoint, [str(word) for word in asked["command"]][len(entrypoint) :]


def exposed_ports(options: dict[str, Any], of_image: Iterable[str] = ()) -> list[str]:
    """The ports that are exposed, as "80/tcp": those of its image, of `--expose`, and those inside of `-p`."""
    said = options.get("networking") or {}
    published = (f"{port}/{protocol}" for protocol, _, _, port, *_ in said.get("published", ()))
    return sorted({*of_image, *one_by_one(said.get("exposed", ())), *published})


def one_by_one(exposed: Iterable[str]) -> Iterator[str]:
    """Each of the ports of "80/tcp" and "80-90/tcp", which is how a record has them."""
    for text in exposed:
        ports, _, protocol = text.partition("/")
        first, _, last = ports.partition("-")
        if last:
            yield from (f"{port}/{protocol}" for port in range(int(first), int(last) + 1))
        else:
            yield text


def publishable(asked: dict[str, Any]) -> list[str]:
    """What `-P` would publish: those that the image of the container of the record *asked* exposes, and `--expose`,
    as "80/tcp" and "80-90/tcp".
    """
    of_image = (asked.get("config") or {}).get("exposed_ports") or ()
    said = said_of(asked).get("networking") or {}
    return [*dict.fromkeys((*map(str, of_image), *said.get("exposed", ())))]


def networks_said(asked: dict[str, Any]) -> list[str]:
    """The networks that the container of the record *asked* will be in when it is started, or "none", "host",
    "container:NAME", "ns:PATH".
    """
    said = said_of(asked)
    joined = (said.get("networking") or {}).get("joined", ())
    return [str(said.get("network", "none")), *(str(one[0]) for one in joined)]


def options_of(asked: dict[str, Any]) -> Options:
    """The options in the record *asked* of a container, its volumes as they were found when it was made.

    Raises Unsupported for what a newer Lamina wrote, Corrupt.
    """
    kept = asked.get("options")
    if not isinstance(kept, dict):
        raise Corrupt("read the record of a container: it has no options")
    known = Options.__match_args__
    if unknown := sorted(kept.keys() - set(known)):
        raise Unsupported(
            f"start container {str(asked.get('id'))[:12]}: its record has {', '.join(unknown)}, "
            "which this Lamina does not know",
            remedy="use the newer Lamina that made it",
        )
    found = {key: _frozen(given) for key, given in kept.items() if key not in _ELSEWHERE}
    if kept.get("further"):
        from lamina.engine.further import of_record

        found["further"] = of_record(kept["further"], asked)
    if kept.get("networking"):
        from lamina.engine.networking import of_record as networking_of_record

        found["networking"] = networking_of_record(kept["networking"], asked)
    if asked.get("volumes"):
        from lamina.engine.mounted import volumes_of

        found["volumes"] = volumes_of(asked["volumes"])
    return replace(Options(**found), volumes_from=())


def _frozen(given: Any) -> Any:
    """Options are made of tuples, JSON of lists."""
    return tuple(_frozen(one) for one in given) if isinstance(given, list) else given


def image_of(asked: dict[str, Any]) -> ImageRecord | None:
    """What the container of the record *asked* was made from, as far as a start needs it; None for the host. The image
    itself may be gone: the layers stay as long as the container does.
    """
    if not asked.get("image_id"):
        return None
    from lamina.store.images import ImageRecord

    return ImageRecord(
        id=asked["image_id"],
        config="",
        layers=own_layers(asked),
        blobs=(),
        run=asked.get("config") or {},
    )


def ids_of(asked: dict[str, Any]) -> IdMaps | None:
    """The ids of the container of the record *asked* where they are not the usual ones."""
    if not asked.get("own_ids"):
        return None
    from lamina.engine.id_maps import IdMaps

    uids, gids = (
        tuple((line["containerID"], line["hostID"], line["size"]) for line in asked["id_maps"][key])
        for key in ("uidMappings", "gidMappings")
    )
    return IdMaps(uids, gids)


def _config_record(config: ImageConfig) -> dict[str, Any]:
    """In the words of `ImageRecord.run`."""
    return {
        **dict(config.rest),
        "env": list(config.env),
        "entrypoint": list(config.entrypoint),
        "cmd": list(config.cmd),
        "workdir": config.workdir,
        "user": config.user,
        "volumes": list(config.volumes),
        "labels": dict(config.labels),
    }


def _made(drawn: Design) -> list[str]:
    """Places that a start makes if they are missing: what is at them is none of the command's doing."""
    places = [mount["destination"] for mount in drawn.spec["mounts"]]
    return [*places, drawn.spec["process"]["cwd"]]
