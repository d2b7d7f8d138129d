"""mkdocs hook: turn the formulas of a page into MathML while the site is built.

Pages write formulas as GitHub renders them, $...$ and $$...$$. MathML needs no JavaScript, no web fonts and no
network in the browser, so the site stays self-contained.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace each formula that pymdownx.arithmatex marked by MathML."""
    return FORMULA.sub(to_mathml, content)


def to_mathml(formula: re.Match[str]) -> str:
    """MathML of one formula: inline for $...$, as a block for $$...$$."""
    display = "inline" if formula[2] == "(" else "block"
    mathml: str = convert(html.unescape(formula[3]), display=display)
    return mathml
