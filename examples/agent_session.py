#!/usr/bin/env python3
"""A session step by step, as an agent works: each step is a state that can be gone back to, and one that fails has
never been.

    python examples/agent_session.py IMAGE 'mkdir /work' 'cd /work && make' ...

Each argument is a step, executed by sh. When one fails, what it wrote is taken back and the session goes on with the
next; the container itself keeps running all the time. At the end the states are listed, and it stands on the last one
that worked; its name is printed first.
"""

from __future__ import annotations

import sys

import lamina


def main(image: str, steps: list[str]) -> int:
    """All steps; how many of them failed."""
    box = lamina.Engine().start(image, ["sleep", "86400"], stop_timeout=0)
    print(box.name)
    failed = 0
    for number, step in enumerate(steps, 1):
        try:
            with box.attempt():
                box.exec(["sh", "-c", step], check=True)
        except lamina.LaminaError as error:
            failed += 1
            print(f"{number}: taken back: {step}", error, sep="\n   ")
        else:
            box.snapshot(f"step-{number}", message=step)
            print(f"{number}: done: {step}")
    for snapshot in box.snapshots():
        print(f"{snapshot.name or snapshot.short_id}: {snapshot.message}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
