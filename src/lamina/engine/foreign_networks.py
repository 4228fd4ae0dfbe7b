"""Containers whose link is made by a program that is not ours: pasta and slirp4netns (usermode), CNI's plugins (cni).

The same three steps as `plugging` has, and the same record (network.json), written before anything is made. What the
container's addresses are is known once the program has made them, while the container still waits: then its /etc/hosts
and /etc/resolv.conf are written once more.
"""

from __future__ import annotations

from lamina.engine import cni, cni_lists, usermode
from lamina.engine.network_record import Ledger
from lamina.errors import LaminaError, Unsupported
from lamina.network import links
from lamina.network.usermode import PROGRAMS, listens
from lamina.store.lock import LOCK_EX, turn
from lamina.store.networks import prepare
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lamina.engine.networking import Networking
    from lamina.engine.options import Options
    from lamina.linux.fd import Fd
    from lamina.network.model import Attachment
    from lamina.store.containers import Home

    Told = Callable[[list[Attachment]], None]


def check(options: Options) -> None:
    """Whether a container with these *options* can be had here. Raises Unsupported, NotFound, InvalidInput."""
    if options.network in PROGRAMS:
        usermode.check(options.network)
        _check_beside(options)
    else:
        cni.check(options.network.removeprefix(cni_lists.PREFIX), _wanted(options))


def _check_beside(options: Options) -> None:
    pid = options.further.pid if options.further else ""
    if why := usermode.why_not_beside(pid):
        raise Unsupported(
            f"run: network {options.network} with --pid {pid}: {why}",
            remedy=f"take --network {pid}, or --network none",
        )


def _wanted(options: Options) -> Networking:
    from lamina.engine.networking import NOTHING

    return options.networking or NOTHING


def take(ledger: Ledger, title: str, options: Options) -> None:
    """Write down where the container is to be. Raises as `check`, KernelError."""
    prepare(ledger.home.store)
    network = options.network
    if network in PROGRAMS:
        _check_beside(options)
        ledger.note(usermode.place(ledger.home, title, network, _wanted(options).words))
    else:
        ledger.note(cni.place(ledger.home, title, network.removeprefix(cni_lists.PREFIX)))


def families(attachment: Attachment) -> set[int]:
    """For which lengths of addresses its ports are published; those of its addresses are not known so far."""
    return usermode.families(attachment.network.maker)


def connection(
    home: Home, attachments: Sequence[Attachment], options: Options, told: Told
) -> Callable[[int, Fd], None]:
    """What makes the link of a process that waits for it (`Bundle.connect`). Raises LaminaError."""

    def connect(pid: int, inside: Fd) -> None:
        [planned] = attachments
        if planned.network.maker == cni.CNI:
            found = cni.connect(home, planned, _wanted(options), pid)
        else:
            with links.around(inside) as channel:
                found = usermode.connect(home, planned, pid, channel)
        with turn(home.path, LOCK_EX):
            ledger = Ledger.of(home)
            for one in ledger.attachments:  # somebody may have renamed it meanwhile
                found = replace(found, title=one.title)
            ledger.note(found)
        told([found])

    return connect


def withdraw(home: Home, attachment: Attachment) -> None:
    """Give back what the program made, of a container that does not run. Raises LaminaError, KernelError."""
    if attachment.network.maker == cni.CNI:
        cni.withdraw(home)
    else:
        network = attachment.network
        usermode.withdraw(home, listening=bool(attachment.published) or listens(network.maker, network.words))


def complaint(home: Home, attachment: Attachment, pid: int) -> str:
    """What is wrong with the network of the container, whose first process is *pid*; "" for nothing."""
    if attachment.network.maker == cni.CNI:
        return cni.complaint(home, pid)
    return "" if usermode.helper_of(home) else f"its {attachment.network.maker} has ended"


def mend(home: Home, attachment: Attachment, pid: int) -> None:
    """Start the helper of a container that runs anew. Raises LaminaError for what nobody but its owner can mend."""
    if attachment.network.maker == cni.CNI:
        raise LaminaError(
            f"container {home.shown}: CNI's plugins have nothing that mends",
            remedy="restart the container",
        )
    usermode.restore(home, attachment, pid)
