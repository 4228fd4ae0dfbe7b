"""The options of `lamina overlay ...`, as mount(8) has them."""

from __future__ import annotations

from lamina.argv.declare import Option

STACK = Option(
    "options",
    "o",
    "OPTION,...",
    multiple=True,
    help="lowerdir=A:B,upperdir=C,workdir=W and the rest of overlayfs' options; may be repeated",
)
TYPE = Option("types", "t", "overlay", "Taken for mount(8)'s sake", choices=("overlay",))

EXPLAINED = """
Options are the kernel's, escapes included: lowerdir (top first), lowerdir+, datadir+, upperdir, workdir, redirect_dir,
metacopy, index, xino, nfs_export, userxattr, volatile, uuid, verity; and those of every mount, such as ro and nosuid.
"""
