"""Builds the one piece of native code. Everything else is in pyproject.toml.

The extension is optional: where there is no C compiler Lamina works without it (see `lamina info`),
so a failing build is a warning, not an error.
"""

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel


class abi3_wheel(bdist_wheel):
    """One wheel serves every Python from 3.11 on: the extension keeps to the limited API."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return ("cp311", "abi3", platform) if python.startswith("cp") else (python, abi, platform)


setup(
    ext_modules=[
        Extension(
            "lamina.linux._native",
            ["src/lamina/linux/_native.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-O2", "-Wall", "-Wextra", "-std=gnu11"],
            py_limited_api=True,
            optional=True,
        )
    ],
    cmdclass={"bdist_wheel": abi3_wheel},
)
