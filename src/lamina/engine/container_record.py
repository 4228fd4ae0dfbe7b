"""The record of a container: what was asked, and what became of that when it was made. What is in it besides where the
container stays after its end is `keeping`'s.
"""

from __future__ import annotations

from time import time_ns

from lamina.engine import layers
from lamina.engine.design import maps_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from lamina.engine.design import Design
    from lamina.engine.options import Options
    from lamina.engine.session import Session

# what others want to know of the options of one that is never started again, with what stands for nothing
SAID = {
    **dict.fromkeys(("user", "workdir", "entrypoint")),
    **dict.fromkeys(("init", "auto_snapshot"), False),
    "env": (),
    "durability": "",
    "network": "none",
}


def record_of(session: Session, drawn: Design, health: dict[str, Any] | None) -> dict[str, Any]:
    """The record of the container of *session*, which is as *drawn*; *health* is its entry of that name."""
    home, options, base = session.home, session.options, drawn.base
    record: dict[str, Any] = {
        "id": home.id,
        "name": session.name,
        "image": session.image,
        "command": list(drawn.words),
        "created": time_ns(),
        "rm": options.rm,
        "labels": {**dict(base.config.labels), **dict(options.labels)},
        "overlays": layers.record_of(drawn.layers),
        "cgroup": drawn.spec["linux"]["cgroupsPath"],
        "warnings": [*drawn.warnings, *session.made],
    }
    if base.id:
        record["image_id"], record["layers"] = base.id, list(base.layers)
    if drawn.volumes:
        from lamina.engine import mounted

        record["volumes"] = mounted.record_of(drawn.volumes)
    if drawn.maps is not None:
        record["id_maps"] = maps_record(drawn.maps)
    if session.ids is not None:
        record["own_ids"] = True
    if options.log is not None:
        from lamina.engine.logging import record_of as log_record_of

        record["log"] = log_record_of(options)
    if stop := options.stop_signal or dict(base.config.rest).get("stop_signal"):
        record["stop_signal"] = stop
    if options.stop_timeout is not None:
        record["stop_timeout"] = options.stop_timeout
    if health is not None:
        record["health"] = health
    if not options.rm or session.further is not None:
        from lamina.engine.keeping import lasting

        record.update(lasting(home.path, drawn, options))
        record.update(session.further or {})
    elif said := {key: given for key, usual in SAID.items() if (given := getattr(options, key)) != usual}:
        record["said"] = said
    if options.rm:
        for key, kept in _kept_of_one_that_goes(options):
            record.setdefault("said", {})[key] = kept
    return record


def _kept_of_one_that_goes(options: Options) -> Iterator[tuple[str, dict[str, Any]]]:
    """What others ask of a container while it runs, although nothing starts it again."""
    if options.further is not None and options.further.ipc:
        yield "further", {"ipc": options.further.ipc}
    wanted = options.networking
    if wanted is not None and (wanted.published or wanted.exposed or wanted.egress is not None):
        from lamina.engine.networking import record_of

        yield "networking", record_of(wanted)
