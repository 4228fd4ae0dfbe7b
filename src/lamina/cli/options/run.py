"""The options of `lamina run` and of whatever starts a container: said once, for the quick parser and for click."""

from __future__ import annotations

from lamina.argv.declare import Argument, Option

RUN, PROCESS, FILES, LIMITS = "Container", "Process", "Files and network", "Limits"
NETWORKS = ("none", "host")
PULLS = ("missing", "always", "never")

OPTIONS: tuple[Option, ...] = (
    Option("name", "", "NAME", "Call the container this (else a name is made up)", RUN),
    Option("rm", "", "", "Remove the container, and what it changed, when the command ends", RUN),
    Option("hostname", "h", "NAME", "The host name inside", RUN),
    Option("label", "l", "KEY=VALUE", "Note something; may be repeated", RUN, multiple=True),
    Option("cidfile", "", "FILE", "Write the container's id to a new file", RUN, complete="file"),
    Option(
        "pull",
        "",
        "WHEN",
        "Pull the image: missing (default), always or never",
        RUN,
        choices=PULLS,
        default="missing",
    ),
    Option("platform", "", "OS/ARCH", "The image for another kind of machine: linux/arm64", RUN),
    Option("layer-limit", "", "NAME=NUMBER", "What a layer may have at most, as of pull", RUN, multiple=True),
    Option("quiet", "q", "", "Say nothing about a pull", RUN),
    Option("interactive", "i", "", "Let the command read standard input", PROCESS),
    Option("tty", "t", "", "Give the command a terminal", PROCESS),
    Option("env", "e", "KEY=VALUE", "Set a variable; KEY alone takes it from here", PROCESS, multiple=True),
    Option("env-file", "", "FILE", "Read variables from a file", PROCESS, multiple=True, complete="file"),
    Option("workdir", "w", "DIRECTORY", "Where the command starts", PROCESS),
    Option("user", "u", "USER[:GROUP]", "Whom the command runs as: names or numbers", PROCESS),
    Option(
        "security-opt",
        "",
        "OPTION",
        "no-new-privileges=false: set-uid programs of the image have effect",
        PROCESS,
        multiple=True,
    ),
    Option("init", "", "", "Process 1 reaps what ends and hands signals on to the command", PROCESS),
    Option("entrypoint", "", "COMMAND", "Run this, with COMMAND as its arguments", PROCESS),
    Option(
        "volume",
        "v",
        "[SOURCE:]TARGET[:ro]",
        "Show a file or directory of the host inside, or a volume by its name",
        FILES,
        multiple=True,
    ),
    Option(
        "mount",
        "",
        "KEY=VALUE,...",
        "The same in more words: type=bind|volume|tmpfs, source, target and others",
        FILES,
        multiple=True,
    ),
    Option("tmpfs", "", "PATH[:OPTIONS]", "An empty directory in memory", FILES, multiple=True),
    Option(
        "volumes-from",
        "",
        "NAME[:ro]",
        "The volumes of another container",
        FILES,
        multiple=True,
        complete="container",
    ),
    Option("read-only", "", "", "Let nothing be written to the root file system", FILES),
    Option(
        "network",
        "",
        "none|host",
        "none (default): only the loopback device; host: the host's",
        FILES,
        choices=NETWORKS,
    ),
    Option("memory", "m", "SIZE", "At most this much memory: 512m, 2g", LIMITS),
    Option("cpus", "", "NUMBER", "At most this much processor time: 0.5, 2", LIMITS),
    Option("pids-limit", "", "NUMBER", "At most this many processes", LIMITS),
)

ARGUMENTS = (Argument("image", "IMAGE", complete="image"), Argument("words", "COMMAND", "*"))
