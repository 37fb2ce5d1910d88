"""Every setting, typed, from `RAG_*` variables.

No other module reads a setting from the environment. (The environment is read in more places, none of them for a
setting: `sources/storage_options.py` replaces the `${VARIABLE}`s that a source names, `defs/run_month.py` and
`dev.py` pass it on to Dagster, `defs/instance_storage.py`, `dagster_home.py` and `cli/migrate_command.py` read Dagster's
own, `documents/parsing/parser_pool.py`, `local_servers/processes.py` and `distributed/cluster.py` pass variables of the
system on, and `embedding/e5/model.py` reads how many threads it may have.) A wrong value is a `ConfigError` that names
the variable.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rag_pipeline.errors import ConfigError
from rag_pipeline.months import Month
from rag_pipeline.running_dev import running_dev

VectorKind = Literal["dense", "sparse", "multi"]
Precision = Literal["int8", "fp32"]
SearchConsistency = Literal["strong", "bounded"]
VECTOR_KINDS: tuple[VectorKind, ...] = ("dense", "sparse", "multi")


class Settings(BaseSettings):
    """All settings with their defaults. A variable's name is the field's name in capitals after `RAG_`."""

    model_config = SettingsConfigDict(env_prefix="RAG_", extra="ignore", frozen=True, env_ignore_empty=True)

    home: Path = Field(Path(".rag"), description="Where the embedded servers and Dagster keep their data.")
    sources: Path = Field(Path("sources.yaml"), description="The file that lists the sources.")

    postgres_url: SecretStr | None = Field(None, description="A PostgreSQL server; unset: the embedded one.")
    milvus_uri: SecretStr | None = Field(None, description="A Milvus server; unset: the embedded one.")
    redis_url: SecretStr | None = Field(None, description="A Redis server; unset: the embedded one.")
    postgres_schema: str | None = Field(
        None,
        # Dagster's schema is named after it, and a name in PostgreSQL has at most 63 characters.
        pattern=r"^[a-z_][a-z0-9_]{0,47}$",
        description="The schema of the tables, for deployments that share one database; unset: the user's default.",
    )
    milvus_prefix: str = Field(
        "",
        pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,63})?$",
        description="Prefix of every collection's name, for deployments that share one Milvus.",
    )

    embedder: str = Field("local", description="local, bge-m3, openai, or package.module:factory.")
    local_precision: Precision = Field(
        "int8", description="Arithmetic of the local embedder: int8, or fp32, which takes twice as long."
    )
    vectors: Annotated[tuple[VectorKind, ...], NoDecode] = Field(
        VECTOR_KINDS, description="The kinds of vectors that are built, separated by commas."
    )
    batch_size: int = Field(64, ge=1, le=4096, description="Chunks embedded and written together.")
    bge_m3_model: str = Field("BAAI/bge-m3", description="The name or folder of the BGE-M3 model.")
    bge_m3_multi_vectors: int | None = Field(
        None, ge=1, le=8192, description="Multi-vectors of a chunk with bge-m3 at most; unset: one per token."
    )
    shared_model: bool = Field(
        False, description="Runs of this machine share one model of local or bge-m3, in a process of its own."
    )
    embedding_url: SecretStr | None = Field(
        None, description="openai: the base URL of the embedding server; without a path, /v1 is added."
    )
    embedding_model: str | None = Field(None, description="openai: the name of the model on the server.")
    embedding_api_key: SecretStr | None = Field(None, description="openai: the key that the server wants.")
    embedding_dimensions: int | None = Field(
        None,
        ge=1,
        le=32_768,  # the most that Milvus takes
        description="openai: the dimension of the vectors, asked for and checked; unset: the server is asked.",
    )
    embedding_sparse_url: SecretStr | None = Field(
        None,
        description="openai: TEI's endpoint /embed_sparse or vLLM's /pooling, for sparse vectors; unset: BM25.",
    )
    embedding_sparse_model: str | None = Field(
        None, description="openai: the name of the model for sparse vectors."
    )
    embedding_sparse_api_key: SecretStr | None = Field(
        None, description="openai: the key that the server of the sparse vectors wants."
    )
    embedding_query_prefix: str = Field("", description="openai: what the model wants in front of a query.")
    embedding_passage_prefix: str = Field("", description="openai: what the model wants in front of a text.")
    embedding_batch_tokens: int = Field(8192, ge=1, description="openai: the most tokens of one request.")
    embedding_batch_texts: int = Field(32, ge=1, le=2048, description="openai: the most texts of one request.")
    embedding_concurrency: int = Field(4, ge=1, le=256, description="openai: requests at a time.")
    embedding_seconds: float = Field(60, gt=0, description="openai: the most seconds that one request may take.")
    embedding_cache_days: int = Field(30, ge=1, description="How long an unused embedding stays cached.")

    api_key: SecretStr | None = Field(
        None, description="The API key whose rights `rag-pipeline mcp` has; unset: what needs no permission."
    )
    search_url: str = Field(
        "http://127.0.0.1:8000",
        pattern=r"^https?://[^\s/]+\S*$",
        description="The address of the search page, for links; with https its cookies are for TLS only.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Addresses of proxies that may say who asks (X-Forwarded-For), separated by commas."
    )
    search_consistency: SearchConsistency = Field(
        "strong",
        description="Searches see all that is in Milvus: strong; or may be 5 seconds behind, and wait less: bounded.",
    )
    search_cache_seconds: int = Field(
        600, ge=0, le=86400, description="How long the search service keeps an answer; 0 keeps none."
    )
    search_log_days: int = Field(
        0, ge=0, le=3650, description="How long the search service keeps what was searched for; 0 keeps nothing."
    )

    queries: Path | None = Field(
        None,
        description="The file of judged queries, with which the quality of searches is evaluated every night.",
    )

    chunk_tokens: int = Field(400, ge=16, le=8192, description="The target size of a chunk, in tokens.")
    max_document_bytes: int = Field(
        32 * 1024 * 1024, ge=1, description="Larger documents are quarantined, not read."
    )
    parse_workers: int = Field(4, ge=1, le=64, description="Documents fetched and parsed in parallel.")
    parse_seconds: float = Field(60, ge=1, description="A document that takes longer to parse is quarantined.")
    parse_memory_mb: int = Field(
        1024, ge=512, description="A document that takes more memory to parse, in MB, is quarantined. Linux only."
    )
    first_month: Annotated[Month, NoDecode] = Field(
        Month(2000, 1), description="The first month; new documents with an earlier date are put there."
    )
    max_deleted_share: float = Field(
        0.5, gt=0, le=1, description="The share of a source's documents that one scan may find gone."
    )

    alert_urls: SecretStr | None = Field(
        None, description="Who is notified of failures: Apprise URLs, separated by white space or commas."
    )
    ui_url: str = Field(
        "http://127.0.0.1:3000",
        pattern=r"^https?://[^\s/]+\S*$",
        description="The address of the Dagster UI, for the links in alerts.",
    )

    deletions_backlog: int = Field(
        10_000, ge=0, description="A check fails when more deletions of a month than this are pending for Milvus."
    )
    retention_months: int | None = Field(
        None, ge=1, le=1200, description="Months kept before the current one; unset: all. Older months expire."
    )
    history_days: int = Field(
        90,
        ge=0,
        le=36_500,
        description="Days for which Dagster's runs are kept; 0: all. Older ones are deleted, but for those that tell "
        "the present state of a month.",
    )
    nightly_cron: str = Field(
        "0 18 * * *",
        description="When all months are checked and searches evaluated: a cron expression of five fields, in UTC.",
    )
    sweep_cron: str = Field(
        "*/10 * * * *", description="When the vectors of all months are counted: a cron expression, in UTC."
    )

    ray_address: str | None = Field(
        None,
        pattern=r"^(local|auto|[^\s/:]+:\d{1,5}|\[[0-9A-Fa-f:.]+\]:\d{1,5})$",
        description="Large months are parsed, cut and embedded by Ray: local, auto, or host:port of a cluster's head.",
    )
    ray_workers: int | None = Field(
        None, ge=1, le=4096, description="Workers of Ray; unset: as many as its nodes have room for."
    )
    ray_worker_cpus: float = Field(1, gt=0, description="CPUs of a worker, which are also its threads.")
    ray_worker_gpus: float = Field(0, ge=0, description="GPUs of a worker; it may be a part of one.")
    ray_from_chunks: int = Field(
        2000,
        ge=1,
        description="A month with fewer pending chunks is embedded without Ray, which takes time to start.",
    )
    ray_from_documents: int = Field(
        1000,
        ge=1,
        description="A month with fewer pending documents is parsed and cut without Ray.",
    )
    ray_lease_seconds: float = Field(
        60, ge=2, description="A worker that says nothing for so long has lost its chunks to the others."
    )

    @field_validator("postgres_schema")
    @classmethod
    def _check_schema(cls, value: str | None) -> str | None:
        # `public` is what no schema means, for most users: with it, locks would not be those of processes without it.
        if value is not None and (
            value in ("public", "information_schema") or value.startswith("pg_") or value.endswith("dagster")
        ):
            raise ValueError(f"{value!r} is PostgreSQL's or Dagster's: choose another name")
        return value

    @field_validator("nightly_cron", "sweep_cron")
    @classmethod
    def _check_cron(cls, value: str) -> str:
        from croniter import croniter

        if len(value.split()) != 5 or not croniter.is_valid(value):
            raise ValueError(f"{value!r} is not a cron expression: write five fields such as '0 18 * * *'")
        return value

    @field_validator("search_url", "ui_url")
    @classmethod
    def _drop_slash(cls, value: str) -> str:
        return value.rstrip("/")  # Paths are appended to it.

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_proxies(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
        )

    @field_validator("vectors", mode="before")
    @classmethod
    def _split_vectors(cls, value: object) -> object:
        if isinstance(value, str):
            kinds = [kind.strip() for kind in value.split(",") if kind.strip()]
            unknown = sorted(set(kinds) - set(VECTOR_KINDS))
            if unknown or not kinds:
                raise ValueError(f"takes one or more of {', '.join(VECTOR_KINDS)}, separated by commas")
            return tuple(kind for kind in VECTOR_KINDS if kind in kinds)
        return value

    @field_validator("first_month", mode="before")
    @classmethod
    def _parse_month(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                return Month.parse(value)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value

    @cached_property
    def home_path(self) -> Path:
        """`home` as an absolute path."""
        return self.home.expanduser().absolute()


def load_settings(**overrides: object) -> Settings:
    """Return the settings of this process's environment.

    Where it does not say where the UI and the search page are, links lead to those of the `dev` that runs in the home.

    Raises `ConfigError`, one line that names the first wrong variable.
    """
    try:
        settings = Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "RAG_" + "_".join(str(part) for part in first["loc"][:1]).upper()
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{name}: {message}") from None
    return settings.model_copy(update=_addresses_of_dev(settings))


def _addresses_of_dev(settings: Settings) -> dict[str, str]:
    unset = {"ui_url", "search_url"} - settings.model_fields_set
    dev = running_dev(settings.home_path) if unset else None
    return {name: getattr(dev, name) for name in unset} if dev else {}
