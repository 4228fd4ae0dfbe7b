"""An image says which of its own ports are of interest (EXPOSE), and nothing of this host's."""

from __future__ import annotations

import pytest

from lamina.engine.networking import Joined, read_networking
from lamina.engine.publishing import exposed_ones, read_publish
from lamina.errors import InvalidInput


@pytest.mark.parametrize(
    "exposed",
    [
        "22:8022/tcp",
        "127.0.0.1:53:53/udp",
        "[::1]:80:80",
        ":80",
        "0.0.0.0::80",
        "443:80",
        "1-9:1-9/tcp",
        "10.0.0.1:80",
    ],
)
def test_an_image_takes_no_port_of_the_host_for_itself(exposed: str) -> None:
    """With -P: else an image would sit at the host's port 22, or 53, or behind an address of its choice."""
    with pytest.raises(InvalidInput, match="the image exposes"):
        exposed_ones([exposed], [])


def test_each_gets_any_port_and_only_once() -> None:
    found = exposed_ones(["80/tcp", "80", "79-81/tcp", "53/udp"], read_publish("8081:81"))
    assert [(one.protocol, one.host, one.host_port, one.port) for one in found] == [
        ("tcp", b"", 0, 80),
        ("tcp", b"", 0, 79),
        ("udp", b"", 0, 53),
    ]


def test_an_image_that_exposes_everything_keeps_nobody_busy() -> None:
    """Each port is a claim, a rule and a socket; and a config has room for a hundred thousand ranges."""
    for exposed in (["1-65535/tcp"], [f"{first}-65535/udp" for first in range(1, 60000)]):
        with pytest.raises(InvalidInput, match="-P: more than 1000 ports are exposed"):
            exposed_ones(exposed, [])
    assert len(exposed_ones(["1-1000/tcp"], [])) == 1000
    with pytest.raises(InvalidInput, match="more than 1000 published ports"):
        read_networking({"publish": ["1-999:1-999", "2000-2001:2000-2001"]}, (Joined("bridge"),))
