"""The files of /etc that a container over an image has of its own, as in Docker: hosts, hostname, resolv.conf. One over
the host has the first and the last where it has a link of its own: this host's servers may be nobody's there.

An image cannot know them, and a link that it has in their place leads to nowhere but inside (the mount point is
resolved by the kernel). They are written into the container's directory and bound from there.
"""

from __future__ import annotations

import os

from lamina.runtime.users import own_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.engine.options import Options
    from lamina.network.model import Attachment
    from lamina.store.containers import Home

LARGEST = 1 << 20
HOSTS = b"""127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
NAMES = (b"hosts", b"hostname", b"resolv.conf")


def places(home: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """(path inside, file in the container's directory *home*) of each."""
    return tuple((b"/etc/" + name, home + b"/" + name) for name in NAMES)


def places_over_host(home: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The same over the host: what is not there is not made."""
    return tuple((inside, file) for inside, file in places(home)[::2] if os.path.exists(inside))


def write(
    home: Home,
    hostname: str,
    options: Options,
    attachments: Sequence[Attachment] = (),
    title: str = "",
    *,
    over_host: bool = False,
) -> None:
    """Write them, readable for everybody. With the host's network they are the host's, with another container's that
    one's. *attachments* are the container's places in networks, *title* its name; *over_host*: what else the host
    knows of names stays. Raises OSError, Conflict, NotFound.
    """
    of_host = over_host or options.network == "host"
    hosts = (own_file("/etc/hosts")[:LARGEST] if of_host else HOSTS) or HOSTS
    of_names = options.networking is not None and options.networking.of_names
    if options.network in ("none", "host") and not of_names:
        resolv = own_file("/etc/resolv.conf")[:LARGEST]
    else:
        from lamina.engine import name_files

        if options.network.startswith("container:"):
            other = options.network.partition(":")[2]
            hosts = name_files.shared(home.store, other, b"hosts") or hosts
        hosts = name_files.hosts(hosts, options, hostname, attachments, title)
        resolv = name_files.resolv_conf(options, attachments)
        if options.network.startswith("container:") and not of_names:
            resolv = name_files.shared(home.store, other, b"resolv.conf") or resolv
    contents = (hosts, hostname.encode() + b"\n", resolv)
    for name, content in zip(NAMES, contents, strict=True):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(home.path + b"/" + name, flags, 0o644)
        try:
            os.fchmod(descriptor, 0o644)
            while content:
                content = content[os.write(descriptor, content) :]
        finally:
            os.close(descriptor)
