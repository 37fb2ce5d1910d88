"""Months with little to do are run together: for each alone, more time would go into its run than into its work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres import documents

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rag_pipeline.months import Month
    from rag_pipeline.pipeline import Pipeline

_FEW = 100
"""Items and documents of a month. As many take about a second without their embedding."""
_TOGETHER = 500
"""Items and documents of the months that are run together, so that other runs can take a part of a large change."""


def small_months(pipeline: Pipeline, months: Iterable[Month]) -> dict[Month, int]:
    """Return those of these months that have little to do, in their order, each with its amount of work."""
    asked = list(months)
    if not asked:
        return {}
    with pipeline.stores.database.connection() as connection:
        amounts = documents.amount_of_work(connection, asked, _FEW + 1)
    return {month: amount for month in asked if (amount := amounts[month]) <= _FEW}


def in_groups(amounts: Mapping[Month, int]) -> list[list[Month]]:
    """Put months together, in their order, as far as the sum of their amounts allows."""
    groups: list[list[Month]] = []
    total = 0
    for month, amount in amounts.items():
        if not groups or total + amount > _TOGETHER:
            groups.append([])
            total = 0
        groups[-1].append(month)
        total += amount
    return groups
