"""The end of a container's control groups."""

from __future__ import annotations

from errno import EBUSY

from lamina.errors import KernelError, LaminaError
from lamina.runtime.cgroups.tree import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.runtime.cgroups.cgroup import Cgroup


def remove(cgroup: Cgroup) -> None:
    """See `Cgroup.remove`. Every hierarchy is tried; the first failure is raised, the others are notes of it."""
    failure: Exception | None = None
    if cgroup.unit:
        from lamina.runtime.cgroups.systemd import stop_unit

        if left := cgroup.processes():  # systemd would end them, in its own time
            raise KernelError("stop", EBUSY, cgroup.unit, hint=f"{len(left)} processes still live there")
        try:
            stop_unit(cgroup)
        except (OSError, LaminaError) as error:
            failure = error
    places = list(dict.fromkeys(cgroup.paths.values()))
    for place in places:
        try:
            remove_tree(place)
        except OSError as error:
            if failure is None:
                failure = error
            else:
                failure.add_note(f"and: {error}")
    if failure is not None:
        raise failure
    cgroup.remove_parents(places)
