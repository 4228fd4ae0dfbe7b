"""`lamina system warm`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="system warm",
    arguments=(Argument("what", "on|off|status", "?", choices=("on", "off", "status")),),
    details="""
Most of what a command takes is Python importing what it needs. So the first command of yours leaves a process behind
that has imported it, and does the next ones; it leaves by itself after ten minutes without any. It is not needed for
anything: off ends it and keeps it from coming back, until on. LAMINA_WARM=0 does that for one command, LAMINA_WARM=1
the opposite.
""",
    examples="lamina system warm\nlamina system warm off",
)


def do(args: Arguments) -> int:
    """Show, or switch."""
    import os

    from lamina.errors import InvalidInput
    from lamina.warm import control

    if args.what == "off":
        if control.switch_off(os.environ) is None:
            raise InvalidInput(
                "system warm off: there is no home directory to remember it in",
                remedy="set LAMINA_WARM=0 instead",
            )
        control.end_all(os.environ)
    elif args.what == "on":
        control.switch_on(os.environ)
    _status()
    return 0


def _status() -> None:
    import os

    from lamina.cli import output
    from lamina.cli.sizes import human
    from lamina.warm import control

    why = control.why_off(os.environ)
    output.line(f"off ({why})" if why else "on")
    found = control.living(os.environ)
    if found:
        output.columns(
            ["PID", "SURROUNDINGS", "MEMORY"], [[str(w.pid), w.name, human(w.memory)] for w in found]
        )
