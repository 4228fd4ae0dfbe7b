#!/usr/bin/env python3
"""Best of N: a sandbox is prepared once, forked N times, each fork tries something else, and the best one stays.

    python examples/best_of_n.py                     sixteen forks of a sandbox over this machine's own files
    python examples/best_of_n.py 4 debian:12         four of one of an image

A fork takes milliseconds, whatever was prepared: no file is copied. What each of them writes is its own, and goes with
it. In the end the sandbox becomes what the best one is, still running, and still able to go back; its name is printed.
"""

from __future__ import annotations

import asyncio
import sys

import lamina

# what is prepared: a problem, and who judges an answer to it (here: how near its square is to two million)
PREPARE = """
mkdir -p /task
echo 2000000 >/task/problem
cat >/task/solve <<'END'
low=$(($1 * 100)); problem=$(cat /task/problem)
n=$low; while [ $n -lt $((low + 100)) ] && [ $((n * n)) -lt $problem ]; do n=$((n + 1)); done; echo $n
END
cat >/task/judge <<'END'
off=$(($(cat /task/answer) * $(cat /task/answer) - $(cat /task/problem))); echo ${off#-}
END
"""


async def attempt(fork: lamina.AsyncContainer, number: int) -> int:
    """How far off the answer of one fork is."""
    await fork.exec(["sh", "-c", f"sh /task/solve {number} >/task/answer"], check=True)
    done = await fork.exec(["sh", "/task/judge"], capture_output=True, text=True, check=True)
    return int(done.stdout)


async def main(count: int, image: str) -> None:
    """Prepare, fork, try all at once, keep the best."""
    box = await lamina.AsyncEngine().start(image, ["sleep", "3600"], stop_timeout=0)
    try:
        await box.exec(["sh", "-c", PREPARE], check=True)
        forks = await box.fork(count, start=True)
        try:
            scores = await asyncio.gather(*(attempt(fork, number) for number, fork in enumerate(forks)))
            await box.promote(forks[scores.index(min(scores))], "best")
        finally:
            await asyncio.gather(*(fork.remove(force=True) for fork in forks))
        answer = await (box.files / "task/answer").read_text()
    except BaseException:
        await box.remove(force=True)
        raise
    print(f"{box.name} has the best answer of {count}: {answer.strip()}, off by {min(scores)}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 16, sys.argv[2] if sys.argv[2:] else "host"))
