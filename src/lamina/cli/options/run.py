"""The options of `lamina run` and of whatever starts a container: said once, for the quick parser and for click."""

from __future__ import annotations

from lamina.argv.declare import Argument, Option
from lamina.cli.options import keys, stream

RUN, LIFE, PROCESS, FILES, LIMITS = "Container", "Its life", "Process", "Files and network", "Limits"
NETWORKS = ("none", "host")
RESTARTS = "no|on-failure|always|unless-stopped"
PULLS = ("missing", "always", "never")

OPTIONS: tuple[Option, ...] = (
    Option("detach", "d", "", "Let it run by itself, and print its id", RUN),
    Option(
        "attach",
        "a",
        "STREAM",
        "Be at these alone: stdin, stdout, stderr; the log has all of them",
        PROCESS,
        multiple=True,
        convert=stream,
    ),
    Option("name", "", "NAME", "Call the container this (else a name is made up)", RUN),
    Option("rm", "", "", "Remove the container, and what it changed, when the command ends", RUN),
    Option("hostname", "h", "NAME", "The host name inside", RUN),
    Option("label", "l", "KEY=VALUE", "Note something; may be repeated", RUN, multiple=True),
    Option("label-file", "", "FILE", "Read labels from a file", RUN, multiple=True, complete="file"),
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
    Option(
        "restart",
        "",
        "POLICY",
        "When it ends: no (default), on-failure[:TIMES], always or unless-stopped",
        LIFE,
        complete=RESTARTS,
    ),
    Option("stop-signal", "", "SIGNAL", "What asks it to end: TERM (default)", LIFE),
    Option("stop-timeout", "", "SECONDS", "What a stop waits before it kills: 10 (default)", LIFE),
    Option("timeout", "", "SECONDS", "Kill it after so long", LIFE),
    Option(
        "lifetime",
        "",
        "WHOSE",
        "container (default), or owner: remove it when the process that calls this ends",
        LIFE,
        choices=("container", "owner"),
        default="container",
    ),
    Option("interactive", "i", "", "Let the command read standard input", PROCESS),
    Option("tty", "t", "", "Give the command a terminal", PROCESS),
    Option("env", "e", "KEY=VALUE", "Set a variable; KEY alone takes it from here", PROCESS, multiple=True),
    Option("env-file", "", "FILE", "Read variables from a file", PROCESS, multiple=True, complete="file"),
    Option("workdir", "w", "DIRECTORY", "Where the command starts", PROCESS),
    Option("user", "u", "USER[:GROUP]", "Whom the command runs as: names or numbers", PROCESS),
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
    Option(
        "durability",
        "",
        "none|full",
        "none: never wait for the disk, and lose it if the machine goes down (default with --rm); full",
        FILES,
        choices=("none", "full"),
    ),
    Option(
        "snapshot",
        "",
        "WHEN",
        "every-exec: after each 'lamina exec' make a snapshot, with its command",
        FILES,
        choices=("every-exec",),
    ),
    Option("read-only", "", "", "Let nothing be written to the root file system", FILES),
    Option(
        "network",
        "",
        "NETWORK",
        "bridge (of root's images), pasta (of a user's), a network's name, container:NAME, cni:NAME, host, or none",
        FILES,
        multiple=True,
        complete="network",
        also="net",
    ),
    Option("memory", "m", "SIZE", "At most this much memory: 512m, 2g", LIMITS),
    Option("cpus", "", "NUMBER", "At most this much processor time: 0.5, 2", LIMITS),
    Option(
        "detach-keys",
        "",
        "KEYS",
        "What is typed to leave it running: ctrl-p,ctrl-q (default)",
        PROCESS,
        convert=keys,
    ),
    Option("sig-proxy", "", "", "Hand signals on to it (default; =false: keep them)", PROCESS, default=True),
    Option(
        "log-driver",
        "",
        "DRIVER",
        "local (default), json-file, k8s-file, none or passthrough",
        RUN,
        complete="local|json-file|k8s-file|none|passthrough",
    ),
    Option("log-opt", "", "KEY=VALUE", "max-size=10m, max-file=3 and others", RUN, multiple=True),
    Option("pids-limit", "", "NUMBER", "At most this many processes", LIMITS),
)

ARGUMENTS = (Argument("image", "IMAGE", complete="image"), Argument("words", "COMMAND", "*"))

MORE = "lamina.cli.options.further"
