"""Where ports are published, in the column of `ps`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lamina.cli.verbs.ps import ports

V4, V6 = "0.0.0.0:{}", "[::]:{}"
CASES: dict[str, tuple[dict[str, list[str]], list[str]]] = {
    "": ({}, []),
    "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp": ({"80/tcp": [V4.format(8080), V6.format(8080)]}, []),
    "127.0.0.1:9000-9002->9000-9002/tcp": (
        {f"{port}/tcp": [f"127.0.0.1:{port}"] for port in (9000, 9001, 9002)},
        [],
    ),
    "0.0.0.0:8080-8081->80-81/tcp, [::]:8080-8081->80-81/tcp": (
        {f"{80 + n}/tcp": [V4.format(8080 + n), V6.format(8080 + n)] for n in range(2)},
        ["80/tcp"],
    ),
    # next to each other inside alone; of two protocols; with one between them
    "0.0.0.0:41000->80/tcp, 0.0.0.0:42000->81/tcp": (
        {"80/tcp": [V4.format(41000)], "81/tcp": [V4.format(42000)]},
        [],
    ),
    "0.0.0.0:53->53/tcp, 0.0.0.0:54->54/udp, 81-82/tcp, 84/tcp": (
        {"53/tcp": [V4.format(53)], "54/udp": [V4.format(54)]},
        ["81/tcp", "82/tcp", "84/tcp"],
    ),
    "0.0.0.0:80-81->80-81/tcp, http/tcp": (
        {"81/tcp": [V4.format(81)], "80/tcp": [V4.format(80)]},
        ["http/tcp"],
    ),
}


@pytest.mark.parametrize("shown", CASES)
def test_ports_that_follow_each_other_are_one_range(shown: str) -> None:
    published, exposed = CASES[shown]
    box: Any = SimpleNamespace(ports=published)
    assert ports(box, exposed) == shown
