"""Where a command begins when its client has started Python: `python -I -S .../isolated.py ROOM ...` (cli/client.c).

Isolated from the environment, and without `site`, which looks for packages and executes what they put into .pth files.
Who needs more than the standard library gets it when the first such module is asked for.
"""

import gc
import sys

# importing makes many objects and no garbage: looking for some after every 700 is a tenth of a start
gc.set_threshold(100_000)

HERE = __file__.rpartition("/lamina/isolated.py")[0]


class Site:
    """The last to be asked for a module: brings the packages in, and asks again. Once."""

    @staticmethod
    def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
        """As importlib has it; None for what is not a module of its own."""
        # the standard library asks for modules of its own that only other systems have
        if path is not None or name in sys.stdlib_module_names:
            return None
        sys.meta_path.remove(Site)
        import site
        from importlib.machinery import PathFinder

        site.main()
        if (
            HERE not in sys.path
        ):  # a user's own packages are left out by -I, and ours may be there with what they need
            site.addsitedir(HERE)
        return PathFinder.find_spec(name)


if __name__ == "__main__":
    sys.meta_path.append(Site)
    sys.path.append(HERE)
    entry = f"lamina.{sys.argv.pop(1)}.entry"  # `cli` or `runtime_cli`
    __import__(entry)
    sys.modules[entry].main()
