"""Images that want something: what their configs, layers and archives may say without any effect on this machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina import Engine
from lamina.errors import InvalidInput, LaminaError, NotFound
from support.leaks import Leaks
from support.lives import until
from support.small_images import Fill, small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Engine:
    return Engine(store_root)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host in which nothing may appear, and mounts of the host that may not change."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "secret").write_text("secret\n")
    before = Path("/proc/self/mountinfo").read_text()
    yield place
    assert os.listdir(place) == ["secret"]
    assert (place / "secret").read_text() == "secret\n"
    assert Path("/proc/self/mountinfo").read_text() == before


def run(
    engine: Engine, script: str, *fills: Fill, config: dict[str, Any] | None = None, **options: Any
) -> str:
    """What the script printed over an image, both streams; the error if it was refused."""
    image = small_image(engine.store, *fills, names=(), **(config or {}))
    try:
        done = engine.run(
            image.id, ["sh", "-c", script], rm=True, capture_output=True, timeout=200, **options
        )
    except LaminaError as error:
        assert str(error)
        return f"refused: {error}"
    said: bytes = done.stdout + done.stderr
    return said.decode(errors="replace")


# without looking into /etc/passwd, as id(1) does
WHO = "grep ^Uid: /proc/self/status | cut -f2"


def link(name: str, target: str) -> Fill:
    def fill(place: Path) -> None:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to(target)

    return fill


@pytest.mark.parametrize("number", [3, 5, 7, 9, 12, 20, 100])
def test_cve_2024_21626_a_descriptor_as_working_directory(engine: Engine, number: int, outside: Path) -> None:
    """The config names it, or a link in the image does."""
    script = "pwd; ls -d ../../../../../.." + str(outside)
    for path in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/../../..", f"/x/{number}"):
        said = run(engine, script, link(f"x/{number}", f"/proc/self/fd/{number}"), config={"workdir": path})
        assert said.startswith("refused") or (said.startswith("/") and "No such file" in said), said


@pytest.mark.parametrize(
    ("user", "wanted"),
    [
        ("4294967296", "refused"), ("4294967295", "refused"), ("2147483648", "refused"), ("-1", "refused"),
        ("99999999999999999999", "refused"), (" 0", "refused"), ("0x0", "refused"), ("+0", "refused"),
        ("1:", "refused"),
        (":1", "refused"), ("1e3", "refused"), ("٣", "refused"), ("01", "1:1"), ("1", "1:1"), ("0", "0:0"),
        ("1000:4294967296", "refused"), ("2147483646", "2147483646:0"), ("root:root:root", "refused"),
    ],
)  # fmt: skip
def test_cve_2024_40635_the_user_of_an_image(engine: Engine, user: str, wanted: str) -> None:
    """Also CVE-2026-46680, CVE-2026-30892: what is out of range is refused, and never becomes a name or root."""
    cases: tuple[dict[str, Any], ...] = ({"config": {"user": user}}, {"user": user})
    for how in cases:
        said = run(engine, "echo $(id -u):$(id -g)", **how)
        assert said.startswith(wanted), (how, said)


def test_cve_2024_40635_names_that_are_numbers(engine: Engine) -> None:
    def accounts(place: Path) -> None:
        (place / "etc").mkdir()
        lines = [
            "4294967296:x:0:0::/:",
            "1:x:0:0::/:",
            "bad:x:4294967296:0::/:",
            "neg:x:-1:-1::/:",
            "root:x:0:0::/:",
        ]
        (place / "etc/passwd").write_text("\n".join(lines) + "\n")

    assert run(engine, "id -u", accounts, config={"user": "1"}) == "1\n"
    for user in ("4294967296", "bad", "neg"):
        assert run(engine, "id -u", accounts, config={"user": user}).startswith("refused")


@pytest.mark.parametrize(
    "target", ["/dev/zero", "/etc/shadow", "/proc/self/environ", "../../../../../../etc/passwd"]
)
def test_cve_2024_9676_accounts_that_are_links(engine: Engine, target: str) -> None:
    def hostile(place: Path) -> None:
        (place / "etc").mkdir()
        (place / "etc/passwd").symlink_to(target)
        (place / "etc/group").symlink_to(target)

    assert run(engine, WHO, hostile, config={"user": "daemon"}).startswith("refused: user daemon")
    assert run(engine, WHO, hostile) == "0\n"


def test_cve_2024_9676_accounts_that_never_end(engine: Engine) -> None:
    def hostile(place: Path) -> None:
        (place / "etc").mkdir()
        os.mkfifo(place / "etc/passwd")
        with (place / "etc/group").open("wb") as file:
            file.truncate(10 << 30)

    assert run(engine, WHO, hostile, config={"user": "7:8"}) == "7\n"
    assert run(engine, WHO, hostile, config={"user": "7:users"}).startswith("refused: group users")


WORDS = [
    "binary:///bin/sh?-c=touch%20{outside}/x", "file://{outside}/x", "$(touch {outside}/x)", "`touch {outside}/x`",
    "{outside}/x", "../../../{outside}/x", "\x1b]0;x\x07", "a\nb", "%s%n", "unix:///var/run/docker.sock",
]  # fmt: skip
KEYS = [
    "io.containerd.runtime.v2.shim", "io.containerd.image.name", "io.podman.annotations.init", "run.oci.handler",
    "io.kubernetes.cri.log-path", "org.systemd.property.ExecStartPre", "io.podman.annotations.checkpoint",
    "com.docker.compose.project", "log-driver", "org.criu.config", "run.oci.hooks.stderr", "lamina", "rm",
]  # fmt: skip


def test_cve_2026_53488_labels_change_nothing(engine: Engine, outside: Path) -> None:
    """Also CVE-2026-53489, 2026-94603, 2024-3154: two images that differ in labels give the same specification."""

    def spec(labels: dict[str, str]) -> tuple[str, dict[str, Any]]:
        image = small_image(engine.store, names=(), labels=labels)
        name = engine.run(image.id, ["true"], hostname="same").name
        container = engine.container(name)
        found = container.inspect()
        assert found["Config"]["Labels"] == labels
        kept = container._home.read("spec")
        assert kept is not None
        text = repr(kept).replace(container.id, "ID")
        container.remove()
        return text, found["HostConfig"]

    plain = spec({})
    words = [word.format(outside=outside) for word in WORDS]
    assert spec({key: words[number % len(words)] for number, key in enumerate(KEYS)}) == plain
    assert spec(dict.fromkeys(words, "x")) == plain
    assert engine.images() and engine.containers(all=True) == []


@pytest.mark.parametrize(
    "config",
    [
        {"healthcheck": {"test": ["CMD-SHELL", "touch /x"], "interval": 1}},
        {"onbuild": ["RUN touch /x"]},
        {"stop_signal": "SIGKILL; touch /x"},
        {"exposed_ports": ["99999999/x", "$(touch /x)"]},
        {"shell": ["/bin/evil"]},
        {"env": ["LD_PRELOAD=/evil.so", "PYTHONPATH=/evil", "LAMINA_ROOT=/evil", "BASH_ENV=/evil"]},
    ],
)
def test_cve_2024_0132_nothing_else_in_a_config_has_an_effect_here(
    engine: Engine, config: dict[str, Any], outside: Path
) -> None:
    assert run(engine, "test -e /x || echo clean", config={"cmd": ["sh"], **config}).endswith("clean\n")


@pytest.mark.parametrize("name", ["proc", "sys", "dev", "dev/pts", "dev/shm", "dev/null", "dev/console"])
@pytest.mark.parametrize("target", ["{outside}", "/..{outside}", "/etc", "/proc/1/root{outside}"])
def test_cve_2026_41579_where_the_kernel_s_file_systems_go(
    engine: Engine, name: str, target: str, outside: Path
) -> None:
    """Also CVE-2019-16884, 2019-19921, 2023-27561, 2025-31133, 2025-52565: an image with links in these places."""
    said = run(
        engine,
        "ls -d /proc/self/status; echo x >/dev/null; cat /proc/version",
        link(name, target.format(outside=outside)),
    )
    assert said.startswith(("refused", "/proc/self/status\nLinux version"))


def test_masked_paths_are_masked_whatever_the_image_has_there(engine: Engine, outside: Path) -> None:
    def hostile(place: Path) -> None:
        (place / "proc/kcore").mkdir(parents=True)
        (place / "dev").mkdir()
        (place / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")

    before = Path("/proc/sys/kernel/core_pattern").read_text()
    said = run(
        engine,
        "cat /proc/kcore | wc -c; echo pwned >/proc/sys/kernel/core_pattern; echo x >/dev/null",
        hostile,
    )
    assert said.splitlines()[0] == "0" and "Read-only file system" in said
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_devices_and_set_uid_programs_of_layers_are_only_files(engine: Engine) -> None:
    def hostile(place: Path) -> None:
        os.mknod(place / "disk", stat.S_IFBLK | 0o666, os.makedev(259, 0))
        os.mknod(place / "mem", stat.S_IFCHR | 0o666, os.makedev(1, 1))
        (place / "bin").mkdir()
        (place / "bin/mine").write_bytes(b"#!/bin/sh\nid -u\n")
        (place / "bin/mine").chmod(0o6755)

    said = run(
        engine, "cat /disk; cat /mem; grep -c nosuid,nodev /proc/mounts; mine", hostile, config={"user": "1"}
    )
    assert said.count("Permission denied") == 2
    assert said.splitlines()[0] != "0" and "\n1\n" in f"\n{said}"


def test_a_declared_volume_below_proc_is_refused(engine: Engine, outside: Path) -> None:
    for path in ("/proc", "/proc/sys", "/proc/../proc/self", "/sys/fs/cgroup/x"):
        said = run(engine, "cat /proc/sys/kernel/ostype", config={"volumes": [path]})
        assert said.startswith("refused") or said == "Linux\n", (path, said)
    assert run(engine, "true", config={"volumes": ["/proc"]}).startswith("refused: mount at /proc")


def test_a_thousand_volumes_do_no_harm(engine: Engine) -> None:
    from lamina.store import volumes

    assert run(engine, "ls -d /v/* | wc -l", config={"volumes": [f"/v/{n}" for n in range(200)]}) == "200\n"
    assert volumes.identities(engine.store) == []


def test_an_image_can_never_be_called_host(engine: Engine) -> None:
    """`run host` is this machine, whatever is in the store."""
    small_image(engine.store, names=("docker.io/library/host:latest",))
    done = engine.run("host", ["test", "!", "-e", "/etc/image"], rm=True)
    assert done.returncode == 0


def test_names_lead_to_no_file_of_the_host(engine: Engine, outside: Path) -> None:
    for name in (
        "../../etc/passwd",
        "/etc/passwd",
        "docker.io/../../x",
        "x:../y",
        "sha256:../../x",
        "x@sha256:../x",
        ".",
    ):
        with pytest.raises((InvalidInput, NotFound)):
            engine.run(name, ["true"], pull="never")


def test_cve_2026_94603_an_image_that_looks_like_a_checkpoint_is_started_as_any_other(
    engine: Engine, outside: Path
) -> None:
    """CVE-2026-53492, 2026-92574, 2026-121885: what podman and CRI-O restore, as its configuration says."""

    def checkpoint(place: Path) -> None:
        (place / "checkpoint").mkdir()
        (place / "checkpoint/inventory.img").write_bytes(b"\x58\x31\x33\x31" * 10)
        hooks = f'{{"hooks": {{"prestart": [{{"path": "/bin/touch", "args": ["touch", "{outside}/x"]}}]}}}}'
        for name in ("config.dump", "spec.dump", "bind.mounts", "network.status"):
            (place / name).write_text(hooks)

    labels = {
        "io.podman.annotations.checkpoint.name": "c",
        "org.criu.checkpoint.container.name": "c",
        "io.containers.autoupdate": "registry",
    }
    said = run(engine, "ls /checkpoint; echo $$", checkpoint, config={"labels": labels})
    assert said == "inventory.img\n1\n"


def test_cve_2022_1227_looking_at_processes_executes_nothing_of_the_container(
    engine: Engine, outside: Path
) -> None:
    """CVE-2019-10152: podman's top entered the container, and ran what it found there."""

    def trap(place: Path) -> None:
        for name in ("bin/ps", "bin/nsenter", "usr/bin/ps", "usr/bin/nsenter", "etc/nsswitch.conf"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).unlink(missing_ok=True)
            (place / name).write_text("#!/bin/sh\necho >/ran\n")
            (place / name).chmod(0o755)

    image = small_image(engine.store, trap, names=())
    box = engine.start(image.id, ["sleep", "1000"])

    def is_shown() -> bool:  # it has no words yet in the moment in which it is executed
        found = box.top(["-o", "user", "-o", "args"])
        return [row[-1] for row in found["Processes"]] == ["sleep 1000"]

    until(is_shown)
    assert b"/ran" not in {change.path for change in box.changes()}
    box.remove(force=True)
