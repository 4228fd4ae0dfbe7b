"""`lamina images`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.convert import moment
from lamina.cli.filters import anything, filter_option, labelled, truth
from lamina.cli.options import format_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from lamina.cli.filters import Checks
    from lamina.engine.images import Image


FILTERS: Checks = {
    "reference": anything,
    "dangling": truth,
    "label": anything,
    "before": anything,
    "since": anything,
    "until": moment,
}

VERB = Verb(
    name="images",
    options=(
        Option("all", "a", help="Taken for docker's sake: there are no intermediate images"),
        Option("quiet", "q", help="Ids only"),
        Option("no-trunc", help="Ids in full"),
        Option("digests", help="Digests as well"),
        filter_option(FILTERS, "f"),
        format_option("{{.Repository}}"),
    ),
    arguments=(Argument("name", "NAME[:TAG]", "?", complete="image"),),
    examples="""
lamina images
lamina images debian
lamina images --filter dangling=true -q
lamina images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
""",
)

HEADINGS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "Size": "SIZE",
}
NONE = "<none>"


def do(args: Arguments) -> int:
    """List images, the youngest first: a line for each name."""
    from lamina.cli import output
    from lamina.cli.usage import only_one
    from lamina.engine import Engine

    only_one(VERB, ["--quiet", "--format"] if args.quiet and args.format != "table" else [])
    engine = Engine(args.root)
    found = engine.images()
    wanted = [*args.filter, *([("reference", args.name)] if args.name else [])]
    records = [
        line
        for image in _chosen(found, wanted, engine.image)
        for line in lines(image, wanted, full=args.no_trunc, digests=args.digests)
    ]
    if args.quiet:
        output.text("".join(f"{identity}\n" for identity in dict.fromkeys(one["ID"] for one in records)))
    else:
        shown = {key: text for key, text in HEADINGS.items() if args.digests or key != "Digest"}
        output.records(records, args.format, shown)
    return 0


def lines(
    image: Image, filters: Sequence[tuple[str, str]], *, full: bool = False, digests: bool = False
) -> Iterator[dict[str, Any]]:
    """A record for each of the image's names, in docker's words; without a name it is `<none>`."""
    import time

    from lamina.cli.durations import ago
    from lamina.cli.sizes import human
    from lamina.cli.when import local

    references = [text for key, text in filters if key == "reference"]
    by_repository = {digest.rpartition("@")[0]: digest.rpartition("@")[2] for digest in image.digests}
    names = [name.rpartition(":")[::2] for name in image.tags]
    named = {repository for repository, _ in names}
    names += [(repository, NONE) for repository in by_repository if repository not in named]
    for repository, tag in names or [(NONE, NONE)]:
        if references and not any(_matches(repository, tag, pattern) for pattern in references):
            continue
        yield {
            "ID": f"sha256:{image.id}" if full else image.id[:12],
            "Repository": repository,
            "Tag": tag,
            "Digest": by_repository.get(repository, NONE),
            "CreatedSince": ago(image.created, time.time()) if image.created else "N/A",
            "CreatedAt": local(image.created) if image.created else "N/A",
            "Size": human(image.size),
            "VirtualSize": human(image.size),
            "Platform": image.platform,
            "Containers": "N/A",
            "SharedSize": "N/A",
            "UniqueSize": "N/A",
        }


def _matches(repository: str, tag: str, pattern: str) -> bool:
    """docker's: the repository alone, or with a tag; `*` does not go over a slash."""
    from lamina.cli.patterns import matches

    return matches(repository, pattern) or matches(f"{repository}:{tag}", pattern)


def _chosen(found: list[Image], filters: Sequence[tuple[str, str]], look: Any) -> list[Image]:
    """Values of one key are alternatives, keys must all hold (labels: all of them), as in docker."""
    chosen = found
    for key, value in filters:
        if key == "label":
            chosen = [i for i in chosen if labelled(i.labels, value)]
        elif key == "dangling":
            chosen = [i for i in chosen if (not i.tags) == truth(value)]
        elif key == "before":
            chosen = [i for i in chosen if i.created < look(value).created]
        elif key == "since":
            chosen = [i for i in chosen if i.created > look(value).created]
        elif key == "until":
            chosen = [i for i in chosen if i.created < moment(value)]
    return chosen
