"""`check`, `repair` and `alerts`: whether the index is consistent, and what to do if it is not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from rag_pipeline.cli.common import (
    MonthType,
    json_option,
    local_time,
    open_pipeline,
    print_error,
    print_json,
    print_line,
)
from rag_pipeline.errors import RagError
from rag_pipeline.months import Month
from rag_pipeline.progress import ProgressLine
from rag_pipeline.settings import load_settings

if TYPE_CHECKING:
    from rag_pipeline.consistency.checker import Consistency


_SHOWN = 5


@click.command()
@json_option
@click.option("--month", "only_months", type=MonthType(), multiple=True, help="Check only this month; repeatable.")
def check(as_json: bool, only_months: tuple[Month, ...]) -> None:
    """Compare the stores with each other; exit 1 if anything is inconsistent."""
    from rag_pipeline.consistency.checker import DataConsistencyChecker

    with ProgressLine() as progress, open_pipeline(progress) as pipeline:
        pipeline.prepare()
        checker = DataConsistencyChecker(pipeline)
        existing = checker.months()
        found = checker.check_consistency(only_months or existing)
    if as_json:
        print_json(found.as_json())
    else:
        _print_findings(found, nothing=bool(only_months) and not set(only_months) & set(existing))
    for month in only_months:
        if month not in existing:
            print_error(
                f"{month}: there is nothing of this month in the stores, and no source has anything for it"
            )
    sys.exit(0 if found.consistent else 1)


@click.command()
@json_option
@click.option(
    "--month", "only_months", type=MonthType(), multiple=True, help="Repair only this month; repeatable."
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@click.option(
    "--restored",
    is_flag=True,
    help="PostgreSQL was restored from before a switch of generations, or is new, or RAG_MILVUS_PREFIX is meant to be "
    "another one: first let Milvus' aliases follow.",
)
def repair(as_json: bool, only_months: tuple[Month, ...], dry_run: bool, restored: bool) -> None:
    """Repair what `check` finds; exit 1 if anything is inconsistent afterwards. A dry run always exits 0."""
    from rag_pipeline.consistency.repair import repair as run_repair
    from rag_pipeline.consistency.repair import take_aliases

    if dry_run and restored:
        raise RagError("--restored changes the aliases in Milvus: leave out --dry-run")
    with ProgressLine() as progress, open_pipeline(progress) as pipeline:
        pipeline.prepare()
        left = take_aliases(pipeline) if restored else []
        result = run_repair(pipeline, only_months or None, dry_run=dry_run)
    for name in left:
        print_error(
            f"{name} stays in Milvus, and nothing of this index uses it any more: drop it if no other index does"
        )
    if as_json:
        print_json({**result.as_json(), **({"left_in_milvus": left} if restored else {})})
    elif dry_run:
        _print_findings(result.found)
    else:
        print_line(f"found     {len(result.found.findings)} kinds of problems")
        print_line(f"months    {', '.join(map(str, result.months)) or 'none needed repair'}")
        print_line(f"vectors   {result.embedded} embedded, {result.reused} from the cache")
        _print_findings(result.remaining)
    sys.exit(0 if dry_run or result.remaining.consistent else 1)


def _print_findings(found: Consistency, *, nothing: bool = False) -> None:
    for finding in found.findings:
        print_line(str(finding))
        print_line(f"  → {finding.what_to_do}")
        for one in finding.sample[:_SHOWN]:
            print_line("    " + ", ".join(f"{name} {value}" for name, value in one.items()))
        if finding.count > _SHOWN:
            print_line(f"    … and {finding.count - _SHOWN} more")
    if found.consistent:
        print_line("nothing to check" if nothing else "consistent")


@click.command()
@json_option
@click.option("--test", is_flag=True, help="Send a test message to each URL in RAG_ALERT_URLS.")
def alerts(as_json: bool, test: bool) -> None:
    """List what is failing now; with --test, send a test message and exit 1 unless every receiver accepts it."""
    from rag_pipeline.alerts.receivers import receivers, send_test
    from rag_pipeline.stores.postgres import alert_outbox as table

    settings = load_settings()
    recipients = receivers(settings)
    if test:
        if not recipients:
            raise RagError("RAG_ALERT_URLS is not set: set it to one or more Apprise URLs")
        tried = send_test(recipients, settings.ui_url)
        if as_json:
            print_json(
                {"receivers": [{"receiver": str(r), "accepted": not why, "reason": why} for r, why in tried]}
            )
        else:
            for receiver, why in tried:
                print_line(f"{receiver}: {why or 'accepted'}")
        sys.exit(1 if any(why for _, why in tried) else 0)
    with open_pipeline() as pipeline:
        pipeline.prepare()
        with pipeline.stores.database.connection() as connection:
            failing = table.failing(connection)
    if as_json:
        print_json({"failing": [{**subject._asdict(), "since": since} for subject, since in failing]})
        return
    for subject, since in failing:
        where = f", {subject.partition}" if subject.partition else ""
        print_line(f"{subject.kind:<9} {subject.name}{where}  since {local_time(since)}")
    if not failing:
        print_line("nothing is failing")
