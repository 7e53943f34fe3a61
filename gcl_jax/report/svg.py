"""Puts one SVG picture inside an HTML page, safely and in the page's colours.

A picture on its own is a whole XML document; inside a page it must not
clash with its neighbours (ids, style rules), must not fetch anything, and
should follow the light and dark colours of the page.
"""

import re
import xml.etree.ElementTree as ElementTree

from gcl_jax.report.style import COLOURS

_REFUSED = {"script", "foreignObject", "iframe", "a", "set", "animate"}
_DROPPED = {"metadata", "style", "title", "desc"}
_URL = re.compile(r"url\(\s*['\"]?([^)'\"]*)['\"]?\s*\)")
_HEX = re.compile(r"#[0-9a-fA-F]{6}\b")
_FONT = re.compile(r"(font:[^;]*?\d(?:px)?) (?:'|\")[^;]*")
_VARIABLES = {pair[0]: name for name, pair in COLOURS.items()}


def inline(svg: str, prefix: str, label: str) -> tuple[str, float, float]:
  """One SVG document as an `<svg>` element for an HTML page.

  Ids and what refers to them get `prefix`; style rules (they would reach the
  whole page), metadata and comments go; colours of `style.COLOURS` in
  `style` attributes become the page's variables.

  Args:
    svg: the text of an SVG document with a `viewBox`.
    prefix: put before each id; unique in the page.
    label: what the picture shows, for those who do not see it.

  Returns:
    The element, its width and its height, in CSS pixels.

  Raises:
    ValueError: not well-formed, not an SVG with a `viewBox`, or it holds a
      script or refers to something outside itself.
  """
  try:
    root = ElementTree.fromstring(svg)
  except ElementTree.ParseError as error:
    raise ValueError(f"not a well-formed SVG picture: {error}") from error
  box = [float(x) for x in root.get("viewBox", "").replace(",", " ").split()]
  if not root.tag.endswith("svg") or len(box) != 4:
    raise ValueError("a picture must be an <svg> with a viewBox")
  _tidy(root, prefix)
  width, height = box[2:]
  root.attrib |= {
    "width": f"{width:g}",
    "height": f"{height:g}",
    "role": "img",
    "aria-label": label,
  }
  text = ElementTree.tostring(root, encoding="unicode").strip()
  return text, width, height


def _tidy(element: ElementTree.Element, prefix: str) -> None:
  """Removes namespaces and what a page must not hold, in place."""
  element.tag = element.tag.rpartition("}")[2]
  if element.tag in _REFUSED:
    raise ValueError(f"a picture may not hold <{element.tag}>")
  attributes = list(element.attrib.items())
  element.attrib.clear()
  for key, value in attributes:
    name = key.rpartition("}")[2]
    if name.lower().startswith("on"):
      raise ValueError(f"a picture may not hold the attribute {name}")
    if name not in ("space", "version", "type"):
      element.set(name, _attribute(name, value, prefix))
  for child in list(element):
    if not isinstance(child.tag, str) or (
      child.tag.rpartition("}")[2] in _DROPPED
    ):
      element.remove(child)
    else:
      _tidy(child, prefix)


def _attribute(name: str, value: str, prefix: str) -> str:
  if name == "id":
    return prefix + value
  if name == "href":
    if value.startswith("data:image/"):
      return "".join(value.split())
    return "#" + prefix + _inside(value)
  value = _URL.sub(lambda m: f"url(#{prefix}{_inside(m[1])})", value)
  if name == "style":
    value = _FONT.sub(r"\1 var(--sans)", value)
    value = _HEX.sub(_variable, value)
  return value


def _inside(reference: str) -> str:
  if not reference.startswith("#"):
    raise ValueError(
      f"a picture may not refer to {reference[:60]!r} outside itself"
    )
  return reference[1:]


def _variable(match: re.Match[str]) -> str:
  name = _VARIABLES.get(match[0].lower())
  return f"var(--{name})" if name else match[0]
