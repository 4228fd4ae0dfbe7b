"""What a failure means is said, and not only which step failed: the runtime knows what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.oci import Runtime


def create(runtime: Runtime, mount: dict[str, Any]) -> str:
    """What is said of a bundle with that mount, which must be refused."""
    bundle = runtime.bundle("true")
    (bundle.rootfs / "tmp/file").touch()
    (bundle.rootfs / "tmp/nowhere").symlink_to("/no/such")
    bundle.config["mounts"].append(mount)
    with pytest.raises(AssertionError) as refused:
        runtime.create("c", bundle)
    return str(refused.value)


@pytest.mark.root
def test_a_directory_on_a_file(runtime: Runtime, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    mount = {"destination": "/tmp/file", "type": "bind", "source": str(source), "options": ["rbind"]}
    said = create(runtime, mount)
    assert f"mount {source} at /tmp/file: {source} is a directory, and a file is in the place of" in said
    assert "step" not in said


@pytest.mark.root
@pytest.mark.parametrize("target", ["/tmp/nowhere", "/tmp/nowhere/below"])
def test_a_tmpfs_on_a_link_that_leads_nowhere(runtime: Runtime, target: str) -> None:
    said = create(runtime, {"destination": target, "type": "tmpfs", "source": "tmpfs"})
    assert (
        f"mount tmpfs at {target}: a symbolic link in the place of {target}, or on the way to it, leads"
        in said
    )
    assert "step" not in said


@pytest.mark.root
def test_a_file_system_that_is_not_there(runtime: Runtime) -> None:
    said = create(runtime, {"destination": "/tmp", "type": "nosuchfs", "source": "none"})
    assert "mount nosuchfs at /tmp: this kernel has no nosuchfs" in said


@pytest.mark.root
@pytest.mark.parametrize(
    "cwd, cause",
    [
        ("/no/such", "it is not there"),
        ("/tmp/file", "it is not a directory"),
        ("/proc/1/cwd", "kernel's own"),
    ],
)
def test_a_working_directory_that_a_further_process_cannot_enter(
    runtime: Runtime, cwd: str, cause: str
) -> None:
    bundle = runtime.bundle("sleep", "600")
    (bundle.rootfs / "tmp/file").touch()
    runtime.begin("c", bundle)
    done = runtime.ask("exec", "--cwd", cwd, "c", "true")
    assert done.returncode == 255
    assert f"enter working directory {cwd}: " in done.stderr and cause in done.stderr


@pytest.mark.root
@pytest.mark.parametrize("option", ["nosuch", "size=many"])
def test_an_option_that_a_file_system_does_not_take(runtime: Runtime, option: str) -> None:
    said = create(runtime, {"destination": "/tmp", "type": "tmpfs", "source": "x", "options": [option]})
    assert f"mount tmpfs at /tmp: the file system refuses the option {option}" in said
    assert "step" not in said
