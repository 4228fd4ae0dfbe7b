"""Forks: containers that begin where a snapshot of another one ends.

What is the same for all children of a state is found, checked and drawn up once: options, layers, plan. Each child then
costs a directory, an empty upper and a record. The record names every layer that it stands on, so nothing that becomes
of the parent concerns a child: a lease keeps the layers from before the state is read until the records are written.
"""

from __future__ import annotations

import os
from time import time_ns

from lamina.engine import chains
from lamina.engine.design import cgroup_path, design, manager_of, maps_record, usual_ids
from lamina.engine.forked_options import not_taken_over, options_of_fork, own_volumes, shared
from lamina.engine.keeping import ids_of, image_of, options_of, options_record
from lamina.engine.layers import furnish, stacks_of, uppers_of
from lamina.engine.moment import moment
from lamina.engine.next_uppers import resemble_wholly
from lamina.engine.options import OWNER
from lamina.engine.unwritten import is_idle
from lamina.errors import Conflict, InvalidInput, LaminaError, NotFound, Unsupported
from lamina.overlay.spec import top_first
from lamina.runtime.identity import identity_of
from lamina.store import containers, snapshots
from lamina.store.events import about, note
from lamina.store.leases import lease
from lamina.store.root import raise_storage_error
from lamina.supervisor.signals import Undisturbed
from lamina.supervisor.stdio import DEVNULL
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from lamina.engine.forked_options import ForkOptions
    from lamina.engine.id_maps import IdMaps
    from lamina.engine.options import Options
    from lamina.store.containers import Home
    from lamina.store.leases import Lease
    from lamina.store.lock import Lock
    from lamina.store.root import Store
    from lamina.store.snapshots import SnapshotRecord

# of the parent's record, what is its own and not its children's
_OWN = frozenset(
    """
    id name created overlays cgroup warnings volumes id_maps own_ids owner made_by moment snapshot freezing rewinding
    layers base_layers squashed told_of_volumes forked rm labels options left
    """.split()  # noqa: SIM905
)
# so many are made without a look at the limit of open files, and so many of these are left for the work itself
FEW = 64
# of an entry of `overlays`
_OF_A_PLACE = ("at", "inode", "lower", "frozen", "upper", "work", "userxattr", "nested")


@value
class Wanted:
    """What is asked of forks: how many, what they are called (() for made-up names), whether they are started, the
    `command` (None: the parent's), what is asked anew, and the process whose end ends those of the lifetime "owner".
    `volumes`: those that are part of the state are theirs, and begin with what they had then.
    """

    count: int = 1
    names: tuple[str, ...] = ()
    start: bool = False
    command: tuple[str, ...] | None = None
    options: ForkOptions | None = None
    owner: int | None = None
    volumes: bool = False


def names_of(name: str | None, names: Sequence[str], count: int) -> tuple[str, ...]:
    """What *count* forks are called: *names*, or *name*, with numbers where there are several; () for made-up ones.

    Raises InvalidInput.
    """
    if name is not None and names:
        raise InvalidInput("fork: name and names contradict each other", remedy="leave one out")
    if count < 1:
        raise InvalidInput(f"fork: {count} forks: at least one")
    if count > FEW and count > (most := _most_at_once()):
        raise InvalidInput(
            f"fork: {count} forks at once: each is held open until all are made, so {most} are the most here",
            remedy="ask for fewer, several times, or allow this program more open files (ulimit -n)",
        )
    if names and len(names) != count:
        raise InvalidInput(f"fork: {len(names)} names for {count} forks", remedy="give one for each, or none")
    if len(set(names)) != len(names):
        raise InvalidInput("fork: two of the names are the same", remedy="give each another one")
    if name is None:
        return tuple(names)
    return (name,) if count == 1 else tuple(f"{name}-{number}" for number in range(1, count + 1))


def _most_at_once() -> int:
    """How many forks can be held at the same time: a lock each, beside what a start has open and what is there."""
    import resource

    return max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(os.listdir("/proc/self/fd")) - FEW, FEW)


def fork_container(
    home: Home,
    wanted: Wanted,
    warn: Callable[[str], None] | None = None,
    *,
    consistency: str = "auto",
) -> list[Home]:
    """Forks of the container at *home* as it is now: of the state that it stands on, or of a snapshot made for it.

    *consistency* is as of `Container.snapshot`. Raises as that does, and as `fork`.
    """
    asked = home.asked()
    check_forkable(asked)
    # before a snapshot is made for nothing
    options_of_fork(options_of(asked), dict(wanted.options or {}), several=wanted.count > 1)
    state = _stands_on(home, asked)
    if state is None:
        from lamina.engine.snapshotting import snapshot

        state = snapshot(home, message="forked", consistency=consistency).record
    return fork(home, state, wanted, warn)


def check_forkable(asked: dict[str, Any]) -> None:
    """Raises Unsupported for a container of whose record, *asked*, no other can be made."""
    if not isinstance(asked.get("options"), dict):
        raise Unsupported(
            f"fork container {asked['name']}: 'run --rm' stays with it, and keeps nothing that another needs",
            remedy="run it with -d, or without --rm",
        )


def _stands_on(home: Home, asked: dict[str, Any]) -> SnapshotRecord | None:
    """The snapshot that the container stands on, if nothing was written since."""
    found = snapshots.current(home, asked)
    state = None if found is None else snapshots.get(home, found)
    if state is None or chains.pending(asked) or chains.chain_of(asked) != state.chain:
        return None
    if chains.own_layers(asked) != state.base_layers:  # somebody was killed who had put it over another image
        return None
    uppers = [spec for _, spec in stacks_of(asked["overlays"], home.path) if spec.upperdir is not None]
    try:
        return state if all(map(is_idle, uppers)) else None
    except OSError:  # another command has just frozen it
        return None


def fork(
    parent: Home,
    state: SnapshotRecord,
    wanted: Wanted,
    warn: Callable[[str], None] | None = None,
) -> list[Home]:
    """Make containers that begin with the snapshot *state* of the container *parent*, and start them if that is
    *wanted*: all of them, or none. *warn* hears what is not as in the parent.

    Raises NotFound where the snapshot has been removed meanwhile, InvalidInput, Unsupported, Conflict, KernelError, and
    what a start raises.
    """
    store, tell = parent.store, _once(warn)
    made: list[Home] = []
    try:
        with lease(store) as held:
            origin, written = _origin(parent, state, wanted, held, tell)
            with written:
                for warning in origin.warnings:
                    tell(warning)
                for number in range(wanted.count):
                    with Undisturbed():
                        home, name = containers.create(store, wanted.names[number] if wanted.names else None)
                        made.append(home)
                    origin.make(home, name)
        for home in made:
            if origin.options.lifetime != OWNER:  # else every command looks whether its owner is still there
                home.unmark()
            home.release()
        if wanted.start:
            _start(store, made, tell)
    except BaseException as failure:
        _discard(made, failure)
        raise
    return made


def _origin(
    parent: Home, state: SnapshotRecord, wanted: Wanted, held: Lease, tell: Callable[[str], None]
) -> tuple[Origin, Lock]:
    """What the children have in common, its layers kept by *held*: from then on nobody needs the parent. And what keeps
    the parent from forgetting where that came from, until their records say that they do.
    """
    with snapshots.turn(parent):
        found = snapshots.get(parent, state.id)
        if found is None:
            raise snapshots.no_such(parent, state.id)
        state = found  # its layers may have been squashed since
        origin = Origin(parent, state, wanted, held, tell)
        for layer in origin.layers:
            if not held.add_layer(layer):
                raise Conflict(
                    f"fork snapshot {state.shown}: its layer {layer[:12]} is not there",
                    remedy="'lamina system check' finds what else is missing",
                )
        return origin, snapshots.forking(parent)


def over_its_image(asked: dict[str, Any], state: SnapshotRecord) -> dict[str, Any]:
    """The record *asked* as it was when *state* was made, where it has been put over another image since (rebase)."""
    if chains.own_layers(asked) == state.base_layers:
        return asked
    lower = [chains.short_tree(layer) for layer in top_first(state.base_layers)] or ["../../empty"]
    entries = [
        {
            **{key: given for key, given in entry.items() if key in _OF_A_PLACE and key != "frozen"},
            "lower": lower,
        }
        for entry in asked["overlays"]
    ]
    config = state.config or {}
    return {
        **{key: given for key, given in asked.items() if key != chains.SQUASHED},
        "overlays": entries,
        "layers": list(state.base_layers),
        "base_layers": list(state.base_layers),
        "image": state.image,
        "image_id": state.image_id,
        "config": config,
        "labels": {**(config.get("labels") or {}), **dict(asked["options"].get("labels") or ())},
    }


def _once(warn: Callable[[str], None] | None) -> Callable[[str], None]:
    told: set[str] = set()

    def tell(text: str) -> None:
        if warn is not None and text not in told:
            told.add(text)
            warn(text)

    return tell


def _start(store: Store, made: list[Home], tell: Callable[[str], None]) -> None:
    """Start them all. Raises what the first one raised that did not start."""
    from lamina.engine.nursery import start_each

    failures: list[LaminaError] = []
    for answer in start_each(store, [home.id for home in made]):
        if isinstance(answer, LaminaError):
            failures.append(answer)
            continue
        for warning in answer.get("warnings") or ():
            tell(warning)
    if failures:
        if len(made) > 1:
            failures[0].add_note(f"{len(failures)} of {len(made)} forks could not be started; none is left")
        raise failures[0]


def _discard(made: list[Home], failure: BaseException) -> None:
    """Leave none of them behind."""
    from lamina.engine.container import Container
    from lamina.engine.discard import discard

    for home in made:
        try:
            if home.held:
                asked = home.read("container")
                discard(home, str((asked or {}).get("name") or "") or None, asked, volumes=True)
            else:
                Container(home).remove(force=True, volumes=True)
        except NotFound:
            continue  # one that goes at its end, and has ended
        except (OSError, LaminaError) as second:
            failure.add_note(f"while cleaning up: {second}")
        finally:
            home.release()


class Origin:
    """What all children of one state have in common: what is theirs in the record, and the layers below."""

    def __init__(
        self,
        parent: Home,
        state: SnapshotRecord,
        wanted: Wanted,
        held: Lease,
        tell: Callable[[str], None],
    ) -> None:
        """*parent* is the state's container, whose turn is held. Raises as `fork`."""
        self.parent, self.state, self.wanted, self.held, self.tell = parent, state, wanted, held, tell
        self.store = parent.store
        self.filled = state.volumes if wanted.volumes else ()
        asked = parent.asked()
        check_forkable(asked)
        asked = over_its_image(asked, state)
        was, options = options_of(asked), dict(wanted.options or {})
        found = options_of_fork(was, options, several=wanted.count > 1)
        own = own_volumes(found.volumes, parent.id)
        if self.filled:
            from lamina.engine.volume_states import given

            own = given(own, self.filled, asked.get("volumes") or ())
        self.options: Options = replace(found, volumes=own)
        self.warnings = [*not_taken_over(was, options), *shared(self.options.volumes)]
        stood = chains.on_chain(asked, state.chain, None)
        self.overlays = [_numbered(entry, number) for number, entry in enumerate(stood["overlays"])]
        self.layers = tuple(stood.get("layers") or ())
        self.asked = self._common(asked, stood)
        self.parent_ids = ids_of(asked)

    def _common(self, asked: dict[str, Any], stood: dict[str, Any]) -> dict[str, Any]:
        """What the records of all children say; *asked* is the parent's, *stood* that on the layers of the state."""
        options, state = self.options, self.state
        found = {key: given for key, given in asked.items() if key not in _OWN}
        found |= {key: stood[key] for key in ("layers", "base_layers") if key in stood}
        found["rm"], found["detached"] = options.rm, True
        found["labels"] = {**(asked.get("labels") or {}), **dict(options.labels)}
        found["warnings"] = list(asked.get("warnings") or ())
        found["overlays"] = self.overlays
        found["options"] = options_record(options)
        found["forked"] = {"container": state.container, "name": asked["name"], "snapshot": state.id}
        if options.stop_timeout is not None:
            found["stop_timeout"] = options.stop_timeout
        if not asked.get(
            "image_id"
        ):  # what this machine has changed since then stands against what the state says
            found["moment"] = asked.get("moment")
        if options.lifetime == OWNER:
            found["owner"] = self._owner(asked)
        return found

    def _owner(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Whose end ends them: the process that was named, or the one whose end ends their parent."""
        owner = self.wanted.owner
        if owner is None and asked.get("owner") and "lifetime" not in (self.wanted.options or {}):
            return dict(asked["owner"])
        found = identity_of(os.getpid() if owner is None else owner)
        if found["start_time"] is None:
            raise InvalidInput(
                f"fork: lifetime {OWNER}: there is no process {owner} that could own the container"
            )
        return found

    @property
    def _skeletons(self) -> bool:
        """Whether directories of this machine are stood in for, as for a user's container (engine/host)."""
        return any(
            os.fsdecode(lower).startswith("skeleton/") for entry in self.overlays for lower in entry["lower"]
        )

    @property
    def _needs_design(self) -> bool:
        """Whether there is more to make than empty uppers: volumes, ids of its own, skeletons; or to check."""
        declared = (self.asked.get("config") or {}).get("volumes")
        ids, command = self.parent_ids is not None, self.wanted.command is not None
        return bool(self.options.volumes or declared or ids or command or self._skeletons)

    def make(self, home: Home, name: str) -> None:
        """Make the container *home*, which is new and held: its directories, its files, its record."""
        record = {
            **self.asked,
            "id": home.id,
            "name": name,
            "created": time_ns(),
            "cgroup": cgroup_path(home.id, manager_of(self.options)),
        }
        locks: list[Lock] = []
        try:
            ids = self._ids(home, record)
            if self.filled:
                from lamina.engine.volume_states import begin_with

                owners = None if ids == self.parent_ids else (self.parent_ids, ids)
                locks += begin_with(home, self.options.volumes, self.filled, self.held, record, owners)
            if self._needs_design:
                locks += self._design(home, record, ids)
            else:
                _furnish(home, record)
            record.setdefault("moment", moment(home.path + b"/moment"))
            home.write("container", record)
        except BaseException as error:
            from lamina.engine.discard import discard

            for lock in locks:
                lock.release()
            discard(home, name, record, volumes=True)  # its ids and its volumes as well
            if isinstance(error, OSError):
                raise_storage_error(error, "fork", home.path)
            raise
        for lock in locks:  # its record names the volumes now
            lock.release()
        note(self.store, about(record, "create"))

    def _design(self, home: Home, record: dict[str, Any], ids: IdMaps | None) -> list[Lock]:
        """Draw the container up, and make what a start expects to be there besides its uppers; the locks that keep its
        volumes until *record* is written, which is completed. *ids* are those of its own, if it has such.
        """
        options, command = self.options, self.wanted.command
        if command is None:  # its entrypoint is among the words
            command, options = tuple(record["command"]), replace(options, entrypoint=())
        drawn = design(
            self.store,
            home.id,
            home.path,
            image_of(record),
            command,
            options,
            DEVNULL,
            grouped=True,
            kept=uppers_of(record["overlays"]),
            frozen=chains.chain_of(record),
            ids=ids,
        )
        drawn.let_go()
        record["command"] = list(drawn.words)
        if drawn.maps is not None:
            record["id_maps"] = maps_record(drawn.maps)
        if ids is not None:
            record["own_ids"] = True
        if self._skeletons:
            furnish(drawn.layers)
        else:
            _furnish(home, record)
        if drawn.bundle.outer is not None:
            from lamina.engine.user_namespaces import entrust

            entrust(drawn)
        if not drawn.volumes:
            return []
        from lamina.engine import mounted

        record["volumes"] = mounted.record_of(drawn.volumes)
        maps, rootless = drawn.reach, drawn.layers.rootfs.userxattr
        return mounted.ready(
            self.store, home.path, drawn, lambda: maps_record(maps), rootless=rootless, tell=self.tell
        )

    def _ids(self, home: Home, record: dict[str, Any]) -> IdMaps | None:
        """Ids of its own, where its parent has some that are not the usual ones: chosen anew, as its parent's were."""
        further = self.options.further
        if self.parent_ids is None or further is None:
            return None
        from lamina.engine.user_namespaces import choose, parse

        found = choose(self.store, home.id, parse(further.userns), further.uidmap, further.gidmap)
        usual = usual_ids()
        if found is None or usual is None or found == self.parent_ids:
            return found
        # files of root's containers are numbered as inside; a user's have the ids that they have
        from lamina.engine.shifting import shifted

        self.tell("the layers are copied for the ids of each fork: the kernel lets only root map ids")
        copies = shifted(self.store, self.layers, usual, found, self.held, owners=self.parent_ids)
        _relayer(record, dict(zip(self.layers, copies, strict=True)))
        return found


def _furnish(home: Home, record: dict[str, Any]) -> None:
    """Its uppers, which look like what is below them. Raises OSError."""
    for _, spec in stacks_of(record["overlays"], home.path):
        if spec.upperdir is not None and spec.workdir is not None:
            os.mkdir(spec.workdir, 0o700)
            os.mkdir(spec.upperdir, 0o700)
            resemble_wholly(spec.upperdir, spec.lowerdirs[0], record)


def _numbered(entry: dict[str, Any], number: int) -> dict[str, Any]:
    """An entry of `overlays` with the first upper of a container, and nothing that is its parent's alone."""
    found = {key: entry[key] for key in _OF_A_PLACE if key in entry}
    if entry.get("upper") is not None:
        found["upper"], found["work"] = f"upper-{number}", f"work-{number}"
    return found


def _relayer(record: dict[str, Any], copies: dict[str, str]) -> None:
    """Have *record* name the *copies* of its layers."""
    trees = {chains.short_tree(layer): chains.short_tree(copy) for layer, copy in copies.items()}
    for key in ("layers", "base_layers"):
        if key in record:
            record[key] = [copies[layer] for layer in record[key]]
    record["overlays"] = [
        {
            **entry,
            "lower": [trees.get(os.fsdecode(lower), lower) for lower in entry["lower"]],
            **({"frozen": [copies[one] for one in entry["frozen"]]} if entry.get("frozen") else {}),
        }
        for entry in record["overlays"]
    ]
