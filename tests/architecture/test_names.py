"""The error tree as drawn, a docstring on everything public, and nothing of a developer's machine in the tree."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest

from lamina import errors
from support.sources import REPOSITORY, functions, modules, room, tree

EXPLAINED = ("linux", "overlay", "store", "image", "testing", "runtime", "supervisor", "engine", "warm")


def test_error_tree_is_drawn_as_it_is() -> None:
    drawn = {}
    above = ["LaminaError"]
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)(\w+) +(?:also (\w+) +)?(\d+)(?: |$)", line)
        if found is None:
            continue
        branch, name, also, code = found.groups()
        depth = len(branch) // 4
        above[depth:] = [name]
        drawn[name] = (above[depth - 1] if depth else "Exception", also, int(code))

    real = {}

    def visit(kind: type[errors.LaminaError]) -> None:
        first, *others = (base.__name__ for base in kind.__bases__)
        real[kind.__name__] = (first, others[0] if others else None, kind.exit_code)
        below: type[errors.LaminaError]
        for below in kind.__subclasses__():
            if below.__module__ == errors.__name__:
                visit(below)

    visit(errors.LaminaError)
    assert drawn == real
    assert sorted(real) == sorted(errors.__all__)


def test_errors_come_from_one_tree() -> None:
    for module in modules():
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.ClassDef) and room(module) not in ("errors", "cli"):  # click has its own
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                assert not {b for b in bases if b.endswith(("Error", "Exception"))}, f"{module}.{node.name}"


@pytest.mark.parametrize("module", sorted(modules()))
def test_every_module_says_what_it_is(module: str) -> None:
    assert (ast.get_docstring(tree(module)) or "").strip()


@pytest.mark.parametrize("module", sorted(m for m in modules() if room(m) in EXPLAINED))
def test_everything_public_is_explained(module: str) -> None:
    unexplained = [
        name
        for name, function in functions(module)
        if not any(part.startswith("_") for part in name.split("."))
        and "<locals>" not in name
        and not ast.get_docstring(function)
        and ast.unparse(function.body[-1]) != "..."  # a protocol or an overload
        and not any(ast.unparse(decorator).endswith(".setter") for decorator in function.decorator_list)
    ]
    assert unexplained == []


def test_no_developers_machine_in_the_tree() -> None:
    """No absolute path of one machine, however it came in."""
    private = re.compile("/" + r"work/(main|shared)\b|/root/\.pyenv|/home/[a-z]+/src|/tmp/(contracts|lc)\b")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.xfail("not a git clone")
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = REPOSITORY / name
        if (
            path.is_file()
            and not path.is_symlink()
            and path != REPOSITORY / "tests/architecture/test_names.py"
        ):
            text = path.read_bytes().decode(errors="replace")
            assert not (found := private.search(text)), f"{name}: {found and found[0]}"
