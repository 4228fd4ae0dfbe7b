"""`make bench`: what Lamina's doings cost, as ratios against whatever else does them on this machine.

    sudo make bench
    sudo make bench ARGS="starts --rounds 100"
    sudo make bench ARGS="--json figures.json --markdown docs/performance.md"

Ratios are what counts: the cases of a group are measured in one interleaved run, every case once a round, so that a
busy moment happens to all of them. `ratio` is the median of the ratios within the rounds, `of minima` the ratio of the
shortest times. Nothing outside a temporary directory and a private mount namespace is changed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import crowds
import diffs
import engines
import images
import layers
import mounts
import networks
import starts
import time_travel
from machine import facts
from measure import Case, Failed, Missing, measure, processor_ratio, ratio
from stage import Stage, enter_private_namespace

import runtime

GROUPS = {
    "starts": (starts, 40),
    "runtime": (runtime, 40),
    "mounts": (mounts, 40),
    "diffs": (diffs, 10),
    "layers": (layers, 20),
    "images": (images, 5),
    "engines": (engines, 15),
    "networks": (networks, 20),
    "crowds": (crowds, 3),
    "time-travel": (time_travel, 5),
}
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def main() -> None:
    """See the module's text."""
    asked = arguments()
    if os.geteuid() != 0:
        sys.exit("bench: the other engines and overlay mounts need root: sudo make bench")
    enter_private_namespace()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # what runs is to be ended, and what is written removed
    directory = Path(tempfile.mkdtemp(prefix="lamina-bench-", dir=asked.directory))
    try:
        stage = Stage(directory, asked.own_disk)
        machine = facts(stage.python, directory)
        measured = {}
        for name in asked.group or GROUPS:
            print(f"{name} ...", file=sys.stderr)
            try:
                measured[name] = group(name, stage, asked)
            except Missing as error:
                if asked.group:
                    raise
                print(f"{name}: left out: {error}", file=sys.stderr)
                continue
            print("\n".join(table(name, measured[name])), flush=True)
    except Failed as error:
        sys.exit(f"bench: {error}")
    finally:
        leave(directory)
    if asked.json:
        Path(asked.json).write_text(json.dumps(document(machine, measured), indent=1) + "\n")
    if asked.markdown:
        write_markdown(Path(asked.markdown), machine, measured)


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("group", nargs="*", choices=[*GROUPS, []], help=f"{', '.join(GROUPS)} (default: all)")
    parser.add_argument("--rounds", type=int, help="at most this many rounds a group")
    parser.add_argument(
        "--seconds", type=float, default=90, help="at most this much time a group (default 90)"
    )
    parser.add_argument(
        "--directory", default="/var/tmp", help="where to put stores and layers (default: /var/tmp)"
    )
    parser.add_argument(
        "--own-disk",
        action="store_true",
        help="put stores on file systems of the benchmark's own, as `images` always does",
    )
    parser.add_argument("--json", help="write all samples to this file")
    parser.add_argument("--markdown", help="replace the figures in this document")
    return parser.parse_args()


def group(name: str, stage: Stage, asked: argparse.Namespace) -> list[Case]:
    """The cases of one group, measured."""
    module, rounds = GROUPS[name]
    with ExitStack() as stack:
        cases = list(module.cases(stage, stack))
        measure(cases, asked.rounds or rounds, asked.seconds, getattr(module, "WARM_UP", 2))
    return cases


def table(name: str, cases: list[Case]) -> list[str]:
    """The figures as a Markdown table."""
    by_name = {case.name: case for case in cases}
    processor = any(case.processor for case in cases)
    lines = [
        f"| {name} | median | min | ratio | of minima | to reach | compared with |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    if processor:
        lines = [f"{lines[0]} processor | its ratio |", f"{lines[1]} ---: | ---: |"]
    for case in cases:
        for number, (name, limit) in enumerate(case.compared):
            row = _row(case, by_name.get(name), limit, processor)
            lines.append(f"| {' | '.join(row if not number else [case.name, '', '', *row[3:]])} |")
    return [*lines, f"\n{len(cases[0].samples)} rounds\n"]


def _row(case: Case, reference: Case | None, limit: float | None, processor: bool) -> list[str]:
    """One case beside one that it is compared with."""
    row = [case.name, _figure(case.median, case.unit), _figure(case.best, case.unit)]
    cheaper = None
    if reference is not None:
        paired, of_minima = ratio(case, reference)
        row += [f"{paired:.2f}", f"{of_minima:.2f}", f"{limit}" if limit else case.reach, reference.name]
        cheaper = processor_ratio(case, reference)
    else:
        row += (
            ["1", "1", case.reach, ""] if case.unit == "ms" and not case.alone else ["", "", case.reach, ""]
        )
    if processor:
        row.append(_figure(statistics.median(case.processor), "ms") if case.processor else "")
        row.append("" if cheaper is None else f"{cheaper:.2f}")
    return row


def _figure(value: float, unit: str) -> str:
    """Seconds as milliseconds, bytes as MB."""
    if unit == "ms":
        return f"{value * 1e3:.2f} ms"
    return f"{value / 1e6:.0f} MB" if value >= 1e7 else f"{value / 1e6:.3f} MB"


def document(machine: dict[str, str], measured: dict[str, list[Case]]) -> dict[str, object]:
    """Everything, for a program to read; times in seconds."""
    groups = {
        name: [
            {
                "name": c.name,
                "reference": c.reference,
                "limit": c.limit,
                "samples": c.samples,
                "processor": c.processor,
            }
            for c in cases
        ]
        for name, cases in measured.items()
    }
    return {"machine": machine, "groups": groups}


def write_markdown(path: Path, machine: dict[str, str], measured: dict[str, list[Case]]) -> None:
    """Put the tables between the two marks of a document."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = [BEGIN, ""]
    for name, cases in measured.items():
        lines += table(name, cases)
    lines += [f"* {name}: {fact}" for name, fact in machine.items()]
    path.write_text(before + "\n".join(lines) + f"\n\n{END}" + after)


def leave(directory: Path) -> None:
    """Remove what was written. What was mounted in it goes with the namespace, but it must not be walked into."""
    with open("/proc/self/mountinfo") as mounted:
        targets = [line.split()[4] for line in mounted]
    for target in sorted((t for t in targets if t.startswith(f"{directory}/")), reverse=True):
        os.system(f"umount -l '{target}'")
    shutil.rmtree(directory, ignore_errors=True)
    for name in ("limits", "plain"):  # what crun leaves if it is interrupted
        shutil.rmtree(f"/run/crun/bench-{name}", ignore_errors=True)
        for cgroup in Path("/sys/fs/cgroup").glob(f"**/lamina-bench-{name}"):
            with suppress(OSError):
                cgroup.rmdir()


if __name__ == "__main__":
    main()
