"""Lamina: containers and layered file systems, without a daemon.

    import lamina

    done = lamina.run("host", ["make", "install"], capture_output=True, text=True)

Names are loaded when they are used: importing the package costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina import errors as errors
    from lamina.engine.asynchronous.container import AsyncContainer
    from lamina.engine.asynchronous.engine import AsyncEngine
    from lamina.engine.completed import Completed
    from lamina.engine.container import Container
    from lamina.engine.engine import Engine, run
    from lamina.engine.images import Image
    from lamina.engine.network import Network
    from lamina.engine.process import Process
    from lamina.engine.snapshots import Snapshot
    from lamina.engine.volumes import Volume
    from lamina.errors import LaminaError
    from lamina.overlay.changes import Change
    from lamina.overlay.explain import Explanation
    from lamina.overlay.stack import Overlay
    from lamina.overlay.tree import Tree

__version__ = "0.1.0.dev0"

__all__ = [
    "AsyncContainer",
    "AsyncEngine",
    "Change",
    "Completed",
    "Container",
    "Engine",
    "Explanation",
    "Image",
    "LaminaError",
    "Network",
    "Overlay",
    "Process",
    "Snapshot",
    "Tree",
    "Volume",
    "__version__",
    "run",
]

_WHERE = {
    "AsyncContainer": "engine.asynchronous.container",
    "AsyncEngine": "engine.asynchronous.engine",
    "Change": "overlay.changes",
    "Completed": "engine.completed",
    "Container": "engine.container",
    "Engine": "engine.engine",
    "Explanation": "overlay.explain",
    "Image": "engine.images",
    "LaminaError": "errors",
    "Network": "engine.network",
    "Overlay": "overlay.stack",
    "Process": "engine.process",
    "Snapshot": "engine.snapshots",
    "Tree": "overlay.tree",
    "Volume": "engine.volumes",
    "run": "engine.engine",
}


if not TYPE_CHECKING:  # or a misspelt name would have a type

    def __getattr__(name: str) -> object:
        if name not in _WHERE and name != "errors":
            raise AttributeError(f"module 'lamina' has no attribute {name!r}")
        import sys

        module = f"lamina.{_WHERE.get(name, name)}"
        __import__(module)
        if name == "errors":  # `except lamina.errors.NotFound`, whatever was imported before
            return sys.modules[module]
        found: object = getattr(sys.modules[module], name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*__all__, "errors", *[name for name in globals() if name.startswith("__")]})
