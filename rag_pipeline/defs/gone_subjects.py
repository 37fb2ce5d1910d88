"""Subjects of alerts that no event will ever report again: expired months, and sources that were removed."""

import re
from collections.abc import Collection

import dagster as dg

from rag_pipeline.consistency.asset_names import built_assets
from rag_pipeline.defs.jobs import CHECK_MONTH, INDEX_MONTH
from rag_pipeline.defs.repair_job import REPAIR_MONTH
from rag_pipeline.errors import ConfigError
from rag_pipeline.months import Month
from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline.stores.postgres.alert_outbox import Subject

_OF_OUR_MONTHS = {INDEX_MONTH, CHECK_MONTH, REPAIR_MONTH, *built_assets(VECTOR_KINDS)}


class GoneSubjects:
    """Tells which subjects are gone from a code location. Another location's never are: it is not known here.

    `existing` are the months in the index, `oldest_kept` is None if no month expires.
    """

    def __init__(
        self,
        repository: dg.RepositoryDefinition,
        location: str,
        existing: Collection[Month],
        oldest_kept: Month | None,
    ) -> None:
        self._location = location
        self._existing = existing
        self._oldest_kept = oldest_kept
        self._ticking = {sensor.name for sensor in repository.sensor_defs}
        self._ticking |= {schedule.name for schedule in repository.schedule_defs}
        self._checks = {
            f"{key.name} on {key.asset_key.to_user_string()}" for key in repository.asset_graph.asset_check_keys
        }

    def __call__(self, subject: Subject) -> bool:
        """Whether nothing will report this subject again."""
        if subject.kind in ("sensor", "schedule"):
            name, _, location = subject.name.rpartition(" of ")
            return location == self._location and name not in self._ticking
        if subject.partition:
            return is_of_our_months(subject) and self._has_expired(subject.partition)
        return subject.kind == "check" and " on sources/" in subject.name and subject.name not in self._checks

    def _has_expired(self, partition: str) -> bool:
        try:
            month = Month.parse(partition)
        except ConfigError:
            return False
        return self._oldest_kept is not None and month < self._oldest_kept and month not in self._existing


def is_of_our_months(subject: Subject) -> bool:
    """Whether a subject is one of our monthly jobs, assets or checks, and not one of another project's."""
    return subject.kind in ("run", "check") and not _OF_OUR_MONTHS.isdisjoint(re.findall(r"\w+", subject.name))
