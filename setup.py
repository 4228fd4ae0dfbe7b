"""Builds the native code: an extension, the minimal init, the client, and what waits for a supervisor or a container.
Everything else is in pyproject.toml.

All are optional: where there is no C compiler Lamina works without the extension, executes commands by the listing in
runtime/init, refuses `--init` (see `lamina info`), is started by scripts, and its supervisors stay as large as they
are; so a failing build is a warning, not an error.
"""

import json
from glob import glob
from pathlib import Path

from setuptools import Extension, setup  # first: it brings distutils along
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

from distutils.command.build_scripts import build_scripts  # isort: skip

COMMANDS = ("lamina", "lamina-runtime")
INIT, CLIENT = Path("src/lamina/runtime/init/lamina_init.c"), Path("src/lamina/cli/client.c")
# what a supervisor is while nothing happens, and who keeps a helper of a container
IDLE, TETHER = Path("src/lamina/supervisor/idle.c"), Path("src/lamina/supervisor/tether.c")
# static programs that need no C library, and nothing in them that this compiler would like to add
FREESTANDING = [
    "-Os",
    "-Wall",
    "-Wextra",
    "-std=gnu11",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-pie",
    "-fno-asynchronous-unwind-tables",
    "-fno-tree-loop-distribute-patterns",
]
LINKED = ["-static", "-nostdlib", "-no-pie", "-s", "-Wl,--build-id=none", "-Wl,-z,noseparate-code"]
# What the client is where there is no compiler. A script of the shell's: where the path of Python is long or contains
# a space, only the scripts that installers write themselves get a first line that works.
SCRIPT = """#!/bin/sh
self=$(readlink -f -- "$0") && exec "$self-python" "$@"
echo "lamina: cannot find out where it is installed (is readlink there?)" >&2
exit 125
"""


class abi3_wheel(bdist_wheel):
    """One wheel serves every Python from 3.11 on: the extension keeps to the limited API."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return ("cp311", "abi3", platform) if python.startswith("cp") else (python, abi, platform)


BUILD_ERRORS = (CCompilerError, ExecError, PlatformError, AttributeError)


def compile_freestanding(command: build_ext, source: Path, target: Path, *options: str) -> None:
    """With the compiler of the extensions, but not the options that it has for them."""
    words = command.compiler.compiler_so[:1]
    command.spawn([*words, *FREESTANDING, *options, *LINKED, str(source), "-o", str(target)])


class build_native(build_ext):
    """Build the extension, then the small programs beside their sources, or beside the package that is being built."""

    def run(self) -> None:
        super().run()
        here = self.inplace or getattr(self, "editable_mode", False)
        for source, name in ((INIT, "lamina-init"), (IDLE, "lamina-idle"), (TETHER, "lamina-tether")):
            target = source.parent if here else Path(self.build_lib, *source.parent.parts[1:])
            target.mkdir(parents=True, exist_ok=True)
            try:
                compile_freestanding(self, source, target / name)
            except BUILD_ERRORS as error:
                self.warn(f"building {name} failed: {error}")


class build_client(build_scripts):
    """The commands: a compiled client (client.c) that starts Python; scripts where it cannot be built."""

    editable_mode = False

    def run(self) -> None:
        self.mkpath(self.build_dir)
        self.run_command("build_ext")  # which finds the compiler
        builder = self.get_finalized_command("build_ext")
        text = json.dumps(str(Path("src").resolve()), ensure_ascii=False)  # in quotes, as C has them as well
        source = [f"-DSOURCE={text}"] if self.editable_mode else []
        for name in COMMANDS:
            program = Path(self.build_dir, name)
            try:
                compile_freestanding(builder, CLIENT, program, *source)
            except BUILD_ERRORS as error:
                self.warn(f"building the client failed: {error}")
                program.write_text(SCRIPT)
            program.chmod(0o755)


setup(
    ext_modules=[
        Extension(
            "lamina.linux._native",
            ["src/lamina/linux/_native.c"],
            depends=sorted(glob("src/lamina/linux/*.h")),
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-O2", "-Wall", "-Wextra", "-std=gnu11"],
            py_limited_api=True,
            optional=True,
        )
    ],
    scripts=[str(CLIENT)],  # in name only: it is what build_client makes of it
    cmdclass={"bdist_wheel": abi3_wheel, "build_ext": build_native, "build_scripts": build_client},
)
