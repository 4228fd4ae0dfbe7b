"""Tar archives as streams: read without trusting them, written so that the same content gives the same bytes.

    for entry in entries(chunks, Limits()):
        print(entry.name, entry.kind, entry.size)

The forms understood: v7, ustar (POSIX.1-1988), pax (POSIX.1-2001) with global headers, star's, GNU tar's long names and
sparse files (the old form and those of pax 0.0, 0.1 and 1.0), base-256 numbers, extended attributes as `SCHILY.xattr.`
and `LIBARCHIVE.xattr.`. Sources: pax(1) in POSIX.1-2017 ("pax Interchange Format", "ustar Interchange Format"), the GNU
tar manual ("Tar Internals"), tar(5) of libarchive, and Go's archive/tar where these leave a choice: what other engines
read decides what an image contains.
"""

from __future__ import annotations

from lamina.image.tar.entry import Entry
from lamina.image.tar.limits import Limits
from lamina.image.tar.reader import entries

__all__ = ["Entry", "Limits", "entries"]
