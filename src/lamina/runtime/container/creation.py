"""From a bundle to a container whose first process waits for its start."""

from __future__ import annotations

import os
from time import time_ns

from lamina.errors import HookFailed, InvalidInput, LaminaError, Unsupported
from lamina.linux.fd import Fd
from lamina.runtime.bundle import NULL
from lamina.runtime.container import groups
from lamina.runtime.container.birth import CLONE_NEWUSER, Birth, own_streams, send_descriptor
from lamina.runtime.container.configuration import bundle_of, read_configuration, with_home_below
from lamina.runtime.container.directory import (
    CREATING,
    STOPPED,
    Container,
    replace_file,
    state_document,
)
from lamina.runtime.container.recipe import plain, recipe_for, steps_of
from lamina.runtime.facts import PROC, facts, is_bound
from lamina.runtime.identity import identity_of
from lamina.runtime.rlimits import lowered_limits
from lamina.runtime.talk import CREATED, HOOKS, HOOKS_RUN, READY, TERMINAL, Numbers
from lamina.runtime.waits import ANSWERED, GO, LETTERS, Wait, do
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.runtime.bundle import Bundle, Wiring
    from lamina.runtime.container.birth import Message
    from lamina.runtime.container.recipe import Asked

    Record = dict[str, Any]
    Spec = dict[str, Any]

IN_CONTAINER = "createContainer"
# what a new process may say besides
KINDS = {letter: kind for kind, letter in LETTERS.items()}
BEFORE_THE_ROOT = ("prestart", "createRuntime", IN_CONTAINER)


@value
class Wishes:
    """The options of `create`. `console` gets the terminal's master where there is no `console_socket`; `environment`
    is added to the process's; `warn` is told what differs from what was asked. `streams` are the caller's descriptors
    that become the process's 0, 1 and 2, where it has no terminal. `meanwhile` is called when the new process is on its
    way, for what the caller has to do anyway.
    """

    bundle: bytes = b"."
    pid_file: bytes = b""
    console_socket: bytes = b""
    pidfd_socket: bytes = b""
    preserve_fds: int = 0
    no_pivot: bool = False
    no_new_keyring: bool = False
    systemd_cgroup: bool = False
    init: bool = False
    environment: tuple[str, ...] = ()
    console: Callable[[Fd], None] | None = None
    warn: Callable[[str], None] | None = None
    streams: tuple[int, int, int] = (0, 1, 2)
    meanwhile: Callable[[], None] | None = None


def create(root: bytes, identity: str, wishes: Wishes) -> Container:
    """Create the container *identity* from a bundle. Its first process is a child of ours, and waits for `start`.

    Raises Conflict when there is one of that id, InvalidInput and Unsupported for what cannot be meant or done,
    StepFailed, HookFailed; then nothing is left behind.
    """
    directory = os.path.realpath(wishes.bundle)
    data, spec = read_configuration(directory, identity, root)
    _check(spec, wishes)
    container = Container.make(root, identity)
    try:
        _Creation(container, spec, directory, wishes).run(data)
    finally:
        container.unlock()
    return container


def _check(spec: Spec, wishes: Wishes) -> None:
    terminal = bool(spec["process"].get("terminal"))
    if terminal and not wishes.console_socket and wishes.console is None:
        raise InvalidInput(
            "create container: process.terminal is true, and nobody takes the terminal",
            remedy="give a --console-socket, or set process.terminal to false",
        )
    if wishes.console_socket and not terminal:
        raise InvalidInput(
            "create container: there is a --console-socket, but process.terminal is not true",
            remedy="leave one of them out",
        )
    if wishes.init and wishes.preserve_fds:
        raise Unsupported("create container: --init passes no descriptors on", remedy="leave one of them out")


class _Creation:
    def __init__(self, container: Container, spec: Spec, directory: bytes, wishes: Wishes) -> None:
        self.container, self.spec, self.directory, self.wishes = container, spec, directory, wishes
        self.linux: dict[str, Any] = spec.get("linux") or {}
        self.cgroup: Any = None
        self.birth: Birth | None = None
        self.held: list[Fd] = []
        self.waits: list[Wait] = []
        self.record: Record = {
            "id": container.id,
            "bundle": os.fsdecode(directory),
            "created": time_ns(),
            "uid": os.geteuid(),
            "cgroups_path": ""
            if wishes.systemd_cgroup
            else groups.path_of(container, self.linux, systemd=False),
            "cgroups_chosen": bool(self.linux.get("cgroupsPath")),
            "annotations": spec.get("annotations") or {},
            "hooks": sorted(hooks_ for hooks_, listed in (spec.get("hooks") or {}).items() if listed),
        }

    def run(self, data: bytes) -> None:
        """Make it, or leave nothing behind. *data* is the specification as it was read."""
        try:
            self.container.write_file(b"config.json", data)
            bundle = bundle_of(self.spec, self.directory)
            self.spec = bundle.spec
            process = self.spec["process"]
            process["env"] = [*(process.get("env") or []), *self.wishes.environment]
            with_home_below(process, bundle.merged)
            self.record["rootfs"] = os.fsdecode(bundle.merged)
            # where its groups are must be written down once, whenever we are killed: those of our own choice before
            # they are made (they are found again by their path), and at a path that somebody chose when they are ours
            ours = groups.are_ours(self.record)
            if ours:
                self.container.write(self.record)
            self.cgroup = groups.make(self.container, self.linux, systemd=self.wishes.systemd_cgroup)
            self.record["cgroup"] = groups.note(self.cgroup)
            self.container.notes += self.cgroup.notes if self.cgroup is not None else []
            if not ours:
                self.container.write(self.record)
            self._begin(bundle)
            if self.wishes.meanwhile is not None:
                self.wishes.meanwhile()
            self._talk()
        except BaseException as failure:
            self._undo(failure)
            raise
        finally:
            for fd in self.held:
                fd.close()
            if self.cgroup is not None:
                self.cgroup.close()

    def _begin(self, bundle: Bundle) -> None:
        wishes = self.wishes
        birth = self.birth = Birth(Numbers(wishes.preserve_fds), lambda: self.bundle)
        bundle = self.bundle = replace(
            bundle, identity=self.container.id.encode(), directory=self.directory, no_pivot=wishes.no_pivot,
            new_keyring=not wishes.no_new_keyring,
        )  # fmt: skip
        known, opened = facts(bundle, self.held, flags=False)
        enter: tuple[tuple[int, int], ...] = ()
        if known.namespaces:
            from lamina.runtime.plan.namespaces import arrange

            enter = arrange(self.spec, known).enter()
        wiring = self._wiring(known, opened, birth)
        with self.container.listen() as socket:
            birth.give_socket(socket)
        asked = self._asked(wiring, bundle)
        root = self.container.root
        recipe = recipe_for(asked, self.container.id, root)
        self.waits = recipe.waits
        self.record["namespaces"], self.record["last"] = recipe.own, _last(recipe.last)
        self._tell((*recipe.notes, *lowered_limits(self.spec["process"], self.linux)))
        strings: dict[str, list[bytes] | bytes] = {"root": bundle.merged}
        birth.begin(
            recipe,
            lambda: steps_of(asked, root, strings),
            strings=strings,
            stdio=wishes.streams,
            cgroup=int(self.cgroup.v2) if self.cgroup is not None and self.cgroup.v2 is not None else -1,
            map_ids=self._map_ids if recipe.flags & CLONE_NEWUSER else None,
            enter=enter,
        )

    def _asked(self, wiring: Wiring, bundle: Bundle) -> Asked:
        """Everything that is compiled, and nothing that is not: limits, hooks and annotations make no other plan."""
        assert self.birth is not None
        spec, linux = self.spec, self.linux
        namespaces = [{**n, "path": bool(n.get("path"))} for n in linux.get("namespaces") or []]
        reduced = {
            **spec,
            "annotations": None,
            "hooks": None,
            "root": {**spec["root"], "path": None},
            "linux": {**linux, "namespaces": namespaces, "resources": None, "cgroupsPath": None},
        }
        before = any((spec.get("hooks") or {}).get(moment) for moment in BEFORE_THE_ROOT)
        manner = (own_streams(self.wishes.streams), before, self.wishes.init)
        # without a directory of its own it is not only a name (plan/rootfs.py)
        root = None if bundle.merged.strip(b"/") else bundle.merged
        return (
            "created", self.birth.shape, plain(wiring), reduced, self._origin(), root, bundle.no_pivot,
            bundle.new_keyring, manner,
        )  # fmt: skip

    def _origin(self) -> bytes:
        """The bundle's directory, where a source is meant from there on; else it is in no plan."""
        for mount in self.spec.get("mounts") or []:
            source = mount.get("source")
            if source and not source.startswith("/") and is_bound(mount):
                return self.directory
        return b""

    def _tell(self, notes: tuple[str, ...]) -> None:
        for note in notes:
            if self.wishes.warn is not None:
                self.wishes.warn(note)

    def _map_ids(self, pid: int) -> None:
        from lamina.runtime.id_maps import write_id_maps

        write_id_maps(pid, self.linux)

    def _wiring(self, known: Wiring, opened: dict[str, int], birth: Birth) -> Wiring:
        """What is *known*, with the numbers that the descriptors have in the new process."""
        tasks = self.cgroup.tasks if self.cgroup is not None else {}
        paths = self.cgroup.paths if self.cgroup is not None else {}
        namespaces = self.linux.get("namespaces") or []
        if any(n["type"] == "cgroup" and not n.get("path") for n in namespaces):
            paths = {}  # what it sees of its groups, it sees as the root of its own namespace
        return replace(
            known,
            namespaces=tuple(
                replace(joined, fd=birth.give(joined.fd)) if joined.fd >= 0 else joined
                for joined in known.namespaces
            ),
            trees=tuple((name, birth.give(fd)) for name, fd in known.trees),
            id_maps=tuple((index, birth.give(fd)) for index, fd in known.id_maps),
            proc=birth.give(opened[PROC]) if PROC in opened else NULL,
            places=tuple(paths[name] for name in tasks or paths if name in paths),
            channel=birth.numbers.channel,
            launcher=-1,
            die_with_parent=False,
            tasks=tuple(birth.give(fd) for fd in tasks.values()),
            controllers=tuple(name.encode() for name in tasks),
            cgroup=0 if self.cgroup is not None and self.cgroup.v2 is not None else -1,
        )

    def _talk(self) -> None:
        """Do what the new process asks for, until it is ready; then it is a container."""
        assert self.birth is not None
        birth = self.birth
        while True:
            message = birth.hear()
            if message.what == HOOKS:
                self._run_hooks()
                birth.answer(HOOKS_RUN)
            elif message.what == TERMINAL and message.fd is not None:
                with message.fd as master:
                    self._hand_over(master)
            elif (kind := KINDS.get(message.what)) is not None:
                self._help(kind, message)
            elif message.what == READY:
                break
            else:
                raise LaminaError(
                    f"create container {self.container.id}: its first process ended before it was ready",
                    remedy="something killed it; is a memory or pids limit too tight?",
                )
        self._settle()
        birth.answer(CREATED)
        birth.close()

    def _help(self, kind: str, message: Message) -> None:
        """Do what `Plan.waits` is about."""
        assert self.birth is not None
        try:
            wait = next(
                (wait for wait in self.waits if wait.kind == kind), Wait(kind, self.linux.get("seccomp"))
            )
            if wait in self.waits:
                self.waits.remove(wait)
            do(wait, self.birth.pid, self.bundle, message.fds)
        finally:
            for fd in message.fds:
                fd.close()
        if kind in ANSWERED:
            self.birth.answer(GO)

    def _settle(self) -> None:
        """Write down who it is: from here on there is a container, whatever becomes of us."""
        assert self.birth is not None and self.birth.pidfd is not None
        pid = self.birth.pid
        self.record.update(identity_of(pid))
        self.container.pid = pid
        self.container.write(self.record)
        if self.wishes.pidfd_socket:
            send_descriptor(self.wishes.pidfd_socket, self.birth.pidfd, b"pidfd")
        if self.wishes.pid_file:
            replace_file(self.wishes.pid_file, str(pid).encode(), 0o644)

    def _hand_over(self, master: Fd) -> None:
        if self.wishes.console_socket:
            send_descriptor(self.wishes.console_socket, master, b"/dev/ptmx")
        elif self.wishes.console is not None:
            self.wishes.console(Fd(master.steal()))

    def _run_hooks(self) -> None:
        from lamina.runtime.container.inside import inner_pid, inside_starter

        assert self.birth is not None and self.birth.pidfd is not None
        from lamina.runtime import hooks

        outer = hooks.starter(self.directory)
        inner = inside_starter(
            self.birth.pidfd, self.record["namespaces"], os.fsencode(self.record["rootfs"])
        )
        for moment, hook in hooks.wanted(self.spec, *BEFORE_THE_ROOT):
            within = moment == IN_CONTAINER
            pid = inner_pid(self.birth.pid) if within else self.birth.pid
            state = state_document(self.container, self.record, CREATING, pid)
            hooks.run(moment, hook, state, inner if within else outer)

    def _undo(self, failure: BaseException) -> None:
        """Leave nothing behind; what goes wrong meanwhile is added to what went wrong."""
        try:
            if self.birth is not None:
                self.birth.abandon()
            if self.cgroup is not None:  # made by us: who lives where we were refused is somebody else
                self.cgroup.close()
                if self.cgroup.processes():
                    self.cgroup.kill()
                self.cgroup.remove()
            self.container.remove()
            if isinstance(failure, HookFailed):
                from lamina.runtime import hooks

                state = state_document(self.container, self.record, STOPPED)
                for moment, hook in hooks.wanted(self.spec, "poststop"):
                    hooks.run(moment, hook, state, hooks.starter(self.directory))
        except (OSError, LaminaError) as second:
            failure.add_note(f"while cleaning up: {second}")


def _last(last: tuple[Any, ...]) -> Record:
    """What `start` must know to explain a failure after the wait: the calls from there on, and the command."""
    return {"first": last[0], "calls": list(last[1])}
