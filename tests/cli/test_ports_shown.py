"""Where ports are published, in the column of `ps`."""

from __future__ import annotations

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
    # with other numbers outside; of two protocols; with one between them
    "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 0.0.0.0:8081->81/tcp, [::]:8081->81/tcp": (
        {f"{80 + n}/tcp": [V4.format(8080 + n), V6.format(8080 + n)] for n in range(2)},
        ["80/tcp"],
    ),
    "0.0.0.0:41000->80/tcp, 0.0.0.0:42000->81/tcp": (
        {"80/tcp": [V4.format(41000)], "81/tcp": [V4.format(42000)]},
        [],
    ),
    "81-82/tcp, 0.0.0.0:53->53/tcp, 0.0.0.0:54->54/udp, 84/tcp": (
        {"53/tcp": [V4.format(53)], "54/udp": [V4.format(54)]},
        ["81/tcp", "82/tcp", "84/tcp"],
    ),
    "0.0.0.0:80-81->80-81/tcp, http/tcp": (
        {"81/tcp": [V4.format(81)], "80/tcp": [V4.format(80)]},
        ["http/tcp"],
    ),
}


@pytest.mark.parametrize("shown", CASES)
def test_ports_that_follow_each_other_and_are_the_same_outside_are_one_range(shown: str) -> None:
    published, exposed = CASES[shown]
    assert ports(published, exposed) == shown
