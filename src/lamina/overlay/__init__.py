"""What a stack of directories means: what overlayfs makes of it, and how it is mounted.

`MountSpec` is the stack as a value. `parse_mount_options` and `format_options` are its text form, that of
`mount -t overlay -o ...`; `lamina.overlay.mount` mounts it, and says why when the kernel will not. `Overlay` answers
questions about it without a mount: what it shows (`Tree`), what its upper directory did to the layers below (`Change`),
which layer a path comes from and why (`Explanation`). `Target` is a plain directory that changes are put onto.

What this refuses to know: images, digests, and where layers are kept.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# name: the module it comes from; loaded when first asked for, so that importing this package costs nothing.
# The functions `mount`, `changes` and `explain` are not among them: these names are the modules' here.
_HOMES = {
    name: module
    for module, names in (
        ("apply", "Target"),
        ("changes", "Change Entry"),
        ("explain", "Answer Explanation"),
        ("mount", "attach create umount"),
        ("options", "MountOptions format_options parse_mount_options parse_options"),
        ("refusals", "explain_refusal foresee"),
        ("spec", "MountSpec"),
        ("stack", "Overlay"),
        ("tree", "Tree"),
    )
    for name in names.split()
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
