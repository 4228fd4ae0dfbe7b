"""What who answers for names could do if somebody took it over: next to nothing."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from errno import ENOENT, EPERM, EROFS
from functools import partial
from pathlib import Path

import pytest

from lamina.engine import design, responder_sandbox
from lamina.engine.responding import _import_all
from lamina.errors import InvalidInput
from lamina.linux.capabilities import CAPABILITIES, CapabilitySets, capget, capset
from lamina.linux.constants import PR_SET_NO_NEW_PRIVS
from lamina.linux.process import prctl
from lamina.network import dns
from lamina.store.root import Store
from support.leaks import CGROUPS
from support.namespaces import in_mount_namespace

pytestmark = pytest.mark.root


def test_who_answers_sees_the_store_alone_and_makes_no_other_calls(store_root: Path) -> None:
    store = Store(store_root)
    own = store.networks + b"/back"
    for place in (store.networks, own, store.networks + b"/front", store.containers):
        os.makedirs(place, exist_ok=True)
    filtered = responder_sandbox.program(store)

    def refused(errno: int, call: Callable[[], object]) -> bool:
        try:
            call()
        except OSError as error:
            return error.errno == errno
        return False

    def inner() -> list[object]:
        _import_all()
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        responder_sandbox.confine((store.networks, store.containers), filtered)
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK).close()
        missing = ("/etc/passwd", "/proc/self/status", "/dev/null", os.fsdecode(store.images))
        readable = (b"/x", own + b"/x", store.networks + b"/front/x", store.containers + b"/x")
        families = (socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET)
        done = [
            *(path for path in missing if not refused(ENOENT, partial(os.open, path, os.O_RDONLY))),
            *(
                path
                for path in readable
                if not refused(EROFS, partial(os.open, path, os.O_WRONLY | os.O_CREAT))
            ),
            *(one for one in families if not refused(EPERM, partial(socket.socket, one, socket.SOCK_DGRAM))),
        ]
        calls: dict[str, Callable[[], object]] = {
            "fork": os.fork, "unlink": lambda: os.unlink(own), "execve": lambda: os.execv(b"/x", [b"x"]),
            "kill": lambda: os.kill(1, 0), "chroot": lambda: os.chroot(b"/"),
            "mknod": lambda: os.mknod(own + b"/disk", 0o60600, 0xFE00),
            "setuid": lambda: os.setuid(0), "chmod": lambda: os.chmod(own, 0o777),
            "rename": lambda: os.rename(own, own + b"2"), "symlink": lambda: os.symlink(b"x", own + b"/y"),
            "prctl": lambda: prctl(4, 1),
        }  # fmt: skip
        return [*done, *(name for name, call in calls.items() if not refused(EPERM, call))]

    assert in_mount_namespace(inner) == []


def test_the_half_with_rights_leaves_no_control_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor the one above, which only the rights that it has given up until then may remove."""
    above = f"lamina-test-{os.getpid()}-{os.urandom(3).hex()}"
    monkeypatch.setattr(design, "CGROUP_PARENT", above)
    only = 1 << CAPABILITIES["CAP_NET_ADMIN"]

    def inner() -> tuple[list[str], list[str]]:
        group = responder_sandbox.settle("table", "net")
        assert group is not None
        made = sorted(group.paths)
        capset(CapabilitySets(only, only | responder_sandbox.TO_LEAVE, 0))
        assert capget().effective == only
        responder_sandbox.leave(group)
        # not by a pattern: pathlib fails where a directory of somebody else's goes meanwhile
        return made, [place for place, inside, _ in os.walk(CGROUPS) if above in inside]

    hierarchies, found = in_mount_namespace(inner)
    assert hierarchies and found == []


def test_an_answer_costs_no_more_than_so_many_looks_at_names() -> None:
    """Of each record the name may lead through 127 others. Who reads it answers nobody else meanwhile, and a container
    may have 64 such answers on their way, from a server of its own choice (the kind of KeyTrap, CVE-2023-50387).
    """
    query = dns.read_query(dns.ask("a.example.org", dns.A, 7))
    assert query is not None

    def answer(count: int) -> bytes:
        record = b"\xc0\x0c" + struct.pack("!HHIH", dns.A, dns.INTERNET, 60, 4) + bytes((192, 0, 2, 1))
        return struct.pack("!6H", 7, 0x8180, 1, count, 0, 0) + query.question + record * count

    assert len(dns.addresses_in(answer(512), query)) == 512
    with pytest.raises(InvalidInput, match="more records"):
        dns.addresses_in(answer(513), query)
    several = struct.pack("!6H", 7, 0x8180, 60000, 0, 0, 0) + query.question
    with pytest.raises(InvalidInput, match="more records"):
        dns.addresses_in(several, query)
