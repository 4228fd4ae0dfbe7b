"""The archive of compiled modules: with it everything is as without it, whatever happens to it or to the sources."""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.rootless import Rootless
from support.sources import SRC

TAG = sys.implementation.cache_tag
ARCHIVE = f"lamina/__pycache__/isolated.{TAG}.pyc"
# the face of a package that is not Lamina's, but begins as Lamina's does: executes the words of its command line
ENTRY = '''
"""A face."""
import sys

def run():
    for word in sys.argv[1:]:
        exec(word, {"sys": sys})
    sys.stdout.flush()
    return 0
'''
SPIN = '''
"""Something that fails."""
from lamina.cli.words import Word

def fail(number):
    return 1 // number  # here
'''
# everything about the modules of Lamina that a program can see, for comparison; names of classes apart
SEEN = """
import json
from importlib.machinery import PathFinder, SourceFileLoader
import lamina.cli.spin, lamina.cli.words, lamina.cli.deep.down
def look(spec):
    where = spec.submodule_search_locations
    return [spec.name, spec.origin, spec.cached, spec.has_location, spec.parent, where and list(where),
            isinstance(spec.loader, SourceFileLoader), spec.loader.name, spec.loader.path]
seen = {}
for name, module in sorted(sys.modules.items()):
    if name.startswith("lamina") and not name.startswith("lamina.bytecode"):
        path = module.__path__ if hasattr(module, "__path__") else None
        seen[name] = [look(module.__spec__), module.__file__, module.__cached__, path, module.__package__,
                      module.__doc__, module.__loader__ is module.__spec__.loader,
                      # and whatever else this Python puts there
                      sorted(name for name in vars(module) if name[:2] == "__"),
                      sorted((key, value) for key, value in vars(module.__spec__).items() if key != "loader")]
        parent = sys.modules[name.rpartition(".")[0]].__path__ if "." in name else None
        ours, theirs = look(module.__spec__), look(PathFinder.find_spec(name, parent))
        assert ours == theirs, (ours, theirs)
print(json.dumps(seen))
"""
LOADERS = "print({name: type(m.__spec__.loader).__name__ for name, m in sys.modules.items() if 'lamina.cli' in name})"


class Installed:
    """A package that begins as Lamina does, in a directory of its own."""

    def __init__(self, site: Path) -> None:
        self.site, self.archive = site, site / ARCHIVE
        shutil.copytree(
            SRC / "lamina/bytecode", site / "lamina/bytecode", ignore=shutil.ignore_patterns("__*__")
        )
        shutil.copy(SRC / "lamina/bytecode/__init__.py", site / "lamina/bytecode")
        shutil.copy(SRC / "lamina/isolated.py", site / "lamina")
        for name, text in {
            "__init__": '"""A package."""', "cli/__init__": "", "cli/entry": ENTRY, "cli/spin": SPIN,
            "cli/words": "class Word(str): pass\nWORD = 'old'", "cli/deep/__init__": "", "cli/deep/down": "DEEP = 1",
        }.items():  # fmt: skip
            self.write(name, text)

    def write(self, name: str, text: str) -> Path:
        path = self.site / f"lamina/{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def run(self, *words: str, options: tuple[str, ...] = (), **more: Any) -> str:
        argv = [sys.executable, "-I", "-S", *options, str(self.site / "lamina/isolated.py"), "cli", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False, **more)
        assert (done.returncode, done.stderr) == (0, ""), done
        return str(done.stdout)

    def leftovers(self) -> list[str]:
        return [path.name for path in self.archive.parent.glob(f"{self.archive.name}.*")]


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path)


WORD = "import lamina.cli.words as w; print(w.WORD, type(w.__spec__.loader).__name__)"


def test_the_first_command_writes_it_and_the_second_one_reads_it(installed: Installed) -> None:
    assert installed.run(WORD) == "old SourceFileLoader\n"
    assert installed.archive.is_file() and installed.leftovers() == []
    assert installed.run(WORD) == "old Loader\n"
    assert eval(installed.run(LOADERS)) == {"lamina.cli": "Loader", "lamina.cli.entry": "Loader"}


def test_it_holds_what_commands_loaded_and_grows_with_what_another_one_loads(installed: Installed) -> None:
    installed.run(WORD)
    first = installed.archive.stat()
    assert installed.run("import lamina.cli.deep.down as d; print(type(d.__loader__).__name__)") != "Loader\n"
    second = installed.archive.stat()
    assert second.st_ino != first.st_ino
    down = "import lamina.cli.deep.down as d; print(type(d.__loader__).__name__)"
    assert installed.run(WORD, down) == "old Loader\nLoader\n"
    assert installed.archive.stat().st_ino == second.st_ino  # nothing was missing


def test_modules_look_as_python_itself_would_have_made_them(installed: Installed) -> None:
    without = json.loads(installed.run(SEEN))
    assert json.loads(installed.run(SEEN)) == without
    assert {"lamina", "lamina.cli", "lamina.cli.deep.down", "lamina.cli.spin"} <= without.keys()
    loaded = "import lamina.cli.spin; print(type(lamina.cli.spin.__loader__).__name__)"
    assert installed.run(loaded) == "Loader\n"  # not both without


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import lamina.cli.spin as s, inspect; print(inspect.getsource(s.fail).splitlines()[1])",
         "    return 1 // number  # here\n"),
        ("import lamina.cli.spin as s, traceback\ntry: s.fail(0)\nexcept ZeroDivisionError:"
         " print(traceback.format_exc().splitlines()[-3].strip())", "return 1 // number  # here\n"),
        ("import lamina.cli.words as w, pickle; print(pickle.loads(pickle.dumps(w.Word('x'))))", "x\n"),
        ("import importlib.resources as r; print(r.files('lamina.cli').joinpath('words.py').read_text()[:10])",
         "class Word\n"),
        ("import lamina.cli.deep, pkgutil; print([m.name for m in pkgutil.iter_modules(lamina.cli.deep.__path__)])",
         "['down']\n"),
        ("import importlib, lamina.cli.words as w; w.WORD = 'changed'; print(importlib.reload(w).WORD)", "old\n"),
        ("import lamina.cli.words as w; print(w.__loader__.get_source(w.__name__)[:10])", "class Word\n"),
    ],
)  # fmt: skip
def test_what_programs_do_with_modules_works(installed: Installed, code: str, said: str) -> None:
    assert installed.run(code) == said
    assert installed.run(code) == said


@pytest.mark.parametrize("how", ["longer", "of the same length", "older"])
def test_a_source_that_was_changed_is_compiled_anew(installed: Installed, how: str) -> None:
    assert installed.run(WORD, WORD) == "old SourceFileLoader\n" * 2
    source = installed.write(
        "cli/words", "class Word(str): pass\nWORD = " + ("'newer'" if how == "longer" else "'new'")
    )
    if how != "longer":  # its time alone tells
        when = source.stat().st_mtime + (10 if how == "of the same length" else -1000)
        os.utime(source, (when, when))
    new = "newer" if how == "longer" else "new"
    assert installed.run(WORD) == f"{new} SourceFileLoader\n"
    assert installed.run(WORD) == f"{new} Loader\n"


def test_a_reload_sees_what_was_changed_meanwhile(installed: Installed) -> None:
    installed.run(WORD)
    source = installed.site / "lamina/cli/words.py"
    change = f"open({str(source)!r}, 'w').write('WORD = 12345')"
    code = f"{WORD}; {change}; import importlib; print(importlib.reload(w).WORD)"
    assert installed.run(code) == "old Loader\n12345\n"


@pytest.mark.parametrize("part", ["finder", "archive"])
def test_of_its_own_parts_another_version_takes_the_place(installed: Installed, part: str) -> None:
    installed.run(WORD)
    with open(installed.site / f"lamina/bytecode/{part}.py", "a") as source:
        source.write("\nVERSION = 2\n")
    version = f"import lamina.bytecode.{part} as p; print(getattr(p, 'VERSION', 1))"
    assert installed.run(version) == "2\n"
    assert installed.run(version, WORD).startswith("2\nold ")
    assert installed.run(version, WORD) == "2\nold Loader\n"


def test_a_module_that_was_removed_is_gone_and_one_that_became_a_package_is_one(installed: Installed) -> None:
    installed.run(WORD, "import lamina.cli.spin")
    (installed.site / "lamina/cli/spin.py").unlink()
    (installed.site / "lamina/cli/words.py").unlink()
    installed.write("cli/words/__init__", "WORD = 'package'")
    gone = "try: import lamina.cli.spin\nexcept ModuleNotFoundError as e: print(e.name)"
    assert installed.run(gone, WORD) == "lamina.cli.spin\npackage SourceFileLoader\n"
    assert installed.run(gone, WORD) == "lamina.cli.spin\npackage Loader\n"
    installed.write("cli/spin", "")  # what was not there is looked for by Python, and found when it is
    assert installed.run("import lamina.cli.spin; print('found')") == "found\n"


def test_what_others_added_meanwhile_is_kept(installed: Installed) -> None:
    """A command that began before another one wrote what it had loaded, and ends, and writes, after it."""
    begin = [sys.executable, "-I", "-S", str(installed.site / "lamina/isolated.py"), "cli"]
    words = ["import lamina.cli.spin", "sys.stdin.read()"]
    with subprocess.Popen([*begin, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert installed.run(WORD) == "old SourceFileLoader\n"
        first.communicate(timeout=200)
    spin = "import lamina.cli.spin; print(type(lamina.cli.spin.__loader__).__name__)"
    assert installed.run(WORD, spin) == "old Loader\nLoader\n"


def test_what_is_not_there_does_not_have_it_written_again_and_again(installed: Installed) -> None:
    missing = "try: import lamina.cli.nothing\nexcept ModuleNotFoundError: print('no')"
    assert installed.run(missing) == "no\n"
    before = installed.archive.stat().st_ino
    assert installed.run(missing) == "no\n"
    assert installed.archive.stat().st_ino == before


def damaged(data: bytes) -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    head = 64 + int.from_bytes(data[56:64], "little")
    pieces = (head + 4096) // 4096 * 4096
    for length in (1, 3, 4, 55, 56, 60, 63, 64, 65, 1000, head - 1, head, pieces + 5, len(data) - 1):
        yield f"cut off after {length}", data[:length]
    yield "of another Python", bytes([data[0] ^ 1]) + data[1:]
    yield "of another finder", data[:20] + b"0" + data[21:]
    yield "with a head of zeros", data[:64] + bytes(len(data) - 64)
    yield "with another head", data[:64] + b"N" + data[65:]
    yield "with another head of three", data[:64] + b"(\x03\0\0\0NNN" + data[73:]
    for length in (0, 1, len(data), 1 << 40, 1 << 63):
        yield f"with a head of {length}", data[:56] + length.to_bytes(8, "little") + data[64:]
    yield "with pieces that are no code", data[:head] + data[head:].replace(b"\xe3", b"N")
    yield "with pieces of zeros", data[:head] + bytes(len(data) - head)
    yield "of text", b"hello\n" * 50_000


def test_one_that_is_damaged_is_as_good_as_none_and_is_written_anew(installed: Installed) -> None:
    installed.run(WORD)
    whole = installed.archive.read_bytes()
    for what, data in damaged(whole):
        installed.archive.write_bytes(data)
        assert installed.run(WORD).startswith("old "), what
        assert installed.run(WORD) == "old Loader\n", what


def test_a_directory_in_its_place_does_no_harm(installed: Installed) -> None:
    installed.archive.mkdir(parents=True)
    assert installed.run(WORD) == installed.run(WORD) == "old SourceFileLoader\n"
    assert installed.leftovers() == []


def test_a_compiled_isolated_in_its_place_is_replaced(installed: Installed) -> None:
    """What installers that compile all modules put there."""
    py_compile.compile(str(installed.site / "lamina/isolated.py"), str(installed.archive))
    assert installed.run(WORD) == "old SourceFileLoader\n"
    assert installed.run(WORD) == "old Loader\n"


def test_python_that_is_not_to_write_compiled_modules_does_not_write_it(installed: Installed) -> None:
    assert installed.run(WORD, options=("-B",)) == "old SourceFileLoader\n"
    assert not installed.archive.parent.exists()


@pytest.mark.root
def test_who_may_not_write_the_directory_does_without_and_may_read_it(rootless: Rootless) -> None:
    installed = Installed(rootless.tmp / "site")
    begin = [sys.executable, "-I", "-S", str(installed.site / "lamina/isolated.py"), "cli"]

    def run_by_user(*words: str) -> str:
        done = rootless.run(*begin, *words)
        assert (done.returncode, done.stderr) == (0, "")
        return str(done.stdout)

    assert run_by_user(WORD) == "old SourceFileLoader\n"
    assert not installed.archive.exists()
    installed.run(WORD)
    assert run_by_user(WORD) == "old Loader\n"
    before = installed.archive.stat().st_ino
    assert run_by_user("import lamina.cli.deep.down as d; print(d.DEEP)") == "1\n"
    assert installed.archive.stat().st_ino == before


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0, 0o664)])
def test_its_mode_is_that_of_a_compiled_module(installed: Installed, umask: int, mode: int) -> None:
    for path in (installed.site / "lamina").rglob("*.py"):
        path.chmod(0o664)
    installed.run(WORD, umask=umask)
    compiled = installed.archive.with_name(f"__init__.{TAG}.pyc")
    assert installed.archive.stat().st_mode & 0o777 == compiled.stat().st_mode & 0o777 == mode


def test_modules_that_python_proves_by_a_hash_are_left_to_it(installed: Installed) -> None:
    source = installed.site / "lamina/cli/words.py"
    py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    assert installed.run(WORD) == "old SourceFileLoader\n"
    before = installed.archive.stat().st_ino
    assert installed.run(WORD) == "old SourceFileLoader\n"
    assert installed.archive.stat().st_ino == before
    times = (source.stat().st_atime_ns, source.stat().st_mtime_ns)
    source.write_text(source.read_text().replace("old", "new"))
    os.utime(source, ns=times)  # what a time cannot tell
    assert installed.run(WORD) == "new SourceFileLoader\n"


def test_a_package_that_was_moved_says_where_it_is_now(installed: Installed, tmp_path: Path) -> None:
    installed.run("import lamina.cli.spin")
    (tmp_path / "lamina").rename(tmp_path / "elsewhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "other/lamina")
    installed.site = tmp_path / "other"
    code = "import lamina.cli.spin as s; print(type(s.__loader__).__name__, s.fail.__code__.co_filename, s.__file__)"
    path = f"{tmp_path}/other/lamina/cli/spin.py"
    assert installed.run(code) == f"Loader {path} {path}\n"


def test_commands_that_write_it_at_once_leave_one_that_is_whole(installed: Installed) -> None:
    words = [WORD, "import lamina.cli.spin", "import lamina.cli.deep.down", WORD] * 2
    argv = [sys.executable, "-I", "-S", str(installed.site / "lamina/isolated.py"), "cli"]
    for _ in range(3):
        installed.archive.unlink(missing_ok=True)
        running = [subprocess.Popen([*argv, word], stdout=subprocess.PIPE) for word in words]
        for process in running:
            output, _ = process.communicate(timeout=200)
            assert process.returncode == 0 and output in (b"", b"old SourceFileLoader\n", b"old Loader\n")
        assert installed.leftovers() == []
        installed.run(WORD)
        assert installed.run(WORD) == "old Loader\n"


def test_another_archive_that_takes_its_place_meanwhile_is_not_mistaken_for_it(installed: Installed) -> None:
    """The index of one with pieces of the other: each piece says which archive it is of."""
    installed.run(WORD)
    other = installed.archive.read_bytes()
    installed.run("import lamina.cli.spin")
    code = f"open({str(installed.archive)!r}, 'wb').write(bytes.fromhex(sys.stdin.read()))"
    missed = "print(sorted(sys.meta_path[0].missed))"
    assert installed.run(missed, code, WORD, missed, input=other.hex()) == (
        "[]\nold Loader\n['lamina.cli.words']\n"  # what the archive does not give, Python does
    )
    assert installed.run(WORD, missed) == "old Loader\n[]\n"


def test_no_descriptor_of_it_stays_open(installed: Installed) -> None:
    for _ in range(2):
        opened = installed.run("import lamina.cli.words, os; print(*map(int, os.listdir('/proc/self/fd')))")
        assert len(opened.split()) == 4  # the standard streams, and the directory itself


def test_what_a_killed_writer_left_is_removed_later(installed: Installed) -> None:
    installed.run(WORD)
    old, new = (installed.archive.with_name(f"{installed.archive.name}.{n}") for n in (1, 2))
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 1000,) * 2)
    installed.run("import lamina.cli.spin")
    assert installed.leftovers() == [new.name]  # whose writer may be at it yet


@pytest.mark.parametrize("words", [["cli", "version"], ["cli", "ps", "--help"], ["runtime_cli", "--version"]])
def test_commands_load_the_same_modules_with_it_and_without(words: list[str], tmp_path: Path) -> None:
    site, report = tmp_path / "site", tmp_path / "report"
    shutil.copytree(SRC / "lamina", site / "lamina", ignore=shutil.ignore_patterns("__pycache__"))
    entry = site / f"lamina/{words[0]}/entry.py"
    with open(entry, "a") as source:
        source.write(f"\n_run = run\ndef run():\n    status = _run()\n    open({str(report)!r}, 'w')"
                     ".write('\\n'.join(sorted(sys.modules)))\n    return status\n")  # fmt: skip
    loaded, said = [], []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(site / "lamina/isolated.py"), *words],
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        said.append((done.returncode, done.stdout, done.stderr))
        loaded.append({name for name in report.read_text().split() if "lamina.bytecode" not in name})
    assert said[0] == said[1] == said[2] and said[0][0] == 0
    assert loaded[0] == loaded[1] == loaded[2] and len(loaded[0]) > 20


def test_a_module_that_is_nowhere_is_not_found_and_site_is_asked_once() -> None:
    code = (
        "import sys; from lamina.bytecode import finder; sys.meta_path.append(finder.Site)\n"
        "try:\n    import _winapi\n"
        "except ModuleNotFoundError: print('site' in sys.modules)\n"
        "for _ in range(2):\n"
        "    try:\n        import no_such_module_anywhere\n"
        "    except ModuleNotFoundError: print('not found', finder.Site in sys.meta_path, 'site' in sys.modules)\n"
        "import click; print(click.__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(SRC)!r})\n{code}"],
        capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip
    assert done.stdout == "False\nnot found False True\nnot found False True\nclick\n"


# -- what comes with a verb

FIRST = (
    "FIRST = {'lamina.cli.spin': 'lamina.cli.deep lamina.cli.words lamina.cli.deep.down lamina.cli.nosuch'}"
)
BROUGHT = """import lamina.cli.spin
print(sorted(n for n in sys.modules if n.startswith(('lamina.cli.deep', 'lamina.cli.words'))))"""
ALL = "['lamina.cli.deep', 'lamina.cli.deep.down', 'lamina.cli.words']\n"
OWN = "['lamina.cli.words']\n"


@pytest.fixture
def grouped(installed: Installed) -> Installed:
    """With an archive in which what a verb imports lies together."""
    installed.write("cli/first", FIRST)
    assert installed.run(BROUGHT) == OWN
    installed.run("import lamina.cli.deep.down")
    return installed


def test_what_a_verb_imports_comes_with_it(grouped: Installed) -> None:
    assert grouped.run(BROUGHT) == ALL
    assert grouped.run(BROUGHT, LOADERS) == f"{ALL}{grouped.run('import lamina.cli.spin', LOADERS)}"
    assert grouped.run("import lamina.cli.words", "print('lamina.cli.deep' in sys.modules)") == "False\n"
    down = "import lamina.cli.spin, lamina.cli as c; print(c.deep.down.DEEP, c.words.WORD)"
    assert grouped.run(down) == "1 old\n"
    seen = grouped.run(f"import lamina.cli.spin{SEEN}", "print('lamina.cli.deep' in sys.modules)")
    grouped.archive.rename(grouped.archive.with_suffix(".aside"))
    assert seen == grouped.run(f"import lamina.cli.spin{SEEN}", "print(True)", options=("-B",))
    grouped.archive.with_suffix(".aside").rename(grouped.archive)
    reload = "import importlib, lamina.cli.words as w; w.WORD = 'changed'; print(importlib.reload(w).WORD)"
    assert grouped.run("import lamina.cli.spin", reload) == "old\n"


def test_what_has_changed_does_not_come_with_it(grouped: Installed) -> None:
    grouped.write("cli/words", "class Word(str): pass\nWORD = 'newer'")
    said = "import lamina.cli.spin, lamina.cli.words as w; print(w.WORD)"
    assert grouped.run(BROUGHT, said) == "['lamina.cli.deep', 'lamina.cli.words']\nnewer\n"
    assert grouped.run(BROUGHT, said) == f"{ALL}newer\n"


def test_what_cannot_be_executed_is_left_to_who_asks_for_it(grouped: Installed) -> None:
    text = "import os\nif 'FAIL' in os.environ: raise ValueError('failed')\nclass Word(str): pass\n"
    grouped.write("cli/words", text)
    for _ in range(2):
        assert grouped.run("import lamina.cli.spin, lamina.cli.deep.down") == ""
    asked = "try: import lamina.cli.spin\nexcept ValueError as e: print(e, 'lamina.cli.words' in sys.modules)"
    assert grouped.run(asked, env={**os.environ, "FAIL": "1"}) == "failed False\n"
    grouped.write("cli/words", "class Word(str): pass\nimport lamina.cli.spin\n")  # a circle
    for _ in range(3):
        for first, second in (("words", "spin"), ("spin", "words")):
            asked = f"import lamina.cli.{first}, lamina.cli.{second} as m; print(m.Word.__name__)"
            assert grouped.run(asked) == "Word\n"


def test_damage_to_what_comes_with_a_verb_is_passed_by(grouped: Installed) -> None:
    data = grouped.archive.read_bytes()
    assert grouped.run(BROUGHT) == ALL
    for broken in (data[:-20], data[:-40] + b"x" * 40, data[:-100]):
        grouped.archive.write_bytes(broken)
        assert grouped.run(BROUGHT) in (OWN, ALL)


def test_any_number_of_modules_is_kept(installed: Installed) -> None:
    """Also names of which there is nothing. (The index had 64 KiB once; when these were full nothing was added.)"""
    installed.run(WORD)
    many = "for n in range(1500):\n try: __import__(f'lamina.cli.nosuch_{n:0100}')\n except ImportError: pass"
    installed.run(many)
    assert installed.archive.stat().st_size > 1500 * 100
    before = installed.archive.stat()
    assert installed.run(WORD) == "old Loader\n"
    installed.run("import lamina.cli.deep.down")
    assert installed.archive.stat().st_ino != before.st_ino
    assert installed.run("import lamina.cli.deep.down as d; print(type(d.__loader__).__name__)") == "Loader\n"
