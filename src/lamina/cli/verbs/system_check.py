"""`lamina system check`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.options import OUTPUT

VERB = Verb(
    name="system check",
    options=(
        Option("repair", help="Mend what can be mended, take away what is damaged or left over"),
        Option("rehash", help="Read all content and compare digests"),
        OUTPUT,
    ),
    details="""Looks at every blob, layer, image, name, container and volume, at what those left who were killed, and at
    mounts. Nothing that a container is over is taken from it, and no data of a volume. With --rehash a layer is sealed
    the first time, by the digest of everything in it, and compared with that seal from then on.

    The exit status is 1 if something is damaged and was not repaired.""",
    examples="lamina system check\nlamina system check --repair --rehash",
)


def do(args: Arguments) -> int:
    """Check, and say what was found."""
    from lamina.cli import output
    from lamina.engine import Engine
    from lamina.engine.quantities import plural

    done = Engine(args.root).storage.check(repair=args.repair, rehash=args.rehash)
    damaged = [one for one in done.findings if one.severity == "damaged" and not one.repaired]
    if args.format == "json":
        output.json_document({**vars(done), "clean": done.clean, "findings": list(map(vars, done.findings))})
        return int(bool(damaged))
    for one in done.findings:
        what = one.what if len(one.what) < 64 else f"{one.what[:19]}..."
        end = "repaired" if one.repaired else one.remedy
        output.line(f"{one.severity}: {one.kind} {what}: {one.problem}" + (f" ({end})" if end else ""))
    counted = (
        plural(done.images, "image", "images"),
        plural(done.layers, "layer", "layers"),
        plural(done.blobs, "blob", "blobs"),
        plural(done.containers, "container", "containers"),
        plural(done.volumes, "volume", "volumes"),
    )
    output.line(f"Looked at {', '.join(counted)}.")
    if args.rehash:
        sealed = plural(done.sealed, "layer", "layers")
        output.line(f"Hashed: {done.proven:,} as they were written, {sealed} sealed for the first time.")
    output.line("Everything is whole." if done.clean else plural(len(done.findings), "finding.", "findings."))
    return int(bool(damaged))
