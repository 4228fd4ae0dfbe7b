"""Links are made from within a container's network namespace too, where somebody else may have CAP_NET_ADMIN."""

from __future__ import annotations

import struct
from errno import ENODEV

import pytest

from lamina.errors import KernelError
from lamina.linux.constants import CLONE_NEWNET
from lamina.linux.namespaces import unshare
from lamina.linux.netlink import HEADER, NLMSG_ERROR, open_channel
from lamina.linux.rtnetlink import links
from support.namespaces import in_mount_namespace

pytestmark = pytest.mark.root


@pytest.mark.parametrize("count", [1, 20])
def test_what_others_send_is_taken_for_no_answer_of_the_kernel(count: int) -> None:
    """Whoever says that all went well would have a link taken for made, or rules for changed."""

    def inner() -> int:
        unshare(CLONE_NEWNET)
        with open_channel() as channel, open_channel() as stranger:
            channel.settimeout(100)
            channel.bind((0, 0))
            said = struct.pack("=i", 0) + HEADER.pack(HEADER.size, 0, 0, 1, 0)
            for _ in range(count):
                answer = HEADER.pack(HEADER.size + len(said), NLMSG_ERROR, 0, 1, 0) + said
                assert stranger.sendto(answer, (channel.getsockname()[0], 0)) == len(answer)
            try:
                links(channel, name="nosuch")
            except KernelError as error:
                return error.errno or 0
        return 0

    assert in_mount_namespace(inner) == ENODEV
