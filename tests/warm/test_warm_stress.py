"""All verbs from several processes at once by way of warm processes, and with these, and everybody else, killed."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from support.small_images import small_image
from support.sources import REPOSITORY
from support.warm import House
from support.workers import WORKERS, work

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox", "unshare")]


@pytest.mark.parametrize("fire", [False, True])
def test_all_verbs_by_warm_processes(house: House, seed: int, fire: bool) -> None:
    root = Path(house.env["LAMINA_ROOT"])
    small_image(root)
    house.warm_up()
    enter = partial(house._enter, str(REPOSITORY / "tests"))
    done = work(seed, [str(house.command), "api"], root, fire=fire, env=house.env, enter=enter)
    print(f"killed {done.killed}, noticed {done.upset} times")
    assert (done.complaints, done.confessed) == ([], [])
    assert done.upset == 0 or fire
    assert sum(done.killed.values()) > WORKERS or not fire
    _, out, _ = house.run("ps", "-aq")  # whose supervisors were killed have others now
    for name in out.decode().split():
        assert house.run("rm", "-f", name)[0] == 0
    places = ("containers", "names", "running", "tmp", "claims", "leases")
    left = [path for place in places for path in (root / place).iterdir()]
    assert left == []
    status, out, err = house.run("system", "check")
    assert (status, b"damaged" in out, b"left over" in out, err) == (0, False, False, b"")
    assert [name for name in os.listdir(root) if name.startswith("version.")] == []
