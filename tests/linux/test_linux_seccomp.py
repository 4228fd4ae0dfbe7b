"""Filters that are really installed, in a child, and really filter."""

from __future__ import annotations

import errno
import os

import pytest

from lamina.errors import KernelError
from lamina.linux import constants as c
from lamina.linux.call import syscall
from lamina.linux.numbers import number
from lamina.linux.process import prctl
from lamina.linux.seccomp import (
    SOCK_FILTER,
    get_action_avail,
    get_notif_sizes,
    get_seccomp_mode,
    has_filter_flag,
    set_mode_filter,
)
from support.namespaces import in_user_namespace

OFFSET_OF_NUMBER = 0  # in struct seccomp_data


def refuse(name: str, action: int) -> bytes:
    """A filter that answers one system call with *action* and lets all others through."""
    return b"".join(
        SOCK_FILTER.pack(*instruction)
        for instruction in (
            (c.BPF_LD | c.BPF_W | c.BPF_ABS, 0, 0, OFFSET_OF_NUMBER),
            (c.BPF_JMP | c.BPF_JEQ | c.BPF_K, 0, 1, number(name)),
            (c.BPF_RET | c.BPF_K, 0, 0, action),
            (c.BPF_RET | c.BPF_K, 0, 0, c.SECCOMP_RET_ALLOW),
        )
    )


@pytest.mark.userns
def test_a_filter_filters(door: str) -> None:
    def stage() -> None:
        assert get_seccomp_mode() == c.SECCOMP_MODE_DISABLED
        prctl(c.PR_SET_NO_NEW_PRIVS, 1)
        assert set_mode_filter(refuse("getpgid", c.SECCOMP_RET_ERRNO | errno.EXDEV)) is None
        assert get_seccomp_mode() == c.SECCOMP_MODE_FILTER
        with pytest.raises(KernelError) as caught:
            syscall("getpgid", 0)
        assert caught.value.errno == errno.EXDEV
        assert os.getpid() > 0

    in_user_namespace(stage)


@pytest.mark.userns
def test_a_listener(door: str) -> None:
    def stage() -> None:
        prctl(c.PR_SET_NO_NEW_PRIVS, 1)
        program = refuse("getpgid", c.SECCOMP_RET_USER_NOTIF)
        listener = set_mode_filter(program, c.SECCOMP_FILTER_FLAG_NEW_LISTENER)
        assert listener is not None
        with listener:
            assert not os.get_inheritable(listener)
        with pytest.raises(KernelError) as caught:  # the supervisor is gone
            syscall("getpgid", 0)
        assert caught.value.errno == errno.ENOSYS

    in_user_namespace(stage)


def test_what_is_no_program(door: str) -> None:
    for program in (b"", b"1234567"):
        with pytest.raises(ValueError, match="no list of instructions"):
            set_mode_filter(program)


@pytest.mark.userns
def test_a_malformed_program(door: str) -> None:
    def stage() -> None:
        prctl(c.PR_SET_NO_NEW_PRIVS, 1)
        with pytest.raises(KernelError, match="seccomp SECCOMP_SET_MODE_FILTER") as caught:
            set_mode_filter(
                SOCK_FILTER.pack(c.BPF_RET | c.BPF_K, 0, 0, 0)[:4] + b"\xff\xff\xff\xff" + bytes(8)
            )
        assert caught.value.errno == errno.EINVAL

    in_user_namespace(stage)


def test_what_the_kernel_offers(door: str) -> None:
    assert get_action_avail(c.SECCOMP_RET_ERRNO)
    assert not get_action_avail(0x12340000)
    assert has_filter_flag(c.SECCOMP_FILTER_FLAG_LOG)
    assert not has_filter_flag(1 << 30)
    notif, response, data = get_notif_sizes()
    assert (notif, response, data) >= (80, 24, 64)
