"""Builds the native code: an extension, and the minimal init. Everything else is in pyproject.toml.

Both are optional: where there is no C compiler Lamina works without the extension, executes commands by the listing in
runtime/init, and refuses `--init` (see `lamina info`), so a failing build is a warning, not an error.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

INIT = Path("src/lamina/runtime/init/lamina_init.c")
# a static program that needs no C library, and nothing in it that this compiler would like to add
INIT_COMPILED = [
    "-Os",
    "-Wall",
    "-Wextra",
    "-std=gnu11",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-pie",
]
INIT_COMPILED += ["-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns"]
INIT_LINKED = ["-static", "-nostdlib", "-no-pie", "-s", "-Wl,--build-id=none", "-Wl,-z,noseparate-code"]


class abi3_wheel(bdist_wheel):
    """One wheel serves every Python from 3.11 on: the extension keeps to the limited API."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return ("cp311", "abi3", platform) if python.startswith("cp") else (python, abi, platform)


class build_native(build_ext):
    """Build the extension, then the init beside its source, or beside the package that is being built."""

    def run(self) -> None:
        super().run()
        here = self.inplace or getattr(self, "editable_mode", False)
        target = INIT.parent if here else Path(self.build_lib, *INIT.parent.parts[1:])
        target.mkdir(parents=True, exist_ok=True)
        try:
            # the compiler of the extensions, but not the options that it has for them
            words = self.compiler.compiler_so[:1]
            self.spawn([*words, *INIT_COMPILED, *INIT_LINKED, str(INIT), "-o", str(target / "lamina-init")])
        except (CCompilerError, ExecError, PlatformError, AttributeError) as error:
            self.warn(f"building lamina-init failed: {error}")


setup(
    ext_modules=[
        Extension(
            "lamina.linux._native",
            ["src/lamina/linux/_native.c"],
            depends=["src/lamina/linux/walker.h"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-O2", "-Wall", "-Wextra", "-std=gnu11"],
            py_limited_api=True,
            optional=True,
        )
    ],
    cmdclass={"bdist_wheel": abi3_wheel, "build_ext": build_native},
)
