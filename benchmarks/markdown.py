"""Tables of a report as markdown on standard output."""

from gcl_jax.report.html import Table


def show(table: Table) -> None:
  """Prints the caption and the rows of a table."""
  print(f"\n{table.caption}\n\n| " + " | ".join(table.headers) + " |")
  print("|" + " --- |" * len(table.headers))
  for row in table.rows:
    cells = [
      "-" if cell is None else cell if isinstance(cell, str) else f"{cell:.3f}"
      for cell in row
    ]
    print("| " + " | ".join(cells) + " |")
