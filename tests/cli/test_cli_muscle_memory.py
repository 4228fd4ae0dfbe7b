"""What hands used to docker type without looking; tests/interop/test_lines_of_docker.py asks docker itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.image_archives import ImageSource, old_docker, tar, tree_tar
from support.peers import in_terminal
from support.small_images import busybox_tree

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def image(lamina: Lamina, tmp_path: Path) -> str:
    tree = tmp_path / "tree"
    tree.mkdir()
    busybox_tree(tree)
    source = ImageSource(tree_tar(tree), config={"Cmd": ["sh"], "Env": ["PATH=/bin"]})
    (tmp_path / "image.tar").write_bytes(tar(*old_docker((source, ["tiny:1"]))))
    ok(lamina("load", "-i", tmp_path / "image.tar"))
    return "tiny:1"


def test_a_letter_and_an_equals_sign(lamina: Lamina, image: str) -> None:
    script = "echo $A $B; pwd; id -u"
    words = ("-e=A=1", "-e", "B=2", "-w=/etc", "-u=ann", "-m=64m", "--rm")
    assert ok(lamina("run", *words, image, "sh", "-c", script)) == "1 2\n/etc\n1000\n"
    ok(lamina("create", "--name=one", "-l=a=b", image))
    assert ok(lamina("ps", "-a", "-n=1", "-f=label=a=b", "--format", "{{.Names}}")) == "one\n"


def test_a_volume_as_scripts_of_old_name_it(lamina: Lamina) -> None:
    assert ok(lamina("volume", "create", "--name", "old", "--label", "a=b")) == "old\n"
    assert ok(lamina("volume", "ls", "-q", "-f", "label=a=b")) == "old\n"
    done = lamina("volume", "create", "--name=one", "two")
    assert (done.returncode, "two names, one and two" in done.stderr) == (125, True)


def test_a_main_group_is_one_of_the_groups(lamina: Lamina, image: str) -> None:
    """Else a set-group-id program takes its user out of it, and past what is closed to its members."""
    groups = ("sh", "-c", "grep Groups: /proc/self/status")
    for words, wanted in (
        ((), [0, 2]), (("-u", "5"), [0]), (("-u", "5:7"), [7]), (("-u", "ann"), [2, 26, 100]),
        (("-u", "ann", "--group-add", "9"), [2, 9, 26, 100]),
    ):  # fmt: skip
        shown = ok(lamina("run", "--rm", *words, image, *groups)).split()[1:]
        assert sorted(map(int, shown)) == wanted, words
    ok(lamina("run", "-d", "--name", "box", image, "sleep", "1000"))
    for words, wanted in (((), [0, 2]), (("-u", "5:7"), [7]), (("-u", "ann"), [2, 26, 100])):
        shown = ok(lamina("exec", *words, "box", *groups)).split()[1:]
        assert sorted(map(int, shown)) == wanted, words
    ok(lamina("rm", "-f", "box"))


def test_a_template_asks_whether_there_is_a_health_check(lamina: Lamina, image: str) -> None:
    ok(lamina("create", "--name", "box", image))
    form = "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}"
    assert ok(lamina("inspect", "-f", form, "box")) == "none\n"
    assert ok(lamina("inspect", "-f", "{{json .State.Health}} {{.SizeRw}}", "box")) == "null <nil>\n"
    assert lamina("inspect", "-f", "{{.State.Health.Status}}", "box").returncode == 125


def test_container_inspect_is_of_containers_alone(lamina: Lamina, image: str) -> None:
    ok(lamina("tag", image, "box"))
    done = lamina("container", "inspect", "box")
    assert (done.returncode, json.loads(done.stdout)) == (1, [])
    assert "container box: no such container" in done.stderr
    ok(lamina("create", "--name", "box", image))
    assert ok(lamina("container", "inspect", "-f", "{{.Name}}", "box")) == "box\n"
    assert ok(lamina("container", "inspect", "-s", "-f", "{{.SizeRw}}", "box")) == "0\n"


def test_what_a_container_wrote_is_its_files_alone(lamina: Lamina, image: str) -> None:
    """Not its records and its log; but what was frozen into snapshots."""
    sizes = ("inspect", "-s", "-f", "{{.SizeRw}}", "box")
    ok(lamina("create", "--name", "box", image, "sh", "-c", "seq 1000; echo 12345 >> /new"))
    assert ok(lamina(*sizes)) == "0\n"
    ok(lamina("start", "-a", "box"))
    assert ok(lamina(*sizes)) == "6\n"
    ok(lamina("snapshot", "create", "box", "one"))
    assert ok(lamina(*sizes)) == "6\n"
    assert ok(lamina("ps", "-as", "--format", "{{.Size}}")).startswith("6B (virtual ")


def test_inspect_names_the_directories_of_its_root(lamina: Lamina, image: str) -> None:
    ok(lamina("create", "--name", "box", image, "sh", "-c", "echo 1 > /new"))
    ok(lamina("start", "-a", "box"))
    found = json.loads(ok(lamina("inspect", "-f", "{{json .GraphDriver.Data}}", "box")))
    assert Path(found["UpperDir"], "new").read_text() == "1\n"
    assert Path(found["WorkDir"]).is_dir()
    assert all(Path(place, "bin/busybox").is_file() for place in found["LowerDir"].split(":"))


def test_headings_are_docker_s(lamina: Lamina, image: str) -> None:
    for words, wanted in (
        (("ps", "-a", "--format", "table {{.ID}}\t{{.RunningFor}}"), ["CONTAINER", "ID", "CREATED"]),
        (("images", "--format", "table {{.ID}}\t{{.CreatedSince}}"), ["IMAGE", "ID", "CREATED"]),
        (("volume", "ls", "--format", "table {{.Name}}"), ["VOLUME", "NAME"]),
        (("stats", "-a", "--no-stream", "--format", "table {{.CPUPerc}}\t{{.NetIO}}"), ["CPU", "%", "NET", "I/O"]),
    ):  # fmt: skip
        assert ok(lamina(*words)).splitlines()[0].split() == wanted


def test_an_empty_value_is_none(lamina: Lamina, image: str) -> None:
    """`--name "$NAME"` and `--format "$FORMAT"` of a script that has none."""
    ok(lamina("create", "--name", "", image))
    assert ok(lamina("ps", "-a", "--format", "")) == ok(lamina("ps", "-a"))
    name = ok(lamina("ps", "-a", "--format", "{{.Names}}")).strip()
    assert name
    assert json.loads(ok(lamina("inspect", "-f", "", name)))[0]["Name"] == name


def test_a_slash_before_a_name(lamina: Lamina, image: str) -> None:
    ok(lamina("create", "--name", "box", image, "true"))
    assert ok(lamina("start", "/box")) == "/box\n"
    ok(lamina("wait", "/box"))
    assert lamina("inspect", "//box").returncode == 1
    ok(lamina("rm", "/box"))
    assert ok(lamina("ps", "-aq")) == ""


def test_history_not_for_people(lamina: Lamina, image: str) -> None:
    form = ("--format", "{{.Size}} {{.CreatedAt}}", image)
    (line,) = ok(lamina("history", "--human=false", *form)).splitlines()
    assert line == ok(lamina("history", "--raw", *form)).strip()
    size, created = line.split()
    assert int(size) > 100_000 and created == "1970-01-01T00:00:00Z"
    assert ok(lamina("history", "-H", *form)) == ok(lamina("history", *form)) != f"{line}\n"


def test_all_lines_of_a_log(lamina: Lamina, image: str) -> None:
    ok(lamina("run", "--name", "box", image, "seq", "3"))
    assert ok(lamina("logs", "--tail", "-1", "box")) == "1\n2\n3\n" == ok(lamina("logs", "--tail=all", "box"))
    assert lamina("logs", "--tail", "-2", "box").returncode == 125


def test_a_volume_of_the_driver_local(lamina: Lamina) -> None:
    assert ok(lamina("volume", "create", "-d", "local", "data")) == "data\n"
    assert ok(lamina("volume", "create", "--driver=local", "data")) == "data\n"
    done = lamina("volume", "create", "-d", "nfs", "more")
    assert done.returncode == 125 and "no drivers but local" in done.stderr


def test_cp_says_what_it_did_to_a_terminal_alone(lamina: Lamina, image: str, tmp_path: Path) -> None:
    ok(lamina("create", "--name", "box", image))
    done = lamina("cp", "box:/etc/image", tmp_path)
    assert (ok(done), done.stderr) == ("", "")
    words = [sys.executable, "-m", "lamina", "cp", "box:/etc/image", str(tmp_path)]
    shown = subprocess.run(
        in_terminal(words), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200
    )
    assert f"Successfully copied 8B to {tmp_path}" in shown.stdout, shown


def test_logout_of_where_nobody_is_logged_in(lamina: Lamina) -> None:
    assert ok(lamina("logout", "registry.invalid")) == "Not logged in to registry.invalid\n"


def test_info_counts(lamina: Lamina, image: str) -> None:
    ok(lamina("create", "--name", "made", image))
    ok(lamina("run", "-d", "--name", "runs", image, "sleep", "1000"))
    form = "{{.Containers}} {{.ContainersRunning}} {{.ContainersPaused}} {{.ContainersStopped}} {{.Images}}"
    assert ok(lamina("info", "-f", form)) == "2 1 0 1 1\n"
    assert ok(lamina("info", "-f", "{{.Swarm.LocalNodeState}} {{.CgroupDriver}}")) == "inactive cgroupfs\n"
    document = json.loads(ok(lamina("info", "--format", "json")))
    assert document["ContainersRunning"] == 1 and document["CgroupVersion"] in ("1", "2", "")
    ok(lamina("rm", "-f", "runs"))


def test_info_of_a_store_that_is_not_there(lamina: Lamina, store_root: Path) -> None:
    assert ok(lamina("info", "-f", "{{.Containers}} {{.Images}}")) == "0 0\n"
    assert not store_root.exists()


def test_some_of_the_streams(lamina: Lamina, image: str) -> None:
    """What is not attached is in the log all the same."""
    script = ("sh", "-c", "echo out; echo err >&2; exit 3")
    for words, wanted in (
        (("-a", "stdout"), ("out\n", "")), (("--attach=STDERR",), ("", "err\n")),
        (("-astdout", "-a=stderr"), ("out\n", "err\n")),
    ):  # fmt: skip
        done = lamina("run", "--name", "box", *words, image, *script)
        assert (done.returncode, (done.stdout, done.stderr)) == (3, wanted), words
        done = lamina("logs", "box")
        assert (done.stdout, done.stderr) == ("out\n", "err\n")
        ok(lamina("rm", "box"))
    done = lamina("run", "--rm", "-i", "-a", "stdin", "-a", "stdout", image, "cat", input="through")
    assert ok(done) == "through"
    for wrong, said in (
        ("-a=stdout -d", "-a and -d contradict each other"),
        ("-a=nothing", "not one of stdin, stdout, stderr"),
    ):
        done = lamina("run", *wrong.split(), image, "true")
        assert done.returncode == 125 and said in done.stderr
    assert ok(lamina("ps", "-aq")) == ""


def test_input_alone(lamina: Lamina, image: str) -> None:
    """docker's `cat file | docker run -i -a stdin`: the id is printed, and the log has what came of it."""
    words = ("run", "-i", "-a", "stdin", "--name", "box", image, "sh", "-c", "cat; exit 3")
    shown = ok(lamina(*words, input="through"))
    assert shown == ok(lamina("inspect", "-f", "{{.Id}}", "box"))
    assert ok(lamina("logs", "box")) == "through"
    assert ok(lamina("inspect", "-f", "{{.State.ExitCode}}", "box")) == "3\n"


def test_signals_that_are_kept(lamina: Lamina, image: str) -> None:
    """--sig-proxy=false: they end the command, not the container."""
    words = ["run", "--name", "box", "--sig-proxy=false", image, "sh", "-c", "echo ready; exec sleep 1000"]
    with subprocess.Popen(
        [sys.executable, "-m", "lamina", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None and command.stdout.readline() == "ready\n"
        command.send_signal(signal.SIGTERM)
        assert command.wait(200) == -signal.SIGTERM
    assert ok(lamina("ps", "--format", "{{.Names}}")) == "box\n"
    ok(lamina("rm", "-f", "box"))
