"""Flaws of kernels that concern containers, and in which versions they were mended.

Sources: the CVE records (https://github.com/CVEProject/cvelistV5), Ubuntu's security notices.
"""

from __future__ import annotations

from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.probe import Host


@value
class Flaw:
    """A flaw of Linux from `since` on until `mended`; `stable` tells in which release of an older series it was mended.

    A flaw of Ubuntu's kernels only has its builds instead: `ubuntu` is (series, first build without it).
    """

    cve: str
    what: str
    since: tuple[int, int] = (0, 0)
    mended: tuple[int, int] = (0, 0)
    stable: tuple[tuple[tuple[int, int], int], ...] = ()
    ubuntu: tuple[tuple[tuple[int, int], int], ...] = ()


FLAWS = (
    Flaw(
        "CVE-2015-8660",
        "a user becomes root through an overlay in a user namespace",
        since=(3, 18),
        mended=(4, 4),
    ),
    Flaw(
        "CVE-2016-1576",
        "a user becomes root through an overlay over FUSE",
        since=(3, 18),
        mended=(4, 6),
    ),
    Flaw(
        "CVE-2021-3493",
        "a user becomes root by setting file capabilities through an overlay",
        ubuntu=(((4, 4), 209), ((4, 15), 142), ((5, 4), 72), ((5, 8), 50)),
    ),
    Flaw(
        "CVE-2023-0386",
        "a user becomes root by copying up a set-user-id file from a FUSE file system",
        since=(5, 11),
        mended=(6, 2),
        stable=(((5, 15), 91), ((6, 1), 9)),
    ),
    Flaw(
        "CVE-2023-2640 and CVE-2023-32629",
        "a user becomes root by setting file capabilities through an overlay",
        ubuntu=(((5, 4), 155), ((5, 19), 50), ((6, 0), 1020), ((6, 2), 26)),
    ),
    Flaw(
        "CVE-2024-1086",
        "a user with a user namespace, or root of a container, becomes root through nftables",
        since=(3, 15),
        mended=(6, 8),
        stable=(
            ((4, 19), 307), ((5, 4), 269), ((5, 10), 210), ((5, 15), 149), ((6, 1), 76), ((6, 6), 15), ((6, 7), 3),
        ),
    ),
    Flaw(
        "CVE-2026-31431",
        "whoever can open AF_ALG sockets writes to files that he may only read (Lamina's default filter forbids them)",
        since=(4, 14),
        mended=(7, 0),
        stable=(
            ((5, 10), 254), ((5, 15), 204), ((6, 1), 170), ((6, 6), 137), ((6, 12), 85), ((6, 18), 22), ((6, 19), 12),
        ),
    ),
)  # fmt: skip


def flaws_of(host: Host) -> list[Flaw]:
    """The flaws that the version of the host's kernel suggests; a distribution may have mended them in silence."""
    build = _ubuntu_build(host.release)
    return [
        flaw
        for flaw in FLAWS
        if (
            _in_ubuntu(flaw, host.kernel[:2], build)
            if flaw.ubuntu
            else _in_release(flaw, host.stable_release)
        )
    ]


def _in_release(flaw: Flaw, release: tuple[int, int, int]) -> bool:
    series, patch = release[:2], release[2]
    if not flaw.since <= series < flaw.mended:
        return False
    mended = dict(flaw.stable).get(series)
    return mended is None or patch < mended


def _in_ubuntu(flaw: Flaw, series: tuple[int, ...], build: int | None) -> bool:
    if build is None:
        return False
    mended = dict(flaw.ubuntu).get((series[0], series[1]))
    return mended is not None and build < mended


def _ubuntu_build(release: str) -> int | None:
    """5.19.0-41-generic -> 41. Only Ubuntu's kernels are called so: Debian's end in the architecture."""
    parts = release.split("-")
    ubuntu = (
        len(parts) >= 3 and parts[0].endswith(".0") and parts[1].isdecimal() and parts[-1] in _UBUNTU_FLAVOURS
    )
    return int(parts[1]) if ubuntu else None


_UBUNTU_FLAVOURS = frozenset(
    ("generic", "lowlatency", "virtual", "aws", "azure", "gcp", "gke", "ibm", "kvm", "oem", "oracle", "raspi")
)
