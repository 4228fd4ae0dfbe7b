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
        if args.format == "json":
            output.json_document(said)
        else:
            output.templated(args.format, [{**said, **in_docker_s_words(said)}])
        return 0
    from lamina.cli.answers import show

    show(versions(), store_path(args.root), found)
    return 0


def in_docker_s_words(said: dict[str, Any]) -> dict[str, Any]:
    """What templates for `docker info` ask most, for those who take theirs along."""
    import os

    return {
        "ServerVersion": said["versions"]["lamina"],
        "KernelVersion": said["versions"]["kernel"],
        "Driver": "overlay2",
        "DockerRootDir": said["store"],
        "OSType": "linux",
        "Architecture": os.uname().machine,
        "Name": os.uname().nodename,
        "NCPU": os.cpu_count() or 1,
        "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
