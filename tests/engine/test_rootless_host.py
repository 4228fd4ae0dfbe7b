"""The main job by an ordinary user: run over the host, review, apply, undo, discard."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.rootless import Rootless
from support.understudy import differences, manifest

pytestmark = pytest.mark.userns


def changes(rootless: Rootless, name: str) -> dict[str, str]:
    shown = ok(rootless.lamina("diff", "--format", "json", name))
    return {change["path"]: change["kind"] for change in json.loads(shown) if not change["incidental"]}


def ok(done: subprocess.CompletedProcess[Any]) -> str:
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}{done.stderr}"
    return str(done.stdout)


@pytest.fixture
def project(rootless: Rootless) -> Path:
    """A directory of the user's with something in it."""
    place = rootless.mkdir("project")
    (place / "version").write_text("1\n")
    (place / "old").write_text("old\n")
    rootless.give(place)
    return place


def test_a_command_that_does_nothing_has_done_nothing(rootless: Rootless) -> None:
    ok(rootless.lamina("run", "--name", "idle", "host", "--", "true"))
    assert changes(rootless, "idle") == {}
    assert ok(rootless.lamina("diff", "idle")) == ""


def test_review_apply_and_undo(rootless: Rootless, project: Path) -> None:
    before = manifest(project)
    script = f"cd {project} && echo 2 >version && rm old && mkdir new && echo x >new/file && chmod 700 new"
    ok(rootless.lamina("run", "--name", "work", "host", "--", "sh", "-c", script))
    assert changes(rootless, "work") == {
        str(project / "version"): "changed",
        str(project / "old"): "deleted",
        str(project / "new"): "added",
        str(project / "new/file"): "added",
    }
    assert differences(before, manifest(project)) == []
    ok(rootless.lamina("apply", "work"))
    assert (project / "version").read_text() == "2\n"
    assert (project / "new/file").read_text() == "x\n"
    assert not (project / "old").exists()
    assert (project / "new/file").stat().st_uid == rootless.uid
    ok(rootless.lamina("undo", "work"))
    assert differences(before, manifest(project)) == []
    ok(rootless.lamina("rm", "work"))
    assert ok(rootless.lamina("ps", "-a", "--format", "{{.Names}}")) == ""


def test_try_and_discard(rootless: Rootless, project: Path) -> None:
    before = manifest(project)
    ok(rootless.lamina("try", "-n", "rm", "-rf", project))
    assert differences(before, manifest(project)) == []


def test_what_the_user_may_not_do_is_not_done(rootless: Rootless, project: Path) -> None:
    """Inside the user is root of the container; but the system's files are not his, and an apply is all or nothing."""
    before = manifest("/etc/hostname", project)
    script = f"echo x >>/etc/hostname; echo 2 >{project}/version"
    ok(rootless.lamina("run", "--name", "bold", "host", "--", "sh", "-c", script))
    assert changes(rootless, "bold") == {"/etc/hostname": "changed", str(project / "version"): "changed"}
    refused = rootless.lamina("apply", "bold")
    assert refused.returncode == 125
    assert "/etc/hostname" in refused.stderr
    assert differences(before, manifest("/etc/hostname", project)) == []
