"""Which ids an archive's owners become, for a user namespace in which every id is itself."""

from __future__ import annotations

import struct

from lamina.errors import InvalidInput
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Ranges = tuple[tuple[int, int, int], ...]

# vfs_cap_data and vfs_ns_cap_data, linux/capability.h: revision 3 says whose root may use the capabilities
_CAPABILITY_2, _CAPABILITY_3 = 0x02000000, 0x03000000
_REVISION = 0xFF000000
# posix_acl_xattr_entry, linux/posix_acl_xattr.h
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP = 0x02, 0x08


@value
class IdMap:
    """Ranges (first id in the archive, first id it becomes, how many), as in user_namespaces(7)."""

    uids: tuple[tuple[int, int, int], ...]
    gids: tuple[tuple[int, int, int], ...]

    def reversed(self) -> IdMap:
        """What the ids on the disk become in an archive."""
        turned = [
            tuple((there, here, count) for here, there, count in ranges) for ranges in (self.uids, self.gids)
        ]
        return IdMap(turned[0], turned[1])

    def towards(self, other: IdMap) -> IdMap:
        """What an id on the disk that these ranges lead to becomes so that those of *other* lead to it from the same
        one in a container; all others stay.
        """
        return IdMap(_renumbered(self.uids, other.uids), _renumbered(self.gids, other.gids))

    def uid(self, number: int) -> int:
        """What a user's id becomes. Raises InvalidInput where none is mapped."""
        return _mapped(self.uids, number, "user")

    def gid(self, number: int) -> int:
        """What a group's id becomes. Raises InvalidInput where none is mapped."""
        return _mapped(self.gids, number, "group")

    def xattr(self, name: str, content: bytes) -> bytes:
        """An attribute's value with the ids in it (ACLs; whose root may use capabilities). Raises InvalidInput."""
        if name == "security.capability":
            return self._capability(content)
        if name in ("system.posix_acl_access", "system.posix_acl_default"):
            return self._acl(content)
        return content

    def _capability(self, content: bytes) -> bytes:
        if len(content) < 20:
            return content
        magic = int.from_bytes(content[:4], "little")
        root = int.from_bytes(content[20:24], "little") if len(content) >= 24 else 0
        if magic & _REVISION not in (_CAPABILITY_2, _CAPABILITY_3):
            return content
        becomes = self.uid(root)
        if not becomes:  # as root of everything writes it
            return (magic & ~_REVISION | _CAPABILITY_2).to_bytes(4, "little") + content[4:20]
        magic = magic & ~_REVISION | _CAPABILITY_3
        return magic.to_bytes(4, "little") + content[4:20] + becomes.to_bytes(4, "little")

    def _acl(self, content: bytes) -> bytes:
        if (len(content) - 4) % _ACL_ENTRY.size:
            return content  # the kernel will refuse it
        changed = bytearray(content)
        for at in range(4, len(content), _ACL_ENTRY.size):
            tag, permissions, number = _ACL_ENTRY.unpack_from(content, at)
            if tag in (_ACL_USER, _ACL_GROUP):
                number = self.uid(number) if tag == _ACL_USER else self.gid(number)
                _ACL_ENTRY.pack_into(changed, at, tag, permissions, number)
        return bytes(changed)


def _renumbered(before: Ranges, after: Ranges) -> Ranges:
    moved = []
    for inside, outside, count in before:
        for first, becomes, more in after:
            begin, end = max(inside, first), min(inside + count, first + more)
            if begin < end:
                moved.append((outside + begin - inside, becomes + begin - first, end - begin))
    found, at = [], 0
    for here, there, count in sorted(moved):
        found += [(at, at, here - at), (here, there, count)]
        at = here + count
    return (*found, (at, at, (1 << 32) - at))


def _mapped(ranges: Sequence[tuple[int, int, int]], number: int, what: str) -> int:
    for first, becomes, count in ranges:
        if first <= number < first + count:
            return becomes + number - first
    raise InvalidInput(
        f"unpack layer: a file belongs to {what} {number}, for which you have no id",
        remedy=f"give yourself more subordinate {what} ids (/etc/sub{what[0]}id)",
    )
