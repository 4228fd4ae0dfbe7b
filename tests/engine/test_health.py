"""Health checks of containers that live: in time, whatever the check does and whatever becomes of who looks."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lamina import Container, Engine
from lamina.engine import idling
from lamina.engine.health import examining
from lamina.errors import Conflict, Unsupported
from lamina.store.containers import AGAIN_MARK
from lamina.supervisor.pump import Watch
from support.lives import Command, is_gone, kill_supervisor, said, state_of, supervisor_of, until
from support.namespaces import ChildDied, in_mount_namespace
from support.running import first_pid
from support.small_images import small_image

pytestmark = pytest.mark.root

OFTEN: dict[str, Any] = {"health_interval": 0.05}
SLEEP = ["sleep", "1000"]
# it is well until its first process does something about SIGTERM (15) itself: one that is asked to end before that, as
# a check that fails at once has it, ends as if it did not
DEAF_IS_ILL = "! grep -qE 'Sig(Ign|Cgt):.*[4-7c-f][0-9a-f]{3}$' /proc/1/status"


def start(engine: Engine, check: Any, command: list[str] | None = None, **options: Any) -> Container:
    return engine.start("host", command or SLEEP, health_cmd=check, **{**OFTEN, **options})


def health(container: Container) -> dict[str, Any]:
    found: dict[str, Any] = container.inspect()["State"]["Health"]
    return found


def actions(engine: Engine) -> list[str]:
    return [one.action for one in engine.events(since=time.time() - 1000, until=time.time())]


def told(engine: Engine, container: Container, action: str) -> int:
    """How many events of *container* begin like that."""
    events = engine.events(since=time.time() - 1000, until=time.time())
    return len([one for one in events if one.id == container.id and one.action.startswith(action)])


def processes(container: Container | None, word: str) -> list[int]:
    """Those with *word* in their command line; of *container* alone, for other suites have some too."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes()
                groups = Path(f"/proc/{name}/cgroup").read_text()
            except OSError:
                continue
            if (
                word.encode() in words
                and (container is None or container.id in groups)
                and not is_gone(int(name))
            ):
                found.append(int(name))
    return found


# -- states


def test_it_is_starting_then_healthy_then_unhealthy_and_well_again(engine: Engine) -> None:
    box = start(engine, "echo looked; test ! -e /var/bad", health_retries=2)
    assert box.health in ("starting", "healthy")
    until(lambda: box.health == "healthy")
    box.exec(["touch", "/var/bad"])
    until(lambda: box.health == "unhealthy")
    until(lambda: len(health(box)["Log"]) == 5)
    assert health(box)["FailingStreak"] >= 2
    last = health(box)["Log"][-1]
    assert (last["ExitCode"], last["Output"]) == (1, "looked\n")
    box.exec(["rm", "/var/bad"])
    until(lambda: box.health == "healthy")
    changes = [f"health_status: {state}" for state in ("healthy", "unhealthy", "healthy")]
    until(lambda: [action for action in actions(engine) if action.startswith("health_status")] == changes)
    assert "exec_create: /bin/sh -c echo looked; test ! -e /var/bad" in actions(engine)
    box.stop()
    assert box.health == "unhealthy"  # as in docker
    box.start()
    assert box.health in ("starting", "healthy")


def test_one_that_has_no_check_says_nothing_of_it(engine: Engine) -> None:
    box = engine.start("host", SLEEP)
    assert box.health == "none"
    assert "Health" not in box.inspect()["State"]
    assert not Path(os.fsdecode(box._home.path), "health.json").exists()
    with pytest.raises(Unsupported, match="no health check"):
        box.check_health()


def test_one_that_was_never_started_has_no_health(engine: Engine) -> None:
    box = engine.create("host", SLEEP, health_cmd="true")
    assert box.health == "none"
    assert box.inspect()["Config"]["Healthcheck"]["Test"] == ["CMD-SHELL", "true"]
    with pytest.raises(Conflict, match="not running"):
        box.check_health()


@pytest.mark.peer("busybox")
def test_an_image_says_how_it_is_found_out(engine: Engine, store_root: Path) -> None:
    check = {"test": ["CMD", "test", "-e", "/etc/image"], "interval": 10**9}
    small_image(store_root, healthcheck=check)
    box = engine.start("tiny", SLEEP)
    until(lambda: box.health == "healthy")
    assert box.inspect()["Config"]["Healthcheck"] == {"Test": check["test"], "Interval": 10**9}
    other = engine.start("tiny", SLEEP, no_healthcheck=True)
    assert other.health == "none"
    assert other.inspect()["Config"]["Healthcheck"]["Test"] == ["NONE"]
    own = engine.start("tiny", SLEEP, health_cmd="exit 3", health_retries=1)
    until(lambda: own.health == "unhealthy")


@pytest.mark.peer("busybox")
def test_an_images_shell_executes_a_text(engine: Engine, store_root: Path) -> None:
    small_image(
        store_root, shell=["/bin/ash", "-e", "-c"], healthcheck={"test": ["CMD-SHELL", "false; true"]}
    )
    box = engine.start("tiny", SLEEP, health_retries=1, health_interval="50ms")
    until(lambda: box.health == "unhealthy")


@pytest.mark.peer("busybox")
def test_an_images_check_that_nobody_can_do_is_told(engine: Engine, store_root: Path) -> None:
    small_image(store_root, healthcheck={"test": ["HTTP", "localhost"]})
    warnings: list[str] = []
    box = engine.create("tiny", SLEEP, on_warning=warnings.append)
    assert any("health check" in warning for warning in warnings)
    assert any("health check" in warning for warning in box.inspect()["Warnings"])


def test_failures_of_one_that_starts_do_not_count(engine: Engine) -> None:
    box = start(
        engine, "test -e /var/up", health_retries=1, health_start_period="1h", health_start_interval="50ms"
    )
    until(lambda: len(health(box)["Log"]) >= 3)
    assert (box.health, health(box)["FailingStreak"]) == ("starting", 0)
    box.exec(["touch", "/var/up"])
    until(lambda: box.health == "healthy")


# -- what a check may do


def test_one_that_hangs_is_killed_with_what_it_started(engine: Engine) -> None:
    box = start(engine, "sleep 98765 & sleep 98766", health_timeout=0.2, health_retries=1)
    until(lambda: box.health == "unhealthy")
    log = until(lambda: found if len(found := health(box)["Log"]) == 5 else [])
    assert {one["ExitCode"] for one in log} == {-1}
    assert {one["Output"] for one in log} == {"Health check exceeded timeout (0.2s)"}
    # of those that were, no process is left, once they have come to die: at most the one under way
    until(lambda: len(processes(box, "98765")) <= 2)
    box.stop()
    until(lambda: not processes(box, "9876"))


def test_one_that_writes_for_ever_is_cut_and_killed(engine: Engine) -> None:
    box = start(engine, "yes", health_timeout=0.7, health_retries=1)
    until(lambda: box.health == "unhealthy")
    cut: list[str] = []

    def one_is_cut() -> bool:  # on a busy machine others are killed before they have written so much
        cut[:] = [one["Output"] for one in health(box)["Log"] if one["Output"].endswith("...")]
        return bool(cut)

    until(one_is_cut)
    output = cut[0]
    said = "Health check exceeded timeout (0.7s): "
    assert output.startswith(said + "y\ny\n")
    assert output.endswith("...")
    assert len(output) == len(said) + 4096 + 3


def test_one_that_writes_much_and_ends_well_is_healthy(engine: Engine) -> None:
    box = start(engine, "head -c 1000000 /dev/zero | tr '\\0' x; exit 0")
    until(lambda: box.health == "healthy")
    assert health(box)["Log"][0]["Output"] == "x" * 4096 + "..."


def test_what_one_leaves_behind_is_not_waited_for_and_ends(engine: Engine) -> None:
    box = start(engine, "sleep 98767 & echo done")
    until(lambda: len(health(box)["Log"]) >= 3)
    assert health(box)["Log"][0]["Output"] == "done\n"
    until(lambda: len(processes(box, "98767")) <= 1)


def test_output_that_is_no_text_is_kept_as_such(engine: Engine) -> None:
    box = start(engine, r"printf '\377\000ok'")
    until(lambda: box.health == "healthy")
    assert health(box)["Log"][0]["Output"] == "\ufffd\x00ok"


def test_a_command_that_is_not_there_is_a_failure(engine: Engine) -> None:
    box = start(engine, ["no-such-command"], health_retries=1)
    until(lambda: box.health == "unhealthy")
    last = health(box)["Log"][-1]
    assert last["ExitCode"] == -1
    assert "no-such-command" in last["Output"]


def test_it_is_checked_as_the_containers_own_user(engine: Engine) -> None:
    box = start(engine, "id -u; pwd; echo $WORD", user="1", workdir="/usr", env=["WORD=x"])
    until(lambda: box.health == "healthy")
    assert health(box)["Log"][0]["Output"] == "1\n/usr\nx\n"


# -- what becomes of the container meanwhile


def test_one_that_is_paused_meanwhile_does_not_count(engine: Engine) -> None:
    check = "test -e /var/slow || exit 0; rm /var/slow; sleep 98768"
    slow = "sleep\0" + "98768"  # the shell has it in its command line all the time
    for seconds in (4, 16, 64):  # on a busy machine its time may be up before it is paused
        box = start(engine, check, health_timeout=seconds, health_retries=1)
        until(partial(lambda box: box.health == "healthy", box))
        box.exec(["touch", "/var/slow"])
        until(partial(processes, box, slow))
        box.pause()
        if processes(box, slow) and box.health == "healthy":
            break
        box.remove(force=True)
    # that it began is said a moment later
    until(lambda: told(engine, box, "exec_create") == told(engine, box, "exec_die") + 1)
    count = told(engine, box, "exec_create")
    time.sleep(seconds + 0.5)  # longer than the check may take
    assert box.health == "healthy"
    assert told(engine, box, "exec_create") == count
    with pytest.raises(Conflict, match="paused"):
        box.check_health()
    box.unpause()
    until(lambda: not processes(box, slow))
    until(lambda: told(engine, box, "exec_create") > count + 6)
    assert box.health == "healthy"
    assert {one["ExitCode"] for one in health(box)["Log"]} == {0}
    assert not told(engine, box, "health_status: unhealthy")


def test_it_can_be_stopped_and_removed_while_it_is_checked(engine: Engine) -> None:
    for end in (lambda box: box.stop(timeout=1), lambda box: box.kill(), lambda box: box.remove(force=True)):
        box = start(engine, "sleep 98769")
        until(partial(processes, box, "98769"))
        end(box)
        until(lambda box=box: not processes(box, "98769"))  # type: ignore[misc]


@pytest.mark.parametrize("how", ["by itself", "killed", "by hand"])
def test_what_ends_with_the_container_is_no_failure(engine: Engine, how: str) -> None:
    """The kernel kills a check before the container's first process has ended, which waits for it."""
    script = "while ! test -e /var/go; do sleep 0.02; done; exit 5"
    interval = "1h" if how == "by hand" else "50ms"
    box = start(
        engine,
        "sleep 98773",
        ["sh", "-c", script],
        health_retries=1,
        health_interval=interval,
        health_on_failure="restart",
    )
    refused: list[Conflict] = []

    def look() -> None:
        try:
            box.check_health()
        except Conflict as failure:
            refused.append(failure)

    by_hand = threading.Thread(target=look)
    if how == "by hand":
        by_hand.start()
    until(lambda: processes(box, "98773"))
    if how == "killed":
        os.kill(first_pid(box), signal.SIGKILL)
    else:
        box.exec(["touch", "/var/go"])
    assert box.wait() == (137 if how == "killed" else 5)
    until(lambda: box.state == "exited")
    if how == "by hand":
        by_hand.join()
        assert len(refused) == 1
        assert "ended meanwhile" in refused[0].message
    assert (box.restarts, health(box)["Log"]) == (0, [])
    assert not [action for action in actions(engine) if action.startswith("health_status")]


def test_who_takes_over_ends_the_check_that_was_under_way(engine: Engine) -> None:
    box = start(engine, "test -e /var/slow || exit 0; sleep 98770 & sleep 98771", health_timeout="1h")
    until(lambda: box.health == "healthy")
    box.exec(["touch", "/var/slow"])
    until(lambda: processes(box, "sleep\0" + "98771"))
    until(lambda: "checking" in (box._home.read("health") or {}))  # before that nobody could know of it
    kill_supervisor(box)
    box.exec(["rm", "/var/slow"])
    assert engine.container(box.id).state == "running"
    until(lambda: not processes(box, "9877"))
    count = len([action for action in actions(engine) if action.startswith("exec_die")])
    until(lambda: len([one for one in actions(engine) if one.startswith("exec_die")]) > count + 1)
    assert box.health == "healthy"


def test_a_check_that_nobody_could_note_ends_with_who_began_it(engine: Engine) -> None:
    box = start(engine, "sleep 98772", health_interval="1h")

    def begin() -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                examining, "note_checking", lambda home, process: os.kill(os.getpid(), signal.SIGKILL)
            )
            examining.Examination(box._home, box.record, Watch(), lambda result: None, own=True)

    with pytest.raises(ChildDied):
        in_mount_namespace(begin)
    until(lambda: not processes(box, "98772"))
    assert box.state == "running"


def test_a_record_that_is_damaged_is_begun_anew(engine: Engine) -> None:
    box = start(engine, "true")
    until(lambda: box.health == "healthy")
    for text in ("", "{", "[]", '{"status": "fine"}', '{"status": "healthy", "streak": 0}'):
        Path(os.fsdecode(box._home.path), "health.json").write_text(text)
        assert box.health in ("starting", "healthy")
        until(lambda: box.health == "healthy")


# -- what is done about it


def test_kill_leaves_the_rest_to_its_policy(engine: Engine) -> None:
    box = start(engine, "false", health_retries=2, health_on_failure="kill")
    assert box.wait() == 137
    until(lambda: box.state == "exited")
    again = start(engine, "false", health_retries=1, health_on_failure="kill", restart="on-failure:1")
    until(lambda: again.state == "exited")
    assert (again.restarts, again.exit_code) == (1, 137)


def test_stop_gives_it_time_and_it_stays_stopped(engine: Engine) -> None:
    script = "trap 'echo asked; exit 7' TERM; while :; do sleep 0.05; done"
    box = start(
        engine, DEAF_IS_ILL, ["sh", "-c", script],
        health_retries=1, health_on_failure="stop", restart="always",
    )  # fmt: skip
    until(lambda: box.state == "exited")
    assert (box.exit_code, said(box), box.restarts) == (7, b"asked\n", 0)


def test_stop_kills_one_that_does_not_heed(engine: Engine) -> None:
    script = "trap '' TERM; while :; do sleep 0.05; done"
    box = start(
        engine, DEAF_IS_ILL, ["sh", "-c", script], health_retries=1, health_on_failure="stop", stop_timeout=1
    )
    until(lambda: box.state == "exited")
    assert (box.exit_code, box.inspect()["State"]["TimedOut"]) == (137, False)


def test_restart_starts_it_again_without_a_policy(engine: Engine) -> None:
    box = start(engine, "test -e /var/up", health_retries=1, health_on_failure="restart", workdir="/var")
    until(lambda: box.restarts >= 1 and box.state == "running")

    def cured() -> bool:
        """It may end this moment, once more."""
        with contextlib.suppress(Conflict):
            return box.exec(["touch", "/var/up"]).returncode == 0
        return False

    until(cured)
    until(lambda: box.health == "healthy")
    box.stop()
    assert box.state == "exited"


def test_who_takes_over_does_what_is_to_be_done(engine: Engine) -> None:
    script = "trap '' TERM; while :; do sleep 0.05; done"
    for seconds in (2, 10, 50):  # on a busy machine it has been killed before that is
        box = start(
            engine, DEAF_IS_ILL, ["sh", "-c", script],
            health_retries=1, health_on_failure="stop", stop_timeout=seconds,
        )  # fmt: skip
        until(partial(lambda box: box.health == "unhealthy", box))
        pid = supervisor_of(box)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        until(partial(is_gone, pid))
        if box.state == "running":
            break
    engine.containers()
    until(lambda: box.state == "exited")
    assert box.exit_code in (137, 255)  # 255: its end cannot be told on every kernel


def test_a_wish_to_start_it_again_outlives_who_looked_after_it(engine: Engine) -> None:
    script = "trap '' TERM; while :; do sleep 0.05; done"
    box = start(
        engine, DEAF_IS_ILL, ["sh", "-c", script],
        health_retries=1, health_on_failure="restart", stop_timeout=1000,
    )  # fmt: skip
    until(lambda: box._home.is_marked(AGAIN_MARK))
    pid = first_pid(box)
    kill_supervisor(box)
    os.kill(pid, signal.SIGKILL)
    until(lambda: is_gone(pid))
    engine.containers()
    until(lambda: box.restarts == 1 and box.state == "running" and first_pid(box) != pid)
    box.remove(force=True)


# -- by hand


def test_a_check_by_hand_counts_as_others_do(engine: Engine) -> None:
    box = start(engine, "echo hand; test ! -e /var/bad", health_interval="1h", health_retries=2)
    assert box.health == "starting"
    done = box.check_health()
    assert (done.health, done.status, done.output) == ("healthy", 0, "hand\n")
    box.exec(["touch", "/var/bad"])
    assert [box.check_health().health for _ in range(2)] == ["healthy", "unhealthy"]
    assert len(health(box)["Log"]) == 3


def test_a_check_by_hand_can_end_a_container(engine: Engine) -> None:
    box = start(engine, "false", health_interval="1h", health_retries=1, health_on_failure="kill")
    assert box.check_health().health == "unhealthy"
    assert box.wait() == 137


def test_a_verdict_about_another_run_does_not_count(engine: Engine) -> None:
    """Whoever checks by hand may be late with it: killed with the container, which somebody has started again."""
    box = start(engine, "touch /var/begun; sleep 1000", health_interval="1h", health_retries=1)
    refused: list[Conflict] = []

    def look() -> None:
        with pytest.raises(Conflict) as found:
            box.check_health()
        refused.append(found.value)

    looking = threading.Thread(target=look)
    looking.start()
    until(lambda: box.exec(["test", "-e", "/var/begun"]).returncode == 0)
    pid = first_pid(box)
    with pytest.MonkeyPatch.context() as patched:  # it looks when another run has begun
        patched.setattr(examining, "_ends", lambda home: False)
        patched.setattr(examining, "_is_gone", lambda home: until(lambda: first_pid(box) not in (0, pid)))
        box.restart()
        looking.join()
    assert "has ended meanwhile" in refused[0].message
    assert (box.health, health(box)["Log"]) == ("starting", [])


def test_many_at_once_lose_nothing(engine: Engine) -> None:
    box = start(engine, "exit 1", health_interval="1h", health_retries=1000)
    threads = [threading.Thread(target=box.check_health) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert health(box)["FailingStreak"] == 8


def test_the_words_of_the_command_line(engine: Engine, store_root: Path, lamina: Command) -> None:
    def say(*words: str) -> subprocess.CompletedProcess[str]:
        return lamina("--root", store_root, *words)

    made = say(
        *("run", "-d", "--name", "box", "--health-cmd", "test ! -e /var/bad", "--health-interval", "1h"),
        *("--health-retries", "1", "host", "--", "sleep", "1000"),
    )
    assert made.returncode == 0, made.stderr
    status = ("ps", "-a", "--format", "{{.Status}}")
    assert "(health: starting)" in say(*status).stdout
    assert say("healthcheck", "run", "box").returncode == 0
    assert "(healthy)" in say(*status).stdout
    assert say("ps", "-q", "--filter", "health=healthy").stdout.split() == [engine.container("box").id[:12]]
    assert say("ps", "-q", "--filter", "health=unhealthy", "--filter", "health=none").stdout == ""
    assert say("inspect", "-f", "{{.State.Health.Status}}", "box").stdout == "healthy\n"
    say("exec", "box", "touch", "/var/bad")
    bad = say("healthcheck", "run", "box")
    assert (bad.returncode, bad.stdout) == (1, "unhealthy\n")
    assert "(unhealthy)" in say(*status).stdout
    say("pause", "box")
    assert "(Paused)" in say(*status).stdout
    assert say("healthcheck", "run", "box").returncode == 125
    say("unpause", "box")
    say("create", "--name", "other", "host", "true")
    none = say("healthcheck", "run", "other")
    assert none.returncode == 125
    assert "no health check" in none.stderr
    assert say("healthcheck", "run", "nosuch").returncode == 125
    assert say("ps", "-aq", "--filter", "health=none").stdout.split() == [engine.container("other").id[:12]]
    wrong = say("run", "--rm", "--health-interval", "5", "host", "true")
    assert wrong.returncode == 125
    assert "not a time" in wrong.stderr
    events = say(
        "events", "--since", "1h", "--until", "0s", "--filter", "event=health_status", "--format", "json"
    )
    assert [json.loads(line)["Action"] for line in events.stdout.splitlines()] == [
        "health_status: healthy",
        "health_status: unhealthy",
    ]


# -- in the foreground


def test_one_in_the_foreground_is_checked_as_well(engine: Engine) -> None:
    script = "while ! test -e /var/seen; do sleep 0.02; done; exit 4"
    check = "test -e /var/once && touch /var/seen; touch /var/once"
    done = engine.run("host", ["sh", "-c", script], rm=False, name="box", health_cmd=check, **OFTEN)
    assert done.returncode == 4
    box = engine.container("box")
    assert box.health == "unhealthy"  # it has ended
    assert box._home.read("health") is not None
    assert box._home.read("health")["status"] == "healthy"  # type: ignore[index]


def test_one_in_the_foreground_is_killed_or_stopped_when_it_is_unhealthy(engine: Engine) -> None:
    done = engine.run("host", SLEEP, health_cmd="false", health_retries=1, health_on_failure="kill", **OFTEN)
    assert done.returncode == 137
    script = "trap 'exit 7' TERM; while :; do sleep 0.05; done"
    done = engine.run(
        "host",
        ["sh", "-c", script],
        rm=True,
        health_cmd=DEAF_IS_ILL,
        health_retries=1,
        health_on_failure="stop",
        **OFTEN,
    )
    assert done.returncode == 7
    with pytest.raises(Unsupported, match="foreground"):
        engine.run("host", ["true"], health_cmd="false", health_on_failure="restart")
    seconds = f"98774.{secrets.randbelow(10**9):09}"  # other suites may run the same
    engine.run("host", ["true"], rm=True, health_cmd=f"sleep {seconds}", **OFTEN)
    assert not processes(None, seconds)


def test_a_run_with_restarts_is_left_to_a_supervisor(
    engine: Engine, store_root: Path, lamina: Command
) -> None:
    script = "echo begun; test -e /var/up && exit 5; touch /var/up; exec sleep 1000"
    done = lamina(
        *("--root", store_root, "run", "--rm", "--health-cmd", "false", "--health-interval", "50ms"),
        *("--health-retries", "1", "--health-on-failure", "restart", "host", "--", "sh", "-c", script),
    )
    assert (done.stdout.splitlines()[:1], done.stderr) == (["begun"], "")


# -- asleep


@pytest.fixture
def sleepy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Supervisors fall asleep at once."""
    monkeypatch.setenv(idling.VARIABLE, "0.05")
    yield


def program_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@pytest.mark.usefixtures("sleepy")
def test_a_supervisor_sleeps_between_checks(engine: Engine) -> None:
    box = start(engine, "echo x", health_interval=0.5)
    pid = supervisor_of(box)
    ends = []
    for _ in range(3):
        until(lambda: program_of(pid) == "lamina-idle")
        log = health(box)["Log"] if box.health != "starting" else []
        until(lambda log=log: health(box)["Log"] != log)  # type: ignore[misc]
        ends.append(health(box)["Log"][-1]["End"])
    assert len(set(ends)) == 3
    assert supervisor_of(box) == pid
    assert int(state_of(box)["supervisor"]["pid"]) == pid
    until(lambda: program_of(pid) == "lamina-idle")
    kill_supervisor(box)
    engine.containers()
    until(lambda: supervisor_of(box) != pid)
    count = health(box)["Log"]
    until(lambda: health(box)["Log"] != count)
    box.stop()
    assert box.exit_code == 143


@pytest.mark.usefixtures("sleepy")
def test_one_that_sleeps_is_woken_by_a_check_by_hand(engine: Engine) -> None:
    box = start(engine, "false", health_interval="1h", health_retries=1, health_on_failure="stop")
    until(lambda: program_of(supervisor_of(box)) == "lamina-idle")
    box.check_health()
    until(lambda: box.state == "exited")
    assert box.exit_code == 143


# -- what is in the way


def test_a_disk_that_is_full_ends_no_supervisor(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written down any more: not that it is healthy, nor which process looks."""
    box = start(engine, "true")
    until(lambda: box.health == "healthy")
    blocked = Path(os.fsdecode(box._home.path), "health.json.new")
    count = len([one for one in actions(engine) if one.startswith("exec_die")])
    while True:
        try:
            blocked.mkdir()  # over which no record can be staged
            break
        except FileExistsError:
            time.sleep(0.001)
    Path(os.fsdecode(box._home.path), "health.json").unlink()
    time.sleep(0.5)
    assert box.state == "running"
    assert box.health == "starting"
    blocked.rmdir()
    until(lambda: box.health == "healthy")
    assert len([one for one in actions(engine) if one.startswith("exec_die")]) > count
    assert box._home.is_looked_after()
    assert not Path(os.fsdecode(box._home.path), "supervisor.error").exists()


def test_what_events_say_of_a_check_is_no_longer_than_a_few_lines(engine: Engine) -> None:
    box = start(engine, "true " + "x" * 100_000)
    until(lambda: box.health == "healthy")
    assert max(map(len, actions(engine))) < 2000
