"""Running what an image says, as Docker does: over layers of the store, without a registry."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina import Completed, Engine
from lamina.errors import CommandNotFound, Corrupt, InvalidInput, NotFound, Unsupported
from lamina.store import layers
from lamina.store.images import ImageRecord
from support.leaks import Leaks
from support.small_images import Fill, small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

Sh = Callable[..., Completed]


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Engine:
    return Engine(store_root)


@pytest.fixture
def sh(engine: Engine) -> Sh:
    """Run a shell script over an image of busybox and of the given layers and config."""

    def run(script: str, *fills: Fill, config: dict[str, Any] | None = None, **options: Any) -> Completed:
        image = small_image(engine.store, *fills, names=(), **(config or {}))
        options = {"rm": True, "capture_output": True, "text": True, "timeout": 200, **options}
        done = engine.run(image.id, ["sh", "-ec", script], **options)
        assert done.returncode == 0, done.stderr
        return done

    return run


def write(path: str, text: str) -> Fill:
    def fill(place: Path) -> None:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)

    return fill


# -- which image


@pytest.mark.parametrize("name", ["tiny", "tiny:latest", "docker.io/library/tiny:latest", "library/tiny"])
def test_an_image_by_its_names(engine: Engine, name: str) -> None:
    small_image(engine.store)
    assert engine.run(name, ["cat", "/etc/image"], rm=True, capture_output=True).stdout == b"busybox\n"


def test_an_image_by_its_id(engine: Engine) -> None:
    identity = small_image(engine.store, names=()).id
    for name in (identity, identity[:12], f"sha256:{identity}", f"sha256:{identity[:10]}"):
        assert engine.run(name, ["true"], rm=True).returncode == 0


def test_an_image_that_is_not_there_leaves_nothing(engine: Engine) -> None:
    small_image(engine.store)
    for name in ("tiny:1", "other", "0" * 64, "sha256:abc", "docker.io/x/y@sha256:" + "0" * 64):
        with pytest.raises(NotFound, match="no such image"):
            engine.run(name, ["true"], pull="never")
    for name in ("Tiny", "tiny:", "https://tiny", "a b", "-x"):
        with pytest.raises(InvalidInput):
            engine.run(name, ["true"], pull="never")
    assert engine.containers(all=True) == []


def test_an_image_for_another_machine(engine: Engine) -> None:
    small_image(engine.store, architecture="s390x")
    said: list[str] = []
    here = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    assert engine.run("tiny", ["true"], rm=True, on_warning=said.append).returncode == 0
    assert said == [
        "the requested image's platform (linux/s390x) does not match the detected host platform "
        f"(linux/{here}) and no specific platform was requested"
    ]
    assert engine.run("tiny", ["true"], rm=True, platform="linux/s390x").returncode == 0
    with pytest.raises(NotFound, match="not for the platform linux/arm/v7"):
        engine.run("tiny", ["true"], platform="linux/arm/v7", pull="never")
    with pytest.raises(InvalidInput, match="platform"):
        engine.run("tiny", ["true"], platform="a/b/c/d", pull="never")


def test_a_layer_that_is_missing_is_named(engine: Engine) -> None:
    image = small_image(engine.store)
    place = layers.place_of(engine.store, image.layers[0])
    os.rename(place, place + b"-away")
    with pytest.raises(Corrupt, match=f"layer {image.layers[0][:12]} is not there"):
        engine.run("tiny", ["true"])
    assert engine.containers(all=True) == []


# -- what it says


def test_layers_lie_on_each_other_the_last_on_top(sh: Sh) -> None:
    def delete(place: Path) -> None:
        (place / "etc").mkdir()
        os.mknod(place / "etc/image", stat.S_IFCHR)

    script = "cat /etc/a /etc/b; test ! -e /etc/image"
    made = sh(script, write("etc/a", "1\n"), write("etc/b", "2\n"), write("etc/a", "3\n"), delete)
    assert made.stdout == "3\n2\n"


def test_entrypoint_and_command(engine: Engine) -> None:
    image = small_image(engine.store, names=(), entrypoint=["echo", "entry"], cmd=["image"]).id

    def said(*command: str, **options: Any) -> str:
        found: str = engine.run(image, command, rm=True, capture_output=True, text=True, **options).stdout
        return found

    assert said() == "entry image\n"
    assert said("own") == "entry own\n"
    assert said("x", entrypoint="printf") == "x"
    assert said("echo", "alone", entrypoint="") == "alone\n"
    with pytest.raises(InvalidInput, match="no command"):
        engine.run(image, entrypoint="")
    with pytest.raises(InvalidInput, match="no command"):
        engine.run(small_image(engine.store, names=(), cmd=[]).id)
    with pytest.raises(CommandNotFound):
        engine.run(small_image(engine.store, names=(), cmd=["nothing"]).id)
    assert engine.containers(all=True) == []


def test_variables(sh: Sh) -> None:
    config = {"env": ["PATH=/image/bin:/bin", "A=image", "B=b=c", "EMPTY=", "HOSTNAME"]}
    said = sh("env | sort", config=config, env=["A=asked", "C=c"]).stdout.splitlines()
    assert {"PATH=/image/bin:/bin", "A=asked", "B=b=c", "EMPTY=", "C=c", "HOME=/root"} <= set(said)
    assert not [line for line in said if line.startswith("HOSTNAME")]


def test_the_working_directory_is_made(sh: Sh) -> None:
    script = "pwd; stat -c %u:%g:%a ."
    assert sh(script, config={"workdir": "/srv/deep/er"}).stdout == "/srv/deep/er\n0:0:755\n"
    assert sh(script, config={"workdir": "/srv", "user": "ann"}).stdout == "/srv\n0:0:755\n"
    assert sh("pwd", config={"workdir": "/srv"}, workdir="/tmp").stdout == "/tmp\n"
    assert sh("pwd", config={"workdir": "/a/../tmp/."}).stdout == "/tmp\n"
    with pytest.raises(InvalidInput, match="working directory 'srv' is not an absolute path"):
        sh("pwd", config={"workdir": "srv"})


@pytest.mark.parametrize(
    ("user", "wanted"),
    [
        ("", "0:0 0 2 /root"), ("root", "0:0 0 2 /root"), ("ann", "1000:100 100 2 26 /home/ann"),
        ("1000", "1000:100 100 2 26 /home/ann"), ("ann:tape", "1000:26 26 /home/ann"), ("ann:7", "1000:7 7 /home/ann"),
        ("4242", "4242:0 0 /"), ("4242:users", "4242:100 100 /"), ("0:0", "0:0 0 /root"),
    ],
)  # fmt: skip
def test_the_user_of_the_image(sh: Sh, user: str, wanted: str) -> None:
    script = 'echo "$(id -u):$(id -g) $(id -G) $HOME"'
    assert sh(script, config={"user": user}).stdout.strip() == wanted
    assert sh(script, config={"user": "daemon"}, user=user or "0").stdout.strip() == wanted


@pytest.mark.parametrize("user", ["nobody", "ann:nogroup", "nobody:0"])
def test_a_user_that_the_image_does_not_have(engine: Engine, user: str) -> None:
    image = small_image(engine.store, names=(), user=user).id
    with pytest.raises(NotFound, match=r"no such (user|group) in the container"):
        engine.run(image, ["true"])
    assert engine.containers(all=True) == []


def test_accounts_of_the_top_layer_count_also_through_a_link(sh: Sh) -> None:
    def link(place: Path) -> None:
        (place / "etc").mkdir()
        (place / "etc/passwd").symlink_to("/usr/accounts")
        (place / "usr").mkdir()
        (place / "usr/accounts").write_text("bob:x:7:8:::/bob\n")

    assert sh("id -u; id -g", link, user="bob").stdout == "7\n8\n"
    moved = write("etc/passwd", "carol:x:9:9::/:\n")
    assert sh("id -u", link, moved, user="carol").stdout == "9\n"


def test_what_is_kept_of_it_for_inspect(engine: Engine) -> None:
    image = small_image(
        engine.store, entrypoint=["sh", "-c"], cmd=["exit 3"], user="ann", workdir="/srv", labels={"a": "1", "b": "2"},
        exposed_ports=["80/tcp"], stop_signal="SIGQUIT", healthcheck={"test": ["CMD", "true"], "retries": 0},
        shell=["/bin/sh"],
    )  # fmt: skip
    done = engine.run("tiny", labels=["b=3"])
    assert done.returncode == 3
    container = engine.container(done.name)
    assert (container.image, container.labels) == ("tiny", {"a": "1", "b": "3"})
    found = container.inspect()
    assert found["Image"] == f"sha256:{image.id}"
    wanted = {
        "Image": "tiny", "User": "ann", "WorkingDir": "/srv", "Entrypoint": ["sh", "-c"], "Cmd": ["exit 3"],
        "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT", "Healthcheck": {"Test": ["CMD", "true"]},
        "Shell": ["/bin/sh"], "Labels": {"a": "1", "b": "3"},
    }  # fmt: skip
    assert {key: found["Config"][key] for key in wanted} == wanted


@pytest.mark.parametrize(
    "config",
    [{"cmd": ["a\0b"]}, {"env": ["A=\0"]}, {"user": "x\0"}, {"cmd": [5]}, {"workdir": 5}, {"volumes": ["/"]},
     {"volumes": ["relative"]}, {"volumes": ["/.."]}],
)  # fmt: skip
def test_a_config_of_which_nothing_can_be_made(engine: Engine, config: dict[str, Any]) -> None:
    image = small_image(engine.store, names=(), **config).id
    with pytest.raises(InvalidInput, match=f"run image {image[:12]}"):
        engine.run(image, ["true"])
    assert engine.containers(all=True) == []


# -- its files


def test_files_of_its_own(sh: Sh, engine: Engine) -> None:
    done = sh(
        "cat /etc/hostname /etc/hosts; test -r /etc/resolv.conf; echo 1.2.3.4 x >>/etc/hosts", hostname="box"
    )
    assert done.stdout.startswith("box\n127.0.0.1\tlocalhost\n")
    assert sh("cat /etc/hosts", network="host").stdout == Path("/etc/hosts").read_text()
    sh("! echo x 2>/dev/null >>/etc/hosts", read_only=True)


def test_what_a_container_did_to_its_image(engine: Engine) -> None:
    small_image(engine.store, write("etc/gone", "x"), volumes=["/data"])
    script = "echo new >/etc/new; rm /etc/gone; echo x >>/etc/image; mkdir /srv; echo v >/data/v"
    name = engine.run("tiny", ["sh", "-c", script], workdir="/made/for/it").name
    container = engine.container(name)
    found = {change.path: change.kind for change in container.changes() if not change.incidental}
    assert found == {
        b"/etc/gone": "deleted",
        b"/etc/image": "changed",
        b"/etc/new": "added",
        b"/srv": "added",
    }
    for attempt in (container.apply, container.clashes):
        with pytest.raises(Unsupported, match="it was made from the image tiny"):
            attempt()
    assert b"".join(container.patch(container.changes())).count(b"+new") == 1
    container.remove(volumes=True)


def test_the_image_stays_as_it_is(sh: Sh, engine: Engine) -> None:
    image = small_image(engine.store)
    for _ in range(2):
        done = engine.run(
            "tiny", ["sh", "-c", "cat /etc/image; rm -r /etc /home"], rm=True, capture_output=True
        )
        assert done.stdout == b"busybox\n"
    assert Path(os.fsdecode(layers.tree_of(engine.store, image.layers[0])), "home/ann").is_dir()


def test_the_root_has_the_attributes_of_the_top_layer(sh: Sh) -> None:
    def root(place: Path) -> None:
        place.chmod(0o711)
        os.chown(place, 5, 6)

    assert sh("stat -c %a:%u:%g /", root).stdout == "711:5:6\n"


def test_set_uid_programs_have_no_effect_unless_asked_for(sh: Sh) -> None:
    def privileged(place: Path) -> None:
        (place / "bin").mkdir()
        shutil.copy(str(shutil.which("busybox")), place / "bin/busybox-elevated")
        (place / "bin/busybox-elevated").chmod(0o4755)
        write("etc/passwd", "root::0:0::/root:/bin/sh\nann:x:1000:100::/:/bin/sh\n")(place)

    script = "busybox-elevated su root -c 'id -u' 2>&1 || :"
    assert "must be suid" in sh(script, privileged, user="ann").stdout
    done = sh(script, privileged, user="ann", security_opt=["no-new-privileges=false"])
    assert done.stdout == "0\n"


def test_devices_of_a_layer_are_no_devices(sh: Sh) -> None:
    def device(place: Path) -> None:
        (place / "dev").mkdir()
        os.mknod(place / "disk", stat.S_IFBLK | 0o666, os.makedev(8, 0))
        os.mknod(place / "nil", stat.S_IFCHR | 0o666, os.makedev(1, 3))

    assert "Permission denied" in sh("! cat /nil; ! cat /disk", device).stderr


def test_a_kept_plan_serves_the_next_start(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.runtime import plan

    small_image(engine.store, volumes=["/data"])
    compiled = []
    real = plan.compile_plan

    def counted(*args: Any) -> Any:
        compiled.append(args)
        return real(*args)

    monkeypatch.setattr(plan, "compile_plan", counted)
    for _ in range(3):
        assert engine.run("tiny", ["true"], rm=True).returncode == 0
    assert len(compiled) == 1


def test_a_plan_of_an_image(engine: Engine) -> None:
    image: ImageRecord = small_image(engine.store, write("etc/x", "x"), workdir="/srv", user="ann")
    text = str(engine.plan("tiny"))
    assert text.index(image.layers[1]) < text.index(image.layers[0])
    assert "become 1000:100" in text
    with pytest.raises(NotFound):
        engine.plan("nothing")
    assert engine.containers(all=True) == []


@pytest.mark.parametrize("logged", [True, False])
def test_who_is_not_root_opens_its_standard_streams_by_name(engine: Engine, logged: bool) -> None:
    small_image(engine.store)
    reader, writer = os.pipe()
    try:
        script = ["sh", "-c", "echo out >/dev/stdout; echo err >/dev/stderr"]
        done = engine.run("tiny", script, user="ann", rm=not logged, stdout=writer, stderr=writer)
    finally:
        os.close(writer)
    with open(reader) as output:  # where it is logged these are two pipes, of which nobody promises an order
        assert sorted(output.read().split()) == ["err", "out"]
    assert done.returncode == 0
