"""The screen on which somebody decides was drawn on by the command that is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.terminal import Terminal, lamina

pytestmark = pytest.mark.root

# concealed, with a window of three lines, line drawing for letters, the cursor hidden, on the alternate screen
HOSTILE = r"\033[?47h\033[8m\033[3;5r\033(0\016\033[?25l\033[?6h"


def test_the_review_is_drawn_on_a_screen_of_its_own_making(tmp_path: Path) -> None:
    """Else the changes could be listed in a window too small for them, or in no colour, or in other letters."""
    script = f"echo new >{tmp_path}/new; printf '{HOSTILE}ready'"
    environment = {"NO_COLOR": "1", "PAGER": "cat"}
    words = lamina("try", "--network", "none", "sh", "-c", script)
    with Terminal(words, env=environment) as terminal:
        terminal.expect("ready")
        undone = terminal.expect(r"(?s)(.*)lamina: exit status 0").group(1)
        # DECSTR (VT220) for those who know it; one by one for those who do not
        for sequence in (
            "\x1b[!p",
            "\x1b[?47l",
            "\x1b[0m",
            "\x1b7\x1b[r\x1b8",
            "\x1b(B",
            "\x0f",
            "\x1b[?25h",
            "\x1b[?6l",
        ):
            assert sequence in undone
        terminal.expect(r"\[K\]eep\? ")
        terminal.type("d\r")
        assert terminal.wait() == 0


def test_a_review_that_nobody_watches_has_no_such_thing(tmp_path: Path) -> None:
    """A terminal that cannot move its cursor, or none at all, is told nothing that it would print."""
    words = lamina("try", "-n", "--network", "none", "touch", str(tmp_path / "new"))
    with Terminal(words, env={"TERM": "dumb"}) as terminal:
        assert terminal.wait() == 0
        assert "\x1b" not in terminal.output
