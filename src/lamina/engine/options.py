"""What can be asked of a container, as values: what people give (RunOptions), and the same checked (Options)."""

from __future__ import annotations

from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from typing import TypedDict

    AnyPath = str | bytes | PathLike[str] | PathLike[bytes]

    class RunOptions(TypedDict, total=False):
        """The options of a container; each as the option of `docker run` of that name."""

        name: str | None
        rm: bool
        hostname: str | None
        env: Sequence[str] | Mapping[str, str | None]
        workdir: AnyPath | None
        user: str | int | None
        memory: str | int | None
        cpus: str | float | None
        pids_limit: str | int | None
        volumes: Sequence[str | tuple[AnyPath, AnyPath] | tuple[AnyPath, AnyPath, str]]
        network: str
        tty: bool
        interactive: bool
        read_only: bool
        init: bool
        entrypoint: str | Sequence[str] | None
        labels: Sequence[str] | Mapping[str, str]


PERIOD = 100_000  # microseconds


@value
class Volume:
    """A directory or file of the host inside: `source` and `target` absolute; `options` in the mount's words."""

    source: bytes
    target: bytes
    options: tuple[str, ...]


@value
class Options:
    """The options of one container, checked. `env` holds (name, value) in the order given; numbers are in the
    kernel's units: bytes, microseconds of CPU in each PERIOD, processes; None where nothing was asked.
    """

    name: str | None = None
    rm: bool = False
    hostname: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    workdir: str | None = None
    user: str | None = None
    memory: int | None = None
    cpu_quota: int | None = None
    pids_limit: int | None = None
    volumes: tuple[Volume, ...] = ()
    network: str = "none"
    tty: bool = False
    interactive: bool = False
    read_only: bool = False
    init: bool = False
    entrypoint: tuple[str, ...] | None = None
    labels: tuple[tuple[str, str], ...] = ()
