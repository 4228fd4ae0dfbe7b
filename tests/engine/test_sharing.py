"""Containers that share namespaces of another one: ipc with its shared memory, uts, pid."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina import Container, Engine
from lamina.errors import Conflict, InvalidInput, LaminaError, NotFound
from support.lives import state_of, until
from support.rootless import Rootless

root = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.usefixtures("tiny")]


def namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


@pytest.fixture
def donor(engine: Engine) -> Container:
    script = "echo shared >/dev/shm/file; exec sleep 1000"
    container = engine.start("tiny", ["sh", "-c", script], name="donor", ipc="shareable", hostname="donor")
    until(lambda: b"shared" in container.exec(["cat", "/dev/shm/file"], capture_output=True).stdout)
    return container


def sh(engine: Engine, script: str, **options: Any) -> str:
    done = engine.run(
        "tiny", ["sh", "-ec", script], rm=True, capture_output=True, text=True, timeout=200, **options
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


class TestAsRoot:
    pytestmark = root

    @pytest.mark.parametrize("more", [{}, {"uidmap": ["0:700000:1000"]}], ids=["plain", "ids of its own"])
    def test_ipc_and_its_memory(self, engine: Engine, donor: Container, more: dict[str, Any]) -> None:
        said = sh(engine, "readlink /proc/self/ns/ipc; cat /dev/shm/file", ipc="container:donor", **more)
        assert said.splitlines() == [namespace(state_of(donor)["pid"], "ipc"), "shared"]

    def test_both_write_into_it(self, engine: Engine, donor: Container) -> None:
        sh(engine, "echo back >/dev/shm/answer", ipc="container:donor")
        assert donor.exec(["cat", "/dev/shm/answer"], capture_output=True).stdout == b"back\n"

    def test_nothing_of_it_gives_rights(self, engine: Engine, donor: Container) -> None:
        options = (
            sh(engine, "grep ' /dev/shm ' /proc/self/mountinfo", ipc="container:donor").split()[5].split(",")
        )
        assert {"nosuid", "nodev", "noexec"} <= set(options)

    def test_through_one_that_shares_it(self, engine: Engine, donor: Container) -> None:
        second = engine.start("tiny", ["sleep", "1000"], ipc="container:donor")
        donor.stop(timeout=0)
        assert sh(engine, "cat /dev/shm/file", ipc=f"container:{second.id}") == "shared\n"

    def test_uts(self, engine: Engine, donor: Container) -> None:
        assert sh(engine, "hostname; readlink /proc/self/ns/uts", uts="container:donor").splitlines() == [
            "donor",
            namespace(state_of(donor)["pid"], "uts"),
        ]
        assert sh(engine, "hostname", uts="private") != "donor\n"

    def test_all_at_once(self, engine: Engine, donor: Container) -> None:
        kinds = dict.fromkeys(("pid", "ipc", "uts"), "container:donor")
        said = sh(
            engine, "for n in pid ipc uts; do readlink /proc/self/ns/$n; done; ps | grep -c sleep", **kinds
        )
        assert said.splitlines()[:3] == [namespace(state_of(donor)["pid"], kind) for kind in kinds]

    def test_one_that_is_started_again_joins_again(self, engine: Engine, donor: Container) -> None:
        container = engine.create("tiny", ["sh", "-c", "cat /dev/shm/file"], ipc="container:donor")
        for _ in range(2):
            container.start()
            assert container.wait() == 0
        donor.stop(timeout=0)
        with pytest.raises(Conflict, match="it does not run"):
            container.start()

    @pytest.mark.parametrize("mode", ["", "private", "none"])
    def test_what_is_not_to_be_shared(self, engine: Engine, mode: str) -> None:
        options: dict[str, Any] = {"ipc": mode} if mode else {}
        engine.start("tiny", ["sleep", "1000"], name="closed", **options)
        with pytest.raises(Conflict, match=f"its own is {mode or 'private'}"):
            sh(engine, "true", ipc="container:closed")

    def test_what_cannot_be(self, engine: Engine, donor: Container) -> None:
        with pytest.raises(NotFound):
            sh(engine, "true", ipc="container:nobody")
        for options in ({"hostname": "a"}, {"domainname": "a"}):
            with pytest.raises(InvalidInput, match="contradict"):
                sh(engine, "true", uts="container:donor", **options)
        with pytest.raises(InvalidInput, match="contradict"):
            sh(engine, "true", uts="host", hostname="a")

    def test_a_link_in_place_of_the_memory(self, engine: Engine) -> None:
        """A donor that may mount decides what is at /dev/shm, and gets nothing of this machine by it."""
        script = "umount /dev/shm; rmdir /dev/shm; ln -s /tmp /dev/shm; touch /tmp/ready; exec sleep 1000"
        donor = engine.start(
            "tiny", ["sh", "-ec", script], ipc="shareable", name="liar", cap_add=["SYS_ADMIN"],
            security_opt=["seccomp=unconfined"],
        )  # fmt: skip
        until(lambda: donor.exec(["test", "-e", "/tmp/ready"]).returncode == 0)
        with pytest.raises(LaminaError, match="no shared memory"):
            sh(engine, "true", ipc="container:liar")


@pytest.fixture
def user(rootless: Rootless) -> Iterator[Rootless]:
    yield rootless
    rootless.lamina("rm", "-f", "donor", "other")


@pytest.mark.userns
def test_without_root(user: Rootless, tmp_path: Path) -> None:
    def ok(*words: str) -> str:
        done = user.lamina(*words)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    script = "echo shared >/dev/shm/file; exec sleep 1000"
    ok(
        "run",
        "-d",
        "--name",
        "donor",
        "--ipc",
        "shareable",
        "--hostname",
        "donor",
        "host",
        "sh",
        "-c",
        script,
    )
    until(lambda: user.lamina("exec", "donor", "cat", "/dev/shm/file").stdout == "shared\n")
    words = ("run", "--rm", "--ipc", "container:donor", "--uts", "container:donor", "host")
    said = ok(*words, "sh", "-c", "hostname; cat /dev/shm/file; id -u; cat /proc/self/uid_map").splitlines()
    assert said[:3] == ["donor", "shared", "0"]
    assert said[3].split() == ["0", str(user.uid), "1"]
    ok("run", "-d", "--name", "other", "--ipc", "container:donor", "host", "sleep", "1000")
    assert ok("exec", "other", "cat", "/dev/shm/file") == "shared\n"
    done = user.lamina("run", "--rm", "--userns", "nomap", "--ipc", "container:donor", "host", "true")
    assert done.returncode == 125 and ("other ids" in done.stderr or "subordinate" in done.stderr)
