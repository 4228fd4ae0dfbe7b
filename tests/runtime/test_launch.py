"""Real starts: what a process finds around it, and that nothing is left when a start fails."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from lamina.errors import CommandNotExecutable, CommandNotFound, KernelError, NotFound, StepFailed
from lamina.linux import packed, process, runner
from lamina.linux.constants import PR_GET_DUMPABLE
from lamina.linux.process import prctl
from lamina.runtime.launch import launch, plan
from support.bundles import full, over_host, small
from support.held import held_descriptors
from support.process import children
from support.starting import run

pytestmark = pytest.mark.root


@pytest.fixture(params=["native", "python"], autouse=True)
def walker(request, monkeypatch):
    """Every start, with the walker in C and with its reference."""
    if request.param == "python":
        monkeypatch.setattr(packed, "engine", runner)
    return request.param


def shell(script, **process):
    return small("/bin/sh", "-c", script, **process)


def with_proc(spec):
    spec["mounts"] = full()["mounts"][:1]
    return spec


def test_the_status_and_output_are_the_commands(tmp_path):
    assert run(over_host(tmp_path, shell("echo hello; exit 7"))) == (7, "hello\n")


def test_a_signal_is_128_and_its_number(tmp_path):
    running = launch(over_host(tmp_path, small("/bin/sleep", "60")), stdin=0, stdout=1, stderr=2)
    assert running.poll() is None
    running.kill(signal.SIGKILL)
    assert running.wait() == 128 + signal.SIGKILL
    assert running.poll() == running.wait()
    running.kill(signal.SIGKILL)
    running.close()


def test_what_is_written_is_in_the_upper_and_nowhere_else(tmp_path):
    spec = shell("echo new > /lamina-launch-test; rm /etc/hostname")
    spec["mounts"] = full()["mounts"][1:2]  # else the default devices are made in the image's /dev
    run(over_host(tmp_path, spec))
    assert not Path("/lamina-launch-test").exists()
    assert Path("/etc/hostname").exists()
    assert (tmp_path / "upper/lamina-launch-test").read_text() == "new\n"
    assert sorted(p.name for p in (tmp_path / "upper").iterdir()) == ["etc", "lamina-launch-test"]


def test_the_process_is_the_first_of_its_namespaces_and_sees_no_descriptor_of_ours(tmp_path):
    held = os.open("/", os.O_RDONLY)
    os.set_inheritable(held, True)
    status, text = run(over_host(tmp_path, with_proc(shell("echo $$; ls /proc/self/fd; pwd"))))
    os.close(held)
    assert (status, text.split()) == (0, ["1", "0", "1", "2", "3", "/"])


def test_ids_groups_limits_and_mask_are_the_specifications(tmp_path):
    spec = full()
    spec["mounts"] = [spec["mounts"][0]]
    spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}]
    spec["process"]["args"] = [
        "/bin/sh",
        "-c",
        "id -u; id -g; id -G; umask; ulimit -n; ulimit -Hn; pwd; hostname",
    ]
    before = os.umask(0o077)
    status, text = run(over_host(tmp_path, spec))
    assert os.umask(before) == 0o077
    assert status == 0, text
    assert text.splitlines() == ["1000", "100", "100 4 24", "0027", "77", "99", "/srv/data", "box"]


@pytest.mark.parametrize(
    ("user", "mask"),
    [({}, "0022"), ({"umask": 0}, "0000"), ({"umask": 0o077}, "0077"), ({"umask": 0o777}, "0777")],
)
def test_a_mask_of_nobody_elses(tmp_path, user, mask):
    before = os.umask(0o137)
    try:
        bundle = over_host(tmp_path, shell("umask", user={"uid": 0, "gid": 0, **user}))
        assert run(bundle) == (0, f"{mask}\n")
        assert os.umask(0o137) == 0o137
    finally:
        os.umask(before)


def test_privileges_are_gone(tmp_path):
    spec = with_proc(shell("grep -E '^(Cap|NoNewPrivs)' /proc/self/status"))
    spec["process"]["capabilities"] = {k: ["CAP_KILL"] for k in ("bounding", "effective", "permitted")}
    _, text = run(over_host(tmp_path, spec))
    found = dict(line.split(":\t") for line in text.splitlines())
    assert found == {
        "CapInh": "0000000000000000",
        "CapPrm": "0000000000000020",
        "CapEff": "0000000000000020",
        "CapBnd": "0000000000000020",
        "CapAmb": "0000000000000000",
        "NoNewPrivs": "1",
    }


def test_the_callers_ignored_signals_and_mask_stay_outside(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        _, text = run(over_host(tmp_path, with_proc(shell("grep -E '^Sig(Ign|Blk)' /proc/self/status"))))
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    assert {int(line.split()[1], 16) for line in text.splitlines()} == {0}


def test_a_caller_stays_dumpable_when_its_child_becomes_somebody_else(tmp_path):
    before = prctl(PR_GET_DUMPABLE)
    spec = small("/bin/true", user={"uid": 1000, "gid": 1000})
    assert run(over_host(tmp_path, spec))[0] == 0
    assert prctl(PR_GET_DUMPABLE) == before


def test_masked_and_readonly_paths(tmp_path):
    spec = with_proc(
        shell("cat /proc/keys | wc -c; ls /sys/firmware; echo 1 > /proc/sys/kernel/panic || echo refused")
    )
    spec["mounts"].append(full()["mounts"][3])
    spec["linux"]["maskedPaths"] = ["/proc/keys", "/sys/firmware", "/proc/none/such"]
    spec["linux"]["readonlyPaths"] = ["/proc/sys", "/proc/none/such"]
    _, text = run(over_host(tmp_path, spec))
    assert text.splitlines()[0] == "0"
    assert text.splitlines()[-1] == "refused"
    assert len(text.splitlines()) == 3


def test_the_hosts_null_device_cannot_be_changed_through_a_masked_file(tmp_path):
    before = os.stat("/dev/null")
    # to what they are already, or a failing test would harm the machine
    spec = with_proc(shell("chmod 666 /proc/keys || echo refused; chown 0:0 /proc/keys || echo refused"))
    spec["linux"]["maskedPaths"] = ["/proc/keys"]
    _, text = run(over_host(tmp_path, spec))
    assert text.count("Read-only") == text.count("refused") == 2
    assert os.stat("/dev/null").st_ctime_ns == before.st_ctime_ns


def test_a_bind_shows_the_hosts_directory_or_file_at_a_mount_point_made_for_it(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "note").write_text("from outside")
    spec = shell("cat /made/for/it/note; cat /made/file; echo no > /made/for/it/x || echo refused")
    spec["mounts"] = [
        {"destination": "/made/for/it", "type": "bind", "source": str(source), "options": ["rbind", "ro"]},
        {"destination": "/made/file", "source": str(source / "note"), "options": ["bind"]},
    ]
    _, text = run(over_host(tmp_path, spec))
    assert "from outsidefrom outside" in text
    assert text.endswith("refused\n")
    assert sorted(p.name for p in source.iterdir()) == ["note"]


def test_a_read_only_root(tmp_path):
    """What is mounted below it stays as it is."""
    spec = shell("touch /x 2>&- || echo refused; touch /mnt/x && echo done")
    spec["mounts"] = [{"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}]
    spec["root"] = {"readonly": True}
    assert run(over_host(tmp_path, spec)) == (0, "refused\ndone\n")
    spec["root"] = {"readonly": False}
    assert run(over_host(tmp_path, spec)) == (0, "done\n")


def test_a_terminal_is_the_containers_own(tmp_path):
    spec = with_proc(shell("tty; test -t 2 && echo yes > /dev/console", terminal=True))
    spec["mounts"] = full()["mounts"][:3]
    null = os.open("/dev/null", os.O_RDWR)
    running = launch(over_host(tmp_path, spec), stdin=null, stdout=null, stderr=null)
    os.close(null)
    assert running.pty is not None
    text = b""
    while True:
        try:
            part = os.read(running.pty, 4096)
        except OSError:  # EIO: nobody has the other end open any more
            break
        text += part
    assert running.wait() == 0
    running.close()
    assert text.split() == [b"/dev/pts/0", b"yes"]


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("no-such-command", CommandNotFound),
        ("/no/such/command", CommandNotFound),
        ("/etc", CommandNotExecutable),
        ("/etc/passwd", CommandNotExecutable),
    ],
)
def test_a_command_that_cannot_be_executed(tmp_path, command, error):
    with pytest.raises(error, match=command):
        run(over_host(tmp_path, small(command)))


def test_a_file_without_format_cannot_be_executed(tmp_path):
    bundle = over_host(tmp_path, small("/odd"))
    odd = tmp_path / "upper/odd"  # not beside it: what is mounted on /tmp is not below an overlay of /
    odd.write_text("no #! here")
    odd.chmod(0o755)
    with pytest.raises(CommandNotExecutable, match="#!"):
        run(bundle)


def test_why_a_start_failed_is_said_where_the_kernel_reaps_and_remembers_no_status(tmp_path, monkeypatch):
    def forgotten(*_):
        raise KernelError("ioctl", errno.ENOTTY, "PIDFD_GET_INFO")  # before Linux 6.13

    monkeypatch.setattr(process, "pidfd_get_info", forgotten)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(CommandNotFound):
            run(over_host(tmp_path, small("no-such-command")))
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_failing_step_is_named_and_nothing_is_left(tmp_path):
    before = Path("/proc/self/mountinfo").read_text()
    descriptors = held_descriptors()
    others = children()  # such as who works with files for a test before
    bundle = over_host(tmp_path, small())
    (tmp_path / "merged").rmdir()
    with pytest.raises(StepFailed, match=r"step \d+ of \d+ .*mount.*merged.*No such file"):
        run(bundle)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert held_descriptors() == descriptors
    assert children() <= others  # who may end meanwhile


def test_a_missing_bind_source_is_found_before_anything_starts(tmp_path):
    spec = small()
    spec["mounts"] = [{"destination": "/a", "source": "/no/such", "options": ["bind"]}]
    with pytest.raises(NotFound, match="/no/such"):
        run(over_host(tmp_path, spec))


def test_limits_are_made_where_asked_and_removed_with_the_container(tmp_path):
    at, (reader, writer) = f"/lamina-test/{tmp_path.name}-{os.getpid()}", os.pipe()
    spec = with_proc(small("/bin/cat"))
    spec["linux"]["namespaces"].append({"type": "cgroup"})
    spec["linux"].update(cgroupsPath=at, resources={"pids": {"limit": 9}})
    null = os.open("/dev/null", os.O_RDWR)
    running = launch(over_host(tmp_path, spec), stdin=reader, stdout=null, stderr=null)
    os.close(null)
    os.close(reader)
    assert running.cgroup is not None
    place = running.cgroup.paths.get("pids") or running.cgroup.paths[""]
    assert Path(os.fsdecode(place), "pids.max").read_text() == "9\n"
    joined = {line.split(":", 2)[2] for line in Path(f"/proc/{running.pid}/cgroup").read_text().splitlines()}
    assert all(os.fsdecode(path).endswith(at) for path in running.cgroup.paths.values())
    assert any(path.endswith(at) for path in joined), joined
    os.close(writer)
    running.wait()
    running.close()
    assert not os.path.exists(place)


def test_the_container_dies_with_the_thread_that_started_it(tmp_path):
    started = []
    null = os.open("/dev/null", os.O_RDWR)
    bundle = over_host(tmp_path, small("/bin/sleep", "60"))
    thread = threading.Thread(
        target=lambda: started.append(launch(bundle, stdin=null, stdout=null, stderr=null))
    )
    thread.start()
    thread.join()
    os.close(null)
    assert started[0].wait() == 128 + signal.SIGKILL
    started[0].close()


def test_two_hundred_starts_from_a_program_with_busy_threads(tmp_path, walker):
    stop = threading.Event()

    def work():
        while not stop.is_set():
            sum(range(1000))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # more changes between threads, in less time
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    bundle = over_host(tmp_path, small("/bin/true"))
    try:
        for _ in range(200 if walker == "native" else 20):
            assert run(bundle)[0] == 0
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()


def test_a_start_from_a_large_program(tmp_path, walker):
    ballast = bytearray(1 << 30) if walker == "native" else bytearray(1 << 20)
    ballast[:: 1 << 12] = b"x" * len(ballast[:: 1 << 12])  # touch every page
    assert run(over_host(tmp_path, shell("echo ok"))) == (0, "ok\n")
    assert ballast[0]


def test_a_plan_is_printed_without_starting_anything(tmp_path):
    text = str(plan(over_host(tmp_path, small())))
    assert text.startswith("clone3(")
    assert text.endswith("# the command") and '["lamina-exec", "/bin/true"]' in text


def test_without_a_compiler_there_is_a_launcher_all_the_same(tmp_path, monkeypatch):
    from lamina.runtime import init

    monkeypatch.setattr(init, "INIT", str(tmp_path / "none"))
    assert run(over_host(tmp_path, shell("echo ok"))) == (0, "ok\n")
    running = launch(over_host(tmp_path, small("sh", "-c", "exit 3")), stdin=0, stdout=1, stderr=2)
    assert (running.wait(), running.notes) == (3, ())
    running.close()
    with pytest.raises(CommandNotFound, match="execute no-such: no such command"):
        run(over_host(tmp_path, small("no-such")))
    with pytest.raises(CommandNotExecutable, match="execute /etc/passwd: Permission denied"):
        run(over_host(tmp_path, small("/etc/passwd")))


@pytest.mark.parametrize("terminal", [False, True])
def test_without_a_command_to_execute_the_terminal_is_gone_too(tmp_path, terminal):
    spec = small("no-such", terminal=terminal)
    spec["mounts"] = full()["mounts"][:3]
    with pytest.raises(CommandNotFound, match="execute no-such: no such command in the container"):
        run(over_host(tmp_path, spec))
    spec["process"]["args"] = ["/etc/passwd"]
    with pytest.raises(CommandNotExecutable, match="execute /etc/passwd: Permission denied"):
        run(over_host(tmp_path, spec))
