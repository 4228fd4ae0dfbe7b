"""The record of an image that is about to be made, and its name, written before the turn on the images is waited for:
that is everybody's, and should not be held while the disk is.

Both lie beside their places, under names of their own, and are locked, so that nobody takes them for what somebody left
who was killed (tags.sweep). Who has the turn gives them their names.
"""

from __future__ import annotations

import os

from lamina.document import encode
from lamina.errors import Corrupt
from lamina.store import images, lock, tags
from lamina.store.durable import NEW, Batch, write_all
from lamina.store.trace import point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.store.images import ImageRecord
    from lamina.store.leases import Lease
    from lamina.store.root import Store


class ComingImage:
    """The record of an image, for which a name will stand, in the making."""

    def __init__(self, store: Store, record: ImageRecord, name: str | None, batch: Batch) -> None:
        """*record*, and its canonical *name*, if it gets one. They are on the disk first in *batch*, and what it
        refers to before the record has its place. Raises InvalidInput, OSError.
        """
        self._store, self._record, self._name = store, record, name
        self._locks: dict[bytes, lock.Lock] = {}
        self._beside = b".%s%s" % (os.urandom(8).hex().encode(), NEW)
        images.need_referred(store, record.blobs, batch)
        try:
            self._write(images.place_of(store, record.id), images.encoded(record), batch, "image")
            if name is not None:
                self._write(
                    self._place_of(name), tags.encoded(tags.check_name(name), record.id), batch, "name"
                )
        except BaseException:
            self.close()
            raise

    def _place_of(self, name: str) -> bytes:
        return self._store.images + b"/names/" + tags.file_of(name)

    def _write(self, place: bytes, content: dict[str, Any], batch: Batch, what: str) -> None:
        path = place + self._beside
        point(f"{what}.write")
        held = lock.take(path, lock.LOCK_EX, create=True)
        assert held is not None  # it was waited for
        self._locks[path] = held
        write_all(held.fd, (encode(content) + "\n").encode())
        batch.content(path, what=what)

    def take_names(self, batch: Batch, lease: Lease) -> ImageRecord:
        """It is there, for the holder of the turn, in this step of *batch*; what is kept now. *lease* keeps all it
        refers to. Raises NotFound, OSError, KernelError.
        """
        place = images.place_of(self._store, self._record.id)
        if os.path.lexists(place):
            return self._added(lease)
        images.lease_all(self._record, lease)
        self._take(batch, place, "image")
        if self._name is not None:
            if not batch.in_order and self._is_taken(self._name):
                batch.come_so_far()  # a power cut may take none of the images away that it stands for
            self._take(batch, self._place_of(self._name), "name")
        return self._record

    def _added(self, lease: Lease) -> ImageRecord:
        """The same image is there already, and its record has what both know of it."""
        batch = Batch()
        try:
            names = () if self._name is None else (self._name,)
            record = images.add(self._store, self._record, names, lease=lease, batch=batch)
            batch.publish()
        finally:
            batch.close()
        return record

    def _take(self, batch: Batch, place: bytes, what: str) -> None:
        # a start that finds it there need not wait until this is given up
        self._locks.pop(place + self._beside).release()
        batch.take_name(place + self._beside, place, what=what)

    def _is_taken(self, name: str) -> bool:
        try:
            return tags.find_name(self._store, name) is not None
        except Corrupt:
            return False

    def close(self) -> None:
        """What has not got its place by now gets none. A second call does nothing."""
        while self._locks:
            path, held = self._locks.popitem()
            with held:
                try:
                    os.unlink(path)
                except OSError:  # the collector finds that nobody has it locked
                    pass
