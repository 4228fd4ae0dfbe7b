"""The picture of a path's layers on a page by itself, with the whole table below it for those who read, and for search.

Nothing is fetched and nothing runs: the page forbids both to itself.
"""

from __future__ import annotations

from html import escape

from lamina.engine.whiteboard import shown, svg, when

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lamina.engine.provenance import Maker, Provenance
    from lamina.overlay.explain import Answer

STYLE = """
:root{color-scheme:light dark;--paper:#fbfaf7;--ink:#1f2328;--weak:#5b6472;--line:#d5dae3;--good:#047857;--bad:#b91c1c}
@media (prefers-color-scheme:dark){
:root{--paper:#14161a;--ink:#e8eaed;--weak:#a3adba;--line:#343b46;--good:#34d399;--bad:#f87171}}
body{margin:2rem auto;max-width:80rem;padding:0 1rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,'Segoe UI','Noto Sans',sans-serif}
h1{font-size:1.35rem;overflow-wrap:anywhere}h1 code{font-size:1em}
code{font-family:ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:.88em;
unicode-bidi:isolate;overflow-wrap:anywhere}
figure{margin:1rem 0;overflow-x:auto}figure svg{max-width:100%;height:auto}
table{border-collapse:collapse;width:100%}caption{text-align:start;color:var(--weak);padding:.4rem 0}
th,td{text-align:start;vertical-align:top;padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--line)}
td.number{text-align:end;white-space:nowrap;font-variant-numeric:tabular-nums}
tr.wins,tr.merged,tr.content{color:var(--good)}tr.deletes{color:var(--bad)}tr.hidden,tr.none{color:var(--weak)}
footer{color:var(--weak);font-size:.85rem;margin-top:1.5rem}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def html(found: Provenance) -> str:
    """The page."""
    path, name = _safe(found.path), _safe(found.name)
    sums = bool(found.shares)
    added_up = ["Seen", "Hidden", "Deletes"] if sums else []
    headings = ["Layer", "Made by", "Step", "When", "Here", "Size", *added_up, "Why"]
    head = "".join(f'<th scope="col">{word}</th>' for word in headings)
    rows = "\n".join(
        _row(found, row, maker, sums) for row, maker in zip(found.rows, found.makers, strict=True)
    )
    notes = "".join(f"<p>{_safe(note)}</p>" for note in _notes(found))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{path} in {name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1><code>{path}</code> in {name}</h1>\n<p>{_safe(found.why)}</p>\n{notes}"
        f"<figure>\n{svg(found)}</figure>\n"
        f"<table>\n<caption>Every layer's answer, the top one first</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody>\n</table>\n</main>\n<footer>Drawn by <code>lamina explain</code></footer>\n"
        "</body>\n</html>\n"
    )


def _notes(found: Provenance) -> Iterator[str]:
    if found.mounted:
        yield f"In the container {found.mounted} is mounted over it: nobody there sees this."
    if found.cost:
        yield found.cost[:1].upper() + found.cost[1:] + "."


def _row(found: Provenance, row: Answer, maker: Maker, sums: bool) -> str:
    from lamina.engine.quantities import size

    layer = row.role if row.role == "upper" else f"{row.role} {row.layer}"
    answer = ", ".join((*row.marks, row.answer)) if row.answer != "absent" else "–"
    large = size(row.entry.size) if row.entry is not None and row.answer == "file" else ""
    title = maker.title + (" (squashed)" if maker.squashed else "")
    said = f"{maker.step}" + (f" — {maker.message}" if maker.message and maker.step else maker.message)
    cells = [
        f'<th scope="row">{_safe(layer)}</th>',
        f"<td>{_safe(title)}</td>",
        f"<td><code>{_safe(said)}</code></td>",
        f"<td>{_safe(when(maker.created))}</td>",
        f"<td>{_safe(answer)}</td>",
        f'<td class="number">{_safe(large)}</td>',
    ]
    if sums:
        share = found.share(row.layer)
        told = ("", "", "") if share is None else (
            f"{share.shown:,} ({size(share.shown_bytes)})", f"{share.hidden:,} ({size(share.hidden_bytes)})",
            f"{share.deletes:,}",
        )  # fmt: skip
        cells += [f'<td class="number">{_safe(text)}</td>' for text in told]
    cells.append(f"<td>{_safe(row.why or row.part)}</td>")
    return f'<tr class="{row.part or "none"}">{"".join(cells)}</tr>'


def _safe(text: str | bytes) -> str:
    return escape(shown(text), quote=True)
