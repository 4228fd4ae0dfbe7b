"""What `inspect` says, and how a template prints it: volumes, nulls, structs, durations, networks; as docker's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def image(store_root: Path) -> str:
    small_image(store_root)
    return "tiny"


def test_inspect_tells_of_volumes_as_they_were_typed(lamina: Lamina, image: str) -> None:
    volumes = [
        "/etc:/e:ro,z",
        "v1:/v:ro,nocopy",
        "v2:/w",
        "/tmp:/p:rslave,Z",
        "v3:/x:rw,U",
        "/etc:/o:O",
        "/own",
    ]
    ok(lamina("create", "--name", "box", *(word for one in volumes for word in ("-v", one)), image))
    look = ("inspect", "-f")
    assert ok(lamina(*look, '{{join .HostConfig.Binds " "}}', "box")).split() == volumes[:-1]
    assert ok(lamina(*look, "{{json .Config.Volumes}}", "box")) == '{"/own":{}}\n'
    modes = "{{range .Mounts}}{{.Destination}}={{.Mode}} {{end}}"
    assert ok(lamina(*look, modes, "box")).split() == [
        "/e=ro,z", "/v=ro,nocopy", "/w=z", "/p=rslave,Z", "/x=rw,U", "/o=O", "/own=",
    ]  # fmt: skip


def test_what_is_null_prints_as_docker_prints_it(lamina: Lamina, image: str) -> None:
    ok(lamina("create", "--name", "box", image))
    fields = [
        "HostConfig.CapAdd",
        "HostConfig.Binds",
        "Config.Entrypoint",
        "Config.Volumes",
        "HostConfig.Tmpfs",
    ]
    fields += ["State.Health", "Config.Healthcheck"]
    said = ok(lamina("inspect", "-f", " ".join("{{." + one + "}}" for one in fields), "box"))
    assert said == "[] [] [] map[] map[] <nil> <nil>\n"
    as_json = ok(
        lamina("inspect", "-f", "{{json .HostConfig.CapAdd}}{{if .Config.Entrypoint}}x{{end}}", "box")
    )
    assert as_json == "null\n"


def test_small_structs_print_as_there(lamina: Lamina, image: str) -> None:
    words = ("--restart", "on-failure:3", "--expose", "90", "--log-driver", "json-file", "-v", "/x")
    ok(lamina("create", "--name", "box", *words, image))
    form = (
        "{{.HostConfig.RestartPolicy}} {{.HostConfig.LogConfig}} {{.Config.ExposedPorts}} {{.Config.Volumes}}"
    )
    said = ok(lamina("inspect", "-f", form, "box"))
    assert said == "{on-failure 3} {json-file map[]} map[90/tcp:{}] map[/x:{}]\n"
    assert ok(lamina("inspect", "-f", "{{json .HostConfig.RestartPolicy}}", "box")).startswith('{"Name":')
    assert (
        ok(lamina("inspect", "-f", "{{.NetworkSettings.Gateway}}{{.NetworkSettings.IPPrefixLen}}", "box"))
        == "0\n"
    )


def test_health_checks_print_as_there(lamina: Lamina, image: str) -> None:
    words = (
        "--health-cmd",
        "exit 0",
        "--health-interval",
        "90s",
        "--health-timeout",
        "1500ms",
        "--health-retries",
        "2",
    )
    ok(lamina("create", "--name", "box", *words, image))
    form = "{{.Config.Healthcheck.Interval}} {{.Config.Healthcheck.StartPeriod}} {{.Config.Healthcheck}}"
    said = ok(lamina("inspect", "-f", form, "box"))
    assert said == "1m30s 0s {[CMD-SHELL exit 0] 1m30s 1.5s 0s 0s 2}\n"
    assert ok(lamina("inspect", "-f", "{{json .Config.Healthcheck.Interval}}", "box")) == "90000000000\n"
    said = json.loads(ok(lamina("inspect", "-f", "{{json .Config}}", "box")))["Healthcheck"]
    assert "StartPeriod" not in said and said["Interval"] == 90_000_000_000


def test_inspect_knows_networks(lamina: Lamina) -> None:
    identity = ok(lamina("network", "create", "back")).strip()
    for name in ("back", identity[:12]):
        assert ok(lamina("inspect", "-f", "{{.Name}} {{.Driver}}", name)) == "back bridge\n"
    assert ok(lamina("inspect", "--type", "network", "-f", "{{.Driver}}", "none")) == "null\n"
    assert lamina("inspect", "--type", "network", "nosuch").returncode == 1
