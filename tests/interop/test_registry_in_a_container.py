"""The real docker-registry in a container of ours: pushed to and pulled from through a published port, and by name."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.lives import until
from support.network_host import Host, on_host
from support.small_images import busybox_tree

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox", "docker-registry")]

CONFIG = """version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: /data}}
http: {addr: ':5000'}
"""


def test_a_registry_in_a_container_serves_this_host_and_its_neighbours(
    store_root: Path, tmp_path: Path
) -> None:
    busybox_tree(tmp_path / "tree")
    subprocess.run(["tar", "-C", str(tmp_path / "tree"), "-cf", str(tmp_path / "tree.tar"), "."], check=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "config.yml").write_text(CONFIG)
    volumes = [
        f"{tmp_path}/config.yml:/config.yml:ro",
        f"{tmp_path}/data:/data",
        "/usr/bin/docker-registry:/registry:ro",
    ]
    volumes += [f"{place}:{place}:ro" for place in ("/lib", "/lib64", "/usr/lib") if Path(place).is_dir()]

    def test(host: Host) -> None:
        engine = host.engine
        engine.networks.create("back")
        box = engine.start(
            "tiny", ["/registry", "serve", "/config.yml"], name="registry", network="back", volumes=volumes,
            publish=["127.0.0.1:5000:5000"], env={"OTEL_TRACES_EXPORTER": "none"},
        )  # fmt: skip
        ask = "printf 'GET /v2/_catalog HTTP/1.0\\r\\n\\r\\n' | nc registry. 5000 || true"
        until(lambda: "200 OK" in host.run("sh", "-c", ask, network="back"))
        image = engine.import_(tmp_path / "tree.tar", "127.0.0.1:5000/small:1")
        engine.push("127.0.0.1:5000/small:1")
        assert '"small"' in host.run("sh", "-c", ask, network="back")
        image.remove(force=True)
        assert engine.pull("127.0.0.1:5000/small:1") == "127.0.0.1:5000/small:1"
        found = engine.run("127.0.0.1:5000/small:1", ["cat", "/etc/image"], capture_output=True, rm=True)
        assert found.stdout == b"busybox\n"
        box.remove(force=True)

    on_host(store_root, test)
