"""Key rings: a session of one's own, in a child."""

from __future__ import annotations

import errno

import pytest

from lamina.errors import KernelError
from lamina.linux import constants as c
from lamina.linux.keys import (
    add_key,
    describe_key,
    get_keyring_id,
    invalidate_key,
    join_session_keyring,
    keyctl,
    link_key,
    revoke_key,
    set_key_permissions,
    unlink_key,
)
from lamina.linux.probe import probe
from support.namespaces import in_user_namespace

pytestmark = [
    pytest.mark.userns,
    pytest.mark.skipif(not probe().keyrings, reason=f"{probe().keyrings}"),
]
EVERYTHING = 0x3F3F0000


def test_a_session_of_ones_own(door: str) -> None:
    def stage() -> None:
        ring = join_session_keyring()
        assert ring == get_keyring_id(c.KEY_SPEC_SESSION_KEYRING)
        assert describe_key(ring).startswith(b"keyring;")
        named = join_session_keyring("lamina-test")
        assert named != ring
        assert describe_key(named).endswith(b";lamina-test")

    in_user_namespace(stage)


def test_keys_in_it(door: str) -> None:
    def stage() -> None:
        ring = join_session_keyring()
        key = add_key("user", "lamina:test", b"secret\0", ring)
        set_key_permissions(key, EVERYTHING)
        buffer = bytearray(16)
        assert keyctl(c.KEYCTL_READ, key, buffer, len(buffer)) == 7
        assert buffer[:7] == b"secret\0"
        thread = get_keyring_id(c.KEY_SPEC_THREAD_KEYRING, create=True)
        link_key(key, thread)
        unlink_key(key, ring)
        with pytest.raises(KernelError, match="KEYCTL_UNLINK") as caught:
            unlink_key(key, ring)
        assert caught.value.errno == errno.ENOENT
        revoke_key(key)
        with pytest.raises(KernelError) as caught:
            keyctl(c.KEYCTL_READ, key, buffer, len(buffer))
        assert caught.value.errno == errno.EKEYREVOKED
        invalidate_key(add_key("user", "lamina:other", b"x", thread))

    in_user_namespace(stage)


def test_long_descriptions(door: str) -> None:
    def stage() -> None:
        ring = join_session_keyring()
        key = add_key("user", "d" * 1000, b"x", ring)
        assert describe_key(key).endswith(b";" + b"d" * 1000)

    in_user_namespace(stage)


def test_what_does_not_exist(door: str) -> None:
    def stage() -> None:
        with pytest.raises(KernelError, match="keyctl KEYCTL_GET_KEYRING_ID") as caught:
            get_keyring_id(c.KEY_SPEC_THREAD_KEYRING)
        assert caught.value.errno == errno.ENOKEY

    in_user_namespace(stage)
