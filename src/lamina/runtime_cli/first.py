"""What verbs of this face that are called often import, in the order in which it is executed: it is read as one piece
from the archive of compiled modules (bytecode). A list that lacks something costs time, and nothing else.

Written by tests/architecture/test_first.py, with LAMINA_GOLDEN=write.
"""

from __future__ import annotations

FIRST: dict[str, str] = {
    "lamina.runtime_cli.entry": """
        lamina lamina.runtime_cli lamina.argv lamina.argv.quick lamina.values lamina.argv.declare
        lamina.runtime_cli.options lamina.runtime_cli.entry lamina.runtime_cli.verbs
    """,
    "lamina.runtime_cli.verbs.create": """
        lamina.runtime lamina.runtime.container lamina.errors lamina.linux lamina.linux.descriptors lamina.linux.fd
        lamina.runtime.bundle lamina.document lamina.linux.messages lamina.runtime.identity
        lamina.runtime.container.directory lamina.runtime.container.groups lamina.runtime.init lamina.runtime.talk
        lamina.runtime.waits lamina.runtime.container.birth lamina.linux.packed lamina.runtime.kept
        lamina.runtime.container.recipe lamina.runtime.container.configuration lamina.linux.procfs
        lamina.runtime.rlimits lamina.runtime.facts lamina.runtime.container.creation lamina.runtime_cli.asked
        lamina.runtime.cgroups lamina.runtime.cgroups.cgroup lamina.runtime.cgroups.layout
        lamina.runtime.cgroups.resources lamina.runtime.cgroups.making lamina.runtime.cgroups.devices
        lamina.runtime.cgroups.v1 lamina.runtime.cgroups.making_v2
    """,
    "lamina.runtime_cli.verbs.start": """
        lamina.runtime lamina.runtime.container lamina.errors lamina.linux lamina.linux.descriptors lamina.linux.fd
        lamina.linux.messages lamina.document lamina.runtime.identity lamina.runtime.container.directory
        lamina.runtime.talk lamina.runtime.container.begin lamina.runtime_cli.asked lamina.runtime.container.groups
        lamina.runtime.cgroups lamina.runtime.cgroups.cgroup lamina.runtime.waits
    """,
    "lamina.runtime_cli.verbs.delete": """
        lamina.errors lamina.runtime lamina.runtime.container lamina.linux lamina.linux.descriptors lamina.linux.fd
        lamina.document lamina.linux.messages lamina.runtime.identity lamina.runtime.container.directory
        lamina.runtime.container.groups lamina.runtime.talk lamina.runtime.container.begin
        lamina.runtime.container.ending lamina.runtime_cli.asked lamina.runtime.cgroups lamina.runtime.cgroups.cgroup
    """,
    "lamina.runtime_cli.verbs.run": """
        lamina.errors lamina.runtime lamina.runtime.container lamina.linux lamina.linux.descriptors lamina.linux.fd
        lamina.runtime.bundle lamina.document lamina.linux.messages lamina.runtime.identity
        lamina.runtime.container.directory lamina.runtime.container.groups lamina.runtime.init lamina.runtime.talk
        lamina.runtime.waits lamina.runtime.container.birth lamina.linux.packed lamina.runtime.kept
        lamina.runtime.container.recipe lamina.runtime.container.configuration lamina.linux.procfs
        lamina.runtime.rlimits lamina.runtime.facts lamina.runtime.container.creation lamina.runtime_cli.asked
        lamina.runtime_cli.verbs.create lamina.runtime.container.whole lamina.runtime_cli.attending
        lamina.runtime.cgroups lamina.runtime.cgroups.cgroup lamina.runtime.cgroups.layout
        lamina.runtime.cgroups.resources lamina.runtime.cgroups.making lamina.runtime.cgroups.devices
        lamina.runtime.cgroups.v1 lamina.runtime.cgroups.making_v2
    """,
    "lamina.runtime_cli.verbs.execute": """
        lamina.errors lamina.document lamina.runtime lamina.runtime.container lamina.linux lamina.linux.descriptors
        lamina.linux.fd lamina.linux.messages lamina.runtime.identity lamina.runtime.container.directory
        lamina.runtime.bundle lamina.runtime.init lamina.runtime.command lamina.runtime.talk lamina.runtime.waits
        lamina.runtime.container.birth lamina.linux.packed lamina.runtime.kept lamina.runtime.container.recipe
        lamina.linux.procfs lamina.runtime.rlimits lamina.runtime.facts lamina.runtime.container.further
        lamina.runtime.container.groups lamina.runtime.container.begin lamina.runtime.container.configuration
        lamina.runtime.container.join lamina.runtime_cli.asked lamina.runtime_cli.attending lamina.runtime.cgroups
        lamina.runtime.cgroups.cgroup lamina.runtime.cgroups.joining
    """,
}
