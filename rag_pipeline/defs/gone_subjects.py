"""Subjects of alerts that no event will report again: expired months, removed sources, kinds that are not built any more."""

import re
from collections.abc import Collection

import dagster as dg

from rag_pipeline.consistency.asset_names import built_assets
from rag_pipeline.defs.jobs import CHECK_MONTH, INDEX_MONTH
from rag_pipeline.defs.next_generation import parse_key
from rag_pipeline.defs.repair_job import REPAIR_MONTH
from rag_pipeline.defs.source_check import CHECK as SOURCE_CHECK
from rag_pipeline.errors import ConfigError
from rag_pipeline.months import Month
from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline.sources.config import SourcesFile
from rag_pipeline.sources.naming import SENSOR_PREFIX, identifier, sensor_name
from rag_pipeline.stores.postgres.alert_outbox import Subject

_MONTHLY_ASSETS = set(built_assets(VECTOR_KINDS))
_OF_OUR_MONTHS = {INDEX_MONTH, CHECK_MONTH, REPAIR_MONTH, *_MONTHLY_ASSETS}
_SELECTIONS = ("materialization of ", f"{INDEX_MONTH} of ", f"{CHECK_MONTH} of ")
"""How earlier versions named a run of some assets of a month. Now it is reported as the month's."""
_SOURCE = f"{SOURCE_CHECK} on sources/"


class GoneSubjects:
    """Tells which subjects are gone from a code location.

    `file` is `sources.yaml` as it is now: what it lists is not gone if the location has not been loaded again, and while
    it has a mistake, no source is. `existing` are the months in the index, `oldest_kept` is None if no month expires.
    """

    def __init__(
        self,
        repository: dg.RepositoryDefinition,
        location: str,
        file: SourcesFile,
        existing: Collection[Month],
        oldest_kept: Month | None,
        built_generations: Collection[int] = (),
    ) -> None:
        self._location = location
        self._some_source_is_unknown = bool(file.invalid)
        self._existing = existing
        self._oldest_kept = oldest_kept
        self._built_generations = built_generations
        self._ticking = {sensor.name for sensor in repository.sensor_defs}
        self._ticking |= {schedule.name for schedule in repository.schedule_defs}
        self._ticking |= {sensor_name(source.name) for source in file.sources}
        self._checks = {
            f"{key.name} on {key.asset_key.to_user_string()}" for key in repository.asset_graph.asset_check_keys
        }
        self._checks |= {f"{_SOURCE}{identifier(source.name)}" for source in file.sources}

    def __call__(self, subject: Subject) -> bool:
        """Whether nothing will report this subject again."""
        if self._some_source_is_unknown and subject.name.startswith((SENSOR_PREFIX, _SOURCE)):
            return False
        if subject.kind in ("sensor", "schedule"):
            name, _, location = subject.name.rpartition(" of ")
            return location == self._location and name not in self._ticking
        is_check_of_ours = subject.name.startswith(_SOURCE) or _asset(subject) in _MONTHLY_ASSETS
        if subject.kind == "check" and is_check_of_ours and subject.name not in self._checks:
            return True
        if subject.kind == "run" and (parsed := parse_key(subject.partition)):
            return parsed[1] not in self._built_generations
        if subject.kind == "run" and subject.name.startswith(_SELECTIONS) and is_of_our_months(subject):
            return True
        return is_of_our_months(subject) and self._has_expired(subject.partition)

    def _has_expired(self, partition: str) -> bool:
        try:
            month = Month.parse(partition)
        except ConfigError:
            return False
        return self._oldest_kept is not None and month < self._oldest_kept and month not in self._existing


def is_of_our_months(subject: Subject) -> bool:
    """Whether a subject is one of our monthly jobs, assets or checks, by its name: not another project's."""
    return subject.kind in ("run", "check") and not _OF_OUR_MONTHS.isdisjoint(re.findall(r"\w+", subject.name))


def _asset(check: Subject) -> str:
    return check.name.rpartition(" on ")[2]
