"""Which marks a stack follows: the mount options, and the kernel's own defaults for those that are not given."""

from __future__ import annotations

from lamina.overlay.spec import MountSpec
from lamina.values import value

_PARAMETERS = "/sys/module/overlay/parameters/"
# fs/overlayfs/Kconfig, for a kernel whose module is not loaded yet
_DEFAULTS = {"redirect_dir": False, "redirect_always_follow": True, "metacopy": False, "index": False}


@value
class Rules:
    """What a lookup does with marks that lead elsewhere; overlayfs.rst, "Permission model" says why that is a choice.

    `follow`: redirects. `metacopy`: attributes here, content below. `reads_redirects`: whether a redirect is looked at
    at all, if only to refuse it (data-only layers need that). `index`: whether the work directory's index joins the
    names of a copied-up hard link.
    """

    follow: bool
    metacopy: bool
    reads_redirects: bool
    index: bool = False

    @classmethod
    def of(cls, spec: MountSpec) -> Rules:
        """As ovl_fs_params_verify() in fs/overlayfs/params.c resolves the options of *spec*."""
        options = dict(spec.options)
        metacopy = _on(options.get("metacopy")) if "metacopy" in options else _parameter("metacopy")
        if options.get("verity", "off") in ("on", "require"):
            metacopy = True
        mode = options.get("redirect_dir")
        if mode is None and _parameter("redirect_dir"):
            mode = "on"
        if mode in (None, "off"):
            mode = "follow" if _parameter("redirect_always_follow") else "nofollow"
        if mode == "follow" and spec.upperdir is None:
            mode = "on"
        if metacopy and mode != "on":
            if "redirect_dir" in options:
                metacopy = False
            else:
                mode = "on"
        if spec.userxattr:  # anybody could have written these marks
            mode, metacopy = "nofollow", False
        follow = mode != "nofollow"
        index = _on(options.get("nfs_export"))
        index = index or (_on(options.get("index")) if "index" in options else _parameter("index"))
        return cls(follow, metacopy, follow or bool(spec.datadirs), index and spec.upperdir is not None)


def _on(text: str | None) -> bool:
    return text in ("on", "1", "y", "Y", "yes", "true")


def _parameter(name: str) -> bool:
    try:
        with open(_PARAMETERS + name, encoding="ascii") as file:
            return file.read().strip() in ("Y", "1")
    except OSError:
        return _DEFAULTS[name]
