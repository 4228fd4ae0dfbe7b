"""The floor plan of ARCHITECTURE.md, as a test: who may import whom, and nothing going in circles."""

from __future__ import annotations

import re

import pytest

from support.sources import REPOSITORY, Import, imports, module_of, modules, room

# room: the rooms it may import from. Imports inside functions and for the type checker count as well: what a
# room must not know it must not know on Tuesdays either.
MAY_IMPORT = {
    "errors": "",
    "values": "",
    "argv": "values",
    "document": "errors",
    "linux": "errors values",
    "overlay": "errors values linux",
    "store": "errors values document linux overlay",
    "image": "errors values document linux overlay store",  # must not know processes and namespaces
    "testing": "errors values document linux overlay store image",  # beside the house: fakes, conformance suites
    "runtime": "errors values document linux overlay",  # given a bundle: it knows neither images nor the store
    "network": "errors values linux",  # links and rules: given ids, names and paths
    "runtime_cli": "errors values argv document linux overlay runtime lamina",  # of `lamina` the version
    "supervisor": "errors values document linux overlay runtime",
    "engine": "errors values document linux overlay store image runtime network supervisor",
    "cli": "errors values argv engine warm lamina",  # of `lamina` itself the public names
    "pytest_plugin": "errors engine lamina",  # a face for tests
    "warm": "errors values linux",  # does the commands of a face by its name, which it is told
    "__main__": "cli",
    "bytecode": "",  # finds Lamina's modules for the commands, and starts a face by its name, which it is told
    "isolated": "bytecode",  # where the commands begin
    "lamina": "errors values linux overlay store runtime supervisor engine",  # the package: re-exports lazily
}


def within_lamina() -> list[Import]:
    return [
        found for module in modules() for found in imports(module) if found.imported.split(".")[0] == "lamina"
    ]


def test_every_room_is_on_the_plan() -> None:
    assert {room(module) for module in modules()} <= MAY_IMPORT.keys()


def test_no_import_points_upstairs() -> None:
    def allowed(found: Import) -> bool:
        here, there = room(found.importer), room(module_of(found.imported))
        return here == there or there in MAY_IMPORT[here].split()

    assert [str(found) for found in within_lamina() if not allowed(found)] == []


def test_every_import_within_lamina_is_of_something() -> None:
    """A name imported from a package that is neither a module nor mentioned in the package is a typo."""
    for found in within_lamina():
        parent = module_of(found.imported)
        if found.imported.startswith("lamina.linux._native."):  # the extension has no Python source
            continue
        missing = found.imported.removeprefix(parent).lstrip(".")
        assert "." not in missing, str(found)


def test_modules_load_without_going_in_circles() -> None:
    needs: dict[str, set[str]] = {module: set() for module in modules()}
    for found in within_lamina():
        if not found.lazy and (target := module_of(found.imported)) != found.importer:
            needs[found.importer].add(target)
    while leaves := [module for module, wanted in needs.items() if not wanted]:
        for leaf in leaves:
            del needs[leaf]
        for wanted in needs.values():
            wanted.difference_update(leaves)
    assert needs == {}, "these modules import each other"


def test_every_module_of_the_engine_is_on_the_map() -> None:
    """Backticked, in the section of ARCHITECTURE.md that says where to look for what."""
    _, _, section = (REPOSITORY / "ARCHITECTURE.md").read_text().partition("\n## Inside the engine\n")
    named = set(re.findall(r"`([\w/]+)`", section.partition("\n## ")[0]))
    below = [module.split(".")[2] for module in modules() if module.startswith("lamina.engine.")]
    assert sorted(set(below) - named - {"asynchronous"}) == []


def test_only_linux_speaks_c() -> None:
    offenders = [
        str(found)
        for module in modules()
        for found in imports(module)
        if found.imported.split(".")[0] in ("ctypes", "_ctypes", "cffi") and room(module) != "linux"
    ]
    assert offenders == []


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_is_named_after_what_it_is_about(module: str) -> None:
    name = module.rpartition(".")[2]
    assert not re.fullmatch(r"_*(utils?|commons?|helpers?|core|misc|tools?|lib)", name), (
        "a helper lives with its user"
    )
    assert not name.startswith(f"{room(module)}_"), "module names do not stutter"
