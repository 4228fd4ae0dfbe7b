"""Docker's notation for what is mounted inside: `-v`, `--mount`, `--tmpfs`, `--volumes-from`; see `options.Volume`.

https://docs.docker.com/reference/cli/docker/container/run/, podman-run(1) for the options `U` and `O`
"""

from __future__ import annotations

import os

from lamina.engine.notation import listed, size_of, text_of
from lamina.engine.options import BIND, OVER, TMPFS, VOLUME, Volume
from lamina.errors import InvalidInput, Unsupported
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_PROPAGATION = frozenset(("private", "rprivate", "slave", "rslave", "shared", "rshared"))
# option of -v: what it means for the mount; None: nothing on Linux, accepted as Docker does, or no matter of the mount
_VOLUME_OPTIONS: dict[str, str | None] = {
    "rw": "rw",
    "ro": "rro",  # with all that is mounted below, as Docker from version 25 on
    "rro": "rro",
    **{p: p for p in sorted(_PROPAGATION)},
    **{a: a for a in ("nosuid", "nodev", "noexec", "suid", "dev", "exec")},
    **{b: b for b in ("bind", "rbind")},
    "idmap": "idmap",  # of a container with ids of its own: shown as if they were those here
    **dict.fromkeys(("cached", "delegated", "consistent", "nocopy", "copy", "z", "Z", "U", "O")),
}
# of the options of a tmpfs, what the file system itself takes (tmpfs(5)); the others belong to any mount
_TMPFS_SETTINGS = frozenset(("size", "nr_blocks", "nr_inodes", "mode", "uid", "gid", "mpol", "huge"))
_TMPFS_FLAGS = frozenset(
    ("rw", "ro", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "relatime", "strictatime")
) | {"nodiratime", "inode32", "inode64", "noswap", "tmpcopyup"}
_OPPOSITE = {"suid": "nosuid", "dev": "nodev", "exec": "noexec"}


# -- -v


def read_volume(given: Any) -> Volume:
    """`-v [SOURCE:]TARGET[:OPTIONS]`, or a tuple of these for paths that contain colons."""
    source_text, target_text, options = _parts(given)
    target = _target(target_text, f"volume target {target_text!r}")
    words = [word for word in options.split(",") if word]
    for word in words:
        if word not in _VOLUME_OPTIONS:
            known = ", ".join(sorted(_VOLUME_OPTIONS))
            raise InvalidInput(
                f"run: volume {given}: there is no option {word!r}", remedy=f"the options are {known}"
            )
    labels = {"z", "Z"} & set(words)
    if (
        ("rw" in words and {"ro", "rro"} & set(words))
        or len(_PROPAGATION & set(words)) > 1
        or len(labels) > 1
    ):
        raise InvalidInput(f"run: volume {given}: its options contradict each other")
    meant = [meaning for word in words if (meaning := _VOLUME_OPTIONS[word])]
    if _is_path(source_text):
        kind, source = (OVER if "O" in words else BIND), os.fsencode(os.path.abspath(source_text))
    else:
        kind, source = VOLUME, _volume_name(source_text)
        if "O" in words or _PROPAGATION & set(words):
            raise InvalidInput(f"run: volume {given}: O and propagation are for directories of the host")
    if kind == OVER and {"ro", "rro"} & set(words):
        raise InvalidInput(f"run: volume {given}: O is for writing, and ro forbids it")
    for word in ("U", *sorted(labels)):
        if kind == OVER and word in words:
            raise Unsupported(f"run: volume {given}: O and {word} together are not supported so far")
    settings = _settings(meant, kind)
    return Volume(
        source,
        target,
        settings,
        kind,
        copy="nocopy" not in words,
        chown="U" in words,
        relabel="".join(labels),
    )


def _parts(given: Any) -> tuple[str, str, str]:
    """(source, target, options); without a source it is a volume of the container's own."""
    if isinstance(given, str):
        parts = given.split(":")
        parts = ["", *parts] if len(parts) == 1 and given.startswith("/") else parts
    else:
        parts = list(given) if isinstance(given, (tuple, list)) else []
    if not 2 <= len(parts) <= 3:
        raise InvalidInput(
            f"run: volume {given!r}: not SOURCE:TARGET or SOURCE:TARGET:OPTIONS",
            remedy="such as /srv/data:/data:ro, or /data alone; --mount takes paths with colons",
        )
    texts = [text_of(part, "volume") for part in parts]
    if isinstance(given, str) and len(given.split(":")) > 1 and not texts[0]:
        raise InvalidInput(f"run: volume {given!r}: its source is empty")
    return texts[0], texts[1], texts[2] if len(texts) == 3 else ""


def _is_path(source: str) -> bool:
    return source.startswith(("/", "./", "../")) or source in (".", "..")


def _volume_name(name: str) -> bytes:
    """The name of a volume, "" for one without."""
    from lamina.store.names import is_name

    if name and not is_name(name):
        raise InvalidInput(
            f"run: volume {name!r}: neither the name of a volume nor a path",
            remedy="a name is made of letters, digits, '_', '.' and '-'; a path begins with / or ./",
        )
    return name.encode()


def _target(text: str, what: str) -> bytes:
    target = os.path.normpath(text) if text else ""
    if not target.startswith("/") or target.strip("/") == "":
        raise InvalidInput(f"run: {what}: not an absolute path other than /")
    return os.fsencode("/" + target.lstrip("/"))


def _settings(meant: list[str], kind: str) -> tuple[str, ...]:
    """The options of the mount. A volume holds what images brought: none of its programs or devices gives rights,
    unless that is asked for (as in podman).
    """
    if kind == OVER:
        return tuple(word for word in meant if word not in _PROPAGATION | {"bind", "rbind", "rw"})
    how = [] if {"bind", "rbind"} & set(meant) else ["rbind"]
    private = [] if _PROPAGATION & set(meant) else ["rprivate"]
    closed = []
    if kind == VOLUME:
        closed = [
            no for no, yes in (("nosuid", "suid"), ("nodev", "dev")) if yes not in meant and no not in meant
        ]
    return tuple(how + private + closed + meant)


# -- --tmpfs


def read_tmpfs(given: Any) -> tuple[Volume, ...]:
    """`--tmpfs PATH[:OPTIONS]`; from Python also a mapping of paths to options."""
    if hasattr(given, "items"):
        pairs = [
            (text_of(path, "tmpfs"), text_of(options or "", "tmpfs options"))
            for path, options in given.items()
        ]
    else:
        pairs = []
        for entry in listed(given, "tmpfs"):
            path, _, options = text_of(entry, "tmpfs").partition(":")
            pairs.append((path, options))
    return tuple(_tmpfs(path, options.split(",")) for path, options in pairs)


def _tmpfs(path: str, words: Iterable[str]) -> Volume:
    meant = {"nosuid": "", "nodev": "", "noexec": ""}  # as Docker has it
    for word in filter(None, words):
        key, equals, setting = word.partition("=")
        if (key not in _TMPFS_SETTINGS or not setting) if equals else key not in _TMPFS_FLAGS:
            raise InvalidInput(
                f"run: tmpfs {path}: there is no option {word!r}",
                remedy=f"the options are {', '.join(sorted(_TMPFS_FLAGS | {s + '=...' for s in _TMPFS_SETTINGS}))}",
            )
        meant.pop(_OPPOSITE.get(key, ""), None)
        meant[key] = setting
    options = tuple(f"{key}={setting}" if setting else key for key, setting in meant.items())
    return Volume(b"tmpfs", _target(path, f"tmpfs {path!r}"), options, TMPFS)


# -- --mount


def read_mount(given: Any) -> Volume:
    """`--mount type=bind|volume|tmpfs,source=...,target=...[,...]`; from Python also a mapping of these."""
    fields = _fields(given)
    kind = fields.pop("type", VOLUME)
    readers = {BIND: _bind_mount, VOLUME: _volume_mount, TMPFS: _tmpfs_mount}
    if kind not in readers:
        raise Unsupported(f"run: mount {given}: there is no type {kind!r}", remedy=f"{', '.join(readers)}")
    target = fields.pop("target", "")
    if not target:
        raise InvalidInput(f"run: mount {given}: it has no target", remedy="add target=/PATH")
    for word in ("consistency",):
        fields.pop(word, None)
    for key in fields:
        if key not in _MOUNT_KEYS:
            raise InvalidInput(
                f"run: mount {given}: there is no option {key!r}",
                remedy=f"the options are type, target, {', '.join(sorted(_MOUNT_KEYS))}",
            )
    try:
        mount = readers[kind](fields, target)
    except ValueError as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"run: mount {given}: {error}") from None
    if fields:
        raise InvalidInput(f"run: mount {given}: {next(iter(fields))} means nothing for type={kind}")
    return mount


_MOUNT_KEYS = frozenset(
    ("source", "readonly", "consistency", "bind-create-src", "bind-nonrecursive", "bind-propagation", "bind-recursive",
     "relabel", "tmpfs-mode", "tmpfs-size", "volume-driver", "volume-nocopy", "volume-subpath")
)  # fmt: skip
_RELABEL = {"": "", "shared": "z", "private": "Z"}  # as in podman
_SHORT = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}


def _fields(given: Any) -> dict[str, str]:
    """The keys and values of a `--mount`, under one name each."""
    if hasattr(given, "items"):
        pairs = [(str(key), _word(value)) for key, value in given.items()]
    else:
        from csv import reader

        text = text_of(given, "mount")
        rows = list(reader([text])) if "\n" not in text and "\r" not in text else []
        if len(rows) != 1:
            raise InvalidInput(f"run: mount {given!r}: not KEY=VALUE,...")
        pairs = []
        for field in rows[0]:
            key, equals, setting = field.partition("=")
            pairs.append((key.strip().lower(), setting if equals else "true"))
    found: dict[str, str] = {}
    for key, setting in pairs:
        if "\0" in setting:
            raise InvalidInput(f"run: mount {given!r}: a NUL byte")
        if key in ("volume-opt", "volume-label"):
            raise Unsupported(
                f"run: mount {given}: {key} is not supported so far", remedy="see 'volume create'"
            )
        found[_SHORT.get(key, key)] = setting
    return found


def _word(setting: Any) -> str:
    return str(setting).lower() if isinstance(setting, bool) else text_of(setting, "mount")


def _flag(fields: dict[str, str], key: str) -> bool:
    setting = fields.pop(key, "false")
    if setting.lower() not in ("true", "1", "false", "0"):
        raise ValueError(f"{key}={setting}: neither true nor false")
    return setting.lower() in ("true", "1")


def _bind_mount(fields: dict[str, str], target: str) -> Volume:
    source = fields.pop("source", "")
    if not source.startswith(("/", "./", "../")) and source not in (".", ".."):
        raise ValueError(f"the source {source!r} is not a path")
    below = fields.pop("bind-recursive", "enabled")
    if below not in ("enabled", "disabled", "writable", "readonly"):
        raise ValueError(f"bind-recursive={below}: not one of enabled, disabled, writable, readonly")
    if _flag(fields, "bind-nonrecursive"):
        below = "disabled"
    propagation = fields.pop("bind-propagation", "rprivate")
    if propagation not in _PROPAGATION:
        raise ValueError(f"bind-propagation={propagation}: not one of {', '.join(sorted(_PROPAGATION))}")
    options = ["bind" if below == "disabled" else "rbind", propagation]
    if _flag(fields, "readonly"):
        options.append("ro" if below in ("writable", "disabled") else "rro")
    elif below in ("writable", "readonly"):
        raise ValueError(f"bind-recursive={below} belongs to readonly")
    create = _flag(fields, "bind-create-src")
    place = _target(target, f"mount target {target!r}")
    relabel = fields.pop("relabel", "")
    if relabel not in _RELABEL:
        raise ValueError(f"relabel={relabel}: neither shared nor private")
    return Volume(
        os.fsencode(os.path.abspath(source)), place, tuple(options), create=create, relabel=_RELABEL[relabel]
    )


def _volume_mount(fields: dict[str, str], target: str) -> Volume:
    driver = fields.pop("volume-driver", "local")
    if driver not in ("local", ""):
        raise Unsupported(f"run: volume driver {driver}: not supported so far", remedy="local")
    name = _volume_name(fields.pop("source", ""))
    subpath = fields.pop("volume-subpath", "")
    names = [part for part in subpath.split("/") if part not in ("", ".")]
    if subpath.startswith("/") or ".." in names:
        raise ValueError(f"volume-subpath={subpath}: not a path within the volume")
    meant = ["rro"] if _flag(fields, "readonly") else []
    copy = not _flag(fields, "volume-nocopy")
    place = _target(target, f"mount target {target!r}")
    inside = os.fsencode("/".join(names))
    return Volume(name, place, _settings(meant, VOLUME), VOLUME, copy=copy, subpath=inside)


def _tmpfs_mount(fields: dict[str, str], target: str) -> Volume:
    words = []
    if "tmpfs-size" in fields:
        text = fields.pop("tmpfs-size")
        if (size := size_of(text)) is None:
            raise ValueError(f"tmpfs-size={text}: not a size")
        words.append(f"size={size}")
    if "tmpfs-mode" in fields:
        text = fields.pop("tmpfs-mode")
        if not text or set(text) - set("01234567") or int(text, 8) > 0o7777:
            raise ValueError(f"tmpfs-mode={text}: not an octal mode")
        words.append(f"mode={text}")
    if _flag(fields, "readonly"):
        words.append("ro")
    return _tmpfs(target, words)


# -- all of them


def read_volumes_from(given: Any) -> tuple[tuple[str, str], ...]:
    """`--volumes-from CONTAINER[:ro|rw][,z]`."""
    found = []
    for entry in listed(given, "volumes_from"):
        name, _, mode = text_of(entry, "volumes-from").partition(":")
        words = {*mode.split(",")} - {""}
        if not name or not words <= {"ro", "rw", "z", "Z"} or {"ro", "rw"} <= words or {"z", "Z"} <= words:
            raise InvalidInput(f"run: volumes-from {entry}: not CONTAINER or CONTAINER:ro")
        found.append((name, ",".join(sorted(words))))
    return tuple(found)


def read_only(volume: Volume) -> Volume:
    """The same, which nobody can write to."""
    return replace(
        volume, options=(*(word for word in volume.options if word not in ("rw", "rro", "ro")), "rro")
    )


def check_targets(volumes: Iterable[Volume]) -> None:
    """Raises InvalidInput for two at the same place."""
    seen = set()
    for volume in volumes:
        if volume.target in seen:
            raise InvalidInput(f"run: volume target {os.fsdecode(volume.target)}: given twice")
        seen.add(volume.target)


READERS: dict[str, Callable[[Any], tuple[Volume, ...]]] = {
    "volumes": lambda given: tuple(read_volume(entry) for entry in listed(given, "volumes")),
    "mounts": lambda given: tuple(read_mount(entry) for entry in listed(given, "mounts")),
    "tmpfs": read_tmpfs,
}
