"""`lamina run`: the hot path. Nothing is imported here that a start does not need."""

from __future__ import annotations

from lamina.argv.declare import Arguments, Verb
from lamina.cli.options.run import ARGUMENTS, MORE, OPTIONS

VERB = Verb(
    name="run",
    options=OPTIONS,
    arguments=ARGUMENTS,
    interspersed=False,
    more=MORE,
    details="""
An image that is not here is pulled. What it says of command, variables, user, directory and volumes is done as docker
does it; root's are in the network bridge, other users' have one by pasta, unless --network or $LAMINA_NETWORK names
another.

The image 'host' is this system: its files, under an empty layer that takes whatever the command writes. It starts in
the directory you are in, without a network. 'lamina diff' shows what it did, 'lamina apply' does that to this system,
'lamina rm' discards it.

The exit status is the command's: 128 + n after signal n, 127 if there is no such command, 126 if it cannot be executed,
125 if Lamina failed.
""",
    examples="""
lamina run --rm -it debian:12 bash
lamina run --rm -v data:/var/lib/data --tmpfs /tmp registry.example/tool:1 --help
lamina run --rm -it host -- bash
lamina run --name build host -- make -C ~/project
lamina run --rm --network host --memory 512m --cpus 1.5 host -- pip install -r requirements.txt
""",
)


def do(args: Arguments) -> int:
    """Run the command and wait for it; its exit status."""
    if args.detach:
        from lamina.cli.detached import run_detached

        if args.attach:
            from lamina.errors import InvalidInput

            raise InvalidInput("run: -a and -d contradict each other", remedy="leave one out")

        return run_detached(args)
    from lamina.cli.asked import Making, check_terminal, command, options

    check_terminal(args)
    restarts = args.restart or vars(args).get("health_on_failure") == "restart"
    supervised = restarts or args.timeout is not None or args.lifetime != "container"
    if args.tty or supervised or args.attach or not args.sig_proxy:
        from lamina.cli.attached import run_attached

        return run_attached(args)
    wanted = options(args)
    with Making(args) as making:
        done = making.engine.run(args.image, command(args), forward_signals=True, **making.hooks, **wanted)
    return done.returncode
