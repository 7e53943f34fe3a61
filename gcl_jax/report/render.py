"""HTML of the blocks, cards and warnings of a report."""

import itertools
import math
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from gcl_jax.report.blocks import Block, Card, Details, Figure, Table, Text
from gcl_jax.report.words import (
  column_cells,
  escape,
  is_number,
  is_numeric,
  number,
)

Counters = dict[str, Iterator[int]]

_SMALL = 480  # pixels: up to this width the caption stands beside the picture


def counters() -> Counters:
  """Fresh numbers for the figures and tables of one page."""
  return {kind: itertools.count(1) for kind in ("Figure", "Table")}


def render_blocks(blocks: Sequence[Block], numbers: Counters) -> str:
  """Renders blocks in their order.

  Args:
    blocks: texts, figures, tables and details.
    numbers: from `counters`; advanced by every figure and captioned table.

  Returns:
    HTML.

  Raises:
    ValueError: an object of another type, or a figure or table that
      `html.write` refuses.
  """
  return "".join(_block(block, numbers) for block in blocks)


def _block(block: Block, numbers: Counters) -> str:
  match block:
    case Text():
      return f"<p>{escape(block.text)}</p>\n"
    case Figure():
      return _figure(block, numbers)
    case Table():
      return _table(block, numbers)
    case Details():
      return (
        f"<details><summary>{escape(block.summary)}</summary>\n"
        f"{render_blocks(block.blocks, numbers)}</details>\n"
      )
  raise ValueError(f"not a block of a report: {type(block).__name__}")


def _figure(figure: Figure, numbers: Counters) -> str:
  """One picture as an <img>, isolated from the page by the browser."""
  name, caption = f"Figure {next(numbers['Figure'])}", escape(figure.caption)
  width, height = _size(figure.image)
  kind, scroll = "small", ""
  if width > _SMALL:  # a narrow window scrolls it, also by keyboard
    kind, scroll = "wide", f' tabindex="0" role="group" aria-label="{name}"'
  return (
    f'<figure class="{kind}"><div class="plate"{scroll}>'
    f'<img src="{_data_uri(figure.image)}" width="{width:g}" '
    f'height="{height:g}" alt="{caption}"></div>\n<figcaption>'
    f'<span class="num">{name}</span>{caption}</figcaption></figure>\n'
  )


def _size(svg: bytes) -> tuple[float, float]:
  """Width and height of an SVG in CSS pixels, from its `viewBox`."""
  found = re.search(rb'<svg[^>]* viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
  if found is None:
    raise ValueError(
      f"a picture must be an SVG with a viewBox from 0 0, got {svg[:40]!r}"
    )
  return float(found[1]), float(found[2])


def _data_uri(svg: bytes) -> str:
  """The SVG as text in a data URI: a quarter shorter than in base64."""
  code = urllib.parse.quote(
    svg.replace(b"\n", b" "), safe=" !$'()*+,/:;=?@[]{}|"
  )
  return f"data:image/svg+xml,{code}"


def _table(table: Table, numbers: Counters) -> str:
  name, caption = "Table", ""
  if table.caption:
    name = f"Table {next(numbers['Table'])}"
    caption = f'<span class="num">{name}</span>{escape(table.caption)}'
    caption = f"<caption>{caption}</caption>"
  columns = _columns(table)
  sides = _sides(table, columns)
  head = "".join(
    f'<th scope="col"{side}>{escape(title)}</th>'
    for title, side in zip(table.headers, sides, strict=True)
  )
  shown = zip(*map(column_cells, columns), strict=True)
  body = "".join(f"<tr>{_row(cells, sides)}</tr>\n" for cells in shown) or (
    f'<tr><td class="absent" colspan="{len(columns)}">no rows</td></tr>\n'
  )
  return (
    f'<div class="table" tabindex="0" role="group" aria-label="{name}"><table>'
    f"{caption}\n<thead><tr>{head}</tr></thead>\n"
    f"<tbody>{body}</tbody></table></div>\n"
  )


def _columns(table: Table) -> list[list[Any]]:
  """The cells column by column; every row must be as wide as the headers."""
  width = len(table.headers)
  for i, row in enumerate(table.rows):
    if len(row) != width:
      raise ValueError(
        f"row {i} of table {table.caption!r} has {len(row)} cells, "
        f"the headers {width}"
      )
  return [[row[j] for row in table.rows] for j in range(width)]


def _sides(table: Table, columns: list[list[Any]]) -> list[str]:
  """The class attribute of every column's cells."""
  classes = {"l": "", "r": ' class="right"'}
  letters = table.align
  if letters is None:
    letters = ["r" if is_numeric(column) else "l" for column in columns]
  if len(letters) != len(columns) or not set(letters) <= set(classes):
    raise ValueError(
      f"align needs l or r for each of the {len(columns)} columns, "
      f"got {table.align!r}"
    )
  return [classes[letter] for letter in letters]


def _row(cells: Sequence[str], sides: list[str]) -> str:
  parts = [
    f"<td{side}>{cell}</td>" for cell, side in zip(cells, sides, strict=True)
  ]
  if not sides[0]:
    parts[0] = f'<th scope="row">{cells[0]}</th>'
  return "".join(parts)


def render_cards(cards: Sequence[Card]) -> str:
  """Renders the headline numbers in one panel; empty without cards."""
  if not cards:
    return ""
  return f'<div class="cards">\n{"".join(map(_card, cards))}</div>\n'


def _card(card: Card) -> str:
  kind, value, interval = "value", "undefined", ""
  show = _signed if card.signed else number
  if card.value is None or not math.isfinite(card.value):
    kind = "value words absent"
  else:
    value = show(card.value)
  if card.interval is not None:
    low, high = card.interval
    scale = "" if card.signed else _scale(card.value, low, high)
    words = f"{show(low)} to {show(high)}"
    interval = f'<dd class="interval">{scale}{words}</dd>'
  return (
    f'<dl class="card"><dt>{escape(card.label)}</dt>'
    f'<dd class="{kind}">{value}</dd>{interval}'
    + (f'<dd class="note">{escape(card.note)}</dd>' if card.note else "")
    + "</dl>\n"
  )


def _signed(value: float) -> str:
  return ("+" if value > 0 else "") + number(value)


def _scale(value: Any, low: float, high: float) -> str:
  """A scale from 0 to 1 with the interval and the value, or nothing."""
  if not all(is_number(x) and 0 <= x <= 1 for x in (low, value, high)):
    return ""
  return (
    f'<span class="track" aria-hidden="true"><i style="left:{100 * low:.1f}%;'
    f'width:{100 * max(high - low, 0):.1f}%"></i>'
    f'<b style="left:{100 * value:.1f}%"></b></span>'
  )


def warning_box(warnings: Sequence[str]) -> str:
  """Renders all warnings in one box; empty without warnings."""
  if not warnings:
    return ""
  count = len(warnings)
  title = "1 warning" if count == 1 else f"{count} warnings"
  entries = "".join(f"<li>{escape(entry)}</li>" for entry in warnings)
  return (
    '<div class="notice" role="note">'
    '<svg viewBox="0 0 20 20" fill="none" stroke="currentColor" '
    'stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round" '
    'aria-hidden="true"><path d="M10 8v4M10 14.2v.3M10 2.5 18.5 17H1.5Z"/>'
    f"</svg><div><strong>{title}</strong><ul>{entries}</ul></div></div>\n"
  )
