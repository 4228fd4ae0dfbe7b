"""The verbs, as a table: group, module below this package, and the line that `lamina --help` shows.

Help and completion read only this; a verb's module is imported when it is the one to run.
"""

from __future__ import annotations

TRY, CONTAINERS, LAYERS, ITSELF = "On your own system", "Containers", "Layers", "Lamina itself"

GROUPS = (TRY, CONTAINERS, LAYERS, ITSELF)

VERBS: dict[str, tuple[str, str, str]] = {
    "try": (TRY, "try_out", "Run a command over this system, show what it did, then apply or discard it"),
    "run": (TRY, "run", "Run a command in a new container"),
    "diff": (TRY, "diff", "Show what a container changed"),
    "apply": (TRY, "apply", "Carry a container's changes out on this system"),
    "undo": (TRY, "undo", "Take back what apply did"),
    "ps": (CONTAINERS, "ps", "List containers"),
    "logs": (CONTAINERS, "logs", "Show what a container wrote"),
    "inspect": (CONTAINERS, "inspect", "Show everything known of containers, as JSON"),
    "rm": (CONTAINERS, "rm", "Remove containers and discard what they changed"),
    "overlay mount": (LAYERS, "overlay_mount", "Mount a stack of directories"),
    "overlay umount": (LAYERS, "overlay_umount", "Unmount stacks of directories"),
    "overlay diff": (LAYERS, "overlay_diff", "Show what the upper directory did to the lower ones"),
    "overlay explain": (LAYERS, "overlay_explain", "Show every layer's answer for one path, and which wins"),
    "plan": (ITSELF, "plan", "Show the system calls that a run would make"),
    "info": (ITSELF, "info", "Show what this host can do"),
    "doctor": (ITSELF, "doctor", "Find what keeps containers from running here, and the remedy"),
    "completion": (ITSELF, "completion", "Print the completion script of a shell"),
    "version": (ITSELF, "version", "Show the version"),
}
