"""Owner, permissions, attributes and times of an entry, set through a descriptor or a name that is not followed."""

from __future__ import annotations

import os
from errno import EINVAL, EOPNOTSUPP, EPERM

from lamina.errors import InvalidInput, KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.image.apply.ids import IdMap

# overlayfs' own marks: whoever could write these could make a layer show what is outside it
_OVERLAY = ("trusted.overlay.", "user.overlay.")
# labels and measurements of the host that the archive was made on; what the system gives here is not ours to replace
_OF_THE_HOST = frozenset({"security.selinux", "security.SMACK64", "security.ima", "security.evm"})
# the families Linux knows; others, such as macOS's, mean nothing here
_FAMILIES = ("user.", "trusted.", "security.", "system.posix_acl_")
DEFAULT_ACL = "system.posix_acl_default"


class Attributes:
    """How attributes are set in this process: with its rights, and with the ids the archive's become."""

    def __init__(self, ids: IdMap | None, *, namespaced: bool) -> None:
        """*namespaced*: in a user namespace, where some attributes are refused to its root."""
        self.ids = ids
        self.namespaced = namespaced
        self.uid, self.gid = os.geteuid(), os.getegid()
        self.skipped: dict[str, int] = {}

    def owner(self, uid: int, gid: int) -> tuple[int, int]:
        """The ids that an archive's ids become. Raises InvalidInput where there are none."""
        return (uid, gid) if self.ids is None else (self.ids.uid(uid), self.ids.gid(gid))

    def skip(self, what: str) -> None:
        """Note that something was left out because it cannot be done here."""
        if what in self.skipped or len(self.skipped) < 100:
            self.skipped[what] = self.skipped.get(what, 0) + 1

    def wanted(self, xattrs: dict[str, bytes]) -> dict[str, bytes]:
        """Those of an archive's attributes that are to be set, with the ids in them translated."""
        found = {}
        for name, content in xattrs.items():
            if name.startswith(_OVERLAY) or name in _OF_THE_HOST:
                continue
            if not name.startswith(_FAMILIES):
                self.skip(name)
                continue
            found[name] = content if self.ids is None else self.ids.xattr(name, content)
        return found

    def set_xattrs(self, place: int | bytes, xattrs: dict[str, bytes]) -> None:
        """Set attributes on a descriptor, or on a path whose last name is not followed.

        Where the process may not (trusted ones in a user namespace), or the file system cannot, it is noted.
        Raises KernelError, InvalidInput.
        """
        follow = not isinstance(place, bytes)
        for name, content in xattrs.items():
            try:
                os.setxattr(place, name, content, follow_symlinks=follow)
            except OSError as error:
                if error.errno == EINVAL:
                    raise InvalidInput(
                        f"unpack layer: the kernel refuses the value of the attribute {name}"
                    ) from error
                if error.errno not in (EPERM, EOPNOTSUPP):
                    raise
                if not self.namespaced and follow:
                    raise KernelError(
                        "set attribute", error.errno, name, hint="the layer would not be whole"
                    ) from error
                self.skip(name)
