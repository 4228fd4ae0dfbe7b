"""Images of one layer, from an archive of files or a directory; a container's files as an archive."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lamina import Engine
from lamina.errors import Corrupt, InvalidInput, KernelError, LaminaError, Unsupported
from lamina.image.archive.instructions import changed
from lamina.store import layers
from support.image_archives import tar, tree_tar
from support.leaks import Leaks
from support.small_images import busybox_tree, small_image


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Engine:
    return Engine(store_root)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    place = tmp_path / "tree"
    place.mkdir()
    place.chmod(0o755)
    busybox_tree(place)
    return place


def said(engine: Engine, image: str, *command: str) -> str:
    return str(engine.run(image, command, rm=True, capture_output=True, text=True).stdout)


@pytest.mark.root
@pytest.mark.peer("busybox")
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_an_archive_of_files(engine: Engine, tree: Path, tmp_path: Path, compress: Any) -> None:
    (tmp_path / "files").write_bytes(compress(tree_tar(tree)))
    image = engine.import_(
        tmp_path / "files", "tool:1", changes=['CMD ["id", "-u"]', "USER ann"], message="why"
    )
    assert (image.tags, image.platform.partition("/")[0]) == (["tool:1"], "linux")
    assert said(engine, "tool:1") == "1000\n"
    steps = engine.history("tool:1")
    assert [(step.id, step.comment, step.empty) for step in steps] == [(image.id, "why", False)]
    assert steps[0].size == image.size > 100_000
    assert abs(steps[0].created - image.created) < 1
    with (tmp_path / "files").open("rb") as file:
        assert engine.import_(file).tags == []


@pytest.mark.root
def test_what_is_no_archive(engine: Engine, tmp_path: Path) -> None:
    for data in (b"", b"nonsense" * 100, tree_tar(tmp_path)[:700], gzip.compress(b"x" * 9999)[:-9]):
        (tmp_path / "files").write_bytes(data)
        with pytest.raises((InvalidInput, Corrupt)):
            engine.import_(tmp_path / "files", "tool:1")
    (tmp_path / "files").write_bytes(tar({"a": b"x"}))
    for asked in ({"changes": ["RUN true"]}, {"name": "Tool:1"}, {"platform": "x/y/z/w"}):
        with pytest.raises(InvalidInput):
            engine.import_(tmp_path / "files", **asked)
    assert engine.images() == []
    assert os.listdir(engine.store.tmp) == []


@pytest.mark.root
def test_cve_2025_11395_an_archive_that_leads_out(engine: Engine, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for files, links in (
        ({"../escaped": b"x"}, {}), ({"/../../escaped": b"x"}, {}), ({"out/escaped": b"x"}, {"out": str(outside)}),
        ({}, {".": str(outside)}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, target in links.items():
                info = tarfile.TarInfo(name)
                info.type, info.linkname = tarfile.SYMTYPE, target
                archive.addfile(info)
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        (tmp_path / "files").write_bytes(buffer.getvalue())
        try:
            engine.import_(tmp_path / "files")
        except LaminaError:
            pass
        assert os.listdir(outside) == []
    assert not list(tmp_path.rglob("escaped")) or all(
        "lamina-store" in str(path) for path in tmp_path.rglob("escaped")
    )


@pytest.mark.root
@pytest.mark.peer("busybox")
def test_a_directory(engine: Engine, tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.link(tree / "etc/image", tree / "etc/again")
    os.chown(tree / "etc/image", 7, 8)
    os.setxattr(tree / "etc/image", "user.note", b"kept")
    image = engine.from_directory(tree, "dir:1", changes=['ENTRYPOINT ["cat", "/etc/image"]'])
    assert said(engine, "dir:1") == "busybox\n"
    assert engine.history("dir:1")[0].comment == "Made of the directory tree"
    record = engine.inspect_image(image.id)["GraphDriver"]["Data"]["Layers"]
    place = Path(os.fsdecode(layers.tree_of(engine.store, record[0])))
    assert stat.S_ISFIFO((place / "fifo").stat().st_mode)
    assert (place / "null").stat().st_rdev == os.makedev(1, 3)
    assert (place / "etc/again").stat().st_ino == (place / "etc/image").stat().st_ino
    assert ((place / "etc/image").stat().st_uid, os.getxattr(place / "etc/image", "user.note")) == (
        7,
        b"kept",
    )
    assert engine.from_directory(tree).id != ""  # once more: the layer is there
    assert len(layers.identities(engine.store)) == 1


@pytest.mark.root
def test_what_is_no_directory(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, why in (("file", "not a directory"), ("nowhere", "no such file or directory")):
        with pytest.raises(InvalidInput, match=why):
            engine.from_directory(tmp_path / path)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/.wh.x").write_text("no archive of a layer can hold this")
    with pytest.raises(Unsupported):
        engine.from_directory(tmp_path / "odd", "odd:1")
    assert engine.images() == []
    assert os.listdir(engine.store.tmp) == []


@pytest.mark.root
@pytest.mark.peer("busybox")
def test_the_files_of_a_container(engine: Engine, tmp_path: Path) -> None:
    small_image(engine.store, volumes=["/data"])
    script = "echo new >/etc/new; rm /etc/image; echo v >/data/v; ln /etc/new /etc/again"
    container = engine.container(engine.run("tiny", ["sh", "-c", script]).name)
    engine.export(container.name, tmp_path / "files")
    with tarfile.open(tmp_path / "files") as archive:
        names = archive.getnames()
        assert archive.extractfile("etc/new").read() == b"new\n"  # type: ignore[union-attr]
    assert "etc/image" not in names and "data/v" not in names
    again = engine.import_(tmp_path / "files", "again:1")
    assert said(engine, again.id, "cat", "/etc/again") == "new\n"
    host = engine.container(engine.run("host", ["true"]).name)
    with pytest.raises(Unsupported, match="over this machine"):
        engine.export(host.name, tmp_path / "host")
    with pytest.raises(KernelError):
        engine.export(container.name, tmp_path / "nowhere/x")
    container.remove(volumes=True)


# -- instructions


@pytest.mark.parametrize(
    ("instructions", "wanted"),
    [
        (["CMD [\"a\", \"b c\"]"], {"cmd": ["a", "b c"]}),
        (["CMD [ -e /ready ]"], {"cmd": ["/bin/sh", "-c", "[ -e /ready ]"]}),
        (["CMD " + "[" * 100_000], {"cmd": ["/bin/sh", "-c", "[" * 100_000]}),
        (["cmd echo $HOME"], {"cmd": ["/bin/sh", "-c", "echo $HOME"]}),
        (["SHELL [\"/bin/bash\", \"-c\"]", "ENTRYPOINT x y"],
         {"shell": ["/bin/bash", "-c"], "entrypoint": ["/bin/bash", "-c", "x y"]}),
        (["ENV A=1 B=\"two three\"", "ENV A=2", "ENV C the rest"], {"env": ["A=2", "B=two three", "C=the rest"]}),
        (["LABEL a=1 b='2 3'"], {"labels": {"a": "1", "b": "2 3"}}),
        (["EXPOSE 80 53/udp 8000-8002/tcp"],
         {"exposed_ports": ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]}),
        (["VOLUME /a /b/", "VOLUME [\"/c d\"]"], {"volumes": ["/a", "/b", "/c d"]}),
        (["WORKDIR /a", "WORKDIR b/../c"], {"workdir": "/a/c"}),
        (["USER ann:users", "STOPSIGNAL SIGQUIT"], {"user": "ann:users", "stop_signal": "SIGQUIT"}),
        (["ONBUILD RUN x", "ONBUILD COPY a b"], {"onbuild": ["RUN x", "COPY a b"]}),
        (["HEALTHCHECK NONE"], {"healthcheck": {"test": ["NONE"], "interval": 0, "timeout": 0, "start_period": 0,
                                                "start_interval": 0, "retries": 0}}),
        (["HEALTHCHECK --interval=1m30s --retries=3 CMD curl x"],
         {"healthcheck": {"test": ["CMD-SHELL", "curl x"], "interval": 90 * 10**9, "timeout": 0, "start_period": 0,
                          "start_interval": 0, "retries": 3}}),
    ],
)  # fmt: skip
def test_instructions(instructions: list[str], wanted: dict[str, Any]) -> None:
    assert changed({}, instructions) == wanted


@pytest.mark.parametrize(
    ("instructions", "cmd"),
    [
        (['ENTRYPOINT ["echo"]'], None),
        (['CMD ["a"]', 'ENTRYPOINT ["echo"]'], ["a"]),
        (['ENTRYPOINT ["echo"]', 'CMD ["a"]'], ["a"]),
        (["ENV A=1"], ["sh"]),
    ],
)
def test_an_entrypoint_has_no_arguments_of_another(instructions: list[str], cmd: list[str] | None) -> None:
    assert changed({"cmd": ["sh"]}, instructions).get("cmd") == cmd


@pytest.mark.parametrize(
    "instruction",
    ["", "RUN true", "COPY a b", "CMD", "ENV A", "ENV =1", "EXPOSE x", "EXPOSE 99999", "EXPOSE 5/icmp", "VOLUME a",
     "SHELL bash", "USER a b", "HEALTHCHECK x", "HEALTHCHECK --x=1 CMD y", "HEALTHCHECK --interval=5 CMD y",
     "HEALTHCHECK --retries=-1 CMD y", "HEALTHCHECK --retries=1_0 CMD y", "SHELL " + "[" * 100_000,
     "ONBUILD FROM x", "LABEL 'a=1", "USER a\0", "EXPOSE 9-1"],
)  # fmt: skip
def test_instructions_that_are_none(instruction: str) -> None:
    with pytest.raises(InvalidInput, match="change"):
        changed({}, [instruction])
