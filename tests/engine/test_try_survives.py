"""What people would try before they let it loose: each run over this machine, reviewed, then discarded or applied.

Discarding is tested on the machine itself: it must be what it was. Applying is tested on harmless places, or on an
understudy of the machine; then undone, and compared with what was.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.understudy import differences, manifest, with_understudy

pytestmark = [pytest.mark.root, pytest.mark.slow]

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def changes(lamina: Lamina) -> Callable[[str], dict[str, str]]:
    """What a container did: absolute path -> kind, without directories that only saw something come or go."""

    def read(name: str) -> dict[str, str]:
        shown = lamina("diff", "--format", "json", name)
        assert shown.returncode == 0, shown.stderr
        return {
            change["path"]: change["kind"] for change in json.loads(shown.stdout) if not change["incidental"]
        }

    return read


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


# -- a Debian package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A .deb with a program, a configuration file and a script that runs when it is installed."""
    tree = tmp_path / "package"
    for path, mode, text in (
        ("DEBIAN/control", 0o644, CONTROL),
        ("DEBIAN/conffiles", 0o644, "/etc/lamina-hello.conf\n"),
        ("DEBIAN/postinst", 0o755, "#!/bin/sh\necho configured >/var/lib/lamina-hello-state\n"),
        ("usr/bin/lamina-hello", 0o755, "#!/bin/sh\necho hello\n"),
        ("etc/lamina-hello.conf", 0o644, "greeting = hello\n"),
    ):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
        (tree / path).chmod(mode)
    tree.chmod(0o755)
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, tmp_path / "hello.deb"], check=True)
    return tmp_path / "hello.deb"


CONTROL = """\
Package: lamina-hello
Version: 1.0
Architecture: all
Maintainer: Nobody <nobody@example.org>
Description: says hello
"""
INSTALLED = {
    "/usr/bin/lamina-hello": "added",
    "/etc/lamina-hello.conf": "added",
    "/var/lib/lamina-hello-state": "added",
    "/var/lib/dpkg/info/lamina-hello.list": "added",
    "/var/lib/dpkg/info/lamina-hello.postinst": "added",
    "/var/lib/dpkg/status": "changed",
}
SYSTEM = ("/etc", "/var/lib/dpkg", "/var/log", "/opt", "/usr/bin", "/usr/share/doc")


@pytest.mark.peer("dpkg-deb", "dpkg")
def test_installing_a_debian_package_then_discarding_it(
    lamina: Lamina, changes: Callable[[str], dict[str, str]], package: Path, untouched_host: object
) -> None:
    before = manifest("/etc", "/var/lib/dpkg")
    ok(lamina("try", "--keep", "--network", "none", "--name", "deb", "dpkg", "--install", package))
    assert changes("deb").items() >= INSTALLED.items()
    said = ok(lamina("diff", "--stat", "deb"))
    assert "A /usr/bin/lamina-hello" in said
    ok(lamina("rm", "deb"))
    assert shutil.which("lamina-hello") is None
    assert differences(before, manifest("/etc", "/var/lib/dpkg")) == []
    assert lamina("diff", "deb").returncode != 0


@pytest.mark.peer("dpkg-deb", "dpkg")
def test_installing_a_debian_package_applying_it_and_taking_it_back(
    lamina: Lamina, package: Path, tmp_path: Path
) -> None:
    def play() -> None:
        before = manifest(*SYSTEM)
        ok(lamina("try", "-y", "--network", "none", "--name", "deb", "dpkg", "--install", package))
        assert (
            subprocess.run(["lamina-hello"], capture_output=True, text=True, check=True).stdout == "hello\n"
        )
        status = subprocess.run(
            ["dpkg", "--status", "lamina-hello"], capture_output=True, text=True, check=True
        )
        assert "Status: install ok installed" in status.stdout
        subprocess.run(["dpkg", "--verify", "lamina-hello"], check=True)
        ok(lamina("undo", "deb"))
        assert differences(before, manifest(*SYSTEM)) == []
        assert shutil.which("lamina-hello") is None

    with_understudy(tmp_path, play)


# -- a wheel


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with one module and a console script."""
    path = tmp_path / "lamina_greeter-1.0-py3-none-any.whl"
    info = "lamina_greeter-1.0.dist-info"
    files = {
        "lamina_greeter.py": "def main():\n    print('greetings')\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: lamina-greeter\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nlamina-greet = lamina_greeter:main\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment to install it into."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    return tmp_path / "venv"


def pip_install(environment: Path, wheel: Path) -> list[str | Path]:
    options = ["--no-index", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    return [sys.executable, "-m", "pip", "--python", environment / "bin/python", "install", *options, wheel]


def test_installing_a_wheel_then_discarding_it(
    lamina: Lamina, changes: Callable[[str], dict[str, str]], wheel: Path, environment: Path
) -> None:
    before = manifest(environment)
    ok(lamina("try", "--keep", "--network", "none", "--name", "whl", *pip_install(environment, wheel)))
    seen = changes("whl")
    assert seen[str(environment / "bin/lamina-greet")] == "added"
    assert set(seen.values()) == {"added"}, seen
    ok(lamina("rm", "whl"))
    assert differences(before, manifest(environment)) == []


def test_installing_a_wheel_applying_it_and_taking_it_back(
    lamina: Lamina, wheel: Path, environment: Path
) -> None:
    before = manifest(environment)
    ok(lamina("run", "--name", "whl", "host", "--", *pip_install(environment, wheel)))
    ok(lamina("apply", "whl", environment))
    greeted = subprocess.run([environment / "bin/lamina-greet"], capture_output=True, text=True, check=True)
    assert greeted.stdout == "greetings\n"
    ok(lamina("undo", "whl"))
    assert differences(before, manifest(environment)) == []


# -- rm -rf


@pytest.mark.timeout(900)  # somebody's /usr may have a million files
def test_rm_rf_usr_then_discarding_it(lamina: Lamina, untouched_host: object) -> None:
    before = {path: os.lstat(path) for path in ("/usr", "/usr/bin", "/usr/lib", "/usr/share")}
    done = lamina("try", "-n", "--network", "none", "rm", "-rf", "/usr", timeout=800)
    assert ok(done) == "", "standard output is the command's alone"
    assert "D /usr/" in done.stderr
    assert "below it deleted" in done.stderr, "what went with the directory is counted, not hidden"
    for path, then in before.items():
        now = os.lstat(path)
        assert (now.st_ino, now.st_mtime_ns, now.st_mode) == (then.st_ino, then.st_mtime_ns, then.st_mode), (
            path
        )
    assert shutil.which("env")
    assert json.loads(ok(lamina("ps", "-a", "--format", "json")) or "[]") == []


@pytest.fixture
def usr(tmp_path: Path) -> Path:
    """A little /usr that may really be deleted: links, a setuid program, odd names, attributes, old times."""
    top = tmp_path / "usr"
    for directory in ("bin", "lib/deep/er", "share/empty"):
        (top / directory).mkdir(parents=True)
    for number in range(200):
        (top / "lib/deep" / f"file-{number}").write_text(f"{number}\n" * number)
    (top / "bin/tool").write_text("#!/bin/sh\n")
    os.link(top / "bin/tool", top / "bin/the-same-tool")
    (top / "bin/tool").chmod(0o4755)
    (top / "lib/link").symlink_to("../bin/tool")
    (top / "lib/dangling").symlink_to("/nowhere")
    Path(os.fsdecode(os.fsencode(top) + b"/share/\xff odd\nname")).write_text("odd")
    os.setxattr(top / "share", "user.note", b"kept")
    os.mkfifo(top / "share/pipe")
    os.chown(top / "lib/deep/file-1", 12, 34)
    os.utime(top / "lib/deep/er", ns=(10**18, 10**18))
    os.utime(top / "bin/tool", ns=(10**18 + 1, 10**18 + 1))
    return top


def test_rm_rf_applied_and_taken_back(
    lamina: Lamina, changes: Callable[[str], dict[str, str]], usr: Path, tmp_path: Path
) -> None:
    before = manifest(usr)
    ok(lamina("run", "--name", "rm", "host", "--", "rm", "-rf", usr))
    assert changes("rm")[str(usr)] == "deleted"
    assert set(changes("rm").values()) == {"deleted"}
    assert differences(before, manifest(usr)) == []
    ok(lamina("apply", "rm"))
    assert not usr.exists()
    ok(lamina("undo", "rm"))
    assert differences(before, manifest(usr)) == []


# -- git clone and make


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small project under git: one C file and a Makefile."""
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "hello.c").write_text('#include <stdio.h>\nint main(void) { puts("built"); return 0; }\n')
    (origin / "Makefile").write_text("hello: hello.c\n\tgcc -o $@ $<\n")
    git = ["git", "-C", str(origin), "-c", "user.name=Nobody", "-c", "user.email=nobody@example.org"]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "Say that it was built"], check=True)
    return origin


def clone_and_make(repository: Path, target: Path) -> list[str]:
    script = 'git clone -q "$1" "$2" && make -C "$2" && "$2/hello"'
    return ["sh", "-c", script, "sh", str(repository), str(target)]


@pytest.mark.peer("git", "make", "gcc")
def test_git_clone_and_make_then_discarding_it(
    lamina: Lamina, changes: Callable[[str], dict[str, str]], repository: Path, tmp_path: Path
) -> None:
    target = tmp_path / "clone"
    command = clone_and_make(repository, target)
    said = ok(lamina("try", "--keep", "--network", "none", "--name", "make", *command))
    assert "built" in said.splitlines()
    seen = changes("make")
    assert seen[str(target)] == seen[str(target / "hello")] == seen[str(target / ".git/HEAD")] == "added"
    assert [path for path in seen if not path.startswith(str(target))] == [], "nothing else was touched"
    ok(lamina("rm", "make"))
    assert not target.exists()


@pytest.mark.peer("git", "make", "gcc")
def test_git_clone_and_make_applied_and_taken_back(lamina: Lamina, repository: Path, tmp_path: Path) -> None:
    target = tmp_path / "clone"
    before = manifest(repository)
    ok(lamina("try", "-y", "--network", "none", "--name", "make", *clone_and_make(repository, target)))
    assert subprocess.run([target / "hello"], capture_output=True, text=True, check=True).stdout == "built\n"
    clean = subprocess.run(
        ["git", "-C", target, "status", "--short"], capture_output=True, text=True, check=True
    )
    assert clean.stdout == "?? hello\n"
    ok(lamina("undo", "--force", "make"))
    assert not target.exists()
    assert differences(before, manifest(repository)) == []


def test_the_understudy_is_not_the_machine(tmp_path: Path) -> None:
    def play() -> dict[str, Any]:
        shutil.rmtree("/etc")
        Path("/srv/lamina-was-here").touch()
        return manifest("/etc")

    assert with_understudy(tmp_path, play) == {"/etc": ("nothing",)}
    assert Path("/etc/passwd").exists()
    assert not Path("/srv/lamina-was-here").exists()
