"""The layout of a page: one HTML file for phones, desktops and print, light and dark."""

from collections.abc import Iterable, Sequence

from distnet import __version__
from distnet.reporting.pages.charts import STYLE as CHARTS
from distnet.reporting.pages.charts import escape

STYLE = (
    CHARTS
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 72rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; -webkit-text-size-adjust: 100%; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line);
  break-after: avoid; }
p { margin: .5rem 0; max-width: 44rem; }
small, .small, figcaption { font-size: .85rem; color: var(--soft); }
code, pre { font: .82rem/1.5 ui-monospace, monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .75rem; margin: 0;
  white-space: pre-wrap; }
.option { white-space: nowrap; }
figure { margin: 0; break-inside: avoid; }
svg { display: block; width: 100%; height: auto; }
img { display: block; width: 100%; height: auto; image-rendering: pixelated; border-radius: 3px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem;
  break-inside: avoid; }
.tile b { display: block; font-size: 1.1rem; line-height: 1.35; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1.5rem 1.5rem; }
@media (min-width: 70rem) { .charts.pairs { grid-template-columns: 1fr 1fr; } }
.charts svg { max-width: 27rem; }
.charts + .scroll, .bar + .scroll { margin-top: 1.5rem; }
.charts figcaption b, .key { color: var(--ink); }
.key { white-space: nowrap; margin-left: .8rem; }
.key i { display: inline-block; width: 1.4em; border-top: .2em solid var(--c); vertical-align: .22em;
  margin-right: .35em; }
.key i.dashed { border-top-style: dotted; }
.key i.box { height: .8em; width: .8em; border: 0; background: var(--c); border-radius: 2px; vertical-align: -.05em; }
.key i.dot { height: .6em; width: .6em; border: 0; background: var(--c); border-radius: 50%; vertical-align: 0; }
.keys { line-height: 1.9; }
.small .key { margin: 0; }
.keys .key { margin: 0 1rem 0 0; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem; }
.flow { display: flex; flex-wrap: wrap; gap: 1.5rem 2.5rem; }
.flow > * { min-width: 0; max-width: 100%; }
.flow figcaption { max-width: 26rem; }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll td, .scroll th { white-space: nowrap; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr { break-inside: avoid; }
table.plain { overflow-wrap: anywhere; }
table.plain td, table.plain th { text-align: left; }
table.plain th { white-space: nowrap; font-weight: 400; padding-left: 0; }
.matrix { --cell: clamp(1.3rem, (100vw - 5rem) / var(--n), 2.2rem); margin-top: .5rem; table-layout: fixed; }
.matrix.dense { --cell: .85rem; font-size: .7rem; }
.matrix th, .matrix td { padding: 0; border: 0; font-weight: 400; line-height: 1; vertical-align: middle;
  text-align: center; }
.matrix td { height: var(--cell); min-width: var(--cell); max-width: var(--cell); background: var(--card);
  border: .5px solid var(--page); font-size: min(.75rem, var(--cell) / (var(--digits) + .5) / .62); }
.matrix td[class] { background: color-mix(in srgb, var(--c) var(--p), var(--card)); }
.matrix th span { display: inline-block; max-width: 7rem; max-height: 7rem; overflow: hidden; text-overflow: ellipsis; }
.matrix tr > th:first-child { text-align: right; padding-right: .35rem; }
.matrix tr:first-child th { padding-bottom: .35rem; vertical-align: bottom; }
.matrix.turned tr:first-child span { writing-mode: vertical-rl; transform: rotate(180deg); }
.thumbs { display: grid; grid-template-columns: repeat(auto-fill, minmax(4.6rem, 1fr)); gap: .9rem .6rem; }
.thumbs figcaption { line-height: 1.35; margin-top: .25rem; font-size: .8rem; }
.thumbs b { color: var(--ink); font-size: .95rem; }
.weights { grid-template-columns: repeat(auto-fill, minmax(max(2.6rem, 5.4%), 1fr)); gap: .35rem; }
.weights img { background: var(--card); border: 1px solid var(--line); }
.bar { display: grid; grid-template-columns: minmax(5rem, 13rem) 1fr 4.8rem; gap: .6rem; align-items: center;
  font-size: .85rem; margin: .3rem 0; break-inside: avoid; font-variant-numeric: tabular-nums; }
.bar > :last-child { text-align: right; }
.track { display: flex; height: 1.3rem; gap: 1px; }
.track span { background: var(--c); min-width: 0; }
footer { margin-top: 3rem; }
@media screen and (max-width: 45rem) {
  th, td { padding: .25rem .35rem; }
  .scroll table:not(.matrix) :is(th, td) { white-space: normal; }
  .bar { grid-template-columns: 1fr 4.8rem; gap: 0 .6rem; }
  .bar > :first-child { grid-column: 1 / -1; }
}
@media (max-width: 60rem) {
  .reflows, .reflows tbody { display: block; }
  .reflows tr:first-child { display: none; }
  .reflows tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); gap: .2rem .6rem;
    padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .reflows td { display: block; border: 0; padding: 0; text-align: left; white-space: normal; }
  .reflows td:first-child { grid-column: 1 / -1; font-weight: 600; }
  .reflows td:not(:first-child)::before { content: attr(data-name); display: block; color: var(--soft);
    font-size: .8rem; }
}
@media print {
  @page { margin: 14mm; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  html { font-size: 10.5pt; }
  body { padding: 0; max-width: none; }
  .scroll { overflow: visible; }
  .scroll td, .scroll th { white-space: normal; overflow-wrap: anywhere; }
}
"""
)


def render_document(title: str, parts: Iterable[str]) -> str:
    """Render a whole page. parts: HTML, in which all foreign text is escaped."""
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # Otherwise browsers request an icon from a server.
            '<link rel="icon" href="data:,">',
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            *parts,
            f'<footer class="small">Made by distnet {escape(__version__)}</footer>\n</body>\n</html>\n',
        ]
    )


def render_section(heading: str, *parts: str) -> str:
    """Render a section with a heading. parts: HTML."""
    return "\n".join([f"<section>\n<h2>{escape(heading)}</h2>", *parts, "</section>"])


def render_table(head: Sequence[object], rows: Iterable[Sequence[object]], *, reflows: bool = False) -> str:
    """Render a table. reflows: whether, on a narrow screen, each row becomes a block of named values."""
    lines = ["".join(f'<th scope="col">{escape(each)}</th>' for each in head)]
    for row in rows:
        cells = zip(head, row, strict=True)
        lines.append("".join(f'<td data-name="{escape(name)}">{escape(each)}</td>' for name, each in cells))
    kind = ' class="reflows"' * reflows
    return f'<div class="scroll"><table{kind}>\n' + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table></div>"


def render_pairs(pairs: Iterable[tuple[str, object]]) -> str:
    """Render a table of names and values."""
    lines = [f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in pairs]
    return '<table class="plain">\n' + "\n".join(lines) + "\n</table>"


def render_key(label: str, colour: int, kind: str = "") -> str:
    """Render an entry of a legend. kind: "dashed", "box" or "dot"; a line if empty."""
    return f'<span class="key c{colour}"><i class="{kind}"></i>{escape(label)}</span>'


def render_bar(label: object, parts: Iterable[tuple[int, float, str]], end: str) -> str:
    """Render a bar of coloured parts. parts: colour, share of the longest bar, and tooltip of each. end: behind it."""
    spans = [
        f'<span class="c{k}" style="width:{share * 100:.2f}%" title="{escape(tip)}"></span>' for k, share, tip in parts
    ]
    return f'<div class="bar"><span>{escape(label)}</span><div class="track">{"".join(spans)}</div>' + (
        f"<span>{escape(end)}</span></div>"
    )


def render_figure(caption: str, content: str) -> str:
    """Render a picture below its caption. caption, content: HTML."""
    return f"<figure><figcaption>{caption}</figcaption>{content}</figure>"
