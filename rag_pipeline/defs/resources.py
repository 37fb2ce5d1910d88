"""The resources: the pipeline, by which a run has an owner, and what a run's steps have done.

The pipeline is opened once per run, so that its steps share the embedder and the connections, or once per tick of
a sensor or schedule, and closed at its end. Loading the definitions opens nothing.

The resources hand out the library's own objects: whoever needs the pipeline takes a `dg.ResourceParam[Pipeline]`.
So an open `Pipeline` can take the resource's place, `build_defs({"pipeline": pipeline})`, in assets, checks, ops,
sensors and schedules alike. Dagster uses such an object as it is and never closes it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import dagster as dg

from rag_pipeline.defs.event_storage import write_events_by_step
from rag_pipeline.defs.run_owners import owned
from rag_pipeline.indexing.month_run import MonthRun, MonthRuns
from rag_pipeline.pipeline import Pipeline, Progress, silent
from rag_pipeline.progress import ProgressLog
from rag_pipeline.settings import load_settings


class PipelineResource(dg.ConfigurableResource[Pipeline]):
    """Settings, sources, store connections and embedder, from this process's `RAG_*` variables."""

    def create_resource(self, context: dg.InitResourceContext) -> Pipeline:
        """Return a pipeline that reports its progress to the run's log."""
        return Pipeline(load_settings(), progress=_progress(context))

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Pipeline]:
        with self.create_resource(context) as pipeline:
            run = context.run
            with nullcontext() if run is None else owned(pipeline.stores.database, run.run_id):
                if run is not None and context.instance is not None:
                    write_events_by_step(context.instance)  # This process executes the run, from here to its end.
                pipeline.prepare()
                yield pipeline


@contextmanager
def opened(override: Pipeline | None) -> Iterator[Pipeline]:
    """Lend the override, or a pipeline that is closed at the end; for ticks that rarely need one."""
    if override is not None:
        yield override
        return
    with Pipeline(load_settings()) as pipeline:
        pipeline.prepare()
        yield pipeline


class MonthRunResource(dg.ConfigurableResource[MonthRun]):
    """The counts of this run, which each asset adds to; `rag-pipeline ingest` passes its own and reads it later."""

    def create_resource(self, context: dg.InitResourceContext) -> MonthRun:
        """Return an empty one for this run."""
        return MonthRun()


class MonthRunsResource(dg.ConfigurableResource[MonthRuns]):
    """What became of the months of a run; `rag-pipeline ingest` passes its own and is told after each."""

    def create_resource(self, context: dg.InitResourceContext) -> MonthRuns:
        """Return an empty one for this run."""
        return MonthRuns()


def _progress(context: dg.InitResourceContext) -> Progress:
    """Progress to the log of the run; a sensor or schedule has no run, and its result says what it did."""
    return silent if context.run is None or context.log is None else ProgressLog(context.log.info)
