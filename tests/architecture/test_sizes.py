"""A file that outgrows about 500 lines is two concepts, a function that outgrows about 50 is two functions.

Guidance, not law: this warns and does not fail.
"""

from __future__ import annotations

import ast
import warnings

import pytest

from support.sources import functions, modules

FILE, FUNCTION = 500, 50


@pytest.mark.filterwarnings("default")
def test_files_and_functions_stay_small() -> None:
    for module, path in modules().items():
        if (lines := len(path.read_text().splitlines())) > FILE:
            warnings.warn(f"{module} has {lines} lines", stacklevel=1)
        for name, function in functions(module):
            if (lines := _lines(function)) > FUNCTION:
                warnings.warn(f"{module}.{name} has {lines} lines", stacklevel=1)


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of code: a long docstring makes no function long."""
    first = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
    return (function.end_lineno or 0) - first.lineno + 1
