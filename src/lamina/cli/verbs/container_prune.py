"""`lamina container prune`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb


def _filter(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or key not in ("until", "label", "label!"):
        raise ValueError("not KEY=VALUE with a key of until, label, label!")
    if key == "until":
        from lamina.cli.when import moment

        moment(value)  # raises ValueError if it is none
    return key, value


VERB = Verb(
    name="container prune",
    options=(
        Option(
            "filter",
            "",
            "KEY=VALUE",
            "Only those; keys: until, label, label!",
            multiple=True,
            convert=_filter,
        ),
        Option("force", "f", help="Do not ask"),
    ),
    details="""Removes the containers that do not run, and with them what they changed. Those can be chosen which were
    made before `until` (10m, 24h, 2024-05-01), or have a label, or with label! have it not.""",
    examples="lamina container prune -f --filter until=24h",
)


def do(args: Arguments) -> int:
    """Remove them, and say what became free."""
    from lamina.cli import output
    from lamina.cli.confirming import confirmed
    from lamina.cli.sizes import human
    from lamina.engine import Engine

    what = "all containers that do not run, with what they changed"
    if not args.force and not confirmed(f"This removes {what}.", "container prune"):
        return 0
    before, having, without = _chosen(args.filter)
    gone, freed = Engine(args.root).prune_containers(before=before, labels=having, without=without)
    if gone:
        output.lines(["Deleted containers:", *gone, ""])
    output.line(f"Total reclaimed space: {human(freed)}")
    return 0


def _chosen(filters: tuple[tuple[str, str], ...]) -> tuple[float | None, list[str], list[str]]:
    from lamina.cli.when import moment

    moments = [moment(value) for key, value in filters if key == "until"]
    having = [value for key, value in filters if key == "label"]
    return min(moments, default=None), having, [value for key, value in filters if key == "label!"]
