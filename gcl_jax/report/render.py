"""Blocks and cards as HTML."""

import base64
import itertools
import math
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from gcl_jax.report import svg
from gcl_jax.report.blocks import (
  Block,
  Card,
  Details,
  Figure,
  Notice,
  Table,
  Text,
)
from gcl_jax.report.cells import (
  column_cells,
  escape,
  is_number,
  is_numeric,
  number,
)
from gcl_jax.report.style import clean

Counters = dict[str, Iterator[int]]


def counters() -> Counters:
  """Fresh numbers for the figures, tables and pictures of one page."""
  return {kind: itertools.count(1) for kind in ("Figure", "Table", "id")}


def render_blocks(blocks: Sequence[Block], numbers: Counters) -> str:
  """The HTML of blocks in their order."""
  return "".join(_block(block, numbers) for block in blocks)


def _block(block: Block, numbers: Counters) -> str:
  match block:
    case Text():
      return _text(block.text)
    case Figure():
      return _figure(block, numbers)
    case Table():
      return _table(block, numbers)
    case Notice():
      return _notice(block)
    case Details():
      return (
        f"<details><summary>{escape(block.summary)}</summary>\n"
        f"{render_blocks(block.blocks, numbers)}</details>\n"
      )
  raise ValueError(f"not a block of a report: {type(block).__name__}")


def _text(text: str | Sequence[str]) -> str:
  if not isinstance(text, str):
    entries = "".join(f"<li>{escape(entry)}</li>" for entry in text)
    return f'<ul class="text">{entries}</ul>\n' if entries else ""
  paragraphs = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
  return "".join(f"<p>{escape(part.strip())}</p>\n" for part in paragraphs)


def _mark(kind: str, caption: str, numbers: Counters) -> tuple[str, str]:
  """("Figure 3", its caption as HTML); without a caption no number."""
  if not caption:
    return kind, ""
  name = f"{kind} {next(numbers[kind])}"
  return name, f'<span class="num">{name}</span>{escape(caption)}'


def _figure(figure: Figure, numbers: Counters) -> str:
  name, caption = _mark("Figure", figure.caption, numbers)
  label = clean(figure.alt or figure.caption or "Figure")
  image, data = "", figure.image
  if isinstance(data, bytes) and data.startswith(b"\x89PNG\r\n\x1a\n"):
    width, height = struct.unpack(">II", data[16:24])
    code = base64.b64encode(data).decode()
    image = (
      f'<img src="data:image/png;base64,{code}" width="{width}" '
      f'height="{height}" alt="{escape(label)}">'
    )
  else:
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    image, width, _ = svg.inline(text, f"p{next(numbers['id'])}-", label)
  kind = "small" if width <= 480 else "wide"
  scroll = ""
  if kind == "wide":  # a narrow window scrolls it, by keyboard too
    scroll = f' tabindex="0" role="group" aria-label="{name}"'
  return (
    f'<figure class="{kind}"><div class="plate"{scroll}>{image}</div>\n'
    + (f"<figcaption>{caption}</figcaption>" if caption else "")
    + "</figure>\n"
  )


def _table(table: Table, numbers: Counters) -> str:
  name, caption = _mark("Table", table.caption, numbers)
  width = len(table.headers)
  for i, row in enumerate(table.rows):
    if len(row) != width:
      raise ValueError(
        f"row {i} of table {table.caption!r} has {len(row)} cells, "
        f"the headers {width}"
      )
  columns = [[row[j] for row in table.rows] for j in range(width)]
  sides = _sides(table, columns)
  shown = [column_cells(column) for column in columns]
  head = "".join(
    f'<th scope="col"{side}>{escape(name)}</th>'
    for name, side in zip(table.headers, sides, strict=True)
  )
  body = "".join(
    f"<tr>{_row([c[i] for c in shown], sides)}</tr>\n"
    for i in range(len(table.rows))
  )
  body = body or (
    f'<tr><td class="absent" colspan="{max(width, 1)}">no rows</td></tr>\n'
  )
  return (
    f'<div class="table" tabindex="0" role="group" aria-label="{name}"><table>'
    + (f"<caption>{caption}</caption>" if caption else "")
    + f"\n<thead><tr>{head}</tr></thead>\n"
    f"<tbody>{body}</tbody></table></div>\n"
  )


def _sides(table: Table, columns: list[list[Any]]) -> list[str]:
  classes = {"l": "", "r": ' class="right"', "c": ' class="centre"'}
  letters = table.align
  if letters is None:
    letters = ["r" if is_numeric(column) else "l" for column in columns]
  if len(letters) != len(columns) or not set(letters) <= set(classes):
    raise ValueError(
      f"align needs one of l, c, r for each of the {len(columns)} columns, "
      f"got {table.align!r}"
    )
  return [classes[letter] for letter in letters]


def _row(cells: list[str], sides: list[str]) -> str:
  parts = []
  for j, (cell, side) in enumerate(zip(cells, sides, strict=True)):
    if j == 0 and not side:
      parts.append(f'<th scope="row">{cell}</th>')
    else:
      parts.append(f"<td{side}>{cell}</td>")
  return "".join(parts)


_ICONS = {
  "info": '<path d="M10 9v5M10 6v.5"/><circle cx="10" cy="10" r="8"/>',
  "warning": '<path d="M10 8v4M10 14.2v.3M10 2.5 18.5 17H1.5Z"/>',
  "error": '<path d="m7 7 6 6M13 7l-6 6"/><circle cx="10" cy="10" r="8"/>',
}
_TITLES = {"info": "Note", "warning": "Warning", "error": "Error"}


def _notice(notice: Notice, title: str | None = None) -> str:
  if notice.kind not in _ICONS:
    raise ValueError(
      f"a notice is one of {', '.join(_ICONS)}, not {notice.kind!r}"
    )
  text = _text(notice.text).replace('<ul class="text">', "<ul>")
  return (
    f'<div class="notice {notice.kind}" role="note">'
    '<svg viewBox="0 0 20 20" fill="none" stroke="currentColor" '
    'stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round" '
    f'aria-hidden="true">{_ICONS[notice.kind]}</svg>'
    f"<div><strong>{escape(title or _TITLES[notice.kind])}</strong>"
    f"{text}</div></div>\n"
  )


def render_cards(cards: Sequence[Card]) -> str:
  """The headline numbers in one panel; empty without cards."""
  if not cards:
    return ""
  return f'<div class="cards">\n{"".join(map(_card, cards))}</div>\n'


def _card(card: Card) -> str:
  kind, value = "value", card.value
  if value is None or is_number(value) and not math.isfinite(value):
    kind, value = "value words absent", "undefined"
  elif isinstance(value, str):
    kind = "value words" if len(value) > 8 else "value"
  else:
    value = number(value)
  interval, track = card.interval, ""
  if interval is not None and not isinstance(interval, str):
    low, high = interval
    track = _track(card.value, low, high)
    known = low is not None and high is not None
    interval = f"{number(low)} to {number(high)}" if known else ""
  return (
    f'<dl class="card"><dt>{escape(card.label)}</dt>'
    f'<dd class="{kind}">{escape(value)}</dd>'
    + (f'<dd class="interval">{track}{escape(interval)}</dd>' * bool(interval))
    + (f'<dd class="note">{escape(card.note)}</dd>' * bool(card.note))
    + "</dl>\n"
  )


def _track(value: Any, low: float, high: float) -> str:
  """A scale from 0 to 1 with the interval and the value, or nothing."""
  numbers = [low, value, high]
  if not all(is_number(x) and 0 <= x <= 1 for x in numbers):
    return ""
  return (
    f'<span class="track" aria-hidden="true"><i style="left:{100 * low:.1f}%;'
    f'width:{100 * max(high - low, 0):.1f}%"></i>'
    f'<b style="left:{100 * value:.1f}%"></b></span>'
  )


def warning_box(warnings: Sequence[str]) -> str:
  """All warnings in one box; empty without warnings."""
  if not warnings:
    return ""
  count = len(warnings)
  title = "1 warning" if count == 1 else f"{count} warnings"
  return _notice(Notice("warning", list(warnings)), title)
