"""The pipeline of a run, opened again in another process.

It is sent from the run to its workers directly, with the passwords of the stores: in a method's arguments, which Ray
neither stores at its head nor shows. A `runtime_env` would be shown on its dashboard and logged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_pipeline.errors import RagError
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.stores.postgres import generations

if TYPE_CHECKING:
    from rag_pipeline.endpoints import Endpoints
    from rag_pipeline.settings import Settings


@dataclass(frozen=True)
class PipelineRecipe:
    """All that is needed to open a pipeline; its repr has no passwords."""

    settings: Settings
    endpoints: Endpoints
    generation: int | None
    """The one that it works on beside the live one; None for the live one, whatever the settings say."""


def recipe_of(pipeline: Pipeline) -> PipelineRecipe:
    """Return how another process opens the same pipeline, whatever its folder and its environment are."""
    settings = pipeline.settings
    paths = {"home": settings.home_path, "sources": settings.sources.expanduser().absolute()}
    return PipelineRecipe(settings.model_copy(update=paths), pipeline.endpoints, pipeline.number)


def open_same(recipe: PipelineRecipe) -> Pipeline:
    """Open the pipeline of a recipe. Raises a `RagError` if its generation is gone."""
    pipeline = Pipeline(recipe.settings, recipe.endpoints)
    if recipe.generation is None:
        return pipeline
    with pipeline:
        with pipeline.stores.database.connection() as connection:
            row = generations.of_id(connection, recipe.generation)
        if row is None:
            raise RagError(f"generation {recipe.generation} is gone: see `rag-pipeline generations list`")
        return pipeline.beside(row)
