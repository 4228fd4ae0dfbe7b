"""The public surface: about a dozen names, each of them meant."""

from __future__ import annotations

import lamina

PUBLIC = {
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
}


def test_the_public_names_are_the_ones_we_mean() -> None:
    assert set(lamina.__all__) == PUBLIC
    assert set(lamina.__all__) <= set(dir(lamina))


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    for name in PUBLIC - {"__version__"}:
        assert (getattr(lamina, name).__doc__ or "").strip(), name


def test_public_classes_are_seen_where_they_are_documented() -> None:
    """`from lamina import *` gives the names and nothing else."""
    namespace: dict[str, object] = {}
    exec("from lamina import *", namespace)
    assert set(namespace) - {"__builtins__"} == PUBLIC
