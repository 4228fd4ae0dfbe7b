"""Units of systemd: whatever a directory is called in which a container was made, nothing of it becomes a setting."""

from __future__ import annotations

import pytest

from lamina.cli.units import Subject, Wishes, container_unit
from lamina.errors import InvalidInput

PAYLOAD = "ExecStartPre=/bin/evil"


def unit(directory: str = "/srv", **wishes: tuple[str, ...]) -> str:
    about = Subject("box", "/var/lib/lamina", 15, ("--env=A=1", "tiny"), directory)
    return container_unit("container-box.service", about, Wishes(new=True, **wishes), "1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "directory",
    [
        f"/x\n{PAYLOAD}",
        f"/x\r{PAYLOAD}",
        f"/x\n\r{PAYLOAD}",
        "/x\\",
        "/x ",
        "/x\t",
        f"/x\x85{PAYLOAD}",
        "/x\udc80",
    ],
)
def test_a_directory_is_no_setting(directory: str) -> None:
    """systemd ends lines at carriage returns as well, and goes on with the next one after a backslash."""
    with pytest.raises(InvalidInput, match="cannot be written in a unit"):
        unit(directory)
    with pytest.raises(InvalidInput, match="cannot be written in a unit"):
        unit(after=(directory,))


def test_a_directory_is_what_it_is() -> None:
    assert "WorkingDirectory=/srv/50%% of it\\x/é\n" in unit("/srv/50% of it\\x/é")
