"""What a pull, push or load says while it goes: lines where nobody watches, bars on a terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from lamina.cli import output
from lamina.cli.transfers import Transfer

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
NAME = "registry.example/tool:1"


def pulled(transfer: Transfer, *, known: bool) -> None:
    transfer.event("resolving", reference=NAME)
    for identity in (ONE, TWO):
        transfer.event("layer", id=identity, total=2_000_000)
    transfer.event("exists", id=ONE)
    transfer.event("progress", id=TWO, bytes=2_000_000)
    transfer.event("done", id=TWO)
    transfer.event("done", image="3" * 64, digest="sha256:4", reference=NAME, known=known)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal of 100 columns."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(output, "is_terminal", lambda stream=1: True)
    monkeypatch.setattr(output, "console", lambda stream=1: console)
    return shown


def test_lines_of_a_pull_are_docker_s(capfd: pytest.CaptureFixture[str]) -> None:
    with Transfer(stream=1) as transfer:
        pulled(transfer, known=False)
    assert capfd.readouterr().out.splitlines() == [
        f"Pulling {NAME}",
        "111111111111: Pulling fs layer",
        "222222222222: Pulling fs layer",
        "111111111111: Already exists",
        "222222222222: Pull complete",
        "Digest: sha256:4",
        f"Status: Downloaded newer image for {NAME}",
    ]


def test_a_pull_says_that_nothing_is_newer(capfd: pytest.CaptureFixture[str]) -> None:
    with Transfer(stream=1) as transfer:
        pulled(transfer, known=True)
    assert capfd.readouterr().out.splitlines()[-1] == f"Status: Image is up to date for {NAME}"


def test_a_push_leaves_the_digest_to_its_verb(capfd: pytest.CaptureFixture[str]) -> None:
    with Transfer(stream=1, verb="Push") as transfer:
        transfer.event("layer", id=ONE, total=0)
        transfer.event("done", id=ONE)
        transfer.event("done", image="3" * 64, digest="sha256:4")
    assert capfd.readouterr().out.splitlines() == ["111111111111: Preparing", "111111111111: Pushed"]


def test_the_digest_stands_below_the_bars(screen: io.StringIO) -> None:
    with Transfer(stream=1) as transfer:
        pulled(transfer, known=False)
    shown = screen.getvalue()
    assert shown.rindex("Pull complete") < shown.index("Digest: sha256:4") < shown.index("Status: Downloaded")


def test_bars_say_nothing_that_nobody_knows(screen: io.StringIO) -> None:
    with Transfer(stream=1, verb="Push") as transfer:
        transfer.event("layer", id=ONE, total=0)  # it has to be packed first: its size is not known
        transfer.event("packing", id=ONE)
        transfer.event("layer", id=TWO, total=2_000_000)
        transfer.event("exists", id=TWO)
        transfer.event("done", id=ONE)
    shown = screen.getvalue()
    assert "Pushed" in shown and "Layer already exists" in shown
    assert "bytes" not in shown and "?" not in re.sub(r"\x1b\[\?", "", shown)


def test_what_comes_is_downloading(screen: io.StringIO) -> None:
    with Transfer(stream=1) as transfer:
        transfer.event("layer", id=ONE, total=2_000_000)
        transfer.event("progress", id=ONE, bytes=1_000_000)
    assert re.search(r"1\.0/2\.0 MB.*Downloading", screen.getvalue())


def test_a_narrow_terminal_shortens_the_bars(monkeypatch: pytest.MonkeyPatch, screen: io.StringIO) -> None:
    narrow = Console(file=screen, force_terminal=True, width=60, color_system=None)
    monkeypatch.setattr(output, "console", lambda stream=1: narrow)
    with Transfer(stream=1) as transfer:
        transfer.event("layer", id=ONE, total=200_000_000)
        transfer.event("progress", id=ONE, bytes=100_000_000)
    assert re.search(r"111111111111 \S+ +100\.0/200\.0 MB .*Downloading", screen.getvalue())


@pytest.mark.parametrize("quiet", [False, True])
def test_a_warning_is_no_output(capfd: pytest.CaptureFixture[str], quiet: bool) -> None:
    with Transfer(stream=1, quiet=quiet) as transfer:
        transfer.event("warning", text="for another kind of machine")
    assert capfd.readouterr() == ("", "lamina: warning: for another kind of machine\n")


RETRIES = [{"seconds": 2, "left": left, "attempt": 2, "reason": "it broke"} for left in (2, 1)]


def test_a_retry_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with Transfer(stream=1) as transfer:
        transfer.event("resolving", reference=NAME)
        for facts in RETRIES:
            transfer.event("retrying", **facts)
        transfer.event("layer", id=ONE, total=2_000_000)
        for facts in RETRIES:
            transfer.event("retrying", id=ONE, **facts)
        transfer.event("done", id=ONE)
    assert capfd.readouterr().out.splitlines() == [
        f"Pulling {NAME}",
        "Retrying in 2 seconds (it broke)",
        "111111111111: Pulling fs layer",
        "111111111111: Retrying in 2 seconds (it broke)",
        "111111111111: Pull complete",
    ]


def test_a_retry_counts_down_beside_its_bar(screen: io.StringIO) -> None:
    with Transfer(stream=1) as transfer:
        transfer.event("layer", id=ONE, total=2_000_000)
        transfer.event("progress", id=ONE, bytes=1_000_000)
        assert transfer._bars is not None
        seen = []
        for facts in RETRIES:
            transfer.event("retrying", id=ONE, **facts)
            seen.append(transfer._bars.tasks[0].fields["state"])
        transfer.event("progress", id=ONE, bytes=1_000_000)
        seen.append(transfer._bars.tasks[0].fields["state"])
        transfer.event("retrying", **RETRIES[0])
    assert seen == ["Retrying in 2 seconds", "Retrying in 1 second", "Downloading"]
    assert "Retrying in 2 seconds (it broke)" in screen.getvalue(), "of what has no bar, above the bars"


def test_who_wants_quiet_hears_of_no_retry(capfd: pytest.CaptureFixture[str]) -> None:
    with Transfer(stream=1, quiet=True) as transfer:
        transfer.event("retrying", id=ONE, **RETRIES[0])
        transfer.event("retrying", **RETRIES[0])
    assert capfd.readouterr() == ("", "")
