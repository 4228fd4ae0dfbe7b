"""An image's config: its platform, its layers' diff_ids, and what a container of it runs.

image-spec "config.md", and what Docker adds to it: health check, shell, ONBUILD. What is read is hostile: limits on
what is counted, no null byte in what becomes an argument, a path or the environment, nothing else interpreted here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from lamina.errors import InvalidInput
from lamina.image.documents.reading import DEFAULT_LIMITS, Limits, check_layers, read_json
from lamina.image.platform import Platform, normalise
from lamina.store.digest import check_digest
from lamina.store.layers import is_id as is_layer

__all__ = [
    "PENDING",
    "Healthcheck",
    "History",
    "ImageConfig",
    "RootFS",
    "RunConfig",
    "config_run",
    "decode_config",
    "encode_config",
    "run_config",
]

# before the id of a layer, in place of a diff_id: in the config of an image of this store whose digests nobody has
# needed yet. No document that comes from outside may have it
PENDING = "pending:"
Words = list[str] | str | None  # Docker once wrote a single word without the list


class Healthcheck(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    """How to find out whether the container is well (Docker). Times in nanoseconds; 0: inherited, or the default."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class RunConfig(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    """What a container of the image runs, under the specification's names."""

    user: str | None = None
    exposed_ports: dict[str, Any] | None = None
    env: list[str] | None = None
    entrypoint: Words = None
    cmd: Words = None
    volumes: dict[str, Any] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    args_escaped: bool | None = None
    healthcheck: Healthcheck | None = None
    shell: Words = None
    on_build: list[str] | None = None


class RootFS(msgspec.Struct, frozen=True):
    """The layers by their diff_ids, base first."""

    type: str
    diff_ids: list[str] | None


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a layer, or a piece of metadata, came about."""

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image's config. Its digest is the image's id, so what was read is kept as the bytes it was."""

    rootfs: RootFS
    architecture: str = ""
    os: str = ""
    variant: str | None = None
    os_version: str | None = msgspec.field(name="os.version", default=None)
    os_features: list[str] | None = msgspec.field(name="os.features", default=None)
    created: str | None = None
    author: str | None = None
    config: RunConfig | None = None
    history: list[History] | None = None

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The diff_ids of the layers, base first."""
        return tuple(self.rootfs.diff_ids or ())

    @property
    def platform(self) -> Platform:
        """What it is made for, normalised; Linux where it does not say (as Docker reads it)."""
        return normalise(self.os or "linux", self.architecture, self.variant or "")


def decode_config(
    data: bytes,
    layers: int | None = None,
    what: str = "config",
    limits: Limits = DEFAULT_LIMITS,
    *,
    pending: bool = False,
) -> ImageConfig:
    """The config in *data*, whose manifest has as many *layers*; *pending*: it is of this store, and some of its layers
    need have no digest yet (PENDING). Raises InvalidInput.
    """
    config = read_json(data, ImageConfig, what, limits)
    if config.rootfs.type != "layers":
        raise InvalidInput(f"read {what}: rootfs.type is {config.rootfs.type[:40]!r}, not 'layers'")
    for diff_id in config.diff_ids:
        if pending and diff_id.startswith(PENDING) and is_layer(diff_id.removeprefix(PENDING)):
            continue
        if not check_digest(diff_id).startswith("sha256:"):
            raise InvalidInput(f"read {what}: diff_id {diff_id}: only sha256 is supported for these")
    if layers is not None and len(config.diff_ids) != layers:
        raise InvalidInput(
            f"read {what}: it has {len(config.diff_ids)} diff_ids, its manifest {layers} layers"
        )
    counted = {
        "history": len(config.history or ()),
        "volumes": len(config.config.volumes or ()) if config.config else 0,
    }
    check_layers(config.diff_ids, what, limits)
    for name, count in counted.items():
        if count > (allowed := getattr(limits, name)):
            raise InvalidInput(f"read {what}: {count} entries of {name}, at most {allowed} are allowed")
    try:
        _refuse_null(msgspec.to_builtins(config), what, "")
    except RecursionError:  # from Python 3.12 on, what is read may be deeper than functions of Python are
        raise InvalidInput(f"read {what}: nested too deeply") from None
    return config


def config_run(config: ImageConfig) -> dict[str, Any]:
    """What a start needs of the config, as the store's image record keeps it (`ImageRecord.run`).

    Lists are lists of text or None where the config says nothing (an empty list is not nothing: it clears what was);
    `healthcheck` is a dict of test, interval, timeout, start_period, start_interval (nanoseconds) and retries.
    """
    run = config.config or RunConfig()
    check = run.healthcheck
    return {
        "env": run.env or [],
        "entrypoint": _words(run.entrypoint),
        "cmd": _words(run.cmd),
        "workdir": run.working_dir or "",
        "user": run.user or "",
        "volumes": sorted(run.volumes or ()),
        "exposed_ports": sorted(run.exposed_ports or ()),
        "labels": run.labels or {},
        "stop_signal": run.stop_signal or "",
        "healthcheck": None if check is None else {n: getattr(check, n) for n in check.__struct_fields__},
        "shell": _words(run.shell),
        "onbuild": run.on_build or [],
    }


def run_config(run: dict[str, Any]) -> RunConfig:
    """The inverse of `config_run`: what an image that is made of a record says."""
    check = run.get("healthcheck")
    return RunConfig(
        user=run.get("user") or None,
        exposed_ports={port: {} for port in run.get("exposed_ports") or ()} or None,
        env=list(run.get("env") or ()) or None,
        entrypoint=run.get("entrypoint"),
        cmd=run.get("cmd"),
        volumes={volume: {} for volume in run.get("volumes") or ()} or None,
        working_dir=run.get("workdir") or None,
        labels=dict(run.get("labels") or {}) or None,
        stop_signal=run.get("stop_signal") or None,
        healthcheck=None if check is None else Healthcheck(**check),
        shell=run.get("shell"),
        on_build=list(run.get("onbuild") or ()) or None,
    )


def encode_config(config: ImageConfig) -> bytes:
    """The config as JSON, always the same bytes for the same content. Raises InvalidInput without a platform."""
    if not config.architecture or not config.os:
        raise InvalidInput("write config: an image says its architecture and os")
    return msgspec.json.encode(config, order="deterministic")


def _words(found: Words) -> list[str] | None:
    return [found] if isinstance(found, str) else found


def _refuse_null(found: object, what: str, where: str) -> None:
    """Raise InvalidInput if any text in *found* has a null byte: nothing that is handed to the kernel can have one."""
    if isinstance(found, str):
        if "\0" in found:
            raise InvalidInput(f"read {what}: {where.lstrip('.')}: a null byte in it")
    elif isinstance(found, dict):
        for name, member in found.items():
            _refuse_null(name, what, where)
            _refuse_null(member, what, f"{where}.{name[:80]}")
    elif isinstance(found, list):
        for member in found:
            _refuse_null(member, what, where)
