"""The compiled commands: they find the Python they belong to, or leave that to the script, and are never in the way."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.sources import REPOSITORY, SRC

CLIENT = REPOSITORY / "src/lamina/cli/client.c"
OPTIONS = [
    "-Os",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-std=gnu11",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-pie",
]
LINKED = ["-static", "-nostdlib", "-no-pie"]
# instead of the package: says how Python was started, and what it was given
TELL = """
import os, sys
assert sys.argv.pop(1) == "cli"
print(sys.flags.isolated, sys.flags.no_site, os.environb.get(b"WORD"), [os.fsencode(w) for w in sys.argv[1:]])
sys.exit(7)
"""


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    program = tmp_path_factory.mktemp("client") / "lamina"
    subprocess.run([compiler, *OPTIONS, *LINKED, str(CLIENT), "-o", str(program)], check=True, timeout=200)
    return program


@pytest.fixture
def prefix(compiled: Path, tmp_path: Path) -> Path:
    """An installation: bin/lamina, bin/lamina-python and a package, as an installer would leave them."""
    prefix = tmp_path / "prefix"
    (prefix / "bin").mkdir(parents=True)
    shutil.copy(compiled, prefix / "bin/lamina")
    write_script(prefix)
    package(prefix, "3.11").write_text(TELL)
    return prefix


def write_script(prefix: Path, first: str = f"#!{sys.executable}") -> None:
    script = prefix / "bin/lamina-python"
    script.write_text(f"{first}\nimport sys\nprint('the script', *sys.argv[1:])\nsys.exit(8)\n")
    script.chmod(0o755)


def package(prefix: Path, version: str) -> Path:
    place = prefix / f"lib/python{version}/site-packages/lamina/isolated.py"
    place.parent.mkdir(parents=True)
    return place


def run(prefix: Path, *words: str | bytes, **more: object) -> tuple[int, str]:
    done = subprocess.run(
        [prefix / "bin/lamina", *words],
        capture_output=True,
        text=True,
        timeout=200,
        **more,  # type: ignore[call-overload]
    )
    return done.returncode, done.stdout + done.stderr


def test_python_is_isolated_and_gets_what_the_client_got(prefix: Path) -> None:
    words = [b"run", b"", b"a b", b"--", b"\xff\xfe", "ü".encode(), b"-I"]
    environment = {**os.environ, "WORD": "given", "PYTHONPATH": "/nowhere", "LC_ALL": "C.UTF-8"}
    assert run(prefix, *words, env=environment) == (7, f"1 1 b'given' {words!r}\n")
    assert run(prefix) == (7, "1 1 None []\n")


def test_it_is_found_through_links_and_with_any_name_for_itself(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(prefix / "bin/lamina")
    done = subprocess.run(
        ["whatever", "x"], executable=tmp_path / "link", capture_output=True, text=True, cwd="/", timeout=200
    )
    assert (done.returncode, done.stdout) == (7, "1 1 None [b'x']\n")


@pytest.mark.parametrize("how", ["none", "two", "unreadable", "no lib", "a shell", "an option"])
def test_what_is_not_clear_is_left_to_the_script(prefix: Path, how: str) -> None:
    if how == "none":
        shutil.rmtree(prefix / "lib/python3.11")
    elif how == "no lib":
        shutil.rmtree(prefix / "lib")
    elif how == "two":
        package(prefix, "3.12").write_text(TELL)
    elif how == "unreadable":
        (prefix / "lib/python3.11/site-packages/lamina/isolated.py").unlink()
    elif how == "a shell":  # what pip writes where the path of Python is too long, or has a space in it
        script = prefix / "bin/lamina-python"
        script.write_text(
            f"#!/bin/sh\n'''exec' \"{sys.executable}\" \"$0\" \"$@\"\n' '''\nprint('the script', 'a')\nexit(8)\n"
        )
    else:
        write_script(prefix, f"#!{sys.executable} -B")
    status, said = run(prefix, "a")
    assert (status, said) == (8, "the script a\n")


def test_other_things_beside_the_package_do_not_matter(prefix: Path) -> None:
    for name in ("python3", "python3.12", "python2.7", "pkgconfig", *(f"lib{n}.so" for n in range(2000))):
        (prefix / "lib" / name).mkdir()
    assert run(prefix, "a") == (7, "1 1 None [b'a']\n")


@pytest.mark.parametrize("lost", ["the script", "Python"])
def test_an_installation_with_holes_is_an_error_that_says_so(prefix: Path, lost: str) -> None:
    if lost == "the script":
        (prefix / "bin/lamina-python").unlink()
    else:
        write_script(prefix, "#!/nonexistent/python3")
    status, said = run(prefix, "a")
    assert status == 125
    assert said.startswith(f"lamina: cannot execute {prefix}/bin/lamina-python: ")


def test_many_words_go_through(prefix: Path) -> None:
    words = ["word"] * 70_000  # more than the client counts: the script has them
    assert run(prefix, *words[:2000])[0] == 7
    status, said = run(prefix, *words)
    assert (status, len(said.split())) == (8, 70_002)


def test_the_command_works_without_site_and_with_the_packages_it_needs(
    compiled: Path, tmp_path: Path
) -> None:
    """`lamina --help` needs click, which is no part of the standard library; `version` needs nothing."""
    prefix = tmp_path / "prefix"
    (prefix / "bin").mkdir(parents=True)
    shutil.copy(compiled, prefix / "bin/lamina")
    write_script(prefix)
    packages = prefix / "lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    (packages / "lamina").symlink_to(SRC / "lamina")
    status, said = run(prefix, "version")
    assert status == 0 and said.startswith("lamina ")
    status, said = run(prefix, "--help")
    assert status == 0 and said.startswith("Usage: lamina ")
    status, said = run(prefix, "nosuch")
    assert status == 125 and "Traceback" not in said


def test_by_its_other_name_it_is_the_runtime(compiled: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    (prefix / "bin").mkdir(parents=True)
    shutil.copy(compiled, prefix / "bin/lamina-runtime")
    (prefix / "bin/lamina-runtime-python").write_text(f"#!{sys.executable}\n")
    packages = prefix / "lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    (packages / "lamina").symlink_to(SRC / "lamina")
    done = subprocess.run(
        [prefix / "bin/lamina-runtime", "--version"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0 and done.stdout.startswith("lamina-runtime "), done


def test_without_a_compiler_it_is_a_script_that_works_where_paths_have_spaces(tmp_path: Path) -> None:
    """What setup.py installs then. Installers leave its first line alone, unlike that of a script of Python."""
    tree = ast.parse((REPOSITORY / "setup.py").read_text())
    (text,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SCRIPT"
    )
    prefix = tmp_path / "my own"
    (prefix / "bin").mkdir(parents=True)
    write_script(prefix)
    (prefix / "bin/lamina").write_text(text)
    (prefix / "bin/lamina").chmod(0o755)
    words = ["a b", "", "--", "*", "-n"]
    assert text.startswith("#!/bin/sh\n")
    assert run(prefix, *words) == (8, "the script a b  -- * -n\n")
    assert run(prefix, *words, env={}) == (8, "the script a b  -- * -n\n")
    (tmp_path / "link").symlink_to(prefix / "bin/lamina")
    done = subprocess.run([tmp_path / "link", "x"], capture_output=True, text=True, cwd="/", timeout=200)
    assert (done.returncode, done.stdout) == (8, "the script x\n")
