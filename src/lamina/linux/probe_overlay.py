"""Questions about overlayfs and other file systems; see `probe`.

What a kernel's overlayfs knows follows from the kernel's version (Documentation/filesystems/overlayfs.rst and its
history): a mount option cannot be asked for without mounting.
"""

from __future__ import annotations

import os
from errno import ENOTSUP, EOPNOTSUPP, EPERM

from lamina.errors import KernelError
from lamina.linux import constants as c
from lamina.linux.probe import No, Yes
from lamina.linux.probe_system import read_setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.call import Path
    from lamina.linux.fd import Fd
    from lamina.linux.probe import Answer, Host

_PARAMETERS = "/sys/module/overlay/parameters"
# overlayfs refuses them above: it looks names up remotely or in a way of its own there (ovl_mount_dir_check)
_NO_UPPER = {
    c.OVERLAYFS_SUPER_MAGIC: "another overlay",
    c.NFS_SUPER_MAGIC: "NFS",
    c.CIFS_SUPER_MAGIC: "SMB",
    c.SMB2_SUPER_MAGIC: "SMB",
    c.V9FS_MAGIC: "9p",
    c.FUSE_SUPER_MAGIC: "FUSE",
    c.MSDOS_SUPER_MAGIC: "FAT",
    c.ECRYPTFS_SUPER_MAGIC: "eCryptfs",
    c.SQUASHFS_MAGIC: "squashfs, which is read-only",
    c.EROFS_SUPER_MAGIC_V1: "erofs, which is read-only",
    c.RAMFS_MAGIC: "ramfs, which has no extended attributes",
}


def overlay(host: Host) -> Answer:
    """Whether the kernel has overlayfs"""
    return _file_system(host, "overlay", "3.18")


def overlay_in_user_namespace(host: Host) -> Answer:
    """Whether an ordinary user can mount overlays (in a user namespace)"""
    if not host.overlay:
        return host.overlay
    if not host.user_namespaces:
        return host.user_namespaces
    if host.in_user_namespace.overlay == EPERM:
        return No(f"kernel {host.release}: overlays in user namespaces are allowed since 5.11")
    return Yes("5.11")


def overlay_lowerdir_plus(host: Host) -> Answer:
    """Whether layers are given one by one (lowerdir+): no limit of 4 KiB for all of them"""
    return _since(host, "6.8", "lowerdir+")


def overlay_layer_fds(host: Host) -> Answer:
    """Whether layers can be given by descriptor (FSCONFIG_SET_FD): no limit of 255 bytes for one path"""
    return _since(host, "6.13", "layers by descriptor")


def overlay_redirect_dir(host: Host) -> Answer:
    """Whether a directory can be renamed without copying it (redirect_dir)"""
    return _since(host, "4.10", "redirect_dir", "redirect_dir")


def overlay_metacopy(host: Host) -> Answer:
    """Whether a chmod need not copy the file (metacopy)"""
    return _since(host, "4.19", "metacopy", "metacopy")


def overlay_index(host: Host) -> Answer:
    """Whether hard links survive being copied up (index)"""
    return _since(host, "4.13", "index", "index")


def overlay_xino(host: Host) -> Answer:
    """Whether inode numbers are unique over several file systems (xino)"""
    return _since(host, "4.17", "xino", "xino_auto")


def overlay_nfs_export(host: Host) -> Answer:
    """Whether an overlay can be exported, and its files opened by handle (nfs_export)"""
    return _since(host, "4.16", "nfs_export", "nfs_export")


def overlay_volatile(host: Host) -> Answer:
    """Whether a throw-away container can skip all syncing (volatile)"""
    return _since(host, "5.10", "volatile")


def overlay_userxattr(host: Host) -> Answer:
    """Whether an ordinary user's overlays can mark whiteouts and the like (userxattr)"""
    return _since(host, "5.11", "userxattr")


def overlay_uuid(host: Host) -> Answer:
    """Whether the file system's UUID can be chosen (uuid=null, auto, on)"""
    return _since(host, "6.6", "uuid=on and uuid=auto")


def overlay_data_only(host: Host) -> Answer:
    """Whether a layer can hold nothing but data (datadir+, ::)"""
    return _since(host, "6.5", "data-only layers")


def overlay_verity(host: Host) -> Answer:
    """Whether the content of a data-only layer can be verified (verity)"""
    return _since(host, "6.6", "verity")


def overlay_xattr_whiteouts(host: Host) -> Answer:
    """Whether a whiteout can be a file with an attribute instead of a device (overlay.whiteout)"""
    return _since(host, "6.7", "overlay.whiteout")


def overlay_idmapped_layers(host: Host) -> Answer:
    """Whether layers can be idmapped mounts"""
    return _since(host, "5.19", "idmapped layers")


def overlay_override_creds(host: Host) -> Answer:
    """Whether files are accessed with the mounter's or the process's rights, as chosen (override_creds)"""
    return _since(host, "6.15", "override_creds")


def overlay_defaults(host: Host) -> dict[str, str]:
    """The module's defaults: what an option is when it is not given"""
    try:
        names = sorted(os.listdir(_PARAMETERS))
    except OSError:  # not loaded (yet)
        return {}
    return {name: read_setting(f"{_PARAMETERS}/{name}") or "" for name in names}


def fuse(host: Host) -> Answer:
    """Whether this user can mount file systems that a program serves"""
    there = _file_system(host, "fuse", "2.6")
    if not there:
        return there
    if not os.path.exists("/dev/fuse"):
        return No("there is no /dev/fuse")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return No("/dev/fuse may not be opened by this user")
    return there


def reflink(directory: Path) -> Answer:
    """Whether files in *directory* can share their data until one of them is written (FICLONE).

    Asked of two files without a name. Raises KernelError when none can be made there.
    """
    from lamina.linux.files import ficlone

    with _nameless(directory) as source, _nameless(directory) as copy:
        os.write(source, b"x")
        try:
            ficlone(copy, source)
        except KernelError as error:
            if error.errno not in (EOPNOTSUPP, ENOTSUP):
                return No(f"{os.fsdecode(directory)}: {error}")
            return No(f"the file system of {os.fsdecode(directory)} cannot share data between files")
    return Yes("4.5")


def upper(directory: Path, *, userxattr: bool = False) -> Answer:
    """Whether *directory* can hold the writable layer of an overlay; *userxattr* for one in a user namespace.

    Asked of the file system's type, and of a file without a name. Raises KernelError when none can be made there.
    """
    from lamina.linux.files import statfs
    from lamina.linux.xattrs import fsetxattr

    shown = os.fsdecode(directory)
    kind = _NO_UPPER.get(statfs(directory).type)
    if kind is not None:
        return No(f"{shown} is on {kind}: overlayfs cannot write there")
    name = b"user.overlay.opaque" if userxattr else b"trusted.overlay.opaque"
    with _nameless(directory) as file:
        try:
            fsetxattr(file, name, b"y")
        except KernelError as error:
            return No(
                f"{shown} is on a file system without {os.fsdecode(name.rpartition(b'.')[0])}.* ({error.strerror})"
            )
    return Yes()


def _nameless(directory: Path) -> Fd:
    from lamina.linux.fd import Fd

    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    try:
        return Fd(os.open(os.fsencode(directory), flags, 0o600))
    except OSError as error:
        raise KernelError("open a file without a name in", error.errno or 0, os.fsdecode(directory)) from None


def _since(host: Host, version: str, what: str, parameter: str = "") -> Answer:
    if not host.overlay:
        return host.overlay
    if not host.at_least(version):
        return No(f"kernel {host.release}: overlayfs has {what} since {version}")
    default = host.overlay_defaults.get(parameter, "")
    note = {"Y": "on unless told otherwise", "N": "off unless told otherwise"}.get(default, "")
    return Yes(version, note)


def _file_system(host: Host, name: str, since: str) -> Answer:
    listed = (read_setting("/proc/filesystems") or "").split()
    if name in listed:
        return Yes(since)
    modules = f"/lib/modules/{host.release}"
    for index in ("modules.builtin", "modules.dep"):
        if f"/{name}.ko" in (read_setting(f"{modules}/{index}") or ""):
            return Yes(since, f"the module {name} is loaded when it is needed")
    return No(f"kernel {host.release} has no {name} file system, and there is no module in {modules}")
