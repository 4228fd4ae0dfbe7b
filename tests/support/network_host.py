"""An engine on the host of the lab: containers in networks, with real packets, and nothing left of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lamina import Engine
from lamina.engine.networks import table_of
from lamina.errors import KernelError
from lamina.linux.nftables import elements, open_nftables
from lamina.linux.rtnetlink import Link
from lamina.network import links, rules
from support.lab import Lab
from support.lives import remove_all, until
from support.namespaces import in_mount_namespace
from support.small_images import small_image


class Host(Lab):
    """The lab, with an engine on its host."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        small_image(root)
        self.engine = Engine(root)

    def run(self, *words: str, **options: Any) -> str:
        options.setdefault("network", "bridge")
        found = self.engine.run(
            "tiny", list(words), capture_output=True, text=True, rm=True, check=True, **options
        )
        return str(found.stdout)

    def start(self, script: str, **options: Any) -> Any:
        options.setdefault("network", "bridge")
        return self.engine.start("tiny", ["sh", "-c", script], **options)

    def left(self) -> list[str]:
        """What containers have of networks: addresses, ports, elements of rules."""
        found = [str(path.name) for path in self.root.glob("networks/*/addresses/[!.]*")]
        found += [str(path.name) for path in self.root.glob("networks/.ports/*")]
        found += [str(path.parent.name) for path in self.root.glob("networks/*/names/*/*")]
        sets = [("bridge", name) for name in rules.BRIDGE_SETS] + [("inet", name) for name in rules.PORT_MAPS]
        with open_nftables() as channel:
            for family, name in sets:
                try:
                    there = elements(channel, family, table_of(self.engine.store), name)
                except KernelError as error:
                    assert error.errno == 2
                else:
                    found += [f"{name} {one.comment}" for one in there]
        return found

    def ports(self) -> list[str]:
        return [one.name for one in self.ports_noted()]

    def ports_noted(self) -> list[Link]:
        """With what is written to them."""
        with links.opened() as channel:
            return links.ports(channel)


@contextmanager
def within(host: Host, box: Any) -> Iterator[None]:
    """What is done meanwhile is done in the network namespace of the container *box*, which runs."""
    found = host.adopt(box.attrs["State"]["Pid"])
    try:
        with host.inside(found):
            yield
    finally:
        found.release()


def on_host(store_root: Path, test: Callable[[Host], None]) -> None:
    """Call *test* with a host in a child; afterwards nothing of its containers may be left."""

    def inner() -> None:
        host = Host(store_root)
        try:
            test(host)
            assert [path.read_text() for path in host.root.glob("networks/*/names.error")] == []
            remove_all(host.engine)
            assert host.left() == []
            until(lambda: host.ports() == [])
            for network in host.engine.networks.list():
                network.remove()
            # a link that nobody has removed goes with its network namespace, some time after who lived there
            until(lambda: [one["ifname"] for one in links_by_ip()] == ["lo", "up0"])
            until(lambda: responders() == [])
            assert host.engine.storage.check().findings == ()
        finally:
            remove_all(host.engine)
            host.close()

    in_mount_namespace(inner)


def links_by_ip() -> list[dict[str, Any]]:
    done = subprocess.run(["ip", "-j", "link"], check=True, capture_output=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def responders() -> list[int]:
    """The processes in this network namespace that answer for names."""
    own = os.stat("/proc/self/ns/net").st_ino
    found = []
    for entry in os.listdir("/proc"):
        try:
            named = entry.isdigit() and Path(f"/proc/{entry}/comm").read_text() == "lamina-names\n"
            if named and os.stat(f"/proc/{entry}/ns/net").st_ino == own:
                found.append(int(entry))
        except (OSError, UnicodeDecodeError):  # it has ended, or is called strangely
            continue
    return found


def responder() -> int:
    """The only one, once it has begun."""
    found: list[int] = []

    def is_alone() -> bool:
        found[:] = responders()
        return len(found) == 1

    until(is_alone)
    return found[0]
