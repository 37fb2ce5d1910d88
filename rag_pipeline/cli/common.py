"""What the commands share: printing, opening a pipeline, the type of a month argument."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from rag_pipeline.errors import RagError
from rag_pipeline.months import Month
from rag_pipeline.printable import escaped
from rag_pipeline.settings import load_settings

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.progress import ProgressLine

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


class MonthType(click.ParamType):
    """An argument that is a month, such as `2024-01`."""

    name = "YYYY-MM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Month:
        try:
            return value if isinstance(value, Month) else Month.parse(value)
        except RagError as error:
            self.fail(str(error), param, ctx)


class DateType(click.ParamType):
    """An argument that is a day, or a month, which means its first or its last day."""

    name = "YYYY-MM[-DD]"

    def __init__(self, *, last: bool = False) -> None:
        self._last = last

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        try:
            if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
                return date.fromisoformat(value)
            month = Month.parse(value)
        except (ValueError, RagError):
            self.fail(f"{value!r} is not a date: write it as YYYY-MM-DD, or YYYY-MM for a whole month", param, ctx)
        return month.end.date() - timedelta(days=1) if self._last else month.start.date()


def open_pipeline(progress: ProgressLine | None = None) -> Pipeline:
    """Return a pipeline with the settings of the environment; it reports to `progress`, if given."""
    from rag_pipeline.pipeline import Pipeline

    return Pipeline(load_settings(), progress=progress) if progress else Pipeline(load_settings())


generation_option = click.option(
    "--generation",
    type=int,
    metavar="ID",
    help="One that is not live; `rag-pipeline generations list` shows them.",
)


@contextmanager
def in_generation(pipeline: Pipeline, generation: int | None) -> Iterator[Pipeline]:
    """Lend the pipeline, or one for a generation that is not live. Raises `ConfigError` if there is no such one."""
    if generation is None:
        yield pipeline
        return
    from rag_pipeline.generations.registry import find

    row = find(pipeline, generation, "live", "building", "previous")
    if row.state == "live":
        yield pipeline
        return
    with pipeline.beside(row) as other:
        yield other


def print_json(value: Any) -> None:
    """Print one JSON object on standard output; moments in ISO 8601 and UTC, anything else that JSON lacks as text."""
    click.echo(json.dumps(value, ensure_ascii=False, default=_json_default))


def _json_default(value: Any) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


def local_time(moment: datetime) -> str:
    """Return a moment as a line for people has it: to the second, in this machine's time, with its offset."""
    return moment.astimezone().isoformat(timespec="seconds")


def print_line(line: str, *, err: bool = False) -> None:
    r"""Print a line for people, on standard output or error: whatever a document, a file name or a server put into it,
    the terminal shows it (an escape as `\x1b`) and does not obey it.
    """
    click.echo(escaped(line), err=err)


def print_status(line: str) -> None:
    """Print a line for people on standard error."""
    print_line(line, err=True)


def print_error(line: str) -> None:
    """Print an error or a warning on standard error, after the program's name."""
    print_line(f"rag-pipeline: {line}", err=True)
