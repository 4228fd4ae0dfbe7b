"""The files of /etc that a container over an image has of its own, as in Docker: hosts, hostname, resolv.conf.

An image cannot know them, and a link that it has in their place leads to nowhere but inside (the mount point is
resolved by the kernel). They are written into the container's directory and bound from there.
"""

from __future__ import annotations

import os

from lamina.runtime.users import own_file

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


def write(home: bytes, hostname: str, network: str) -> None:
    """Write them, readable for everybody. With the host's network they are the host's. Raises OSError."""
    hosts = own_file("/etc/hosts")[:LARGEST] if network == "host" else HOSTS
    contents = (hosts or HOSTS, hostname.encode() + b"\n", own_file("/etc/resolv.conf")[:LARGEST])
    for name, content in zip(NAMES, contents, strict=True):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(home + b"/" + name, flags, 0o644)
        try:
            os.fchmod(descriptor, 0o644)
            while content:
                content = content[os.write(descriptor, content) :]
        finally:
            os.close(descriptor)
