"""A container's life by the command's verbs: what each does, refuses, and leaves."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
from pathlib import Path

import pytest

from lamina.runtime.container.begin import first_process
from lamina.runtime.container.directory import Container
from support.oci import Runtime

pytestmark = pytest.mark.root


def children_of_nobody(runtime: Runtime) -> list[str]:
    """Processes that still work for the runtime: none of ours may stay."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(runtime.root) in words:
                found.append(entry.name)
    return found


def test_a_life_from_create_to_delete(runtime: Runtime, subreaper: None) -> None:
    pid_file = runtime.directory / "pid"
    runtime.create("c", runtime.shell("echo hello; exec sleep 600"), "--pid-file", str(pid_file))
    state = runtime.state("c")
    assert (state["id"], state["status"]) == ("c", "created")
    assert pid_file.read_text() == str(state["pid"])
    assert runtime.output("c") == ""
    assert children_of_nobody(runtime) == []
    runtime.start("c")
    assert runtime.wait_output("c", "hello\n") == "hello\n"
    assert runtime.state("c") == {**state, "status": "running"}
    assert runtime.ask("kill", "c", "KILL").returncode == 0
    # it is a child of whoever reaps for the one that created it
    assert os.waitpid(state["pid"], 0)[1] == signal.SIGKILL
    assert runtime.status("c") == "stopped"
    assert runtime.ask("delete", "c").returncode == 0
    assert not (runtime.root / "c").exists()
    assert runtime.ask("state", "c").returncode == 1


def test_the_exit_status_is_for_whoever_reaps(runtime: Runtime, subreaper: None) -> None:
    runtime.begin("c", runtime.shell("exit 7"))
    pid = runtime.state("c").get("pid") or int(json.loads((runtime.root / "c/state.json").read_text())["pid"])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_while_it_waits_nothing_of_python_or_the_host_is_in_it(runtime: Runtime) -> None:
    runtime.create("c", runtime.bundle("true"))
    proc = Path("/proc", str(runtime.state("c")["pid"]))
    assert os.readlink(proc / "exe") == "/memfd:lamina-init (deleted)"
    assert (proc / "cmdline").read_bytes().startswith(b"lamina-walk\0")
    assert (proc / "environ").read_bytes() == b""
    mapped = {
        line.split(maxsplit=5)[5]
        for line in (proc / "maps").read_text().splitlines()
        if len(line.split()) > 5
    }
    assert not {name for name in mapped if "python" in name or "lamina/" in name}
    held = {int(entry.name): os.readlink(entry) for entry in (proc / "fd").iterdir()}
    # the container's own three, the channel to its maker (whose other end is gone), and the socket it waits on
    assert sorted(held) == [0, 1, 2, 3, 6]
    assert held[3].startswith("socket:") and held[6].startswith("socket:")
    assert os.readlink(proc / "cwd") == "/"


def test_only_what_is_created_can_be_started_and_only_once(runtime: Runtime) -> None:
    runtime.create("c", runtime.bundle("sleep", "600"))
    runtime.start("c")
    again = runtime.ask("start", "c")
    assert again.returncode == 1
    assert "it is running, not created" in again.stderr
    runtime.ask("kill", "c", "9")
    runtime.wait("c")
    assert "it is stopped, not created" in runtime.ask("start", "c").stderr


def test_an_id_is_taken_until_it_is_deleted(runtime: Runtime) -> None:
    bundle = runtime.bundle("true")
    runtime.create("c", bundle)
    with pytest.raises(AssertionError, match="already exists"):
        runtime.create("c", bundle)
    assert runtime.status("c") == "created"
    assert runtime.ask("delete", "c").returncode == 0  # one that was never started is killed
    runtime.create("c", bundle)


def test_one_that_runs_is_deleted_by_force_only(runtime: Runtime) -> None:
    runtime.begin("c", runtime.bundle("sleep", "600"))
    refused = runtime.ask("delete", "c")
    assert refused.returncode == 1
    assert "cannot delete container c that is not stopped: running" in refused.stderr
    assert runtime.status("c") == "running"
    assert runtime.ask("delete", "--force", "c").returncode == 0
    assert runtime.ask("delete", "--force", "c").returncode == 0
    unknown = runtime.ask("delete", "c")
    assert (unknown.returncode, "does not exist" in unknown.stderr) == (1, True)


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("no-such-command", "executable file not found in $PATH"),
        ("/no/such", "No such file or directory"),
        ("/etc/motd", "Permission denied"),
    ],
)
def test_a_command_that_cannot_be_is_said_by_create(runtime: Runtime, command: str, complaint: str) -> None:
    bundle = runtime.bundle(command)
    bundle.config["linux"]["resources"] = {"pids": {"limit": 50}}
    (bundle.rootfs / "etc/motd").write_text("no program\n")
    with pytest.raises(AssertionError, match=f"execute {command}: .*" + complaint.replace("$", r"\$")):
        runtime.create("c", bundle)
    assert not (runtime.root / "c").exists()


def test_a_command_that_turns_out_not_to_be_one_is_said_by_start(runtime: Runtime) -> None:
    bundle = runtime.bundle("/etc/script")
    (bundle.rootfs / "etc/script").write_text("neither a program nor a script\n")
    (bundle.rootfs / "etc/script").chmod(0o755)
    runtime.create("c", bundle)
    failed = runtime.ask("start", "c")
    assert failed.returncode == 1
    assert "execute /etc/script: Exec format error" in failed.stderr
    assert runtime.status("c") == "stopped"


@pytest.mark.parametrize(
    ("typed", "number"), [("TERM", 15), ("SIGTERM", 15), ("sigusr1", 10), ("10", 10), ("RTMIN+1", 35)]
)
def test_signals_by_name_and_number(runtime: Runtime, typed: str, number: int) -> None:
    script = f"trap 'echo got {number}; exit' {number}; echo ready; while :; do sleep 0.05; done"
    runtime.begin("c", runtime.bundle("/bin/bash", "-c", script))
    runtime.wait_output("c", "ready")
    assert runtime.ask("kill", "c", typed).returncode == 0
    runtime.wait_output("c", f"got {number}")


@pytest.mark.parametrize("typed", ["000", "65", "-1", "NOSUCH", "", "RTMIN+99"])
def test_what_is_no_signal_is_refused(runtime: Runtime, typed: str) -> None:
    runtime.begin("c", runtime.bundle("sleep", "600"))
    assert runtime.ask("kill", "c", "--", typed).returncode == (0 if typed == "" else 1)
    if typed == "":
        return  # as for runc nothing is SIGTERM, which the first process of a container ignores
    assert runtime.status("c") == "running"


def test_kill_of_what_does_not_run_says_so_in_the_words_that_engines_look_for(runtime: Runtime) -> None:
    assert "does not exist" in runtime.ask("kill", "none", "9").stderr
    runtime.create("c", runtime.bundle("true"))
    assert runtime.ask("kill", "c", "0").returncode == 0
    assert runtime.ask("kill", "--all", "c", "0").returncode == 0
    runtime.start("c")
    runtime.wait("c")
    assert runtime.ask("kill", "c", "0").returncode == 1
    refused = runtime.ask("kill", "c", "9")
    assert (refused.returncode, "container not running" in refused.stderr) == (1, True)


def test_run_gives_the_exit_status_and_leaves_nothing(runtime: Runtime) -> None:
    done = runtime.ask("run", "--bundle", runtime.shell("echo out; echo err >&2; exit 7").write(), "c")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert not (runtime.root / "c").exists()
    killed = runtime.ask(
        "run", "--bundle", runtime.shell("kill -9 $$; kill -9 $PPID; exec sleep 1").write(), "c"
    )
    assert killed.returncode in (0, 137)  # process 1 cannot kill itself
    kept = runtime.ask("run", "--keep", "--bundle", runtime.shell("exit 3").write(), "c")
    assert (kept.returncode, runtime.status("c")) == (3, "stopped")


def test_run_detached_returns_at_once(runtime: Runtime) -> None:
    bundle = runtime.shell("echo hi; exec sleep 600")
    with open(runtime.directory / "c.out", "w") as output:
        assert runtime("run", "-d", "--bundle", bundle.write(), "c", stdout=output).returncode == 0
    assert runtime.status("c") == "running"
    runtime.wait_output("c", "hi")


@pytest.mark.parametrize("what", ["another's", "everybody's", "another's one", "a link"])
def test_what_others_may_write_to_keeps_no_container(runtime: Runtime, what: str) -> None:
    """Who could put another config.json there would be executed by root."""
    bundle, whole = runtime.bundle("sleep", "600").write(), what in ("another's", "everybody's")
    runtime.root.mkdir(mode=0o700)
    if what == "another's":
        os.chown(runtime.root, 65534, 65534)
    elif what == "everybody's":
        runtime.root.chmod(0o777)
    else:
        runtime.root.chmod(0o1777)  # like /tmp
        place = runtime.root / "c"
        (runtime.directory / "elsewhere").mkdir()
        if what == "a link":
            place.symlink_to(runtime.directory / "elsewhere")
        else:
            place.mkdir(0o700)
            os.chown(place, 65534, 65534)
    for words in (("create", "--bundle", bundle, "c"), ("start", "c"), ("state", "c"), ("exec", "c", "true")):
        refused = runtime.ask(*words)
        assert refused.returncode in (1, 255)
        known = "already exists" if words[0] == "create" and not whole else "would decide what is run"
        assert known in refused.stderr, words
    if whole:
        assert "would decide" in runtime.ask("list").stderr
        assert list(runtime.root.iterdir()) == []
        os.chown(runtime.root, 0, 0)
        runtime.root.chmod(0o700)
    elif what == "a link":
        place.unlink()
    else:
        place.rmdir()
    assert runtime.ask("delete", "--force", "c").returncode == 0


def test_containers_may_be_kept_where_everybody_may_make_files(runtime: Runtime) -> None:
    runtime.root.mkdir()
    runtime.root.chmod(0o1777)
    runtime.begin("c", runtime.bundle("sleep", "600"))
    assert runtime.status("c") == "running"


def test_state_is_private(runtime: Runtime) -> None:
    before = os.umask(0)
    try:
        runtime.create("c", runtime.bundle("true"))
    finally:
        os.umask(before)
    for place in (runtime.root, runtime.root / "c"):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    for place in (runtime.root / "c").iterdir():
        if not place.is_socket():
            assert stat.S_IMODE(place.stat().st_mode) == 0o600, place


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../x", "a b", "-x", "x\n", "é", "a" * 256]
)
def test_what_is_no_id_is_refused(runtime: Runtime, name: str) -> None:
    for verb in (
        ["create", "--bundle", str(runtime.bundle("true").write())],
        ["state"],
        ["delete", "--force"],
    ):
        refused = runtime.ask(*verb, "--", name)
        assert refused.returncode == 1
        assert "invalid" in refused.stderr
    assert not runtime.root.exists() or [p for p in runtime.root.iterdir() if p.name[0] != "."] == []


@pytest.mark.parametrize("name", ["a", "A.b-c_d+e", "0", "_", "a" * 255])
def test_every_id_that_engines_make_is_taken(runtime: Runtime, name: str) -> None:
    runtime.create(name[:100], runtime.bundle("true"))
    assert runtime.status(name[:100]) == "created"


def test_list_shows_them_all(runtime: Runtime) -> None:
    assert runtime.ask("list").stdout.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert runtime.ask("list", "--format", "json").stdout == "null\n"
    bundle = runtime.bundle("sleep", "600")
    runtime.begin("b", bundle)
    runtime.create("a", bundle)
    assert runtime.ask("list", "-q").stdout == "a\nb\n"
    found = json.loads(runtime.ask("list", "-f", "json").stdout)
    assert [(one["id"], one["status"]) for one in found] == [("a", "created"), ("b", "running")]
    assert {one["bundle"] for one in found} == {str(bundle.path)}
    lines = runtime.ask("ls").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "a", "b"]


def test_the_caller_passes_descriptors_on(runtime: Runtime) -> None:
    reader, writer = os.pipe()
    held = os.open("/etc", os.O_RDONLY)
    bundle = runtime.shell("ls -1 /proc/self/fd; echo through >&3")

    def third() -> None:
        os.dup2(writer, 3)
        os.dup2(held, 5)

    try:
        runtime.create("c", bundle, "--preserve-fds", "1", preexec_fn=third, pass_fds=(3, 5), close_fds=True)
        runtime.start("c")
        os.close(writer)
        with open(reader, "rb") as passed:
            assert passed.read() == b"through\n"
    finally:
        os.close(held)
    runtime.wait("c")
    assert runtime.output("c").split() == ["0", "1", "2", "3", "4"]  # 4 is the directory that ls reads


def test_a_descriptor_that_is_not_there_cannot_be_passed_on(runtime: Runtime) -> None:
    with pytest.raises(AssertionError, match="pass descriptor 3 on: it is not open"):
        runtime.create("c", runtime.bundle("true"), "--preserve-fds", "1")


def test_listening_sockets_are_passed_on_as_systemd_does(runtime: Runtime) -> None:
    reader, writer = os.pipe()
    bundle = runtime.shell("echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES >&3")
    environment = {**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "web"}
    try:
        runtime.create("c", bundle, env=environment, preexec_fn=lambda: os.dup2(writer, 3), pass_fds=(3,))
        runtime.start("c")
    finally:
        os.close(writer)
    with open(reader, "rb") as passed:
        assert passed.read() == b"1 1 web\n"


def test_a_devices_mode_may_be_a_whole_one(runtime: Runtime) -> None:
    """podman writes st_mode into `fileMode`, the kind of file and all (`--privileged`, `--device`)."""
    bundle = runtime.shell("stat -c %a,%F,%t:%T /dev/mine")
    bundle.config["linux"]["devices"] = [
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o20640}
    ]
    runtime.begin("c", bundle)
    runtime.wait("c")
    assert runtime.output("c") == "640,character special file,1:3\n"


def test_a_creation_that_finds_no_room_for_its_record_leaves_nothing(runtime: Runtime) -> None:
    bundle = runtime.bundle("true")
    narrow = Runtime(runtime.directory, ["prlimit", "--fsize=500", *runtime.command])
    done = narrow.ask("create", "--bundle", bundle.write(), "c")
    assert (done.returncode, "File too large" in done.stderr) == (1, True), done.stderr
    assert not (runtime.root / "c").exists()
    runtime.create("c", bundle)


def test_who_has_no_descriptor_left_is_not_told_that_it_has_ended(runtime: Runtime) -> None:
    """For then `delete` would take it for stopped."""
    runtime.create("c", runtime.bundle("sleep", "600"))
    container = Container.find(os.fsencode(runtime.root), "c")
    record = container.record()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull, "rb") as file:
        lowest = file.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            first_process(container, record)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with first_process(container, record):
        pass
