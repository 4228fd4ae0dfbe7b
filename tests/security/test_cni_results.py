"""What a plugin of CNI answers is somebody else's: nothing of it is believed that could not be so."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lamina import Engine
from lamina.errors import LaminaError
from support.leaks import Leaks

pytestmark = pytest.mark.root


def of(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/24"}], **keys}


@pytest.mark.parametrize(
    "answer",
    [
        *(of(ips=[{"address": f"10.1.2.3/{size}"}]) for size in ("-5", "33", "999", "x", "+8", "9" * 5000)),
        of(ips=[{"address": "fd00::1/129"}]),
        of(ips=5),
        of(ips=[{"address": "10.1.2.3/24", "gateway": "10.1.2.1\n"}]),
        of(interfaces=[{"name": "eth0", "sandbox": "/x", "mac": "no"}]),
        of(dns={"nameservers": ["192.0.2.1\noptions x"]}),
        of(dns={"nameservers": "1234"}),
        of(dns={"nameservers": [["192.0.2.1"]]}),
        of(dns={"search": ["\x1b]0;title\x07"]}),
        of(dns={"options": ["a b"]}),
    ],
    ids=lambda answer: json.dumps(answer)[23:70],
)
def test_a_result_that_cannot_be_so_is_refused_and_taken_back(
    store_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    untouched_host: Leaks,
    answer: dict[str, Any],
) -> None:
    """A prefix of -5 was written down as it was: then nobody could read the record, and the plugin was never told that
    the container is gone.
    """
    (tmp_path / "x.conflist").write_text(
        json.dumps({"cniVersion": "1.0.0", "name": "evil", "plugins": [{"type": "evil"}]})
    )
    (tmp_path / "answer").write_text(json.dumps(answer))
    plugin = tmp_path / "evil"
    plugin.write_text(
        f"#!/bin/sh\necho $CNI_COMMAND >>{tmp_path}/told\ncase $CNI_COMMAND in ADD) cat {tmp_path}/answer;; esac\n"
    )
    plugin.chmod(0o755)
    monkeypatch.setenv("NETCONFPATH", str(tmp_path))
    monkeypatch.setenv("CNI_PATH", str(tmp_path))
    engine = Engine(store_root)
    box = engine.create("host", ["true"], network="cni:evil")
    with pytest.raises(LaminaError, match=r"damaged|not an address"):
        box.start()
    box.remove()
    assert (tmp_path / "told").read_text().split() == ["ADD", "DEL"]
    assert os.listdir(store_root / "networks/.cni") == []
