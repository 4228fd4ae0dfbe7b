"""The room where images, layers, namespaces and processes meet: the Python API. Names are loaded when they are used."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine.completed import Completed
    from lamina.engine.container import Container
    from lamina.engine.engine import Engine
    from lamina.engine.images import Image
    from lamina.engine.process import Process
    from lamina.engine.snapshots import Snapshot
    from lamina.engine.volumes import Volume

__all__ = ["Completed", "Container", "Engine", "Image", "Process", "Snapshot", "Volume"]

_WHERE = {
    "Completed": "completed",
    "Container": "container",
    "Engine": "engine",
    "Image": "images",
    "Process": "process",
    "Snapshot": "snapshots",
    "Volume": "volumes",
}


if not TYPE_CHECKING:  # or a misspelt name would have a type

    def __getattr__(name: str) -> object:
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = f"{__name__}.{_WHERE[name]}"
        __import__(module)
        import sys

        found: object = getattr(sys.modules[module], name)
        globals()[name] = found
        return found
