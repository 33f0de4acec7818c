"""What commands print: a table for people, or JSON for programs, row by row as they come.

Tables fit 80 columns. Nothing that came with a callback can steer the terminal: control characters are
replaced, and markup is not interpreted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click
import orjson

if TYPE_CHECKING:
    from rich.text import Text

Record = Mapping[str, Any]
T = TypeVar("T")

# A terminal sees the first rows at once; widths are fixed, so that all the tables are one.
ROWS_AT_ONCE = 200
# Control characters, and those that turn the direction of writing around.
_STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

STYLES = {
    "done": "green",
    "good": "green",
    "waiting": "yellow",
    "pending": "yellow",
    "running": "yellow",
    "retrying": "yellow",
    "warning": "yellow",
    "dead": "red",
    "bad": "red",
    "quarantined": "red",
    "ignored": "dim",
    "duplicate": "dim",
    "skipped": "dim",
}


@dataclass(frozen=True, slots=True)
class Column:
    """`width` None takes what is left. `cell` gives the text of a row, lines parted by newlines."""

    title: str
    width: int | None
    cell: Callable[[Record], str]
    right: bool = False


def show(
    records: Iterable[Record],
    *,
    as_json: bool,
    shape: Sequence[str],
    columns: Sequence[Column],
    nothing: str,
) -> None:
    """Print records. `shape` names the fields of the JSON objects, which programs rely on."""
    if as_json:
        _print_json_array({name: record[name] for name in shape} for record in records)
        return
    head = True
    for chunk in _chunks(records, ROWS_AT_ONCE):
        print_table(chunk, columns, head=head)
        head = False
    if head:
        click.echo(nothing)


def print_json(document: Any) -> None:
    """One document, indented; times are ISO 8601 UTC with Z."""
    click.echo(as_json_text(document, indent=True))


def as_json_text(document: Any, *, indent: bool = False) -> str:
    option = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
    return orjson.dumps(document, option=option).decode()


def when(moment: datetime | None) -> str:
    """For people: whole seconds, UTC."""
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def counted(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def plain(text: object) -> str:
    """Text without characters that steer a terminal."""
    return _STEERING.sub("\ufffd", str(text))


def one_line(text: object) -> str:
    return plain(" ".join(str(text).split()))


def styled(text: str) -> Text:
    """A cell; words for states have their colour."""
    from rich.text import Text

    cell = Text(plain(text))
    word = text.partition("\n")[0]
    if word in STYLES:
        cell.stylize(STYLES[word], 0, len(word))
    return cell


def _print_json_array(records: Iterator[Record]) -> None:
    first = next(records, None)
    if first is None:
        click.echo("[]")
        return
    click.echo(f"[\n{as_json_text(first)}", nl=False)
    for record in records:
        click.echo(f",\n{as_json_text(record)}", nl=False)
    click.echo("\n]")


def print_table(records: Sequence[Record], columns: Sequence[Column], *, head: bool = True) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=head, pad_edge=False, expand=True, header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            width=column.width,
            ratio=1 if column.width is None else None,
            justify="right" if column.right else "left",
            overflow="fold",
        )
    for record in records:
        table.add_row(*(styled(column.cell(record)) for column in columns))
    console = Console(highlight=False, markup=False)
    console.print(table)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
