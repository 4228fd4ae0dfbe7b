"""Lamina run by root of a user namespace, as in another engine's container: little more than an ordinary user."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from lamina.errors import Unsupported
from lamina.store.root import Store
from support.busybox import write_archive
from support.image_archives import tar
from support.namespaces import in_user_namespace
from support.rootless import Rootless
from support.sources import SRC

pytestmark = [pytest.mark.root, pytest.mark.peer("unshare")]


def test_it_runs_over_this_machine_with_a_single_id(tmp_path: Path) -> None:
    def lamina(*words: str) -> str:
        command = [sys.executable, "-m", "lamina", "--root", str(tmp_path / "store"), *words]
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", *command],
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    seen = lamina(
        "run",
        "--name",
        "box",
        "host",
        "sh",
        "-c",
        f"id -u; echo x >{tmp_path}/file; tty -s; cat /proc/1/comm",
    )
    assert seen.split() == ["0", "sh"]
    assert f"A {tmp_path}/file" in lamina("diff", "box")
    assert not (tmp_path / "file").exists()
    lamina("run", "--rm", "host", "true")
    lamina("rm", "box")


def script(store: Path, text: str) -> str:
    """What a shell says in which `lamina` is that of *store*."""
    environment = {
        **os.environ,
        "LAMINA_ROOT": str(store),
        "LAMINA_NETWORK": "none",
        "PYTHONPATH": str(SRC),
    }
    command = f'set -eu; lamina() {{ {sys.executable} -m lamina "$@" 2>&1; }}; {text}'
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    return done.stdout + done.stderr


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An archive of busybox with layers that hide what is in those below."""
    below = tar({"d/a": b"", "d/b": b"", "e/gone": b"", "e/stays": b""})
    write_archive(tmp_path / "image.tar", below, tar({"d/.wh..wh..opq": b"", "d/c": b"", "e/.wh.gone": b""}))
    return tmp_path / "image.tar"


@pytest.mark.parametrize("ids", [1, 65536])
def test_layers_of_images_hide_there_what_they_hide_elsewhere(tmp_path: Path, image: Path, ids: int) -> None:
    """Marks of the family `trusted.` can neither be set nor read there: they are `user.` all the way."""
    store = tmp_path / "store"
    said = in_user_namespace(
        script,
        store,
        f"""
        lamina load -i {image}
        lamina run --name one box sh -c 'ls /d /e; busybox rm -r /d /e/stays; busybox mkdir /d; echo >/d/z'
        lamina diff one
        lamina commit one two >/dev/null
        lamina squash two three >/dev/null
        lamina run --rm three ls /d /e
        lamina system check
        lamina rm one
        """,
        ids=ids,
    )
    lines = [line for line in said.splitlines() if line and not line.startswith("Loaded")]
    seen, changed = ["/d:", "c", "/e:", "stays"], ["C /d/  (and 1 below it deleted)", "A /d/z", "D /e/stays"]
    assert lines[:-3] == [*seen, *changed, "/d:", "z", "/e:"], said
    assert lines[-2:] == ["Everything is whole.", "one"], said


def test_a_layer_of_ids_that_are_not_there(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as made:
        entry = tarfile.TarInfo("file")
        entry.uid = 7
        made.addfile(entry)
    write_archive(tmp_path / "image.tar", archive.getvalue())
    said = in_user_namespace(script, tmp_path / "store", f"lamina load -i {tmp_path}/image.tar || echo $?")
    assert "user 7, for which you have no id" in said
    assert said.splitlines()[-1] == "125"


def test_a_store_is_for_those_whose_marks_it_has(tmp_path: Path) -> None:
    """What root of the machine wrote, root of a namespace with the same ids would read without its marks; and back."""
    Store(tmp_path / "ours")
    in_user_namespace(Store, tmp_path / "theirs", ids=65536)
    Store(tmp_path / "ours")
    in_user_namespace(Store, tmp_path / "theirs", ids=65536)
    with pytest.raises(Unsupported, match=r"by root of a user namespace.* user\.overlay"):
        Store(tmp_path / "theirs")
    with pytest.raises(Unsupported, match=r"by root of the machine.* trusted\.overlay"):
        in_user_namespace(Store, tmp_path / "ours", ids=65536)


def test_a_store_of_a_user_is_that_of_root_in_a_namespace_of_his(rootless: Rootless) -> None:
    """As in `podman unshare`: the same user, and the same marks."""
    store = rootless.home / "store"
    words: list[str | Path] = [sys.executable, "-m", "lamina", "--root", store, "ps"]
    for inside in (["unshare", "--user", "--map-root-user"], [], ["unshare", "--user", "--map-root-user"]):
        done = rootless.run(*inside, *words)
        assert done.returncode == 0, done.stderr
