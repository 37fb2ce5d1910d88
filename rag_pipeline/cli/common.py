"""What the commands share: printing, opening a pipeline, the type of a month argument."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from rag_pipeline.errors import RagError
from rag_pipeline.months import Month
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


def open_pipeline(progress: ProgressLine | None = None) -> Pipeline:
    """Return a pipeline with the settings of the environment; it reports to `progress`, if given."""
    from rag_pipeline.pipeline import Pipeline

    return Pipeline(load_settings(), progress=progress) if progress else Pipeline(load_settings())


def print_json(value: Any) -> None:
    """Print one JSON object on standard output; moments in ISO 8601, anything else that JSON lacks as text."""
    click.echo(json.dumps(value, ensure_ascii=False, default=_json_default))


def _json_default(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_status(line: str) -> None:
    """Print a line for people on standard error."""
    click.echo(line, err=True)


def print_error(line: str) -> None:
    """Print an error or a warning on standard error, after the program's name."""
    click.echo(f"rag-pipeline: {line}", err=True)
