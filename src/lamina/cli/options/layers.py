"""Of every verb that unpacks layers, how much of them is believed; of those that make images, what these say."""

from __future__ import annotations

from lamina.argv.declare import Option

LAYER_LIMIT = Option(
    "layer-limit",
    "",
    "NAME=NUMBER",
    "What a layer may have at most: entries, size, depth, name, extensions, segments, ratio, free, window "
    "(size=1t); may be repeated",
    multiple=True,
)

CHANGE = Option(
    "change", "c", "INSTRUCTION",
    "As in a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, "
    "VOLUME, WORKDIR",
    multiple=True,
)  # fmt: skip


def layer_limits(words: tuple[str, ...]) -> dict[str, str]:
    """The limits by name. Raises InvalidInput for a word that is not NAME=NUMBER; the engine knows the names."""
    found = {}
    for word in ",".join(words).split(",") if words else ():
        name, equals, number = word.partition("=")
        if not equals:
            from lamina.errors import InvalidInput

            raise InvalidInput(f"limit layers to {word!r}: not NAME=NUMBER", remedy="--layer-limit size=1t")
        found[name.strip()] = number.strip()
    return found
