"""What verbs of this face that are called often import, in the order in which it is executed: it is read as one piece
from the archive of compiled modules (bytecode). A list that lacks something costs time, and nothing else.

Written by tests/architecture/test_first.py, with LAMINA_GOLDEN=write.
"""

from __future__ import annotations

FIRST: dict[str, str] = {
    "lamina.cli.entry": """
        lamina lamina.cli lamina.argv lamina.argv.quick lamina.values lamina.argv.declare lamina.cli.options
        lamina.cli.verbs lamina.cli.entry
    """,
    "lamina.cli.verbs.run": """
        lamina.cli.options.run lamina.errors lamina.cli.asked lamina.engine lamina.engine.image_verbs
        lamina.supervisor lamina.linux lamina.linux.descriptors lamina.linux.fd lamina.runtime lamina.runtime.bundle
        lamina.supervisor.pump lamina.supervisor.stdio lamina.engine.parameters lamina.store lamina.linux.procfs
        lamina.store.way lamina.store.root lamina.engine.engine lamina.engine.places lamina.overlay
        lamina.overlay.spec lamina.store.tree lamina.engine.layers lamina.engine.options lamina.runtime.kept
        lamina.engine.picture lamina.runtime.capabilities lamina.engine.translate lamina.runtime.seccomp
        lamina.runtime.seccomp.cache lamina.runtime.users lamina.supervisor.signals lamina.supervisor.foreground
        lamina.engine.design lamina.engine.container_record lamina.runtime.identity lamina.linux.packed
        lamina.runtime.init lamina.runtime.command lamina.runtime.rlimits lamina.runtime.facts lamina.runtime.waits
        lamina.runtime.template lamina.runtime.launch lamina.store.lock lamina.store.names lamina.document
        lamina.store.record lamina.store.containers lamina.engine.session lamina.engine.run lamina.engine.checking
        lamina.engine.completed lamina.engine.discard lamina.store.events
    """,
}
