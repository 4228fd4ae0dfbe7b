"""Finds Lamina's modules in the archive of compiled ones (`archive`), and leaves what is not there to Python.

Python looks for each module in several directories, and opens, measures and reads a file: a tenth of a millisecond for
each of sixty. Here one `stat` proves that the source is the one that was compiled, as Python itself proves it, and the
code is read from a file whose index is read once. Whatever is not as it should be is no error: then Python's finders
are asked. What modules look like (`__spec__`, `__file__`, sources, resources) is what these would have made of them.

What a face begins with, and what a verb that is called often imports anyway, lies together in some more pieces
(decision 0077): when its module is asked for, these are read and executed, each module after those that it imports.
Importlib is not asked for it then; what goes wrong is left to it, and happens again.

The archive is opened for each module, instead of once: a descriptor that stays open could be taken for one that a
caller handed to a container.
"""

from __future__ import annotations

import gc
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader, PathFinder, SourceFileLoader
from _imp import _fix_co_filename  # type: ignore[attr-defined]
from marshal import loads
from posix import O_CLOEXEC, O_RDONLY, W_OK, access, close, open, pread, stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

    # a module's file below the package, its mtime in nanoseconds and its size; where in the archive its piece is, and
    # how long that is (0: an extension module, which is not there). None for a module that is to be left to Python.
    Index = dict[str, tuple[str, int, int, int, int] | None]
    # by the module of a face or a verb: where the pieces with what it imports are, and how long each is
    Firsts = dict[str, tuple[tuple[int, int], ...]]

UNKNOWN = ("/nothing", 0, 0, 0, 0)
# of random bytes, before each piece of an archive: whoever opened another archive than that of the index finds out
TAG = 16


def start(here: str, tag: bytes = b"", index: Index | None = None, firsts: Firsts | None = None) -> int:
    """Do what the command line says, by the face whose room (`cli`, `runtime_cli`) is its first word; the exit status.

    `here` is the directory of the package; `tag`, `index` and `firsts` are of the archive, if there is one.
    """
    # importing makes many objects and no garbage: looking for some after every 700 is a tenth of a start
    gc.set_threshold(100_000)
    finder = Finder(here, tag, index or {}, firsts or {})
    sys.meta_path.insert(0, finder)
    sys.meta_path.append(Site)
    if finder.parent not in sys.path:
        sys.path.append(finder.parent)
    entry = f"lamina.{sys.argv.pop(1)}.entry"
    for offset, length in finder.firsts.pop(entry, ()):
        finder.bring(offset, length)
    __import__(entry)
    status: int = sys.modules[entry].run()
    finder.keep()
    return status


CODE, MODULE = type(start.__code__), type(sys)


class Finder:
    """The first to be asked for a module; knows those of the archive. `missed`: what was not there, or not any more."""

    def __init__(self, here: str, tag: bytes, index: Index, firsts: Firsts) -> None:
        self.here, self.tag, self.index, self.firsts = here, tag, index, firsts
        self.parent = here.rpartition("/")[0]
        self.ending = f".{sys.implementation.cache_tag}.pyc"
        # where Python would keep the compiled isolated.py, if that were not a script: who removes or installs Lamina
        # knows that name
        self.archive = f"{here}/__pycache__/isolated{self.ending}"
        self.missed: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """As importlib has it (`MetaPathFinder`); None for what is not in the archive, or not any more."""
        if name[:7] != "lamina." and name != "lamina":
            return None
        if name in self.firsts:
            pieces, self.firsts = (
                self.firsts[name],
                {},
            )  # a command has one verb, which may import another one's module
            for offset, length in pieces:
                self.bring(offset, length)
        held = self.index.get(name, UNKNOWN)
        if held is None:
            return None
        file, *proof, offset, length = held
        location = self.here + file
        try:
            found = stat(location)
        except OSError:
            found = None
        if found is None or proof != [found.st_mtime_ns, found.st_size]:
            self.missed.add(name)
            return None
        if not length:
            spec = ModuleSpec(name, ExtensionFileLoader(name, location), origin=location)
        else:
            spec = ModuleSpec(name, Loader(self, name, location, offset, length), origin=location)
            spec.cached = self.compiled(location)
            if file[-12:] == "/__init__.py":
                spec.submodule_search_locations = [location[:-12]]
        spec.has_location = True
        return spec

    def bring(self, offset: int, length: int) -> None:
        """Execute the modules in the piece that is there, in its order, as far as they are not there already. One that
        cannot be executed, or is not what it was, is left to whoever asks for it, with all behind it.

        For the beginning of a command, which has one thread: nobody else can ask for a module that is half executed.
        """
        for name, code in self.piece(offset, length) or ():
            parent, _, child = name.rpartition(".")
            if name in sys.modules or (parent and parent not in sys.modules):
                continue
            spec = self.find_spec(name)
            if spec is None or type(spec.loader) is not Loader:
                return
            spec.loader.held = None  # whoever loads it again reads the source
            spec._initializing = False  # type: ignore[attr-defined]  # an import of it asks for that, each time
            if code.co_filename != spec.origin:
                _fix_co_filename(code, spec.origin)
            sys.modules[name] = module = MODULE(name)
            # as importlib has it (module_from_spec), which looks first whether a module has these already
            module.__dict__.update(
                __spec__=spec,
                __loader__=spec.loader,
                __package__=spec.parent,
                __file__=spec.origin,
                __cached__=spec.cached,
            )
            if spec.submodule_search_locations is not None:
                module.__path__ = spec.submodule_search_locations
            try:
                exec(code, module.__dict__)
            except BaseException as error:
                del sys.modules[name]
                if isinstance(error, Exception):
                    return
                raise
            if parent:
                setattr(sys.modules[parent], child, module)

    def compiled(self, source: str) -> str:
        """Where Python keeps what it compiled *source* to, as `importlib.util` says, which is not imported."""
        directory, _, name = source.rpartition("/")
        return f"{directory}/__pycache__/{name[:-3]}{self.ending}"

    def piece(self, offset: int, length: int) -> Any:
        """What is there in the archive: code, or what `bring` takes; None if another archive has taken its place, or
        something is wrong.
        """
        try:
            file = open(self.archive, O_RDONLY | O_CLOEXEC)
            try:
                piece = pread(file, length, offset)
            finally:
                close(file)
            if piece[:TAG] == self.tag:
                return loads(memoryview(piece)[TAG:])
        except Exception:
            pass  # whatever marshal says to something that it did not write
        return None

    def keep(self) -> None:
        """Write the archive anew, with what was loaded now, if it did not have all that was asked for. Never raises."""
        if not self.missed or sys.dont_write_bytecode:
            return
        try:
            if access(f"{self.here}/__pycache__", W_OK):
                from lamina.bytecode.archive import write

                write(self)
        except Exception:
            pass  # Python does not complain either where it cannot write what it compiled


class Loader(SourceFileLoader):
    """Executes a module's code from the archive; in everything else it is what loads any module from its source."""

    def __init__(self, finder: Finder, name: str, path: str, offset: int, length: int) -> None:
        self.name, self.path = name, path
        self.held: tuple[Finder, int, int] | None = (finder, offset, length)

    def get_code(self, fullname: str) -> CodeType | None:
        """The first time, what the finder has just proved; then as Python does, for the source may have changed."""
        held, self.held = self.held, None
        if held is not None:
            finder, offset, length = held
            code: CodeType | None = finder.piece(offset, length)
            if type(code) is CODE:
                if code.co_filename != self.path:
                    _fix_co_filename(code, self.path)
                return code
            finder.missed.add(fullname)
        return super().get_code(fullname)


class Site:
    """The last to be asked for a module: brings the packages in, and asks again. Once."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """As importlib has it; None for what is not a module of its own."""
        # the standard library asks for modules of its own that only other systems have
        if path is not None or name in sys.stdlib_module_names:
            return None
        sys.meta_path.remove(Site)
        import site

        site.main()
        # a user's own packages are left out by -I, and ours may be there with what they need
        parent = __file__.rpartition("/lamina/")[0]
        if parent not in sys.path:
            site.addsitedir(parent)
        return PathFinder.find_spec(name)
