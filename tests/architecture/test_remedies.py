"""Whoever asks for a network, a port or an address that cannot be is told what to do: each such error has a remedy."""

from __future__ import annotations

import ast
from pathlib import Path

import lamina

SRC = Path(lamina.__file__).parent
# who says what is wrong with what somebody asked of networks
SAYING = (
    "engine/network*.py", "engine/connecting.py", "engine/publishing.py", "engine/port_claims.py", "engine/plugging.py",
    "engine/egress*.py", "engine/taken_bridges.py", "engine/respond*.py", "engine/cni*.py", "engine/usermode.py",
    "engine/default_network.py", "engine/foreign_networks*.py", "engine/sharing.py", "network/*.py",
    "store/networks.py",
)  # fmt: skip
ERRORS = {"InvalidInput", "Conflict", "Unsupported", "NotFound"}
TO_NOBODY = {"dns.py"}  # what is wrong with a message is said to no person


def without_remedy(source: str) -> list[str]:
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") in ERRORS
        and not any(keyword.arg == "remedy" for keyword in node.keywords)
    ]


def test_it_sees_what_lacks_one() -> None:
    assert without_remedy("raise Conflict('x')\nraise InvalidInput('y', remedy='z')") == ["Conflict('x')"]


def test_every_error_of_networks_says_what_to_do() -> None:
    files = {path for pattern in SAYING for path in SRC.glob(pattern) if path.name not in TO_NOBODY}
    assert len(files) > len(SAYING)
    assert {path.name: found for path in files if (found := without_remedy(path.read_text()))} == {}
