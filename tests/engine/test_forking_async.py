"""Forks for event loops: the same, awaited; and who is cancelled leaves none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import lamina
from lamina import Engine
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]


def test_forks_are_awaited(engine: Engine, store_root: Path) -> None:
    small_image(store_root)

    async def session() -> set[str]:
        async with lamina.AsyncEngine(store_root).start("tiny", ["sleep", "1000"], stop_timeout=0) as box:
            await box.exec(["sh", "-c", "echo one >/srv"], check=True)
            [snapshot] = [await box.snapshot("one")]
            forks = await box.fork(2, name="try", start=True)
            said = [
                (await one.exec(["cat", "/srv"], capture_output=True, text=True, check=True)).stdout
                for one in forks
            ]
            assert said == ["one\n", "one\n"]
            async with await snapshot.start(["sleep", "100"]) as one:
                assert await one.status == "running"
            work = asyncio.ensure_future(box.fork(8, name="cancelled", start=True))
            await asyncio.sleep(0.01)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            names = {one.name for one in engine.containers(all=True)}
            for one in forks:
                await one.remove(force=True)
            return names - {box.name}

    assert asyncio.run(session()) == {"try-1", "try-2"}
