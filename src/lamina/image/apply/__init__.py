"""One layer's archive made into a directory as overlayfs wants it.

    applied = apply_layer(next_chunk, directory_fd)

The archive is hostile. Paths in it are resolved by the kernel below the directory (openat2(2), RESOLVE_IN_ROOT), each
once, to a descriptor of the parent; everything else is done through that descriptor and a single name that is not
followed. Source of the rules: the OCI image-spec, layer.md ("Applying Changesets"); where it is silent, what Docker
does.
"""

from __future__ import annotations

import os
from errno import EIO

from lamina.errors import KernelError, LaminaError
from lamina.image.apply.extract import REMEDIES, Applied, Extractor
from lamina.image.apply.ids import IdMap
from lamina.image.tar.limits import Limits
from lamina.image.tar.reader import entries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.image.apply.recipe import Recipe

__all__ = ["Applied", "IdMap", "apply_layer"]


def apply_layer(
    next_chunk: Callable[[], bytes | bytearray | memoryview],
    directory: int,
    *,
    userxattr: bool = False,
    ids: IdMap | None = None,
    limits: Limits | None = None,
    recipe: Recipe | None = None,
) -> Applied:
    """Unpack the archive that *next_chunk* gives (chunks of any size, b"" at its end) into the empty *directory*.

    *directory* is a descriptor, of a place that nobody else changes meanwhile. Whiteouts and opaque directories are
    written as overlayfs' marks, in `user.` attributes with *userxattr* (in a user namespace), else `trusted.`. *ids*
    says which ids the archive's owners become; without, they are taken as they are. *recipe* gets what makes the same
    archive again. The stream is read to its end. After an error the directory is to be thrown away.
    Raises InvalidInput (no archive, a limit, a path that leaves the directory, an entry that cannot be meant), Corrupt
    (it is cut off), Unsupported, KernelError (ENOSPC and so on), and what *next_chunk* raises.
    """
    limits = limits or Limits()
    extractor = Extractor(directory, userxattr=userxattr, ids=ids, limits=limits, recipe=recipe)
    name = b""
    failed: BaseException | None = None

    def ask() -> bytes | bytearray | memoryview:
        nonlocal failed
        try:
            return next_chunk()
        except BaseException as error:
            failed = error
            raise

    try:
        for entry in entries(ask, limits, None if recipe is None else recipe.raw):
            name = entry.name
            extractor.put(entry)
        name = b"its last entries"
        return extractor.finish()
    except LaminaError:
        raise
    except OSError as error:
        if error is failed:  # the stream's, which is no word about the disk
            raise
        where = os.fsdecode(name[:200])
        remedy = REMEDIES.get(error.errno or 0, "")
        raise KernelError("unpack layer", error.errno or EIO, where, remedy=remedy) from error
    finally:
        extractor.close()
