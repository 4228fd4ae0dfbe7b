"""Where a command begins when its client has started Python: `python -I -S .../isolated.py ROOM ...` (cli/client.c).

Isolated from the environment, and without `site`, which looks for packages and executes what they put into .pth files.
Python compiles this file anew each time, so it only fetches the module that does the rest, bytecode/finder.py: from the
archive of compiled modules, or, where there is none for this Python and this very source, as Python does.
"""

import sys
from _frozen_importlib_external import MAGIC_NUMBER
from marshal import loads
from posix import _exit, stat

if __name__ == "__main__":
    here = __file__[: -len("/isolated.py")]
    source = f"{here}/bytecode/finder.py"
    try:
        found = stat(source)
        with open(f"{here}/__pycache__/isolated.{sys.implementation.cache_tag}.pyc", "rb", 0) as file:
            header = file.read(64)
            if header[:56] != (b"%blamina %d %d" % (MAGIC_NUMBER, found.st_mtime_ns, found.st_size)).ljust(
                56
            ):
                raise ImportError
            code, *archive = loads(file.read(int.from_bytes(header[56:], "little")))
        finder = {"__name__": "lamina.bytecode.finder", "__file__": source}
        exec(code, finder)
        start = finder["start"]
    except Exception:
        archive = []
        sys.path.append(here[: -len("/lamina")])
        from lamina.bytecode.finder import start  # type: ignore[assignment]
    _exit(start(here, *archive))  # type: ignore[operator]
