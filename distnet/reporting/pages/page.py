"""One HTML file that needs no other: on a phone, on a desk and on paper, by day and by night."""

from collections.abc import Iterable, Mapping, Sequence

from distnet import __version__
from distnet.reporting.pages.charts import STYLE as CHARTS
from distnet.reporting.pages.charts import escaped

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
figure { margin: 0; break-inside: avoid; }
svg { display: block; width: 100%; height: auto; }
img { display: block; width: 100%; height: auto; image-rendering: pixelated; border-radius: 3px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(7rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem;
  break-inside: avoid; }
.tile b { display: block; font-size: 1.3rem; line-height: 1.35; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1.5rem 1.5rem; }
.charts svg { max-width: 32rem; }
.charts figcaption b, .key { color: var(--ink); }
.key { white-space: nowrap; margin-left: .8rem; }
.key i { display: inline-block; width: 1.4em; border-top: .2em solid var(--c); vertical-align: .22em;
  margin-right: .35em; }
.key i.dashed { border-top-style: dotted; }
.key i.box { height: .8em; width: .8em; border: 0; background: var(--c); border-radius: 2px; vertical-align: -.05em; }
.keys { line-height: 1.9; }
.small .key { margin: 0; }
.keys .key { margin: 0 1rem 0 0; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem; }
.beside svg { max-width: 36rem; }
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
@media (max-width: 30rem) {
  th, td { padding: .25rem .35rem; }
  .bar { grid-template-columns: 1fr 4.8rem; gap: 0 .6rem; }
  .bar > :first-child { grid-column: 1 / -1; }
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


def document(title: str, parts: Iterable[str]) -> str:
    """The file. parts: HTML, in which what isn't ours is escaped."""
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # Else browsers ask a server for a picture of the site.
            '<link rel="icon" href="data:,">',
            f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            *parts,
            f'<footer class="small">Made by distnet {escaped(__version__)}</footer>\n</body>\n</html>\n',
        ]
    )


def section(heading: str, *parts: str) -> str:
    """A part of the page under a heading."""
    return "\n".join([f"<section>\n<h2>{escaped(heading)}</h2>", *parts, "</section>"])


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Rows under a head; what is wider than a phone scrolls."""
    lines = ["".join(f'<th scope="col">{escaped(each)}</th>' for each in head)]
    lines += ["".join(f"<td>{escaped(each)}</td>" for each in row) for row in rows]
    return '<div class="scroll"><table>\n' + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table></div>"


def named_values(values: Mapping[str, object]) -> str:
    """Names, each beside its value."""
    lines = [f'<tr><th scope="row">{escaped(k)}</th><td>{escaped(v)}</td></tr>' for k, v in values.items()]
    return '<table class="plain">\n' + "\n".join(lines) + "\n</table>"


def key(label: str, colour: int, kind: str = "") -> str:
    """What a colour stands for. kind: "dashed" or "box"; a line where it isn't given."""
    return f'<span class="key c{colour}"><i class="{kind}"></i>{escaped(label)}</span>'


def figure(caption: str, content: str) -> str:
    """A picture under its caption. caption: HTML."""
    return f"<figure><figcaption>{caption}</figcaption>{content}</figure>"
