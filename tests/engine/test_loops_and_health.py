"""A container in the foreground of an event loop that is looked at whether it is well: a thread stays with it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lamina import AsyncEngine
from support.leaks import Leaks
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]


@pytest.mark.parametrize("health", [{}, {"health_cmd": "true"}])
def test_its_status_is_that_of_the_signal_it_was_sent(
    store_root: Path, untouched_host: Leaks, health: dict[str, str]
) -> None:
    small_image(store_root)

    async def main() -> None:
        process = await AsyncEngine(store_root).popen("tiny", ["sleep", "600"], rm=True, **health)  # type: ignore[call-overload]
        process.terminate()
        assert await process.wait() == 143
        process.kill()

    asyncio.run(main())
