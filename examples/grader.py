#!/usr/bin/env python3
"""Run programs that nobody has read: each in a sandbox of its own, with limits, its output read as it comes.

    python examples/grader.py answer1.py answer2.py ...

Every program gets two seconds, 128 MiB, 32 processes and no network, over a root that it may write to and that is
thrown away. What it prints is passed on line by line while it runs.
"""

from __future__ import annotations

import asyncio
import sys
from subprocess import PIPE, STDOUT

import lamina


async def grade(engine: lamina.AsyncEngine, path: str) -> str:
    """What became of one program, in words."""
    with open(path, "rb") as program:
        process = await engine.popen(
            "host",
            ["python3", "-I", "-"],
            stdin=program,
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
            errors="replace",
            rm=True,
            user="65534:65534",
            network="none",
            memory="128m",
            pids_limit=32,
        )
    async with process:
        try:
            async with asyncio.timeout(2):
                async for line in process.stdout:
                    print(f"{path}: {line}", end="", flush=True)
                return f"ended with {await process.wait()}"
        except TimeoutError:
            process.kill()
            return "took too long"


async def main(paths: list[str]) -> None:
    """All programs at once, and then a word about each."""
    engine = lamina.AsyncEngine()
    words = await asyncio.gather(*(grade(engine, path) for path in paths))
    for path, word in zip(paths, words, strict=True):
        print(f"{path} {word}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
