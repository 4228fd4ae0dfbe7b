"""Texts of the command line into values. Each raises ValueError with the reason that completes "VALUE ..."."""

from __future__ import annotations


def whole_number(text: str) -> int:
    """A decimal number, possibly negative: "100", "-1"."""
    digits = text[1:] if text[:1] == "-" else text
    if not digits.isascii() or not digits.isdigit():
        raise ValueError("is not a whole number")
    return int(text)


def count(text: str) -> int:
    """A number that is not negative."""
    number = whole_number(text)
    if number < 0:
        raise ValueError("is negative")
    return number


def pair(text: str) -> tuple[str, str]:
    """`KEY=VALUE`, or `KEY` alone, which has an empty value."""
    key, _, value = text.partition("=")
    if not key:
        raise ValueError("not KEY=VALUE")
    return key, value


def moment(text: str) -> float:
    """Seconds since 1970, of docker's ways to say when. Raises ValueError."""
    from lamina.cli.when import moment

    return moment(text)
