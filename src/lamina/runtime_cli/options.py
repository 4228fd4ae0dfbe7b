"""The options that stand before the verb, and those which several verbs share."""

from __future__ import annotations

from lamina.argv.declare import Argument, Option, Verb

GLOBAL = Verb(
    name="",
    options=(
        Option("root", "", "DIRECTORY", "Keep the containers' state here"),
        Option("log", "", "FILE", "Append messages to this file"),
        Option(
            "log-format", "", "FORMAT", "text (default) or json", choices=("text", "json"), default="text"
        ),
        Option("debug", help="On an error show where in the program it arose"),
        Option(
            "systemd-cgroup", help="Let systemd make the control groups; cgroupsPath is slice:prefix:name"
        ),
        Option(
            "rootless",
            "",
            "BOOL",
            "Taken for runc's sake: it is found out",
            choices=("true", "false", "auto"),
        ),
        Option("criu", "", "PATH", "Taken for runc's sake"),
        Option("version", "v", help="Show the version"),
        Option("help", "h", help="Show this"),
    ),
    interspersed=False,
)

HELP = Option("help", "h", help="Show this")
ID = Argument("id", "ID")


def whole(text: str) -> int:
    """A number that is not negative, for an option."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError("is not a number")
    return int(text)


CONSOLE = Option("console-socket", "", "SOCKET", "Send the terminal's master over this unix socket")
PIDFD = Option("pidfd-socket", "", "SOCKET", "Send a pidfd of the process over this unix socket")
PID_FILE = Option("pid-file", "", "FILE", "Write the process's id to this file")
PRESERVE = Option(
    "preserve-fds", "", "N", "Pass N more descriptors on (3 to N + 2)", convert=whole, default=0
)

CREATION = (
    Option("bundle", "b", "DIRECTORY", "The bundle (else the current directory)", default="."),
    CONSOLE,
    PIDFD,
    PID_FILE,
    PRESERVE,
    Option("no-pivot", help="Enter the root by chroot(2), where it cannot be pivoted (an initramfs)"),
    Option("no-new-keyring", help="Stay in the caller's session keyring"),
    Option("init", help="Run the command under a small init that reaps and forwards signals"),
)
