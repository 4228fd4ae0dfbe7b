"""The list of docker's flags is that of the docker of the peers root."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from support.docker_flags import FLAGS
from support.peers import PeerRoot

HELP = re.compile(r"\s{1,6}(?:-(\w), |    )?--([a-z0-9][a-z0-9-]*)(?: (\S+))?(?:\s{2,}|$)")


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.peer("unshare", "nsenter", "mount")
def test_the_list_is_docker_s(make_peer_root: Callable[..., PeerRoot]) -> None:
    """What the docker of the peers root prints for --help is what the file has, flag by flag."""
    root = make_peer_root()
    verbs = list(dict.fromkeys(flag.verb for flag in FLAGS))
    script = "; ".join(f"echo '# {verb}'; docker {verb} --help" for verb in verbs)
    found: set[tuple[str, str, str, bool]] = set()
    verb, within = "", False
    for line in root.run(["sh", "-c", script], check=True, timeout=280).stdout.splitlines():
        if line.startswith("# "):
            verb, within = line[2:], False
        elif line.endswith(":") and not line[0].isspace():
            within = line == "Options:"
        elif within and (match := HELP.match(line)) and match[2] != "help":
            found.add((verb, match[2], match[1] or "", bool(match[3])))
    assert found == {flag[:4] for flag in FLAGS}
