"""From what was typed to what the engine is asked, for every verb that starts a container."""

from __future__ import annotations

import os

from lamina.errors import InvalidInput, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.argv.declare import Arguments
    from lamina.cli.ending import CleanEnd
    from lamina.cli.transfers import Transfer
    from lamina.engine import Engine
    from lamina.engine.options import LifeOptions, RunOptions


def command(args: Arguments) -> tuple[str, ...]:
    """The command; a `--` between it and the image may be there or not. On a terminal over this system: the shell."""
    words: tuple[str, ...] = args.words
    if words[:1] == ("--",):
        words = words[1:]
    if not words and args.tty and args.image == "host" and args.entrypoint is None:
        return shell()
    return words


def shell() -> tuple[str, ...]:
    """What somebody at a terminal means who names no command."""
    return (os.environ.get("SHELL") or "/bin/sh",)


# those that are handed on as they were typed, where they were
_AS_TYPED = (
    *("name", "log_driver", "hostname", "workdir", "user", "memory", "cpus", "pids_limit"),
    *("entrypoint", "platform", "restart", "stop_signal", "stop_timeout", "durability"),
)


def options(args: Arguments) -> RunOptions:
    """The engine's options. Raises InvalidInput for a file of variables that cannot be read."""
    found: RunOptions = {
        "rm": args.rm,
        "tty": args.tty,
        "interactive": args.interactive,
        "read_only": args.read_only,
        "init": args.init,
    }
    # what was not typed is not asked for: each option that is handed on is checked again
    if args.env or args.env_file:
        found["env"] = [*variables(args.env_file), *args.env]
    if args.volume:
        found["volumes"] = args.volume
    if args.label or args.label_file:
        found["labels"] = [*pairs(args.label_file, "--label-file"), *args.label]
    if args.mount:
        found["mounts"] = args.mount
    if args.tmpfs:
        found["tmpfs"] = args.tmpfs
    if args.volumes_from:
        found["volumes_from"] = args.volumes_from
    if "cap_add" in vars(args):  # one of the rare options was typed
        from lamina.cli.options.further import asked

        found.update(asked(vars(args)))  # type: ignore[typeddict-item]
    if args.network:
        found["network"] = args.network[0] if len(args.network) == 1 else args.network
    if args.log_opt:
        found["log_opt"] = args.log_opt
    if vars(args).get("snapshot") is not None:
        found["auto_snapshot"] = True
    if (pull := vars(args).get("pull")) not in (None, "missing"):  # a plan pulls nothing
        found["pull"] = pull
    if limits := vars(args).get("layer_limit"):
        from lamina.cli.options.layers import layer_limits

        found["layer_limits"] = layer_limits(limits)
    for key in _AS_TYPED:
        given = getattr(args, key)
        if given is not None and (
            given or key != "name"
        ):  # no name is any name: --name "$NAME", as in docker
            found[key] = given  # type: ignore[literal-required]
    return found


def life_options(args: Arguments) -> LifeOptions:
    """The same, and what only a container has that is made first and started then."""
    return {**options(args), "lifetime": args.lifetime, "timeout": args.timeout}


def variables(files: tuple[str, ...], verb: str = "run") -> list[str]:
    """The lines of `--env-file`: KEY=VALUE, or KEY for the caller's."""
    return pairs(files, "--env-file", verb)


def pairs(files: tuple[str, ...], option: str, verb: str = "run") -> list[str]:
    """The lines of files that *option* names: KEY=VALUE, or KEY; `#` begins a comment. Nothing is unquoted."""
    found = []
    for name in files:
        try:
            with open(name, encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().split("\n")
        except OSError as error:
            raise InvalidInput(
                f"{verb}: {option} {name}: {(error.strerror or 'cannot be read').lower()}",
                remedy="name a file of KEY=VALUE lines",
            ) from None
        for number, line in enumerate(lines, 1):
            entry = line.lstrip()
            if entry and not entry.startswith("#"):
                if not entry.partition("=")[0] or " " in entry.partition("=")[0]:
                    raise InvalidInput(
                        f"{verb}: {option} {name}: line {number} is not KEY=VALUE",
                        remedy="a comment begins with #",
                    )
                found.append(entry)
    return found


class IdFile:
    """`--cidfile`: made before the container, so that two starts cannot take the same; removed if none came of it."""

    def __init__(self, path: str | None) -> None:
        self.path, self.identity = path, ""
        if path is None:
            return
        try:
            self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except OSError as error:
            reason = (
                "exists already" if isinstance(error, FileExistsError) else (error.strerror or "").lower()
            )
            raise InvalidInput(
                f"run: --cidfile {path}: {reason}", remedy="name a file that is not there yet"
            ) from None

    def write(self, identity: str) -> None:
        """The container is made: note its id."""
        if self.path is not None:
            os.write(self.fd, identity.encode())
            self.identity = identity

    def close(self, engine: Engine) -> None:
        """Drop the file of a container that is not there: it could not be made, or not be started."""
        if self.path is None:
            return
        os.close(self.fd)
        try:
            engine.container(self.identity or "-")
        except NotFound:
            os.unlink(self.path)


class Pulling:
    """Shows how far the pull of an image is, if there is one, and ends it cleanly: what does so is loaded then."""

    def __init__(self, engine: Engine, *, quiet: bool) -> None:
        self.engine, self.quiet = engine, quiet
        self._transfer: Transfer | None = None
        self._end: CleanEnd | None = None

    def event(self, kind: str, **facts: Any) -> None:
        """See `Engine.pull`. At its end the terminal is the command's."""
        if self._transfer is None:
            if kind == "warning":  # after its end
                warn(str(facts.get("text", "")))
                return
            from lamina.cli.ending import CleanEnd
            from lamina.cli.transfers import Transfer

            self._end = CleanEnd("run", self.engine).__enter__()
            self._transfer = Transfer(quiet=self.quiet).__enter__()
        self._transfer.event(kind, **facts)
        if kind == "done" and not facts.get("id"):
            self.close()

    def close(self, error: BaseException | None = None) -> None:
        """Leave the terminal, and signals, alone; a second call does nothing. *error* is why. Raises Stopped."""
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            transfer.__exit__(None, None, None)
        end, self._end = self._end, None
        if end is not None:
            end.__exit__(None if error is None else type(error), error, None)


class Making:
    """The engine with which a container is made, and who hears of how that goes (`hooks`, of `Engine.run` and
    `Engine.create`): use as a context around it. Of one that did not come about nothing is left, at no file either.
    """

    def __init__(self, args: Arguments) -> None:
        from lamina.engine.engine import Engine

        self.engine = Engine(args.root, store_limit=args.store_limit)
        self._cidfile = IdFile(args.cidfile)
        self._pulling = Pulling(self.engine, quiet=args.quiet)
        self.hooks: dict[str, Any] = {
            "on_warning": warn,
            "on_created": self._cidfile.write,
            "on_event": self._pulling.event,
        }

    def __enter__(self) -> Making:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._cidfile.close(self.engine)
            self._pulling.close(error)


def warn(warning: str) -> None:
    """Say on standard error what is not as it could be."""
    from lamina.cli.report import say

    say(f"warning: {warning}")


def check_terminal(args: Arguments, verb: str = "run") -> None:
    """Raises InvalidInput for `-it` without a terminal, which would not be what was meant (as docker has it)."""
    if args.tty and args.interactive and not os.isatty(0):
        raise InvalidInput(
            f"{verb}: -t with -i: standard input is not a terminal",
            remedy="leave -t out, or run it on a terminal",
        )
