"""What docker has and Lamina has not, and why: so that hands used to docker are told, and not sent to look for a typo.

The keys are names of verbs, "" for what stands before one, "*" for any of those that start a container.
tests/data/docker-flags.txt has every flag of docker's, and what became of it; docs/docker.md tells people.
"""

from __future__ import annotations

LATER = "is not supported so far"
WINDOWS = "is for Windows"
GIVEN_UP = "is not supported: docker has given it up as well"
DAEMON = "is not supported: there is no daemon to connect to"
SWARM = "is not supported: Lamina looks after one machine"
SIGNATURES = "is not supported: what is pulled is proved by its digest; docker's content trust is not asked"
CHECKPOINTS = "is not supported: no checkpoints are kept"
VOLUMES = "is not supported: volumes are directories of this store; mount what else there is, and bind it"

VERBS: dict[str, str] = {
    "build": LATER,
    "builder": LATER,
    "buildx": LATER,
    "manifest": LATER,
    "compose": LATER,
    "context": DAEMON,
    "checkpoint": CHECKPOINTS,
    "plugin": "is not supported: there are no plugins",
    "trust": SIGNATURES,
    **dict.fromkeys(("swarm", "config", "node", "secret", "service", "stack"), SWARM),
}

STARTING = ("run", "create")
OPTIONS: dict[str, dict[str, str]] = {
    "": {
        **dict.fromkeys(
            (
                "-H",
                "--host",
                "-c",
                "--context",
                "--tls",
                "--tlscacert",
                "--tlscert",
                "--tlskey",
                "--tlsverify",
            ),
            DAEMON,
        ),
        "--config": "is not supported: DOCKER_CONFIG names the directory of passwords",
        "--log-level": "is not supported: --debug says where an error arose",
        "-D": "is not supported: it is --debug",
        "-l": "is not supported: --debug says where an error arose",
    },
    "*": {
        "--link-local-ip": "is not supported: a link has the one that goes with its MAC address",
        **dict.fromkeys(
            ("--cpu-count", "--cpu-percent", "--io-maxbandwidth", "--io-maxiops", "--isolation"), WINDOWS
        ),
        **dict.fromkeys(("--link", "--kernel-memory"), GIVEN_UP),
        "--disable-content-trust": SIGNATURES,
        "--cgroup-parent": "is not supported: the control groups of a container are below lamina/, where this is",
        "--cpu-rt-period": "is not supported: no usual kernel shares out real time among control groups",
        "--cpu-rt-runtime": "is not supported: no usual kernel shares out real time among control groups",
        "--runtime": "is not supported: Lamina is its own runtime; 'lamina-runtime' is it for others",
        "--storage-opt": "is not supported: no file system that overlays are on limits a directory; --tmpfs has sizes",
        "--volume-driver": VOLUMES,
    },
    "create": dict.fromkeys(("-a", "--attach"), "is not supported: say it to start"),
    "pull": {"--disable-content-trust": SIGNATURES},
    "push": {"--disable-content-trust": SIGNATURES},
    "rm": {"-l": GIVEN_UP, "--link": GIVEN_UP},
    "start": {"--checkpoint": CHECKPOINTS, "--checkpoint-dir": CHECKPOINTS},
    "update": {
        "--cpu-rt-period": "is not supported: no usual kernel shares out real time among control groups",
        "--cpu-rt-runtime": "is not supported: no usual kernel shares out real time among control groups",
    },
    "network connect": {
        "--driver-opt": "is not supported: a container's place in a network has no options of a driver",
        "--link": GIVEN_UP,
        "--link-local-ip": "is not supported: a link has the one that goes with its MAC address",
    },
    "network create": {
        **dict.fromkeys(("--attachable", "--config-from", "--config-only", "--ingress", "--scope"), SWARM),
        **dict.fromkeys(
            ("--aux-address", "--ipam-driver", "--ipam-opt"),
            "is not supported: --ip-range says from which part containers get addresses",
        ),
    },
    "network inspect": {"-v": SWARM, "--verbose": SWARM},
    "volume create": {
        **dict.fromkeys(("-o", "--opt"), VOLUMES),
        **dict.fromkeys(
            (
                *("--availability", "--group", "--limit-bytes", "--required-bytes", "--scope", "--secret"),
                *("--sharing", "--topology-preferred", "--topology-required", "--type"),
            ),
            SWARM,
        ),
    },
    "volume ls": {"--cluster": SWARM},
}


def option(verb: str, name: str) -> str | None:
    """Why *verb* has no option *name* ("--link", "-p") although docker's has; None where docker has none either."""
    found = OPTIONS.get(verb, {}).get(name)
    return OPTIONS["*"].get(name) if found is None and verb in STARTING else found
