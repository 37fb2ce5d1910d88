"""Settings: what the environment says, and a clear line where it is wrong."""

import pytest

from rag_pipeline.errors import ConfigError
from rag_pipeline.months import Month
from rag_pipeline.settings import load_settings


def test_defaults_without_any_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAG_HOME", "RAG_EMBEDDER", "RAG_VECTORS", "RAG_POSTGRES_URL"):
        monkeypatch.delenv(name, raising=False)
    settings = load_settings()
    assert settings.embedder == "local"
    assert settings.vectors == ("dense", "sparse", "multi")
    assert settings.first_month == Month(2000, 1)


def test_vectors_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_VECTORS", "multi, dense")
    assert load_settings().vectors == ("dense", "multi")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAG_VECTORS", "dense,colour"),
        ("RAG_VECTORS", ","),
        ("RAG_FIRST_MONTH", "soon"),
        ("RAG_BATCH_SIZE", "0"),
        ("RAG_CHUNK_TOKENS", "many"),
        ("RAG_MILVUS_PREFIX", "no-dash"),
        ("RAG_MAX_DELETED_SHARE", "2"),
        ("RAG_RETENTION_MONTHS", "0"),
        ("RAG_HISTORY_DAYS", "-1"),
        ("RAG_DELETIONS_BACKLOG", "-1"),
        ("RAG_NIGHTLY_CRON", "every night"),
        ("RAG_NIGHTLY_CRON", "61 * * * *"),
        ("RAG_NIGHTLY_CRON", "0 0 18 * * *"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        load_settings()
    assert str(raised.value).startswith(f"{name}: ")
    assert "\n" not in str(raised.value)


def test_urls_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_POSTGRES_URL", "postgresql://rag:hunter2@example.org/rag")
    assert "hunter2" not in repr(load_settings())


def test_a_slash_behind_an_address_is_not_doubled_in_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_SEARCH_URL", "https://search.example.com/")
    monkeypatch.setenv("RAG_UI_URL", "https://dagster.example.com/prod/")
    settings = load_settings()
    assert (settings.search_url, settings.ui_url) == (
        "https://search.example.com",
        "https://dagster.example.com/prod",
    )
