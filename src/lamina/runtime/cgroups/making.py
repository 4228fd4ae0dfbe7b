"""A container's control groups made: directories, controllers handed down, limits written, descriptors to join with."""

from __future__ import annotations

import os
from errno import ENODEV, ENOENT

from lamina.errors import InvalidInput, KernelError, LaminaError, Unsupported
from lamina.linux.fd import Fd
from lamina.runtime.cgroups.cgroup import Cgroup
from lamina.runtime.cgroups.layout import read_file, read_layout, relative_path
from lamina.runtime.cgroups.resources import settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.cgroups.layout import Layout
    from lamina.runtime.cgroups.resources import Resources, Setting

    Wanted = dict[str, list[Setting]]

_NO_SWAP = "swap is not accounted on this host: memory alone is limited (boot with swapaccount=1)"
# files that may be missing though their controller is there, and what is then to be said
_OPTIONAL = {"memory.memsw.limit_in_bytes": _NO_SWAP, "memory.swap.max": _NO_SWAP}
# written without an error and without effect by newer kernels
_IGNORED = {
    "memory.kmem.limit_in_bytes": "this kernel does not limit its own memory apart: memory.limit counts it as well"
}


def create(
    path: str,
    resources: Resources,
    *,
    manager: str = "cgroupfs",
    everywhere: bool = False,
    own_parent: bool = False,
    nodes: list[dict[str, Any]] | None = None,
    layout: Layout | None = None,
    also: tuple[str, ...] = (),
) -> Cgroup | None:
    """Make the control groups at *path* (`cgroupsPath`) and write the limits. The package says what they are.

    *manager* is "cgroupfs", or "systemd": then *path* is `slice:prefix:name` and systemd makes the groups. Only
    hierarchies of which something is asked get a group, those of the controllers *also* where that can be, or all of
    them with *everywhere*; None when there is none. With
    *own_parent* the group above is the caller's own: whoever leaves it empty removes it. With *nodes*, the devices that
    the container is given (`linux.devices`), *resources* that say nothing of devices mean that these and the default
    ones may be opened and no others, if this host can see to that.

    Raises Unsupported when a controller is missing, cannot express a limit, or this user may not write there; Conflict
    when somebody lives there; InvalidInput for a path or a value that cannot be meant; KernelError when the kernel
    refuses a value. Nothing is left behind when it raises.
    """
    layout = layout or read_layout()
    rules = resources.get("devices")
    if nodes is not None and not rules:
        from lamina.runtime.cgroups.devices import implied

        resources = {**resources, "devices": implied(nodes)}
    wanted = settings(resources, layout)  # what cannot be is refused before anything is made
    if not everywhere and not rules and not wanted and not also:
        return None
    cgroup = Cgroup({}, own_parent=own_parent)
    try:
        place = _place(cgroup, path, resources, manager, layout)
        if not place.startswith("/"):
            from lamina.runtime.cgroups.delegation import settle

            layout = settle(layout)
            wanted = settings(resources, layout)
        _make(cgroup, relative_path(place), layout, wanted, bool(rules), everywhere, also)
        _restrict_devices(cgroup, rules, resources)
        if not cgroup.paths:
            return None  # nothing was asked, and nothing can be
    except BaseException as failure:
        _undo(cgroup, failure)
        raise
    return cgroup


def _place(cgroup: Cgroup, path: str, resources: Resources, manager: str, layout: Layout) -> str:
    """Where the groups are, below each hierarchy: systemd makes its own, and says."""
    if manager == "systemd":
        from lamina.runtime.cgroups.systemd import start_scope

        return start_scope(cgroup, path, resources, layout)
    if manager != "cgroupfs":
        raise InvalidInput(f"make cgroup {path!r}: there is no manager {manager!r} (cgroupfs, systemd)")
    return path


def _make(
    cgroup: Cgroup,
    relative: bytes,
    layout: Layout,
    wanted: Wanted,
    devices: bool,
    everywhere: bool,
    also: tuple[str, ...],
) -> None:
    """The groups in v1's hierarchies and in v2's, with what is *wanted* of their controllers. *devices*: rules come."""
    further = frozenset((*layout.v1, *layout.v2_controllers) if everywhere else _as_called(also, layout))
    _make_v1(cgroup, layout, relative, wanted, devices, further)
    if devices or further or not layout.v1.keys() >= wanted.keys():
        from lamina.runtime.cgroups.making_v2 import make_v2

        # what is frozen and killed as a whole takes no controller of v2
        whole = everywhere or not layout.v1.keys() >= further
        make_v2(cgroup, layout, relative, wanted, devices and "devices" not in layout.v1, whole, further)


def _restrict_devices(cgroup: Cgroup, rules: list[dict[str, Any]] | None, resources: Resources) -> None:
    """Those that were asked for, or those that follow from the devices it is given where this host can see to that."""
    if rules:
        from lamina.runtime.cgroups.devices import apply

        apply(cgroup, rules)
    elif resources.get("devices"):
        from lamina.runtime.cgroups.devices import apply_implied

        apply_implied(cgroup, resources["devices"])


def _undo(cgroup: Cgroup, failure: BaseException) -> None:
    """Remove what was made; what was there before may be somebody else's."""
    cgroup.close()
    cgroup.paths = {name: place for name, place in cgroup.paths.items() if place not in cgroup.found}
    try:
        cgroup.remove()
    except (OSError, LaminaError) as second:
        failure.add_note(f"while cleaning up: {second}")


def _as_called(also: tuple[str, ...], layout: Layout) -> tuple[str, ...]:
    """What v1 calls blkio is io in v2, where it is not v1's."""
    return tuple("io" if name == "blkio" and name not in layout.v1 else name for name in also)


def _make_v1(
    cgroup: Cgroup,
    layout: Layout,
    relative: bytes,
    wanted: Wanted,
    devices: bool,
    further: frozenset[str],
) -> None:
    joined: dict[bytes, list[str]] = {}
    for controller, root in layout.v1.items():
        asked = controller in wanted or (devices and controller == "devices")
        if not asked and controller not in further:
            continue
        place = root + b"/" + relative
        try:
            make_below(cgroup, controller, root, relative)
        except Unsupported:
            if asked:
                raise
            continue  # nobody asked for it
        joined.setdefault(place, []).append(controller)
        if controller == "cpuset":
            _inherit(root, relative)
        for setting in wanted.get(controller, ()):
            write(place, setting, controller, cgroup)
    for place, controllers in joined.items():
        cgroup.tasks[",".join(controllers)] = Fd(os.open(place + b"/tasks", os.O_WRONLY | os.O_CLOEXEC))


def make_below(cgroup: Cgroup, controller: str, root: bytes, relative: bytes) -> None:
    """Make the group of *controller* ("" for v2), or find an unused one; and make those above it that are missing.

    It is noted before it is made: a signal handler of this program may raise right after.
    """
    place = root + b"/" + relative
    shared = place in cgroup.paths.values()  # with another controller, in the same hierarchy
    cgroup.paths[controller] = place
    try:
        for _ in range(20):
            try:
                os.mkdir(place, 0o755)
                return
            except FileExistsError:
                if not shared:
                    cgroup.found.append(place)
                    _check_unused(cgroup, place)
                return
            except OSError as error:
                if error.errno not in (ENOENT, ENODEV):  # ENODEV: the group above is just being removed
                    raise
                _make_parents(cgroup, root, relative)
        # the group above was removed, again and again, by the end of its last container
        raise KernelError("mkdir", ENOENT, os.fsdecode(place))
    except LaminaError:
        del cgroup.paths[controller]
        raise
    except OSError as error:
        del cgroup.paths[controller]
        from lamina.runtime.cgroups.refusals import not_made

        raise not_made(error, place) from error


def _check_unused(cgroup: Cgroup, place: bytes) -> None:
    if not cgroup.unit:
        from lamina.runtime.cgroups.refusals import check_unused

        check_unused(place)


def _make_parents(cgroup: Cgroup, root: bytes, relative: bytes) -> None:
    """Note which these were."""
    place = root
    for name in relative.split(b"/")[:-1]:
        place = place + b"/" + name
        try:
            os.mkdir(place, 0o755)
        except FileNotFoundError:
            return  # gone between two of our calls
        except FileExistsError:
            continue
        except OSError as error:
            from lamina.runtime.cgroups.refusals import not_made

            raise not_made(error, place) from error
        if place not in cgroup.made:
            cgroup.made.append(place)


def _inherit(root: bytes, relative: bytes) -> None:
    """cpuset of v1: a new group has neither processors nor memory, and takes no process before it has both."""
    place = root
    for name in relative.split(b"/"):
        above, place = place, place + b"/" + name
        for file in (b"/cpuset.cpus", b"/cpuset.mems"):
            if not read_file(place + file).strip():
                try:
                    with open(place + file, "wb", buffering=0) as setting:
                        setting.write(read_file(above + file).strip())
                except OSError as error:
                    raise KernelError("write to", error.errno or 0, os.fsdecode(place + file)) from error


def write(place: bytes, setting: Setting, what: str, cgroup: Cgroup) -> None:
    """Write one *setting* into the group at *place*: the first of its files that is there.

    Raises Unsupported where none is there (apart from those that may be missing: they become a note), KernelError
    where the kernel refuses the value.
    """
    file = ""
    for at in range(0, len(setting), 2):
        file, text = setting[at], setting[at + 1]
        name = place + b"/" + file.encode()
        try:
            fd = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except FileNotFoundError:
            continue
        except OSError as error:
            from lamina.runtime.cgroups.refusals import not_written

            raise not_written(error, name, text, what) from error
        note = _IGNORED.get(file)
        if note is not None and read_file(name).strip() != text.encode() and note not in cgroup.notes:
            cgroup.notes.append(note)
        return
    if file.startswith("hugetlb.") and ".rsvd." in file:
        return  # what is used is limited; what is reserved is counted since Linux 5.7 only
    note = _OPTIONAL.get(file)
    if note is None:
        raise Unsupported(f"limit {what}: this kernel has no {file}", remedy="leave it out on this host")
    if note not in cgroup.notes:
        cgroup.notes.append(note)
