"""Platforms: how they are written, what they are called, and which of several is taken."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput
from lamina.image.platform import Platform, best, current, normalise, parse

HERE = current()
READ = {
    "linux/amd64": Platform("linux", "amd64"),
    "linux/x86_64": Platform("linux", "amd64"),
    "LINUX/X86-64": Platform("linux", "amd64"),
    "linux/amd64/v1": Platform("linux", "amd64"),
    "linux/amd64/v3": Platform("linux", "amd64", "v3"),
    "linux/i386": Platform("linux", "386"),
    "linux/aarch64": Platform("linux", "arm64"),
    "linux/arm64/v8": Platform("linux", "arm64"),
    "linux/arm64/8": Platform("linux", "arm64"),
    "linux/arm64/v9.0": Platform("linux", "arm64", "v9"),
    "linux/arm64/v8.2": Platform("linux", "arm64", "v8.2"),
    "linux/arm": Platform("linux", "arm", "v7"),
    "linux/armhf": Platform("linux", "arm", "v7"),
    "linux/armel": Platform("linux", "arm", "v6"),
    "linux/arm/7": Platform("linux", "arm", "v7"),
    "linux/arm/v6": Platform("linux", "arm", "v6"),
    "macos/arm64": Platform("darwin", "arm64"),
    "windows/amd64": Platform("windows", "amd64"),
    "linux/riscv64": Platform("linux", "riscv64"),
    "plan10/strange/v1": Platform("plan10", "strange", "v1"),  # a pair may be anything, as with containerd
    "arm64": Platform(HERE.os, "arm64"),
    "armhf": Platform(HERE.os, "arm", "v7"),
    "linux": Platform("linux", HERE.architecture, HERE.variant),
}


@pytest.mark.parametrize("text", READ)
def test_a_platform_is_read_and_normalised(text: str) -> None:
    assert parse(text) == READ[text]
    assert parse(str(READ[text])) == READ[text]


@pytest.mark.parametrize(
    "text", ["", "/", "linux/", "linux/amd64/v1/x", "a b", "linux/*", "strange", "linux/a\n", "é"]
)
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="parse platform"):
        parse(text)


@pytest.mark.parametrize(
    ("machine", "platform"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("i686", "linux/386"),
        ("riscv64", "linux/riscv64"),
        ("ppc64le", "linux/ppc64le"),
        ("s390x", "linux/s390x"),
    ],
)
def test_the_platform_of_a_machine(machine: str, platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    assert str(current()) == platform


class Offer:
    def __init__(self, text: str) -> None:
        self.text = text
        self.for_platform = normalise(*text.split("/")) if text else None


# wanted, what there is ("" does not say), what is taken
CHOICES = [
    ("linux/amd64", "linux/arm64 linux/amd64 linux/386", "linux/amd64"),
    ("linux/amd64", "linux/386 linux/arm64", "linux/386"),
    ("linux/amd64", "linux/arm64 linux/ppc64le", None),
    ("linux/amd64", "linux/amd64/v3 linux/amd64/v2", None),
    ("linux/amd64/v3", "linux/amd64 linux/amd64/v2 linux/amd64/v4", "linux/amd64/v2"),
    ("linux/amd64/v2", "linux/386 linux/amd64/v1", "linux/amd64/v1"),
    ("linux/arm/v7", "linux/arm/v5 linux/arm/v6 linux/arm/v8", "linux/arm/v6"),
    ("linux/arm/v7", "linux/arm linux/arm/v6", "linux/arm"),
    ("linux/arm/v6", "linux/arm/v7 linux/arm/v5", "linux/arm/v5"),
    ("linux/arm/v5", "linux/arm/v6", None),
    ("linux/arm64", "linux/arm/v7 linux/arm64/v8", "linux/arm64/v8"),
    ("linux/arm64", "linux/arm/v6 linux/arm/v7", "linux/arm/v7"),
    ("linux/arm64", "linux/arm64/v8.1 linux/arm/v8", "linux/arm/v8"),
    ("linux/arm64/v8.2", "linux/arm64 linux/arm64/v8.1 linux/arm64/v9", "linux/arm64/v8.1"),
    ("linux/arm64/v9.1", "linux/arm64/v8.6 linux/arm64/v9", "linux/arm64/v9"),
    ("linux/arm64/v9", "linux/arm64/v8.6 linux/arm64/v8.5", "linux/arm64/v8.5"),
    ("linux/riscv64", "linux/riscv64", "linux/riscv64"),
    ("linux/amd64", "windows/amd64 unknown/unknown", None),
    ("linux/amd64", " linux/arm64", None),
]


@pytest.mark.parametrize(("wanted", "there", "taken"), CHOICES)
def test_the_best_that_runs_is_taken(wanted: str, there: str, taken: str | None) -> None:
    found = best([Offer(text) for text in there.split()], parse(wanted))
    assert (found and found.text) == taken


def test_the_first_of_equals_is_taken() -> None:
    first, second = Offer("linux/amd64"), Offer("linux/x86_64/v1")
    assert best([first, second], parse("linux/amd64")) is first


def test_an_entry_that_says_nothing_is_the_last_choice() -> None:
    silent, old = Offer(""), Offer("linux/386")
    assert best([silent, old], parse("linux/amd64")) is old
    assert best([Offer("linux/arm64"), silent], parse("linux/amd64")) is silent


def test_a_machine_runs_its_own_and_older_ones() -> None:
    assert parse("linux/arm64").runs(parse("linux/arm/v6"))
    assert not parse("linux/arm/v6").runs(parse("linux/arm/v7"))
    assert not parse("linux/amd64").runs(parse("linux/arm64"))


SYSTEM = st.sampled_from(["linux", "windows", "macOS"])
ARCHITECTURE = st.sampled_from(["amd64", "x86_64", "arm", "arm64", "aarch64", "armhf", "386", "riscv64"])
VARIANT = st.sampled_from(
    ["", "v1", "v3", "v5", "v6", "v7", "v8", "v8.0", "v8.2", "v9", "v9.1", "7", "8", "9", "x"]
)


@given(SYSTEM, ARCHITECTURE, VARIANT)
def test_normalising_twice_is_normalising_once(system: str, architecture: str, variant: str) -> None:
    once = normalise(system, architecture, variant)
    assert normalise(once.os, once.architecture, once.variant) == once
    assert once.runs(once)


@given(st.text(max_size=20))
def test_any_text_is_a_platform_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except InvalidInput:
        return
    assert parse(str(found)) == found
