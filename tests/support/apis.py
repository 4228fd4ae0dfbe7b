"""The two ways of mounting a stack, for tests of both."""

from __future__ import annotations

import pytest

# the kernels whose overlayfs takes layers one by one, and mounts as a descriptor
one_by_one = pytest.mark.kernel("6.8")
both_apis = pytest.mark.parametrize("api", [pytest.param("new", marks=one_by_one), "mount2"])
