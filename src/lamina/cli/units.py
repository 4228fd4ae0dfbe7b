"""Units of systemd that look after containers: systemd.service(5), in the words of podman's generator."""

from __future__ import annotations

import os
import sys

from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lamina.argv.declare import Option

# systemd.service(5), Restart=
POLICIES = ("no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always")
RESTARTABLE = "lamina-restart.service"
# /etc, or a user's ~/.config: systemd.unit(5), "Specifiers"
CONFIGURATION = "%E/"
# seconds that systemd waits longer than the container is given to stop
SPARE = 60
NETWORK = "network-online.target"
# options that are systemd's matter, or said anew
_NOT_AGAIN = frozenset(
    ("detach", "attach", "cidfile", "name", "rm", "quiet", "lifetime", "detach_keys", "sig_proxy")
)
_PATHS = frozenset(("env_file", "label_file"))


@value
class Wishes:
    """What was asked of the unit of a container; see the options of `lamina generate systemd`. -1 seconds of
    `stop_timeout` have no end.
    """

    new: bool = False
    restart_policy: str = "on-failure"
    restart_sec: int | None = None
    stop_timeout: int = 10
    header: bool = True
    wants: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()


@value
class Subject:
    """The container: how it is called in commands, where it is kept, the signal that asks it to end, and with which
    words, in which directory, another one like it is made; the variables that these take from the environment are in
    `environment`, a file of systemd's, "" where there are none.
    """

    name: str
    root: str
    stop_signal: int
    words: tuple[str, ...] = ()
    directory: str = ""
    environment: str = ""


def container_unit(unit: str, about: Subject, wishes: Wishes, version: str) -> str:
    """The text of the unit file *unit*."""
    lamina = [*program(), "--root", about.root]
    stop = [*lamina, "stop", "-t", str(wishes.stop_timeout), about.name]
    if wishes.new:
        remove = [*lamina, "rm", "-f", about.name]
        commands = [
            ("ExecStartPre", "-", remove),
            ("ExecStart", "", [*lamina, "run", f"--name={about.name}", *about.words]),
            ("ExecStop", "", stop),
            ("ExecStopPost", "-", remove),
        ]
    else:
        start = [*lamina, "start", "--attach", "--sig-proxy=false", about.name]
        commands = [("ExecStart", "", start), ("ExecStop", "", stop)]
    lines = _header(unit, version) if wishes.header else []
    lines += [
        "[Unit]",
        f"Description=Lamina {_literal(unit)}",
        "Documentation=https://www.freedesktop.org/software/systemd/man/systemd.service.html",
        *(f"Wants={_literal(name)}" for name in (NETWORK, *wishes.wants)),
        *(f"After={_literal(name)}" for name in (NETWORK, *wishes.after)),
        *(f"Requires={_literal(name)}" for name in wishes.requires),
        f"RequiresMountsFor={word(about.root, dollar='$')}",
        "",
        "[Service]",
        "Type=exec",
        # the process that does the work has to be this unit's
        "Environment=LAMINA_WARM=0",
        *([f"WorkingDirectory={_literal(about.directory)}"] if wishes.new and about.directory else []),
        *([f"EnvironmentFile={_place(about.environment)}"] if about.environment else []),
        f"Restart={wishes.restart_policy}",
        *([] if wishes.restart_sec is None else [f"RestartSec={wishes.restart_sec}"]),
        f"TimeoutStopSec={wishes.stop_timeout + SPARE if wishes.stop_timeout >= 0 else 'infinity'}",
        # how it ends when it is stopped
        f"SuccessExitStatus={128 + about.stop_signal}",
        # 'stop' ends the container; who looks after it writes that down, and must not be killed before it has
        "KillMode=mixed",
        *(f"{key}={mark}{' '.join(map(word, words))}" for key, mark, words in commands),
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def restartable_unit(root: str, version: str, *, header: bool = True) -> str:
    """The text of RESTARTABLE: what is started with the machine, as restart policies say."""
    lamina = [*program(), "--root", root]
    lines = _header(RESTARTABLE, version) if header else []
    lines += [
        "[Unit]",
        "Description=Lamina: containers that are started with the machine",
        f"Wants={NETWORK}",
        f"After={NETWORK}",
        f"RequiresMountsFor={word(root, dollar='$')}",
        "",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
        "Environment=LAMINA_WARM=0",
        "TimeoutStartSec=infinity",
        # each container has its own grace, which may be longer than systemd's 90 seconds
        "TimeoutStopSec=infinity",
        # who looks after the containers is in this unit's group, and outlives a restart of the unit
        "KillMode=process",
        f"ExecStart={' '.join(map(word, [*lamina, 'system', 'start-restartable']))}",
        f"ExecStop={' '.join(map(word, [*lamina, 'system', 'stop-restartable']))}",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def _header(unit: str, version: str) -> list[str]:
    return [f"# {unit}", f"# written by lamina {version}", ""]


def program() -> list[str]:
    """How systemd calls the command that runs now."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.executable)), "lamina")
    return [beside] if os.access(beside, os.X_OK) else [os.path.abspath(sys.executable), "-m", "lamina"]


def word(text: str, *, dollar: str = "$$") -> str:
    """*text* as one word of a command line, literally: systemd.service(5), "Command lines"; systemd.syntax(7). *dollar*
    is how that sign is written.
    """
    escaped = "".join(_escaped(char) for char in text.replace("%", "%%").replace("$", dollar))
    # a sign before the first word of a command, or a lone ";", would be taken as more
    plain = text and all(char.isascii() and (char.isalnum() or char in "-_./=:,+@") for char in text)
    return escaped if plain else f'"{escaped}"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))


def environment_file(variables: Mapping[str, str]) -> str:
    """The text of a file of *variables* for `EnvironmentFile=`: systemd.exec(5). Raises InvalidInput."""
    from lamina.errors import InvalidInput

    lines = []
    for name, text in variables.items():
        plain = name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()
        if not plain or not _is_text(text):
            raise InvalidInput(
                f"generate systemd: variable {name!r}: systemd reads no such name or value from a file",
                remedy="make the container with --env-file instead",
            )
        escaped = "".join(f"\\{char}" if char in '"\\`$' else char for char in text)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)


def _place(path: str) -> str:
    """A path that begins with a specifier of systemd's, or one of this machine, literally."""
    return path if path.startswith(CONFIGURATION) else _literal(path)


def _is_text(text: str) -> bool:
    """UTF-8 without control characters other than tabs and ends of lines: systemd's `utf8_is_valid` and its parser."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text and "\r" not in text


def _literal(text: str) -> str:
    """*text* in a setting that is not split into words, where nothing can be escaped but "%": systemd.syntax(7).

    Raises InvalidInput for what would be read as something else: "\\r" ends a line as "\\n" does, a backslash at the
    end goes on with the next one, and blanks at the ends are taken away.
    """
    from lamina.errors import InvalidInput

    if not text.isprintable() or text.endswith("\\") or text != text.strip():
        raise InvalidInput(
            f"generate systemd: {text!r} cannot be written in a unit",
            remedy="a directory or a unit with a plainer name can",
        )
    return text.replace("%", "%%")


def words_again(
    options: Sequence[Option], values: dict[str, object], image: str, command: Sequence[str]
) -> list[str]:
    """The words behind `run` that ask for what *values*, a parsed command line, asked for: each option in one word.
    Values of the environment are not among them: `environment_of`.
    """
    return [*_options(options, values), image, *(["--", *command] if command else [])]


def environment_of(values: dict[str, object]) -> dict[str, str]:
    """The variables that *values*, a parsed command line, takes from here: `-e NAME`. Who types no value does not
    want it to be read in a unit, or in the arguments of a process.
    """
    given = values.get("env")
    names = [str(one) for one in given if "=" not in str(one)] if isinstance(given, (tuple, list)) else []
    return {name: os.environ[name] for name in names if name in os.environ}


def _options(options: Sequence[Option], values: dict[str, object]) -> Iterator[str]:
    for option in options:
        given = values.get(option.key)
        if option.key in _NOT_AGAIN or given in (None, (), False) or given == option.default:
            continue
        if given is True and not option.metavar:
            yield f"--{option.name}"
            continue
        for one in given if isinstance(given, (tuple, list)) else (given,):
            text = str(one)
            if option.key == "env" and "=" not in text and text not in os.environ:
                continue
            yield f"--{option.name}={os.path.abspath(text) if option.key in _PATHS else text}"
