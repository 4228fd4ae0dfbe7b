"""What hands used to docker type at ps, port, diff, prune, version: the same answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina import Engine
from support.image_archives import ImageSource, old_docker, tar, tree_tar
from support.small_images import busybox_tree

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def image(lamina: Lamina, tmp_path: Path) -> Iterator[str]:
    tree = tmp_path / "tree"
    tree.mkdir()
    busybox_tree(tree)
    config = {"Cmd": ["sh"], "Env": ["PATH=/bin"], "ExposedPorts": {"80/tcp": {}, "53/udp": {}}}
    source = ImageSource(tree_tar(tree), config=config)
    (tmp_path / "image.tar").write_bytes(tar(*old_docker((source, ["tiny:1"]))))
    ok(lamina("load", "-i", tmp_path / "image.tar"))
    yield "tiny:1"


def test_ps_of_the_last(lamina: Lamina, image: str) -> None:
    for name in ("one", "two", "three"):
        ok(lamina("create", "--name", name, "--label", f"of={name}", "--label", "a=x,y", image))
    names = ["ps", "--format", "{{.Names}}"]
    assert ok(lamina(*names)) == ""
    assert ok(lamina(*names, "-l")) == "three\n"
    assert ok(lamina(*names, "-n", "2")) == "three\ntwo\n"
    assert (
        ok(lamina("ps", "-n1", "-q", "--no-trunc")).strip()
        == ok(lamina("inspect", "-f", "{{.Id}}", "three")).strip()
    )
    done = lamina("ps", "-l", "-n", "2")
    assert done.returncode == 125 and "--latest and --last contradict each other" in done.stderr
    form = '{{.Names}}: {{.Label "of"}} {{.Label "a"}}{{.Label "none"}}'
    assert ok(lamina("ps", "-l", "--format", form)) == "three: three x,y\n"
    assert ok(lamina("ps", "-l", "--format", 'table {{.Names}}\t{{.Label "of"}}')).split() == [
        "NAMES",
        "of",
        "three",
        "three",
    ]
    done = lamina("images", "--format", '{{.Label "of"}}')
    assert done.returncode == 125 and "no labels for {{.Label}}" in done.stderr


def test_ps_says_what_docker_s_templates_ask(lamina: Lamina, image: str) -> None:
    ok(
        lamina(
            "run",
            "--name",
            "box",
            "-v",
            "data:/data",
            "-v",
            "/tmp:/host:ro",
            image,
            "sh",
            "-c",
            "echo 12345 > /new",
        )
    )
    form = "{{.Networks}}|{{.Mounts}}|{{.LocalVolumes}}|{{.Ports}}|{{.Size}}"
    shown = ok(lamina("ps", "-a", "--format", form)).strip().split("|")
    assert shown[:4] == ["none", "data,/tmp", "1", ""]  # it has ended
    assert shown[4].endswith("B)") and "(virtual " in shown[4] and not shown[4].startswith("0B")
    assert ok(lamina("ps", "-as")).splitlines()[0].endswith("SIZE")
    record = json.loads(ok(lamina("ps", "-a", "--format", "json")))
    assert record["Labels"] == ""
    for chosen, there in (
        ("network=none", True), ("network=host", False), ("expose=80", True), ("expose=53/udp", True),
        ("expose=53", False), ("publish=80", False), ("expose=70-80", True), ("expose=81-90", False),
        ("expose=50-60/udp", True), ("expose=50-60", False), ("publish=1-65535", False),
    ):  # fmt: skip
        assert bool(ok(lamina("ps", "-aq", "--filter", chosen))) == there, chosen


@pytest.mark.parametrize("wrong", ["x", "80-", "90-80", "1-65536", "80/x", "80/", "8080:80", ""])
@pytest.mark.parametrize("key", ["expose", "publish"])
def test_a_filter_of_ports_that_names_none(lamina: Lamina, key: str, wrong: str) -> None:
    done = lamina("ps", "--filter", f"{key}={wrong}")
    assert done.returncode == 125
    assert "--filter" in done.stderr


def test_lists_say_times_in_docker_s_form(lamina: Lamina, image: str) -> None:
    ok(lamina("create", "--name", "box", image))
    env = {**os.environ, "TZ": "IST-5:30"}
    said = ok(lamina("ps", "-a", "--format", "{{.CreatedAt}}", env=env))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0530 IST\n", said), said
    assert ok(lamina("images", "--format", "{{.CreatedAt}}", env=env)) == "2024-05-01 17:30:00 +0530 IST\n"


def test_port(lamina: Lamina, image: str) -> None:
    """Nothing is published: docker says the same of a container without -p."""
    ok(lamina("create", "--name", "box", image))
    assert ok(lamina("port", "box")) == ""
    assert (
        ok(lamina("inspect", "-f", "{{json .NetworkSettings.Ports}}", "box"))
        == '{"53/udp":null,"80/tcp":null}\n'
    )
    for word, said in (
        ("80", "80/tcp of container box: it is not published"),
        ("53/udp", "53/udp of container"),
    ):
        done = lamina("port", "box", word)
        assert (done.returncode, done.stdout) == (125, "") and said in done.stderr
    for word in ("http", "0", "70000", "-1"):
        assert lamina("port", "box", word).returncode == 125
    done = lamina("port", "nosuch")
    assert done.returncode == 125 and "no such container" in done.stderr


def test_diff_by_template(lamina: Lamina, image: str) -> None:
    script = (
        "echo 1 > /etc/new; rm /etc/group; chmod 700 /home; rm -r /home/ann; rm /etc/image; mkdir /etc/image"
    )
    ok(lamina("run", "--name", "box", image, "sh", "-ec", script))
    assert ok(lamina("diff", "--format", "docker", "box")) == (
        "C /etc\nD /etc/group\nC /etc/image\nA /etc/new\nC /home\nD /home/ann\n"
    )
    assert ok(lamina("diff", "--format", "{{.Kind}} {{.Path}} {{.Type}} {{.Size}}", "box")).splitlines()[:3] == [
        "D /etc/group file 0", "R /etc/image directory 0", "A /etc/new file 2",
    ]  # fmt: skip
    assert ok(lamina("diff", "--format", "docker", "box", "/home")) == "C /home\nD /home/ann\n"
    done = lamina("diff", "--format", "docker", "-p", "box")
    assert done.returncode == 125 and "--patch and --format docker contradict each other" in done.stderr
    assert lamina("diff", "--format", "dockr", "box").returncode == 125


def test_prunes_take_filters(lamina: Lamina, image: str, store_root: Path) -> None:
    for name in ("old", "new"):
        moment = time.time()  # between the two, in the end
        ok(lamina("create", "--name", name, "--label", f"is={name}", "--label", "both", image))
    left = ["ps", "-a", "--format", "{{.Names}}"]
    ok(lamina("system", "prune", "-f", "--filter", "label=none"))
    ok(lamina("system", "prune", "-f", "--filter", "label!=both"))
    assert ok(lamina(*left)) == "new\nold\n"
    ok(lamina("system", "prune", "-f", "--filter", f"until={moment}", "--filter", "label=both"))
    assert ok(lamina(*left)) == "new\n"
    ok(lamina("container", "prune", "-f", "--filter", "label=is=new"))
    assert ok(lamina(*left)) == ""
    assert ok(lamina("images", "-q")), "it has a name"
    done = lamina("system", "prune", "-f", "--volumes", "--filter", "until=1h")
    assert done.returncode == 125 and "until says nothing of volumes" in done.stderr
    # images: made in 2024, so that there is a time before
    ok(lamina("image", "prune", "-af", "--filter", "until=2024-01-01"))
    assert ok(lamina("images", "-q"))
    ok(lamina("image", "prune", "-f", "--filter", "dangling=true"))
    assert ok(lamina("images", "-q"))
    ok(lamina("image", "prune", "-f", "--filter", "dangling=false", "--filter", "until=2025-01-01"))
    assert ok(lamina("images", "-q")) == ""
    assert done_to_images(store_root) == ["load", "untag", "delete"]


def done_to_images(store_root: Path) -> list[str]:
    found = Engine(store_root).events(since=0, until=time.time(), filters={"type": ["image"]})
    return [one.action for one in found]


def test_system_prune_tells_of_images(lamina: Lamina, image: str, store_root: Path) -> None:
    ok(lamina("system", "prune", "-af"))
    assert done_to_images(store_root) == ["load", "untag", "delete"]


def test_exec_of_what_the_container_has_not(lamina: Lamina, image: str) -> None:
    ok(lamina("run", "-d", "--name", "box", image, "sleep", "1000"))
    try:
        for words in (("-u", "nosuch"), ("-u", "0:nosuch"), ("-w", "/nope"), ("-w", "/etc/passwd")):
            assert lamina("exec", *words, "box", "true").returncode == 126, words
        said = "{{.Container}} {{.Name}}"
        assert ok(lamina("stats", "--no-stream", "--format", said, "box")) == "box box\n"
    finally:
        ok(lamina("rm", "-f", "box"))
    assert lamina("exec", "-w", "/nope", "box", "true").returncode == 125


def test_attach_to_a_terminal_takes_one(lamina: Lamina, image: str) -> None:
    """As in docker; `start -ai` does without, there and here."""
    ok(lamina("run", "-dit", "--name", "box", image))
    try:
        done = lamina("attach", "box")
        assert (done.returncode, done.stdout) == (125, "")
        assert "standard input here is none" in done.stderr and "hint: say --no-stdin" in done.stderr
    finally:
        ok(lamina("rm", "-f", "box"))
    assert "it is not running" in lamina("attach", ok(lamina("create", "-it", image)).strip()).stderr


def test_networks_are_named_by_ids_as_well(lamina: Lamina) -> None:
    identity = ok(lamina("network", "create", "--label", "keep", "one")).strip()
    ok(lamina("network", "create", "two"))
    assert len(identity) == 64 and identity[:12] in ok(lamina("network", "ls", "-q")).split()
    assert identity in ok(lamina("network", "ls", "-q", "--no-trunc")).split()
    listed = ok(lamina("network", "ls")).splitlines()
    assert listed[0].split()[:4] == ["NETWORK", "ID", "NAME", "DRIVER"]
    assert [line.split()[1] for line in listed[1:]] == ["host", "none", "one", "two"]
    every = ok(lamina("network", "ls", "-q")).split()
    named = ok(lamina("network", "inspect", "-f", "{{.Name}}", *every)).split()
    assert named == ["host", "none", "one", "two"]
    assert (
        ok(lamina("network", "ls", "-f", f"id={identity}", "--format", "{{.Name}} {{.IPv6}}"))
        == "one false\n"
    )
    done = lamina("network", "rm", every[0])
    assert done.returncode == 1 and "cannot be removed" in done.stderr
    ok(lamina("network", "rm", identity[:12]))
    assert lamina("network", "rm", "one").returncode == 1


def test_prunes_of_networks(lamina: Lamina) -> None:
    for name in ("one", "two", "three"):
        ok(lamina("network", "create", "--label", f"{name}=1", name))
    assert ok(lamina("network", "prune", "-f", "--filter", "label=one")) == "Deleted Networks:\none\n\n"
    assert ok(lamina("network", "prune", "-f", "--filter", "until=1h")) == ""
    told = ok(lamina("system", "prune", "-f", "--filter", "label!=three"))
    assert told.startswith("Deleted Networks:\ntwo\n\n"), told
    assert ok(lamina("network", "ls", "-f", "type=custom", "--format", "{{.Name}}")) == "three\n"
    assert ok(lamina("network", "prune", "-f")) == "Deleted Networks:\nthree\n\n"


def test_volume_prune(lamina: Lamina) -> None:
    for name, label in (("a", "x=1"), ("b", "x=2"), ("c", "keep")):
        ok(lamina("volume", "create", "--label", label, name))
    ok(lamina("volume", "prune", "-f"))
    left = ["volume", "ls", "-q"]
    assert ok(lamina(*left)) == "a\nb\nc\n", "somebody gave them names"
    ok(lamina("volume", "prune", "-f", "--all", "--filter", "label=x=1"))
    assert ok(lamina(*left)) == "b\nc\n"
    ok(lamina("volume", "prune", "-f", "--filter", "all=true", "--filter", "label!=keep"))
    assert ok(lamina(*left)) == "c\n"
    assert ok(lamina("volume", "ls", "--format", '{{.Name}}{{.Label "keep"}}')) == "c\n"
    done = lamina("volume", "prune", "-f", "--filter", "until=1h")
    assert done.returncode == 125 and "there is no filter 'until'" in done.stderr


def test_labels_of_files(lamina: Lamina, image: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.write_text("# what it is for\n\na=1\nb=two words\nc\n")
    ok(lamina("create", "--name", "box", "--label-file", labels, "-l", "a=2", image))
    shown = json.loads(ok(lamina("inspect", "-f", "{{json .Config.Labels}}", "box")))
    assert shown == {"a": "2", "b": "two words", "c": ""}
    for wrong, said in (("=x\n", "line 1 is not KEY=VALUE"), (None, "no such file")):
        labels.unlink() if wrong is None else labels.write_text(wrong)
        done = lamina("create", "--label-file", labels, image)
        assert done.returncode == 125 and f"--label-file {labels}: {said}" in done.stderr


def test_durability(lamina: Lamina, image: str) -> None:
    """Of a kept container as of a thrown-away one: `volatile` is among the options of its root, or not."""
    script = "grep ' / ' /proc/mounts"
    for words, there in (
        (("--rm",), True), (("--rm", "--durability", "full"), False), ((), False), (("--durability", "none"), True),
    ):  # fmt: skip
        shown = ok(lamina("run", *words, image, "sh", "-c", script))
        assert ("volatile" in shown) == there, words
    ok(lamina("create", "--name", "kept", "--durability", "none", image, "sh", "-c", "echo x >> /x; cat /x"))
    for lines in (1, 2):
        assert ok(lamina("start", "-a", "kept")) == "x\n" * lines, "what it wrote stays from start to start"
    done = lamina("run", "--durability", "some", image)
    assert done.returncode == 125 and "--durability some: not one of none, full" in done.stderr


def test_inspect_of_anything(lamina: Lamina, image: str) -> None:
    ok(lamina("run", "--name", "box", image, "sh", "-c", "echo 12345 > /new"))
    ok(lamina("volume", "create", "data"))
    assert ok(lamina("inspect", "-f", "{{.Name}}", "data")) == "data\n"
    assert ok(lamina("inspect", "--type", "volume", "-f", "{{.Name}}", "data")) == "data\n"
    written, all_of_it = ok(lamina("inspect", "-s", "-f", "{{.SizeRw}} {{.SizeRootFs}}", "box")).split()
    assert 6 <= int(written) < int(all_of_it)
    assert lamina("inspect", "--type", "volume", "box").returncode == 1
    for name in ("nosuch", "team/tool:1", "Upper"):
        done = lamina("inspect", name)
        assert (
            done.returncode == 1
            and f"inspect {name}: no such container, image, network or volume" in done.stderr
        )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("version", "-f", "{{.Server.Os}} {{.Client.Version}}"), "linux "),
        (("info", "-f", "{{.Driver}} {{.OSType}}"), "overlay2 linux"),
        (("system", "df", "--format", "{{.Type}}: {{.TotalCount}}"), "Images: 0"),
        (("history", "--format", "{{.Size}}", "tiny:1"), ""),
    ],
)
def test_templates(lamina: Lamina, image: str, words: tuple[str, ...], said: str) -> None:
    shown = ok(lamina(*words))
    assert shown.startswith(said.replace("Images: 0", "Images: 1")), shown


def test_second_names_that_docker_has_for_the_same(lamina: Lamina, image: str) -> None:
    ok(lamina("container", "create", "--name", "box", "--net", "host", image))
    assert ok(lamina("container", "list", "-a", "-q")) == ok(lamina("container", "ps", "-aq"))
    assert ok(lamina("inspect", "-f", "{{.HostConfig.NetworkMode}}", "box")) == "host\n"
    assert ok(lamina("image", "list", "-q")) == ok(lamina("images", "-q"))
    assert ok(lamina("volume", "list", "-q")) == ""
    assert ok(lamina("run", "--rm", "--net=none", "--dns-opt", "ndots:2", image, "true")) == ""
    ok(lamina("start", "box"))
    done = lamina("container", "exec", "box", "true")
    assert done.returncode == 125 and "not running" in done.stderr
    assert ok(lamina("container", "remove", "box")) == "box\n"
    assert lamina("volume", "lost").returncode == 125


def test_inspect_tells_what_was_asked_in_docker_s_words(lamina: Lamina, image: str) -> None:
    words = "-v data:/data -v /tmp:/host:ro --tmpfs /t:size=1m -m 64m --memory-swap 96m --cpus 1.5 --cpu-shares 512"
    words += " --cap-add NET_ADMIN --cap-drop CHOWN --group-add 7 --ulimit nofile=10:20 --sysctl net.ipv4.ip_forward=1"
    words += (
        " --device /dev/null:/dev/zero2:r --add-host a:10.0.0.1 --dns 10.0.0.2 --security-opt mask=/etc/group"
    )
    ok(lamina("create", "--name", "box", *words.split(), image))
    asked = json.loads(ok(lamina("inspect", "box")))[0]["HostConfig"]
    wanted = {
        "Binds": ["data:/data", "/tmp:/host:ro"],
        "Memory": 64 << 20, "MemorySwap": 96 << 20, "NanoCpus": 1_500_000_000, "CpuShares": 512,
        "Privileged": False, "GroupAdd": ["7"], "Sysctls": {"net.ipv4.ip_forward": "1"},
        "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}],
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/zero2", "CgroupPermissions": "r"}],
        "ExtraHosts": ["a:10.0.0.1"], "Dns": ["10.0.0.2"], "SecurityOpt": ["mask=/etc/group"], "ShmSize": 64 << 20,
        "PortBindings": {},
    }  # fmt: skip
    assert {key: asked[key] for key in wanted} == wanted
    assert [one.removeprefix("CAP_") for one in (*asked["CapAdd"], *asked["CapDrop"])] == [
        "NET_ADMIN",
        "CHOWN",
    ]
    assert list(asked["Tmpfs"]) == ["/t"]


@pytest.mark.parametrize(
    ("words", "entrypoint", "command"),
    [
        (("tiny:1", "sleep", "5"), None, ["sleep", "5"]),
        (("tiny:1",), None, ["sh"]),
        (("--entrypoint", "echo", "tiny:1", "a", "b"), ["echo"], ["a", "b"]),
        (("--entrypoint", "echo", "tiny:1"), ["echo"], None),
    ],
)
def test_inspect_tells_the_command_that_was_given(
    lamina: Lamina,
    image: str,
    words: tuple[str, ...],
    entrypoint: list[str] | None,
    command: list[str] | None,
) -> None:
    ok(lamina("create", "--name", "box", *words))
    config = json.loads(ok(lamina("inspect", "box")))[0]["Config"]
    assert (config["Entrypoint"], config["Cmd"]) == (entrypoint, command)


def test_inspect_has_the_fields_that_scripts_ask(lamina: Lamina, image: str) -> None:
    ok(lamina("run", "--name", "box", "--domainname", "example.org", image, "true"))
    found = json.loads(ok(lamina("inspect", "box")))[0]
    assert (found["Platform"], found["Driver"]) == ("linux", "overlay2")
    assert found["Config"]["Domainname"] == "example.org"
    for key in ("ResolvConfPath", "HostnamePath", "HostsPath"):
        assert Path(found[key]).is_file(), key
    ok(lamina("create", "--name", "web", "--network", "bridge", "-p", "9/udp", image))
    exposed = json.loads(ok(lamina("inspect", "-f", "{{json .Config.ExposedPorts}}", "web")))
    assert set(exposed) == {"80/tcp", "53/udp", "9/udp"}
    ok(lamina("run", "--name", "dry", "host", "true"))
    found = json.loads(ok(lamina("inspect", "dry")))[0]
    assert found["ResolvConfPath"] == ""
    assert (found["Config"]["Cmd"], found["Config"]["ExposedPorts"]) == (["true"], None)


def test_a_label_that_one_of_them_does_not_have_prints_as_nothing(lamina: Lamina, image: str) -> None:
    for name in ("one", "two"):
        ok(lamina("create", "--name", name, "--label", f"{name}=x", image))
    assert ok(lamina("inspect", "-f", "{{.Config.Labels.one}}", "one", "two")) == "x\n\n"
    shown = ok(
        lamina(
            "events", "--since", "1h", "--until", "0m", "--format", "{{.Action}} {{.Actor.Attributes.name}}"
        )
    )
    assert "create one" in shown.splitlines()


def test_messages_call_a_container_by_its_name(lamina: Lamina, image: str) -> None:
    ok(lamina("create", "--name", "box", image))
    ok(lamina("run", "-d", "--name", "busy", image, "sleep", "1000"))
    for words, said in (
        (("exec", "box", "true"), "exec in container box: it is not running\nhint: lamina start box\n"),
        (("rm", "busy"), "remove container busy: it is running"),
        (("rewind", "box", "nosuch"), "snapshot nosuch: container box has none of that name"),
        (("attach", "box"), "attach to container box: it is not running\nhint: lamina start -a box\n"),
    ):
        assert said in lamina(*words).stderr
    ok(lamina("rm", "-f", "busy"))


def test_a_second_word_that_is_neither_a_state_nor_a_path(lamina: Lamina, image: str) -> None:
    ok(lamina("run", "--name", "box", image, "touch", "/made"))
    done = lamina("diff", "box", "nosuch")
    assert done.returncode == 125
    assert "hint: no container, snapshot or image is called nosuch either; 'lamina diff' lists" in done.stderr
    assert "either" not in lamina("diff", "box", "/nosuch").stderr


def test_a_state_to_go_back_to_is_told_as_to_every_other_verb(lamina: Lamina, image: str) -> None:
    ok(lamina("run", "--name", "box", image, "touch", "/made"))
    one = ok(lamina("snapshot", "create", "box", "one")).strip()
    assert (
        ok(lamina("rewind", "box@one"))
        == ok(lamina("rewind", "box", "one"))
        == ok(lamina("rollback", f"box@{one[:12]}"))
    )
    for words, said in (
        (("box",), "SNAPSHOT is missing"),
        (("box@one", "two"), "two snapshots, one and two"),
    ):
        done = lamina("rewind", *words)
        assert (done.returncode, f"lamina: rewind: {said}" in done.stderr) == (125, True), done.stderr
