"""From a container's changes to the host's files, and back.

    changes = changes_of([(b"/", spec), (b"/home", spec2)], made=mount_points)
    applied = apply(changes, journal, started_ns=started, paths=["/etc/**"], exclude=["/etc/shadow"])
    undone  = undo(journal)
    recover(journal)             # ends whatever a crash interrupted; apply and undo call it themselves
    forget(journal)              # drops the originals: to be called before a container is removed

The first is in `gather`, the others are in `operations`.

*journal* is a directory of the container's own in the store (made if missing, mode 0700). What is promised:

* Until every new file lies complete and durable beside its place, on its own file system, the host is not touched:
  a full disk costs nothing. Then each path changes by one rename (exchange) of a staged entry: a whole new
  directory appears at once, and what was there goes to the journal by that same rename, with its inode, hard links
  and every attribute.
* An apply that does not end (error, signal, power cut) never happened: what was done is taken back, by itself or by
  the next call. An undo that does not end is finished by the next call. Nothing stays in between.
* Paths which the host changed after the container started are refused, all named at once: see `conflicts`.
* Links are never followed, other file systems never entered, and an entry that is not the one that was compared is
  put back: users of the host who rearrange directories meanwhile get a refusal, not somebody else's file.

Every write goes through `hands.Hands`, which tests replace to fail or die at each of them in turn.
"""
