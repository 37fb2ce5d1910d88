"""Metadata that the UI shows as a table."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

_ROWS = 20


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], limit: int = _ROWS) -> dg.TableMetadataValue:
    """Return the first rows, 20 by default, as a table; integers stay numbers, everything else becomes text."""
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn(name, "int" if rows and isinstance(rows[0][n], int) else "string")
            for n, name in enumerate(columns)
        ]
    )
    records = [
        dg.TableRecord(
            {
                name: value if isinstance(value, int) else str(value)
                for name, value in zip(columns, row, strict=True)
            }
        )
        for row in rows[:limit]
    ]
    return dg.MetadataValue.table(records, schema)
