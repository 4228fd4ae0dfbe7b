"""The verbs, as a table: group, module below this package, and the line that `lamina --help` shows.

Help and completion read only this; a verb's module is imported when it is the one to run.
"""

from __future__ import annotations

TRY, CONTAINERS, LAYERS, ITSELF = "On your own system", "Containers", "Layers", "Lamina itself"
NETWORKS, STATES = "Networks", "States of containers"
IMAGES, STORAGE = "Images", "What is kept"

GROUPS = (TRY, CONTAINERS, STATES, IMAGES, NETWORKS, STORAGE, LAYERS, ITSELF)

VERBS: dict[str, tuple[str, str, str]] = {
    "try": (TRY, "try_out", "Run a command over this system, show what it did, then apply or discard it"),
    "run": (TRY, "run", "Run a command in a new container"),
    "diff": (TRY, "diff", "Show what a container changed, or what is between two states"),
    "explain": (TRY, "explain", "Show which layer, and which step, a path comes from"),
    "why": (TRY, "explain", "Show which layer, and which step, a path comes from"),
    "apply": (TRY, "apply", "Carry a container's changes out on this system"),
    "undo": (TRY, "undo", "Take back what apply did"),
    "create": (CONTAINERS, "create", "Make a container without starting it"),
    "start": (CONTAINERS, "start", "Start containers"),
    "stop": (CONTAINERS, "stop", "Stop containers"),
    "restart": (CONTAINERS, "restart", "Stop containers, and start them again"),
    "kill": (CONTAINERS, "kill", "Send containers a signal"),
    "pause": (CONTAINERS, "pause", "Stop every process of containers until they are unpaused"),
    "unpause": (CONTAINERS, "unpause", "Let paused containers go on"),
    "update": (CONTAINERS, "update", "Change the limits or the restart policy of containers"),
    "wait": (CONTAINERS, "wait", "Wait until containers have ended, and print their exit statuses"),
    "rename": (CONTAINERS, "rename", "Give a container another name"),
    "ps": (CONTAINERS, "ps", "List containers"),
    "attach": (CONTAINERS, "attach", "Be at the terminal, or the streams, of a running container"),
    "exec": (CONTAINERS, "execute", "Run a further command in a running container"),
    "cp": (CONTAINERS, "cp", "Copy files out of a container, or into one"),
    "container prune": (CONTAINERS, "container_prune", "Remove containers that do not run"),
    "healthcheck run": (CONTAINERS, "healthcheck_run", "Do the health check of a container now"),
    "top": (CONTAINERS, "top", "List the processes of a container"),
    "stats": (CONTAINERS, "stats", "Show what containers use"),
    "logs": (CONTAINERS, "logs", "Show what a container wrote"),
    "events": (CONTAINERS, "events", "Show what happens to containers, images, volumes and networks"),
    "port": (CONTAINERS, "port", "Show where a container's ports are published"),
    "inspect": (CONTAINERS, "inspect", "Show everything known of containers, images or snapshots, as JSON"),
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

VERBS |= {
    "snapshot create": (STATES, "snapshot_create", "Freeze what a container wrote, as a state of it"),
    "snapshot ls": (STATES, "snapshot_ls", "List snapshots of containers"),
    "snapshot inspect": (STATES, "snapshot_inspect", "Show everything known of snapshots, as JSON"),
    "snapshot rm": (STATES, "snapshot_rm", "Remove snapshots"),
    "snapshot prune": (STATES, "snapshot_prune", "Remove the snapshots of a container that have no name"),
    "rewind": (STATES, "rewind", "Put a container back into a state"),
    "rollback": (STATES, "rewind", "Put a container back into a state"),
    "fork": (STATES, "fork", "Make containers that begin where another one, or a snapshot of it, is"),
    "merge": (STATES, "merge", "Take over into a container what its forks did"),
    "promote": (STATES, "promote", "Let a container become what a fork of it is"),
    "rebase": (STATES, "rebase", "Put what a container wrote over another image"),
    "squash": (STATES, "squash", "Make one layer of those that a container froze"),
    "log": (STATES, "log", "Show the states of a container, and what came from what"),
}

VERBS |= {
    "pull": (IMAGES, "pull", "Fetch an image from a registry"),
    "push": (IMAGES, "push", "Send an image to a registry"),
    "images": (IMAGES, "images", "List images"),
    "tag": (IMAGES, "tag", "Give an image another name"),
    "rmi": (IMAGES, "rmi", "Remove images, or names of images"),
    "commit": (IMAGES, "commit", "Make an image of what a container wrote"),
    "history": (IMAGES, "history", "Show how an image came about"),
    "load": (IMAGES, "load", "Read images from an archive"),
    "save": (IMAGES, "save", "Write images to an archive"),
    "import": (IMAGES, "import_", "Make an image of a tar archive of files"),
    "export": (CONTAINERS, "export", "Write a container's files as a tar archive"),
    "login": (IMAGES, "login", "Log in to a registry"),
    "logout": (IMAGES, "logout", "Log out of a registry"),
    "search": (IMAGES, "search", "Search a registry"),
    # the same under the names of docker's management commands
    "image ls": (IMAGES, "images", "List images"),
    "image inspect": (IMAGES, "image_inspect", "Show everything known of images, as JSON"),
    "image from-dir": (IMAGES, "image_from_dir", "Make an image of a directory"),
    "image prune": (IMAGES, "image_prune", "Remove images that nobody uses"),
    "image rm": (IMAGES, "rmi", "Remove images, or names of images"),
    "image pull": (IMAGES, "pull", "Fetch an image from a registry"),
    "image push": (IMAGES, "push", "Send an image to a registry"),
    "image tag": (IMAGES, "tag", "Give an image another name"),
    "image history": (IMAGES, "history", "Show how an image came about"),
    "image load": (IMAGES, "load", "Read images from an archive"),
    "image save": (IMAGES, "save", "Write images to an archive"),
    "image import": (IMAGES, "import_", "Make an image of a tar archive of files"),
}

VERBS |= {
    "network create": (NETWORKS, "network_create", "Make a network"),
    "network ls": (NETWORKS, "network_ls", "List networks"),
    "network inspect": (NETWORKS, "network_inspect", "Show everything known of networks, as JSON"),
    "network rm": (NETWORKS, "network_rm", "Remove networks"),
    "network prune": (NETWORKS, "network_prune", "Remove networks that no container is in"),
    "network connect": (NETWORKS, "network_connect", "Put a container into a further network"),
    "network disconnect": (NETWORKS, "network_disconnect", "Take a container out of a network"),
    "network reload": (NETWORKS, "network_reload", "Make the rules of networks anew"),
    "volume create": (STORAGE, "volume_create", "Make a volume"),
    "volume ls": (STORAGE, "volume_ls", "List volumes"),
    "volume inspect": (STORAGE, "volume_inspect", "Show everything known of volumes, as JSON"),
    "volume rm": (STORAGE, "volume_rm", "Remove volumes, and what is in them"),
    "volume prune": (STORAGE, "volume_prune", "Remove volumes that nobody uses"),
    "system events": (CONTAINERS, "events", "Show what happens to containers, images, volumes and networks"),
    "system info": (ITSELF, "info", "Show what this host can do"),
    "system df": (STORAGE, "system_df", "Show what takes how much room, and what of it could go"),
    "system prune": (STORAGE, "system_prune", "Remove what nobody uses"),
    "system check": (STORAGE, "system_check", "Look whether everything that is kept is whole, and mend it"),
    "system start-restartable": (
        ITSELF,
        "system_start_restartable",
        "Start what is started with the machine, as restart policies say",
    ),
    "system stop-restartable": (
        ITSELF,
        "system_stop_restartable",
        "Stop what has a restart policy, until the machine is started again",
    ),
    "generate systemd": (
        ITSELF,
        "generate_systemd",
        "Print a unit with which systemd looks after a container",
    ),
    "system warm": (
        ITSELF,
        "system_warm",
        "Show the warm process that does commands, or switch it on or off",
    ),
    "gc": (STORAGE, "gc", "Remove layers and blobs that nothing refers to, or say why they stay"),
    "pin": (STORAGE, "pin", "Never let an image go by itself"),
    "unpin": (STORAGE, "unpin", "Let an image go again like others"),
}

# the same under the names of docker's management command
_OWN = (
    "attach",
    "commit",
    "cp",
    "create",
    "diff",
    "exec",
    "export",
    "fork",
    "kill",
    "logs",
    "pause",
    "port",
    "rename",
    "restart",
    "rm",
    "run",
    "start",
    "stats",
    "stop",
    "top",
    "unpause",
    "update",
    "wait",
)
VERBS |= {
    f"container {short}": (CONTAINERS, VERBS[name][1], VERBS[name][2])
    for short, name in {**{name: name for name in _OWN}, "ls": "ps"}.items()
}

VERBS["container inspect"] = (CONTAINERS, "container_inspect", "Show everything known of containers, as JSON")

# docker's second spellings, which are understood and not shown
ALSO = {f"{name.rpartition(' ')[0]} list": name for name in VERBS if name.endswith(" ls")}
ALSO |= {f"{name.rpartition(' ')[0]} remove": name for name in VERBS if name.endswith(" rm")}
ALSO["container ps"] = "container ls"
