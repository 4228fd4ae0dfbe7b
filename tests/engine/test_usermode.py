"""Networks of containers without root: pasta and slirp4netns of Debian, with real packets."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from lamina.engine import usermode
from lamina.errors import LaminaError
from lamina.linux.fd import Fd
from lamina.network import dns
from lamina.network.model import Attachment, Network
from support.lab import HOST, HOST6, SILENCE, WORLD, listen, reaches, seen_by
from support.lives import until
from support.name_servers import NameServer, lookup
from support.user_host import UserHost
from support.user_host import on_user_host as call_on_user_host

pytestmark = [pytest.mark.root, pytest.mark.userns, pytest.mark.peer("ip", "busybox", "pasta", "slirp4netns")]

HELPERS_HERE = [path for name in ("pasta", "slirp4netns") if (path := shutil.which(name))]
SERVE = "while :; do echo hello | nc -l -p 80; done"
# not as process 1, which no signal ends
ASK = "(busybox timeout {} nc {} {} </dev/null 2>/dev/null)"
# until there is an answer: not every helper tells that there is no more to come
HEAR = "for t in 1 2 5 20 60; do " + ASK.format("$t", "up", "{}") + " | grep . && break; done; :"


@pytest.fixture
def on_user_host(tmp_path: Path) -> Callable[[Callable[[UserHost], None]], None]:
    """Calls a test with the host of a user; at its end no helper may be left."""
    return lambda test: call_on_user_host(tmp_path, test)


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def serve(where: str, port: int, word: bytes) -> None:
    """Whoever connects is told *word*, as long as this process lives."""
    server = listen(port, where)
    server.settimeout(None)

    def answer() -> None:
        while True:
            connection, _ = server.accept()
            connection.sendall(word)
            connection.close()

    Thread(target=answer, daemon=True).start()


def supervisor_of(host: UserHost, name: str) -> int:
    import json

    found = json.loads((host.store / "containers" / host.inspect(name)["Id"] / "state.json").read_text())
    return int(found["supervisor"]["pid"])


def test_pasta_is_the_usual_network_and_leads_both_ways(on_user_host):
    def test(host):
        with host.inside(host.world):
            server = listen(80)
        host.ok(
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            "8080:80",
            "-p",
            "127.0.0.1::81/udp",
            "tiny",
            "sh",
            "-c",
            SERVE,
        )
        facts = host.inspect("web")
        place = facts["NetworkSettings"]["Networks"]["pasta"]
        assert facts["HostConfig"]["NetworkMode"] == place["Maker"] == "pasta"
        assert (place["IPAddress"], place["Gateway"]) == ("10.0.2.100", "10.0.2.2")
        assert place["MakerPid"] in host.helpers()
        assert host.ok("port", "web", "80") == "0.0.0.0:8080\n[::]:8080\n"
        until(lambda: reaches("127.0.0.1", 8080))
        with host.inside(host.world):
            until(lambda: reaches(HOST, 8080))
            until(lambda: reaches(HOST6, 8080))
        ask = ["exec", "web", "sh", "-c", ASK.format(100, WORLD, 80)]
        with host.user.popen(sys.executable, "-m", "lamina", *ask):
            assert seen_by(server) == HOST
        server.close()
        # another beside it, with the same place of its own
        said = host.ok("run", "--rm", "tiny", "cat", "/etc/hosts", "/etc/resolv.conf")
        assert "10.0.2.100\t" in said
        assert "nameserver 10.0.2.3\n" in said
        # a port that is taken is an error before anything runs
        assert "the port is taken by container" in host.fails("run", "--rm", "-p", "8080:80", "tiny", "true")
        said = host.fails("run", "--rm", "-p", "80:80", "tiny", "true")
        assert "publish *:80->80/tcp" in said
        assert "ip_unprivileged_port_start=80" in said
        taken = listen(8090)
        assert "a process of this host listens" in host.fails("run", "--rm", "-p", "8090:80", "tiny", "true")
        taken.close()
        host.ok("restart", "-t", "0", "web")
        until(lambda: reaches("127.0.0.1", 8080))
        until(lambda: len(host.helpers()) == 2)  # those of before are gone
        host.ok("rm", "-f", "web")
        until(lambda: host.helpers() == {})
        assert not reaches("127.0.0.1", 8080, SILENCE)

    on_user_host(test)


def test_one_that_shares_the_processes_of_another_takes_its_network_or_none(on_user_host):
    """Nobody may look at a process that joins those of another container: no helper can enter its namespaces."""

    def test(host):
        host.ok("run", "-d", "--name", "first", "tiny", "sleep", "1000")
        words = ("create", "--name", "second", "--pid", "container:first")
        done = host.user.lamina(*words, "tiny", "true")
        assert done.returncode == 0, done.stderr
        assert "no network but the loopback device: a process that joins those of another" in done.stderr
        assert host.inspect("second")["HostConfig"]["NetworkMode"] == "none"
        host.ok("rm", "second")
        for network in ("pasta", "slirp4netns"):
            said = host.fails(*words, "--network", network, "tiny", "true")
            assert f"network {network} with --pid container:first" in said
            assert "--network container:first" in said
        assert "pasta" not in host.user.lamina(*words, "--network", "container:first", "tiny", "true").stderr
        host.ok("rm", "-f", "first", "second")

    on_user_host(test)


def test_the_network_of_another_container(on_user_host):
    """It belongs to the user namespace of that one: only who is in that can join it."""

    def test(host):
        for name in ("web", "other"):
            host.ok("run", "-d", "--name", name, "tiny", "sh", "-c", SERVE)
        words = ("run", "--rm", "--network", "container:web")
        said = host.ok(
            *words, "tiny", "sh", "-c", "busybox ip addr show eth0; cat /etc/hosts; cat /proc/self/uid_map"
        )
        assert "inet 10.0.2.100/24" in said
        assert "10.0.2.100\t" in said
        assert said.splitlines()[-2].split() == ["0", str(host.user.uid), "1"]
        until(
            lambda: (
                host.user.lamina(*words, "tiny", "sh", "-c", "nc 127.0.0.1 80 </dev/null").stdout == "hello\n"
            )
        )
        assert "10.0.2.100/24" in host.ok(*words, "host", "ip", "addr", "show", "eth0")
        host.ok("run", "-d", "--name", "beside", *words[2:], "tiny", "sleep", "1000")
        assert "10.0.2.100/24" in host.ok("exec", "beside", "busybox", "ip", "addr", "show", "eth0")
        host.ok("run", "--rm", "--network", "container:beside", "--uts", "container:web", "tiny", "true")
        said = host.fails("run", "--rm", *words[2:], "--uts", "container:other", "tiny", "true")
        assert "several user namespaces" in said
        host.ok("rm", "-f", "beside", "other", "web")

    on_user_host(test)


def test_what_listens_on_the_hosts_loopback_is_out_of_reach(on_user_host):
    def test(host):
        serve("127.0.0.1", 9000, b"loopback")
        serve("0.0.0.0", 9001, b"open")
        tried = ("10.0.2.2", "10.0.2.3", "127.0.0.1", HOST)
        ask = "".join(f"{ASK.format(1, where, 9000)} & " for where in tried) + "wait"
        # pasta of 2023 says again and again what somebody says who then leaves: so "in", not "=="
        for network in ("pasta", "slirp4netns"):
            words = ("run", "--rm", "--network", network, "--add-host", "up:host-gateway", "tiny", "sh", "-c")
            heard = host.ok(*words, f"{ask}; {HEAR.format(9001)}")
            assert "open" in heard
            assert "loopback" not in heard
        # unless that is asked for
        for network in ("pasta:--map-gw", "slirp4netns:allow_host_loopback=true"):
            words = ("run", "--rm", "--network", network, "--add-host", "up:host-gateway", "tiny", "sh", "-c")
            assert "loopback" in host.ok(*words, HEAR.format(9000))

    on_user_host(test)


def test_a_helper_lives_as_long_as_the_container_whoever_is_killed(on_user_host):
    def test(host):
        host.ok("run", "-d", "--name", "web", "-p", "8080:80", "tiny", "sh", "-c", SERVE)
        os.kill(supervisor_of(host, "web"), signal.SIGKILL)
        until(lambda: host.ok("inspect", "-f", "{{.State.Status}}", "web") == "running\n")
        until(lambda: reaches("127.0.0.1", 8080))
        assert host.ok("system", "check").count("found") == 0
        # the container itself
        os.kill(int(host.inspect("web")["State"]["Pid"]), signal.SIGKILL)
        until(lambda: host.helpers() == {})
        # an engine in the foreground
        with host.user.popen(sys.executable, "-m", "lamina", "run", "tiny", "sleep", "1000") as run:
            until(lambda: len(host.helpers()) == 2)
            run.kill()
        until(lambda: host.helpers() == {})
        # who keeps the helper
        until(lambda: host.ok("inspect", "-f", "{{.State.Status}}", "web") == "exited\n")
        host.ok("start", "web")
        host.kill_keeper()
        checked = host.user.lamina("system", "check")
        assert "broken web pasta" in checked.stdout
        host.ok("system", "check", "--repair")
        until(lambda: reaches("127.0.0.1", 8080))
        host.ok("stop", "-t", "0", "web")
        until(lambda: host.helpers() == {})

    on_user_host(test)


def test_without_the_programs_there_is_none_and_it_says_what_to_install(on_user_host):
    def test(host):
        for path in HELPERS_HERE:
            mount("--bind", "/dev/null", path)
        # by default: without one, with a warning that names the package
        done = host.user.lamina("run", "--rm", "tiny", "ls", "/sys/class/net")
        assert (done.returncode, done.stdout) == (0, "lo\n")
        assert done.stderr.count("warning") == 1
        assert "install the package passt" in done.stderr
        for words in (("--network", "pasta"), ("-p", "80")):
            assert "install the package passt" in host.fails("run", "--rm", *words, "tiny", "true")
        said = host.fails("run", "--rm", "--network", "slirp4netns", "tiny", "true")
        assert "install the package slirp4netns" in said
        # a setting that asks for one asks for it
        host.user.env["LAMINA_NETWORK"] = "pasta"
        assert "install the package passt" in host.fails("run", "--rm", "tiny", "true")
        host.user.env["LAMINA_NETWORK"] = "none"
        assert host.user.lamina("run", "--rm", "tiny", "true").stderr == ""
        until(lambda: host.helpers() == {})

    on_user_host(test)


def test_options_are_passed_on_and_words_of_a_helper_come_back(on_user_host):
    def test(host):
        show = "ip() { :; }; cat /sys/class/net/e*/mtu; cat /etc/resolv.conf; grep '^10' /etc/hosts"
        said = host.ok("run", "--rm", "--network",
                       "pasta:--mtu,1400,-I,eth7,-a,10.9.8.7,-n,24,-g,10.9.8.1,--dns-forward,10.9.8.3,-4",
                       "--dns-search", "example.org", "tiny", "sh", "-c", show)  # fmt: skip
        assert said.splitlines()[:3] == ["1400", "nameserver 10.9.8.3", "search example.org"]
        assert said.splitlines()[-1].startswith("10.9.8.7\t")
        said = host.ok("run", "--rm", "--network", "slirp4netns:cidr=10.41.0.0/24,mtu=1400", "--dns", "192.0.2.53",
                       "tiny", "sh", "-c", "cat /sys/class/net/*/mtu /etc/res*; grep ^10 /etc/hosts")  # fmt: skip
        assert said.splitlines()[1:3] == ["1400", "nameserver 192.0.2.53"]
        assert said.splitlines()[-1].startswith("10.41.0.100\t")
        # what a helper does not take is an error with its words, before the command runs
        said = host.fails("run", "--rm", "--network", "pasta:-a,nonsense", "tiny", "echo", "ran")
        assert "pasta has ended: " in said
        # a container with ids of its own
        assert "10.0.2.100" in host.ok("run", "--rm", "--userns", "keep-id", "tiny", "cat", "/etc/hosts")
        # over this host too, if that is asked for
        said = host.ok("run", "--rm", "--network", "pasta", "host", "grep", "^names", "/etc/resolv.conf")
        assert said == "nameserver 10.0.2.3\n"
        until(lambda: host.helpers() == {})

    on_user_host(test)


MANY = """
from concurrent.futures import ThreadPoolExecutor
from lamina import Engine
engine = Engine()
def one(number):
    done = engine.run("tiny", ["cat", "/etc/hosts"], rm=True, capture_output=True, text=True, check=True,
                      network="pasta", **({"userns": "keep-id"} if number % 3 else {}))
    assert "10.0.2.100" in done.stdout
with ThreadPoolExecutor(8) as pool:
    print(len(list(pool.map(one, range(48)))))
"""


def test_threads_of_one_program_start_containers_with_ids_of_their_own(on_user_host):
    """Whose processes share its memory: the kernel then lets nobody look at any of them."""

    def test(host):
        with host.user.popen(sys.executable, "-c", MANY, stdout=-1, stderr=-1, text=True) as run:
            said = run.communicate()
        assert said == ("48\n", "")
        until(lambda: host.helpers() == {})

    on_user_host(test)


def test_names_are_asked_of_this_hosts_servers_also_of_one_at_its_loopback(on_user_host, tmp_path):
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.53\n")
    resolv.chmod(0o644)

    def test(host):
        mount("--bind", str(resolv), "/etc/resolv.conf")
        server = NameServer("127.0.0.53", {("web.test", dns.A): [b"\x0a\x01\x02\x03"]})
        for network in ("pasta", "slirp4netns"):
            host.ok("run", "-d", "--name", "box", "--network", network, "tiny", "sleep", "1000")
            box = host.adopt(int(host.inspect("box")["State"]["Pid"]))
            with host.inside(box):
                assert lookup("10.0.2.3", "web.test") == (dns.NOERROR, ["10.1.2.3"])
            box.release()
            host.ok("rm", "-f", "box")
        server.close()

    on_user_host(test)


def test_what_a_helper_sees_of_this_host_and_may_do(on_user_host, tmp_path):
    """It reads what containers send. Where a sandbox would take away this host's servers of names, it has none."""

    def seen(host, network):
        host.ok(
            "run", "-d", "--name", "box", "--network", network, "-p", "8080:80", "tiny", "sh", "-c", SERVE
        )
        [found] = [pid for pid, words in host.helpers().items() if words[0].endswith(network)]
        until(lambda: reaches("127.0.0.1", 8080))
        box = host.adopt(int(host.inspect("box")["State"]["Pid"]))
        with host.inside(box):
            assert lookup("10.0.2.3", "web.test") == (dns.NOERROR, ["10.1.2.3"])
        box.release()
        # now that it works: what it needs for the beginning alone it has given up
        status = dict(line.split(":\t") for line in Path(f"/proc/{found}/status").read_text().splitlines())
        sees = sorted(os.listdir(f"/proc/{found}/root"))
        host.ok("rm", "-f", "box")
        until(lambda: host.helpers() == {})
        kept = {"pasta": 1 << 21 | 1 << 10, "slirp4netns": 1 << 10}  # CAP_SYS_ADMIN, CAP_NET_BIND_SERVICE
        assert not int(status["CapEff"], 16) & ~kept[network]  # of the container's own user namespace
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        return sees

    def test(host):
        server = NameServer("127.0.0.53", {("web.test", dns.A): [b"\x0a\x01\x02\x03"]})
        elsewhere = host.user.tmp / "elsewhere.conf"
        elsewhere.write_text("nameserver 127.0.0.53\n")
        elsewhere.chmod(0o644)
        mount("--bind", str(elsewhere), "/etc/resolv.conf")
        assert seen(host, "pasta") == []
        assert seen(host, "slirp4netns") == ["etc", "run"]
        subprocess.run(["umount", "/etc/resolv.conf"], check=True)
        # somewhere else: a copy of /etc that is this test's own
        etc = tmp_path / "etc"
        shutil.copytree("/etc", etc, symlinks=True)
        (etc / "resolv.conf").unlink()
        (etc / "resolv.conf").symlink_to(elsewhere)
        mount("--bind", str(etc), "/etc")
        assert "usr" in seen(host, "slirp4netns")
        server.close()

    on_user_host(test)


def test_a_containers_root_does_not_trace_its_helper(on_user_host):
    """Which is in its user namespace, with this host's network, and is seen where the container shares this host's
    processes. pasta sees to that itself; slirp4netns does not, and is in ours then.
    """

    def test(host):
        assert not usermode._may_be_apart(os.getpid())
        host.ok("run", "-d", "--name", "box", "--network", "pasta", "tiny", "sleep", "1000")
        [helper] = [pid for pid, words in host.helpers().items() if words[0].endswith("pasta")]
        seen = f"cat /proc/{helper}/maps; ls /proc/{helper}/fd /proc/{helper}/root/"
        look = f"id -u; grep CapEff /proc/self/status; {seen}"
        enter = ["nsenter", "--user", "--target", str(host.inspect("box")["State"]["Pid"])]
        with host.user.popen(*enter, "sh", "-c", look, stdout=-1, stderr=-1, text=True) as run:
            said, errors = run.communicate()
        who, rights, *shown = said.splitlines()
        assert (who, int(rights.split()[1], 16) & 1 << 19) == ("0", 1 << 19)  # CAP_SYS_PTRACE
        assert shown == []
        assert errors.count("ermission denied") == 3, errors
        host.ok("rm", "-f", "box")

    on_user_host(test)


def test_a_helper_that_says_nothing_and_stays_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(usermode, "PATIENCE", 0.2)
    network = Network("pasta", "", (), (), (), b"", maker="pasta")
    attachment = Attachment("ab" * 32, "web", network, 0, (), b"", "eth0")
    gate, closed = os.pipe()
    os.close(closed)  # it has closed what it was to say it by
    log, kept = os.pipe()
    with Fd(gate) as waiting, Fd(kept), pytest.raises(LaminaError, match="not ready after"):
        usermode._await(waiting, Fd(log), attachment)


def test_options_that_say_its_place_are_not_contradicted_when_a_helper_is_started_anew(on_user_host):
    def test(host):
        said = "pasta:-a,10.9.8.7,-n,24,-g,10.9.8.1,-4,-t,8080:80"
        host.ok("run", "-d", "--name", "web", "--network", said, "tiny", "sh", "-c", SERVE)
        until(lambda: reaches("127.0.0.1", 8080))
        words = host.kill_keeper()
        host.ok("system", "check", "--repair")
        until(lambda: reaches("127.0.0.1", 8080))
        [again] = [one for one in host.helpers().values() if "tether" in one[0]]
        assert [word for word in again if not word.startswith("/proc/")] == [
            word for word in words if not word.startswith("/proc/")
        ]
        assert "10.9.8.7\t" in host.ok("exec", "web", "cat", "/etc/hosts")
        # the one that listens is waited for, though no port was published
        host.ok("restart", "-t", "0", "web")
        until(lambda: reaches("127.0.0.1", 8080))

    on_user_host(test)


@pytest.mark.parametrize("publish", [(), ("-p", "8080:80")])
def test_a_helper_whose_keeper_does_nothing_goes_with_the_container(on_user_host, publish):
    def test(host):
        def is_left_alone(keeper: int) -> bool:
            return list(host.helpers()) == [keeper]

        for everybody in (False, True):
            host.ok("run", "-d", "--name", "web", *publish, "tiny", "sleep", "1000")
            [keeper] = [pid for pid, words in host.helpers().items() if "tether" in words[0]]
            os.kill(keeper, signal.SIGSTOP)
            facts, supervisor = host.inspect("web"), supervisor_of(host, "web")
            if everybody:  # then it is whoever comes next
                os.kill(supervisor, signal.SIGKILL)
            os.kill(int(facts["State"]["Pid"]), signal.SIGKILL)
            until(lambda: host.ok("inspect", "-f", "{{.State.Status}}", "web") == "exited\n")
            until(partial(is_left_alone, keeper))
            assert host.ok("system", "check").count("found") == 0
            os.kill(keeper, signal.SIGCONT)
            until(lambda: host.helpers() == {})
            host.ok("rm", "web")

    on_user_host(test)


def test_a_helper_that_outlives_a_container_that_rests_is_found_and_goes(on_user_host):
    """What is written down of it could not be read at the container's end, and nobody looks after that any more."""

    def test(host):
        host.ok("run", "-d", "--name", "web", "-p", "8080:80", "tiny", "sleep", "1000")
        facts = host.inspect("web")
        [keeper] = [pid for pid, words in host.helpers().items() if "tether" in words[0]]
        written = host.store / "containers" / facts["Id"] / "helper.json"
        kept = written.read_text()
        os.kill(keeper, signal.SIGSTOP)
        written.write_text("{")
        os.kill(int(facts["State"]["Pid"]), signal.SIGKILL)
        until(lambda: not (host.store / "running" / facts["Id"]).is_symlink())
        written.write_text(kept)
        assert len(host.helpers()) == 2
        checked = host.user.lamina("system", "check").stdout
        assert "ended web" in checked
        host.ok("system", "check", "--repair")
        until(lambda: list(host.helpers()) == [keeper])
        assert host.ok("system", "check").count("found") == 0
        os.kill(keeper, signal.SIGCONT)
        until(lambda: host.helpers() == {})

    on_user_host(test)
