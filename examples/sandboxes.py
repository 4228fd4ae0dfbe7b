#!/usr/bin/env python3
"""Fifty sandboxes at once: each gets a command, what they say is collected, and afterwards there is nothing.

    python examples/sandboxes.py                    in fifty sandboxes over this machine's own files
    python examples/sandboxes.py 8 debian:12        in eight of an image

Each sandbox is a container that could be given as many commands as one likes. It ends with the block it was made in;
and if this program is killed (kill -9), its supervisor sees that and removes it: nobody has to clean up.
"""

from __future__ import annotations

import asyncio
import sys

import lamina


async def work(engine: lamina.AsyncEngine, image: str, number: int) -> str:
    """One sandbox: something is written, and read by another command."""
    async with engine.start(image, ["sleep", "3600"], lifetime="owner", stop_timeout=0) as sandbox:
        await sandbox.exec(["sh", "-c", f"echo $(({number} * {number})) >/tmp/answer"], check=True)
        done = await sandbox.exec(["cat", "/tmp/answer"], capture_output=True, text=True, check=True)
        print(f"sandbox {number} is up", file=sys.stderr, flush=True)
        return str(done.stdout).strip()


async def main(count: int, image: str) -> None:
    """All of them at once. If one fails, the group cancels the others, and these clean up after themselves too."""
    engine = lamina.AsyncEngine()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work(engine, image, number)) for number in range(count)]
    for number, task in enumerate(tasks):
        print(f"{number} squared is {task.result()}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 50, sys.argv[2] if sys.argv[2:] else "host"))
