"""A container taken out of a network at the wrong moment: what it has of it must not be somebody else's as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lamina.engine import connecting, plugging
from lamina.engine.network_record import attachments_in
from lamina.errors import Conflict
from support.network_host import Host, on_host

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]


def test_nobody_disconnects_what_is_just_being_started(store_root: Path) -> None:
    """It would begin with an address that the next one gets too, and with rules that stay for ever."""
    said: list[str] = []

    def test(host: Host) -> None:
        host.engine.networks.create("back")
        begin = plugging.connection

        def meanwhile(home: Any, attachments: Any) -> Any:
            try:
                connecting.disconnect(home, "back")
            except Conflict as error:
                said.append(error.message)
            return begin(home, attachments)

        plugging.connection = meanwhile
        with host.engine.popen("tiny", ["sleep", "600"], network="back") as process:
            plugging.connection = begin
            assert "somebody is busy with it" in said[0]
            [place] = attachments_in(host.engine.container(process.container)._home)
            other = host.start("sleep 1000", name="other", network="back")
            [others] = attachments_in(other._home)
            assert place.addresses != others.addresses
            process.kill()

    on_host(store_root, test)
