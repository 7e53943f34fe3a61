"""Writer of a whole report as one HTML file: text, tables, pictures.

The file loads nothing from outside (its content security policy forbids it)
and runs no script. Pictures are data URIs in <img> elements. The page follows
the reader's light or dark setting, can be printed, and fits a phone's width.

Example:
  >>> from gcl_jax.report import charts, html
  >>> picture = charts.bin_sizes([30, 12, 7])
  >>> path = html.write(
  ...   "report.html",
  ...   title="Severity",
  ...   cards=[html.Card("AUROC", 0.81, (0.74, 0.87))],
  ...   sections=[html.Section("Bins", [html.Figure(picture, "Sizes.")])],
  ... )
"""

import os
import pathlib
import re
from collections.abc import Sequence

from gcl_jax import disk
from gcl_jax.report.blocks import (
  Block,
  Card,
  Details,
  Figure,
  Section,
  Table,
  Text,
  settings,
)
from gcl_jax.report.render import (
  counters,
  render_blocks,
  render_cards,
  warning_box,
)
from gcl_jax.report.style import style_sheet
from gcl_jax.report.words import escape

__all__ = [
  "Block",
  "Card",
  "Details",
  "Figure",
  "Section",
  "Table",
  "Text",
  "settings",
  "write",
]

_POLICY = (
  "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
  "base-uri 'none'; form-action 'none'"
)


def _page(title, subtitle, cards, sections, footer, warnings) -> str:
  slugs = _slugs([section.title for section in sections])
  links = "".join(
    f'<li><a href="#{slug}">{escape(section.title)}</a></li>'
    for slug, section in zip(slugs, sections, strict=True)
  )
  numbers = counters()
  body = "".join(
    f'<section id="{slug}" aria-labelledby="{slug}-title">'
    f'<h2 id="{slug}-title">{escape(section.title)}</h2>\n'
    f"{render_blocks(section.blocks, numbers)}</section>\n"
    for slug, section in zip(slugs, sections, strict=True)
  )
  lead = f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else ""
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
    '<meta name="color-scheme" content="light dark">\n'
    f"<title>{escape(title)}</title>\n<style>\n{style_sheet()}</style>\n"
    '</head>\n<body>\n<a class="skip" href="#content">Skip to content</a>\n'
    '<div class="shell">\n'
    f'<header class="masthead"><h1>{escape(title)}</h1>{lead}</header>\n'
    f'<nav aria-label="Sections"><ol>{links}</ol></nav>\n'
    f'<main id="content">\n{render_cards(cards)}{warning_box(warnings)}'
    f"{body}</main>\n"
    + (f"<footer><p>{escape(footer)}</p></footer>\n" if footer else "")
    + "</div>\n</body>\n</html>\n"
  )


def _slugs(titles: Sequence[str]) -> list[str]:
  """Ids of the sections: readable, unique, the same in every run."""
  slugs: list[str] = []
  for title in titles:
    base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
    slug, copy = f"s-{base}", 2
    while slug in slugs:
      slug, copy = f"s-{base}-{copy}", copy + 1
    slugs.append(slug)
  return slugs


def write(
  path: str | os.PathLike[str],
  *,
  title: str,
  subtitle: str = "",
  cards: Sequence[Card] = (),
  sections: Sequence[Section] = (),
  footer: str = "",
  warnings: Sequence[str] = (),
) -> pathlib.Path:
  """Writes the report atomically; equal arguments give equal bytes.

  All text is escaped: nothing passed in is read as HTML.

  Args:
    path: the file; its folder is made when missing, an older file replaced.
    title: the page's heading.
    subtitle: one or two sentences under it.
    cards: headline numbers, in reading order.
    sections: what follows, each with an entry in the navigation.
    footer: the last line: versions, date, command.
    warnings: limits that the reader must know before trusting a number;
      shown in one box above the sections.

  Returns:
    The path.

  Raises:
    ValueError: a picture is no SVG with a `viewBox`; a table's row is not
      as wide as its headers; an alignment is unknown.
    OSError: the folder cannot be written.
  """
  page = _page(title, subtitle, cards, sections, footer, warnings)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  disk.write_text(path, page)
  return path
