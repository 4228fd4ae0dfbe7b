"""Lamina's sources as data, for the tests that read the house's plan out of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SRC = REPOSITORY / "src"


@dataclass(frozen=True)
class Import:
    """*importer* (a module's name) imports *imported* (a module's name, or a name in one) in *line*.

    `lazy`: inside a function, or for the type checker only, so not when the module is loaded.
    """

    importer: str
    imported: str
    line: int
    lazy: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def module_name(path: Path) -> str:
    """`src/lamina/linux/fd.py` -> `lamina.linux.fd`."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """Every module of Lamina by its name."""
    return {module_name(path): path for path in sorted((SRC / "lamina").rglob("*.py"))}


@cache
def tree(module: str) -> ast.Module:
    """A module, parsed."""
    return ast.parse(modules()[module].read_text(), filename=str(modules()[module]))


def room(module: str) -> str:
    """`lamina.linux.fd` -> `linux`; `lamina` itself is `lamina`."""
    return module.split(".")[1] if "." in module else module


def imports(module: str) -> Iterator[Import]:
    """Everything *module* imports, wherever in it the statement stands."""
    package = module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]
    for node, lazy in _walk(tree(module), lazy=False):
        for name in _imported(node, package):
            yield Import(module, name, getattr(node, "lineno", 0), lazy)


def _imported(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        up = package.split(".")[: -(node.level - 1) or None] if node.level else []
        origin = ".".join([*up, *([node.module] if node.module else [])])
        return [f"{origin}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(first := node.args[0], ast.Constant):
        called = ast.unparse(node.func)
        if called in ("import_module", "importlib.import_module", "__import__") and isinstance(
            first.value, str
        ):
            return [first.value]
    return []


def _walk(node: ast.AST, lazy: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        yield child, lazy
        checking = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _walk(child, lazy or checking or function)


def module_of(name: str) -> str:
    """The module that an imported name belongs to: `lamina.linux.fd.Fd` -> `lamina.linux.fd`."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name


def functions(module: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method of *module* with its dotted name inside the module."""

    def inside(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}{child.name}", child
                yield from inside(child, f"{prefix}{child.name}.<locals>.")
            elif isinstance(child, ast.ClassDef):
                yield from inside(child, f"{prefix}{child.name}.")
            else:
                yield from inside(child, prefix)

    yield from inside(tree(module), "")
