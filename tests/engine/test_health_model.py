"""Any order of verbs, checks and deaths: the states are those of a model, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import sampled_from

from lamina import Container, Engine
from lamina.errors import Conflict
from support.lives import is_gone, kill_supervisor, place_of, remove_all, state_of, supervisor_of, until
from support.running import first_pid

pytestmark = [pytest.mark.root, pytest.mark.slow]

# it is well unless this file says so; a check takes its time, so that what happens can meet one
CHECK = "sleep 0.02; read -r word </var/word && exit $word; exit 0"


class Lives(RuleBasedStateMachine):
    """One container with a check every 50 ms. `word` is what its check says at the moment, None where no file does;
    `policy` whether it is started again.
    """

    place: Path

    @initialize(
        policy=sampled_from(["no", "unless-stopped"]),
        action=sampled_from(["none", "kill", "restart", "stop"]),
    )
    def make(self, policy: str, action: str) -> None:
        self.directory = tempfile.TemporaryDirectory(dir=self.place)
        self.engine = Engine(Path(self.directory.name) / "store")
        self.policy, self.action = policy, action
        self.box: Container = self.engine.create(
            "host",
            ["sleep", "1000"],
            restart=policy,
            health_cmd=CHECK,
            health_interval=0.05,
            health_retries=2,
            health_on_failure=action,
        )
        self.runs = self.paused = self.sick = False

    def says(self, status: int) -> bool:
        """Have its check end with *status* from now on, also after a later start; whether it came to that."""
        script = f"echo {status} >/var/word.new; mv /var/word.new /var/word"
        return bool(self.box.exec(["sh", "-c", script]).returncode == 0)

    def settled(self, condition: Callable[[], object]) -> None:
        """Whoever was killed is replaced by any command."""
        self.engine.containers()
        until(condition)

    @precondition(lambda self: not self.paused)
    @rule()
    def start(self) -> None:
        if self.sick:
            return
        self.box.start()
        self.runs = True
        self.settled(lambda: self.box.state == "running")

    @precondition(lambda self: self.runs)
    @rule()
    def stop(self) -> None:
        self.box.stop()
        assert (self.box.state, self.box.exit_code) == ("exited", 143)
        self.runs = self.paused = False

    @precondition(lambda self: self.runs)
    @rule(name=sampled_from(["KILL", "TERM"]))
    def kill(self, name: str) -> None:
        self.box.kill(name)
        until(lambda: self.box.state == "exited")
        assert self.box.exit_code == 128 + signal.Signals[f"SIG{name}"]
        self.runs = self.paused = False

    @precondition(lambda self: self.runs)
    @rule()
    def restart(self) -> None:
        before = first_pid(self.box)
        self.box.restart()
        assert first_pid(self.box) != before
        self.paused = False

    @precondition(lambda self: self.runs and not self.paused)
    @rule()
    def pause(self) -> None:
        self.box.pause()
        self.paused = True

    @precondition(lambda self: self.paused)
    @rule()
    def unpause(self) -> None:
        self.box.unpause()
        self.paused = False

    @precondition(lambda self: self.runs and not self.paused)
    @rule()
    def look(self) -> None:
        self.engine.containers()
        assert self.box.check_health().status == 0
        assert self.box.health == "healthy"

    @precondition(lambda self: self.runs and self.paused)
    @rule()
    def look_while_paused(self) -> None:
        before = self.box.health
        with pytest.raises(Conflict, match="paused"):
            self.box.check_health()
        assert self.box.health == before

    @precondition(lambda self: self.runs)
    @rule()
    def kill_supervisor(self) -> None:
        kill_supervisor(self.box)
        self.settled(lambda: not is_gone(supervisor_of(self.box)))

    @precondition(lambda self: self.runs and not self.paused)
    @rule()
    def fall_ill(self) -> None:
        """Two failures, then what was asked for is done; afterwards it is well again."""
        before = first_pid(self.box)
        self.says(3)
        if self.action == "none":
            until(lambda: self.box.health == "unhealthy")
            assert first_pid(self.box) == before
            assert self.says(0)
            until(lambda: self.box.health == "healthy")
            return
        until(lambda: is_gone(before))
        (place_of(self.box) / "unused").touch()
        if self.action == "restart" or (self.action == "kill" and self.policy != "no"):
            # it is started again and again, until it is well
            def cured() -> bool:
                """It may end this moment, once more."""
                with contextlib.suppress(Conflict):
                    return self.says(0)
                return False

            until(cured)
            until(lambda: self.box.health == "healthy")
            assert first_pid(self.box) != before
        else:
            until(lambda: self.box.state == "exited")
            assert self.box.exit_code == (137 if self.action == "kill" else 143)
            self.runs, self.sick = False, True  # nobody can tell one that does not run that it is well

    @invariant()
    def its_state_is_the_models(self) -> None:
        if not hasattr(self, "box"):
            return
        if self.paused:
            assert self.box.state == "paused"
        elif self.runs:
            until(lambda: self.box.state == "running")
            assert self.box.health in ("starting", "healthy")
            until(lambda: self.box.health == "healthy")
        else:
            assert self.box.state in ("created", "exited")
            assert self.box.health in ("none", "unhealthy")

    def teardown(self) -> None:
        if not hasattr(self, "box"):
            return
        pids = []
        if (place_of(self.box) / "state.json").exists():
            pids = [supervisor_of(self.box), int(state_of(self.box)["pid"])]
            assert not (place_of(self.box) / "supervisor.error").exists()
        remove_all(self.engine)
        until(lambda: all(is_gone(pid) for pid in pids))
        store = os.fsdecode(self.engine.store.path)
        assert [os.listdir(f"{store}/{place}") for place in ("containers", "names", "running", "tmp")] == [
            []
        ] * 4
        self.directory.cleanup()


@pytest.mark.usefixtures("untouched_host")
def test_any_order_of_verbs_and_deaths(tmp_path: Path) -> None:
    machine = type("Here", (Lives,), {"place": tmp_path})
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=8,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
