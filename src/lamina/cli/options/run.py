"""The options of `lamina run` and of whatever starts a container: said once, for the quick parser and for click."""

from __future__ import annotations

from lamina.cli.convert import key_value, whole_number
from lamina.cli.declare import Argument, Option

RUN, PROCESS, FILES, LIMITS = "Container", "Process", "Files and network", "Limits"

OPTIONS: tuple[Option, ...] = (
    Option("name", metavar="NAME", help="Call the container this (else a name is made up)", group=RUN),
    Option("rm", help="Remove the container, and what it changed, when the command ends", group=RUN),
    Option("hostname", "h", metavar="NAME", help="The host name inside", group=RUN),
    Option(
        "label", "l", metavar="KEY=VALUE", convert=key_value, multiple=True, help="Note something", group=RUN
    ),
    Option(
        "cidfile", metavar="FILE", help="Write the container's id to a new file", group=RUN, complete="file"
    ),
    Option("interactive", "i", help="Let the command read standard input", group=PROCESS),
    Option("tty", "t", help="Give the command a terminal", group=PROCESS),
    Option(
        "env",
        "e",
        "KEY=VALUE",
        key_value,
        True,
        help="Set a variable; KEY alone takes it from here",
        group=PROCESS,
    ),
    Option(
        "env-file",
        metavar="FILE",
        multiple=True,
        help="Read variables from a file",
        group=PROCESS,
        complete="file",
    ),
    Option("workdir", "w", metavar="DIRECTORY", help="Where the command starts", group=PROCESS),
    Option(
        "user", "u", metavar="USER[:GROUP]", help="Whom the command runs as: names or numbers", group=PROCESS
    ),
    Option("entrypoint", metavar="COMMAND", help="Run this, with COMMAND as its arguments", group=PROCESS),
    Option(
        "volume",
        "v",
        "SOURCE:TARGET[:ro]",
        multiple=True,
        help="Show a file or directory of the host inside",
        group=FILES,
        complete="file",
    ),
    Option("read-only", help="Let nothing be written to the root file system", group=FILES),
    Option(
        "network",
        metavar="none|host",
        choices=("none", "host"),
        help="none (default): only the loopback device; host: the host's",
        group=FILES,
    ),
    Option("memory", "m", metavar="SIZE", help="At most this much memory: 512m, 2g", group=LIMITS),
    Option("cpus", metavar="NUMBER", help="At most this much processor time: 0.5, 2", group=LIMITS),
    Option(
        "pids-limit", metavar="NUMBER", convert=whole_number, help="At most this many processes", group=LIMITS
    ),
)

ARGUMENTS = (Argument("image", "IMAGE"), Argument("words", "COMMAND", "*"))
