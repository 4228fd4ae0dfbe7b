"""Route netlink messages: as bytes, and against the kernel in a network namespace of the test's own."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import KernelError
from lamina.linux.constants import CLONE_NEWNET
from lamina.linux.namespaces import unshare
from lamina.linux.netlink import (
    ADDRESS,
    HEADER,
    IFLA_IFNAME,
    LINK,
    NLM_F_DUMP,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    attribute,
    attributes,
    request,
)
from support.namespaces import in_mount_namespace


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=40), max_size=6))
def test_attributes_are_read_as_they_were_written(wanted):
    assert attributes(b"".join(attribute(kind, data) for kind, data in wanted.items())) == wanted


@given(st.binary(max_size=60))
def test_whatever_bytes_are_no_endless_loop(data):
    attributes(data)


def test_attributes_are_aligned():
    assert len(attribute(1, b"abc")) % 4 == 0
    assert struct.unpack_from("=HH", attribute(7, b"abcde")) == (9, 7)
    assert (HEADER.size, LINK.size, ADDRESS.size) == (16, 16, 8)


@pytest.mark.root
def test_the_kernel_answers():
    def inner():
        unshare(CLONE_NEWNET)
        channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        try:
            found = request(channel, RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, b"lo\0"))
            every = request(channel, RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0), NLM_F_DUMP)
            up = LINK.unpack_from(found[0][1])[2]
            request(channel, RTM_NEWLINK, LINK.pack(0, 0, up, 1, 1))
            addresses = request(channel, RTM_GETADDR, ADDRESS.pack(0, 0, 0, 0, 0), NLM_F_DUMP)
            with pytest.raises(KernelError, match="netlink the moon: No such device") as caught:
                request(channel, RTM_GETLINK, LINK.pack(0, 0, 999, 0, 0), target="the moon")
            assert caught.value.errno == 19
        finally:
            channel.close()
        return up, len(every), {kind for kind, _ in addresses}

    up, count, kinds = in_mount_namespace(inner)
    assert (up, kinds) == (1, {RTM_NEWADDR})
    assert count >= 1
