"""What a fork is asked to be: its parent's options, less what only one container can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lamina.engine.checking import check_options
from lamina.engine.forked_options import KNOWN, not_taken_over, options_of_fork, own_volumes, shared
from lamina.engine.forking import names_of
from lamina.engine.options import Options, Volume
from lamina.errors import InvalidInput, Unsupported

PARENT: dict[str, Any] = {
    "name": "box", "hostname": "web", "env": ["A=1", "B=2"], "labels": {"job": "7"}, "network": "bridge",
    "memory": "64m", "restart": "always", "publish": ["8080:80", "9000"], "ip": "10.1.2.3", "dns": ["9.9.9.9"],
    "mac_address": "02:42:ac:11:00:02",
}  # fmt: skip


def fork(parent: dict[str, Any], *, several: bool = False, **given: Any) -> Options:
    return options_of_fork(check_options(parent), given, several=several)


@pytest.fixture(autouse=True)
def _as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)  # who alone may have networks


def test_what_only_one_container_can_have_stays_its_parents() -> None:
    found = fork(PARENT)
    assert (found.name, found.hostname, found.network, found.memory) == (None, None, "bridge", 64 << 20)
    assert (found.env, found.labels, found.restart) == (
        (("A", "1"), ("B", "2")),
        (("job", "7"),),
        ("always", 0),
    )
    assert found.networking is not None
    assert [(port.host_port, port.port) for port in found.networking.published] == [(0, 9000)]
    assert (found.networking.addresses, found.networking.mac) == ((), b"")
    assert found.networking.dns == (bytes([9, 9, 9, 9]),)
    assert not_taken_over(check_options(PARENT), {}) == [
        "published on this host by its parent alone: *:8080->80/tcp; -p publishes others"
    ]


def test_what_is_asked_anew_counts() -> None:
    found = fork(
        PARENT, hostname="other", env=["B=3"], labels={"try": "1"}, rm=True, publish=["8081:80"], cpus=2
    )
    assert (found.hostname, found.rm, found.restart, found.cpu_quota) == ("other", True, ("no", 0), 200_000)
    assert dict(found.env) == {"A": "1", "B": "3"}
    assert dict(found.labels) == {"job": "7", "try": "1"}
    assert found.networking is not None
    assert [(port.host_port, port.port) for port in found.networking.published] == [(8081, 80)]
    assert not_taken_over(check_options(PARENT), {"publish": ["80"]}) == []
    assert fork({"rm": True}, restart="always").rm is False
    without = fork(PARENT, network="none").networking
    assert without is not None and not without.published and without.dns


def test_further_networks_are_the_same_with_other_addresses() -> None:
    parent = {"network": ["name=front,ip=10.1.2.3,alias=web", "name=back,ip=10.2.2.3,alias=db"]}
    found = fork(parent)
    assert found.network == "front" and found.networking is not None
    assert [(one.network, one.addresses, one.aliases) for one in found.networking.joined] == [
        ("back", (), ("db",))
    ]
    assert (found.networking.addresses, found.networking.aliases) == ((), ("web",))
    found = fork(parent, network=["other", "third"])
    assert found.network == "other" and found.networking is not None
    assert [one.network for one in found.networking.joined] == ["third"]
    assert not found.networking.aliases


def test_what_cannot_be() -> None:
    with pytest.raises(InvalidInput, match="several forks cannot have the same port"):
        fork(PARENT, several=True, publish=["8081:80"])
    assert fork(PARENT, several=True, publish=["80"]).networking is not None
    with pytest.raises(Unsupported, match="userns cannot be asked of a fork"):
        fork(PARENT, userns="auto")
    with pytest.raises(InvalidInput, match="contradict"):
        fork({"network": "none"}, publish=["80"])
    with pytest.raises(InvalidInput, match="contradict"):
        fork(PARENT, rm=True, restart="always")


def test_every_option_that_can_be_asked_is_one_of_the_type() -> None:
    import ast

    from lamina.engine import forked_options

    tree = ast.parse(Path(forked_options.__file__).read_text())
    [kind] = [
        node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "ForkOptions"
    ]
    assert {ast.unparse(node.target) for node in kind.body if isinstance(node, ast.AnnAssign)} == KNOWN


def test_volumes_without_a_name_are_new_and_others_are_shared() -> None:
    parent = "a" * 64
    volumes = (
        Volume(f"{parent}-0".encode(), b"/own", (), "volume"),
        Volume(f"{'b' * 64}-0".encode(), b"/anothers", (), "volume"),
        Volume(b"data", b"/data", ("rro",), "volume"),
        Volume(b"/srv", b"/host", (), "bind"),
        Volume(b"/srv", b"/over", (), "over"),
    )
    found = own_volumes(volumes, parent)
    assert [volume.source for volume in found] == [b"", volumes[1].source, b"data", b"/srv", b"/srv"]
    assert shared(found) == [
        "shared with its parent, as they are now: /anothers, /host",
        "not in the state, and begun anew: what was written at /over",
    ]
    assert shared(found[:1]) == []


def test_names() -> None:
    assert names_of(None, (), 3) == ()
    assert names_of("try", (), 1) == ("try",)
    assert names_of("try", (), 3) == ("try-1", "try-2", "try-3")
    assert names_of(None, ("a", "b"), 2) == ("a", "b")
    for name, names, count in ((None, ("a",), 2), (None, ("a", "a"), 2), ("x", ("a",), 1), (None, (), 0)):
        with pytest.raises(InvalidInput):
            names_of(name, names, count)
