"""`lamina info`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Verb
from lamina.cli.options import format_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    name="info",
    options=(format_option("{{.versions.lamina}}", short="f"),),
    details="Every question Lamina asks about the host, with the answer: since which kernel, or why not.",
    examples="lamina info --format json | jq '.host.overlay'",
)


def do(args: Arguments) -> int:
    """Show the probe's answers."""
    from lamina.cli import output
    from lamina.cli.verbs.version import versions
    from lamina.engine.info import facts, store_path

    found = facts()
    if args.format != "table":
        host: dict[str, dict[str, object]] = {}
        for fact in found:
            answer = {"question": fact.question, "supported": fact.good, "answer": fact.answer}
            host.setdefault(fact.area, {})[fact.name] = answer
        said = {"versions": versions(), "store": store_path(args.root), "host": host}
        said |= in_docker_s_words(args, said)
        if args.format == "json":
            output.json_document(said)
        else:
            output.templated(args.format, [said])
        return 0
    from lamina.cli.answers import show

    show(versions(), store_path(args.root), found)
    return 0


def in_docker_s_words(args: Arguments, said: dict[str, Any]) -> dict[str, Any]:
    """What templates for `docker info` ask most, for those who take theirs along."""
    import os

    from lamina.cli.absent import SWARM
    from lamina.engine.info import confinement, operating_system

    mode = said["host"]["cgroups"]["cgroup_mode"]["answer"]
    return {
        **counts(args),
        "ServerVersion": said["versions"]["lamina"],
        "KernelVersion": said["versions"]["kernel"],
        "Driver": "overlay2",
        "DockerRootDir": said["store"],
        "OSType": "linux",
        "OperatingSystem": operating_system(),
        "LoggingDriver": "local",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": {"v2": "2", "none": ""}.get(mode, "1"),
        "SecurityOptions": confinement(),
        "LiveRestoreEnabled": True,  # there is no daemon that containers could end with
        "Swarm": {"LocalNodeState": "inactive", "Error": f"swarm {SWARM}"},
        "Architecture": os.uname().machine,
        "Name": os.uname().nodename,
        "NCPU": os.cpu_count() or 1,
        "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def counts(args: Arguments) -> dict[str, int]:
    """How many containers and images there are, of a store that need not be there yet."""
    import os
    from collections import Counter

    from lamina.engine import Engine
    from lamina.engine.info import store_path

    if not os.path.isdir(store_path(args.root)):
        return dict.fromkeys(
            ("Containers", "ContainersRunning", "ContainersPaused", "ContainersStopped", "Images"), 0
        )
    engine = Engine(args.root)
    states = Counter(one.status for one in engine.containers(all=True))
    running, paused, all_of_them = states["running"], states["paused"], states.total()
    return {
        "Containers": all_of_them,
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": all_of_them - running - paused,
        "Images": len(engine.images()),
    }
