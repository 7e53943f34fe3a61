"""One HTML file that holds a whole report: words, tables, pictures.

The file fetches nothing (its content security policy forbids it) and runs
no script; it follows the reader's light or dark setting, prints, and folds
to a phone's width.

Example:
  >>> from gcl_jax.report import figures, html
  >>> picture = figures.bin_sizes([30, 12, 7])
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
  Notice,
  Section,
  Table,
  Text,
  settings,
)
from gcl_jax.report.cells import escape, number
from gcl_jax.report.render import (
  counters,
  render_blocks,
  render_cards,
  warning_box,
)
from gcl_jax.report.style import style_sheet

__all__ = [
  "Block",
  "Card",
  "Details",
  "Figure",
  "Notice",
  "Section",
  "Table",
  "Text",
  "number",
  "settings",
  "write",
]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


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
  """Ids for the sections: readable, unique, the same from run to run."""
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
  """Writes the report; the file appears whole or not at all.

  All words are escaped: nothing passed in is read as HTML.

  Args:
    path: the file; its folder is made when missing, an older file replaced.
    title: the page's heading.
    subtitle: one or two sentences under it.
    cards: headline numbers, in reading order.
    sections: what follows, each with an entry in the navigation.
    footer: the last line: versions, date, command.
    warnings: what the reader must know before trusting a number; shown in
      one box above the sections.

  Returns:
    The path.

  Raises:
    ValueError: a picture is neither PNG nor safe SVG; a table's row is not
      as wide as its headers; a notice's kind or an alignment is unknown.
    OSError: the folder cannot be written.
  """
  page = _page(title, subtitle, cards, sections, footer, warnings)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  disk.write_text(path, page)
  return path
