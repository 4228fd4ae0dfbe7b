"""`lamina doctor`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Verb
from lamina.cli.options import OUTPUT

VERB = Verb(
    name="doctor",
    options=(OUTPUT,),
    details="The exit status is 1 if something keeps containers from running, 0 if all that was found is bearable.",
)


def do(args: Arguments) -> int:
    """Examine the host; say what is wrong and what to do."""
    from lamina.cli import output
    from lamina.cli.answers import findings
    from lamina.engine.doctor import BLOCKS, doctor

    found = doctor(args.root)
    if args.format == "json":
        output.json_document([vars(finding) for finding in found])
    else:
        findings(found)
    return int(any(finding.level == BLOCKS for finding in found))
