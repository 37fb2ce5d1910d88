"""`sources.yaml` as people write it, with and without mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rag_pipeline.errors import ConfigError, SourceError
from rag_pipeline.sources.config import SourceConfig, load_sources

FULL = """
sources:
  - name: handbook
    type: filesystem
    path: ./docs
    include: ["**/*.md", "**/*.html"]
    exclude: ["drafts/"]
    language: ja
    category: manual
    tags: [public, 社内]
    schedule: "*/10 * * * *"
  - name: bucket
    type: filesystem
    path: s3://company-docs/handbook
    storage_options:
      key: ${TEST_S3_KEY}
      secret: ${TEST_S3_SECRET}
      token: literal-token
      client_kwargs: {endpoint_url: "https://me:hunter2@s3.example.com", verify: true, retries: 3}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "sources.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def entry(**fields: object) -> str:
    fields = {"name": "handbook", "type": "filesystem", "path": "docs"} | fields
    given = {key: value for key, value in fields.items() if value is not None}
    return "sources:\n  - " + json.dumps(given, ensure_ascii=False)


def test_all_keys_are_read(tmp_path: Path) -> None:
    handbook, bucket = load_sources(written(tmp_path, FULL))
    assert handbook.name == "handbook"
    assert handbook.path == str(tmp_path / "docs")
    assert handbook.include == ("**/*.md", "**/*.html")
    assert handbook.exclude == ("drafts/",)
    assert (handbook.language, handbook.category, handbook.tags) == ("ja", "manual", ("public", "社内"))
    assert handbook.schedule == "*/10 * * * *"
    assert handbook.is_local
    assert bucket.path == "s3://company-docs/handbook"
    assert not bucket.is_local
    assert "**/*.docx" in bucket.include


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("./docs", "{here}/docs"),
        ("docs", "{here}/docs"),
        ("/srv/docs", "/srv/docs"),
        ("file:///srv/docs", "/srv/docs"),
        ("memory://docs", "memory://docs"),
        ("zip://inner::file:///a.zip", "zip://inner::file:///a.zip"),
        ("~/docs", str(Path.home() / "docs")),
    ],
)
def test_paths_are_relative_to_the_file(tmp_path: Path, path: str, expected: str) -> None:
    (source,) = load_sources(written(tmp_path, entry(path=path)))
    assert source.path == expected.format(here=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (entry(shedule="@daily"), "source handbook: unknown key 'shedule': did you mean schedule?"),
        (entry(path=None, pth="docs"), "source handbook: unknown key 'pth': did you mean path?"),
        (entry(path=None), "source handbook: path is missing"),
        (entry(name=None), "source 1: name is missing"),
        (entry(name="社内"), "'社内' is not a valid name: use 1 to 63 letters, digits, _ and -"),
        (entry(name="-book"), "'-book' is not a valid name"),
        (
            entry(name="hr-book") + "\n" + entry(name="hr_book").removeprefix("sources:\n"),
            "source hr_book: its sensor would have the same name as that of hr-book, sync_hr_book: rename one",
        ),
        (entry(name="a\nb"), r"source a\nb: name: 'a\nb' is not a valid name"),
        (entry(type="filesytem"), "type: unknown type of source: did you mean filesystem?"),
        (entry(type="oracle"), "type: unknown type of source: use filesystem"),
        (entry(schedule="61 * * * *"), "schedule: '61 * * * *' is not a cron expression"),
        (entry(schedule="* * * * * *"), "five fields"),
        (entry(schedule="0 0 30 2 *"), "is not a cron expression"),
        (entry(schedule="every day"), "is not a cron expression"),
        (entry(language="jp-JP"), "language: 'jp-JP' is not a language code: use two lower-case letters"),
        (entry(language="JA"), "is not a language code"),
        (
            "sources: [{name: a, type: filesystem, path: b, language: no}]",
            "language: must be text: put it in quotes",
        ),
        (entry(include="**/*.md"), "include: must be a list"),
        (entry(include=[]), "include"),
        (entry(include=["**.md"]), "** must be alone between slashes"),
        (entry(include=["*.{md,txt}"]), "braces are not supported"),
        (entry(exclude=["../x"]), "leaves the source's folder"),
        (entry(exclude=["/x"]), "starts with a slash"),
        (entry(category="x" * 101), "category: String should have at most 100 characters"),
        (entry(path="sftp://me:hunter2@host/docs"), "contains a password"),
        (entry(path="sftp://me:hunter2 and more@host/docs"), "contains a password"),
        (entry(path="https://host/docs?sig=hunter2"), "the URL has a query"),
        (entry() + "\n" + entry().removeprefix("sources:\n"), "source handbook: duplicate name"),
        (
            "sources:\n  - name: a\n    path: b\n    path: c",
            "line 4, column 5: duplicate key 'path' in one entry",
        ),
        ("sources: [", "line 1, column"),
        ("sourcs: []", "no key `sources`"),
        ("sources: []\nsource: []", "unknown key 'source': did you mean sources?"),
        ("sources: {a: b}", "sources must be a list"),
        ("sources: [a]", "source 1: must be a mapping"),
        ("", "no key `sources`"),
    ],
)
def test_a_mistake_is_reported_in_one_line_with_place_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load_sources(path)
    reported = str(raised.value)
    assert message in reported
    assert reported.startswith(str(path))
    assert "\n" not in reported
    assert "hunter2" not in reported


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist: .*RAG_SOURCES"):
        load_sources(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read: "):
        load_sources(tmp_path)
    (tmp_path / "sjis.yaml").write_bytes("sources: [] # 社内".encode("cp932"))
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_sources(tmp_path / "sjis.yaml")


def test_an_empty_list_of_sources_is_valid(tmp_path: Path) -> None:
    assert load_sources(written(tmp_path, "sources: []")) == []


def test_secrets_are_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_S3_KEY", "AKIA-visible-nowhere")
    monkeypatch.setenv("TEST_S3_SECRET", "s3cr3t")
    bucket = load_sources(written(tmp_path, FULL))[1]
    stored = bucket.connection_config()
    assert json.loads(json.dumps(stored)) == stored
    assert stored["storage_options"] == {
        "key": "${TEST_S3_KEY}",
        "secret": "${TEST_S3_SECRET}",
        "token": "***",
        "client_kwargs": {"endpoint_url": "https://me:***@s3.example.com", "verify": True, "retries": 3},
    }
    shown = repr(bucket) + str(bucket) + json.dumps(stored)
    for secret in ("AKIA", "s3cr3t", "literal-token", "hunter2"):
        assert secret not in shown
    assert bucket.open_storage_options()["secret"] == "s3cr3t"
    assert bucket.redacted("403 for AKIA-visible-nowhere, s3cr3t, https://me:hunter2@x/") == (
        "403 for ***, ***, https://me:***@x/"
    )


SECRETS = {
    "headers": {"Authorization": "Bearer hunter2-bearer", "X-Auth": "hunter2-x", "Accept": "hunter2-accept"},
    "auth": ["me", "hunter2-list"],
    "pat": "hunter2 with spaces",
    "pin": 26112,
    "client_kwargs": {"config": {"proxies": [{"https": "http://me:hunter2-proxy@proxy"}]}},
    "endpoint_url": "https://me:hunter2/odd@s3.example.com/?sig=hunter2-query",
    "host": "me:hunter2-host@ftp.example.com",
    "mixed": "prefix-${TEST_S3_SECRET}",
    "region": "eu-1",
    "anon": False,
}


def test_every_literal_that_is_not_known_to_be_harmless_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_S3_SECRET", "s3/cr3t")
    config = SourceConfig.model_validate(
        {"name": "bucket", "type": "filesystem", "path": "s3://docs", "storage_options": SECRETS}
    )
    assert config.connection_config()["storage_options"] == {
        "headers": {"Authorization": "***", "X-Auth": "***", "Accept": "***"},
        "auth": ["***", "***"],
        "pat": "***",
        "pin": "***",
        "client_kwargs": {"config": {"proxies": [{"https": "***"}]}},
        "endpoint_url": "https://me:***@s3.example.com/?***",
        "host": "***",
        "mixed": "***",
        "region": "eu-1",
        "anon": False,
    }
    quoted = config.redacted(f"refused: {SECRETS}")
    assert quoted.startswith("refused: {'headers'")
    assert not any(part in quoted for part in ("hunter2", "s3/cr3t", "26112"))
    text = (
        "401 Bearer hunter2-bearer, hunter2-bearer, hunter2/odd, prefix-s3/cr3t, ?k=s3%2Fcr3t, eu-1, 26112, 126112"
    )
    assert config.redacted(text) == "401 ***, ***, ***, ***, ?k=***, eu-1, ***, 126112"


def test_an_unset_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_S3_KEY", raising=False)
    bucket = load_sources(written(tmp_path, FULL))[1]
    with pytest.raises(SourceError, match=r"source bucket: .* TEST_S3_KEY is not set"):
        bucket.open_storage_options()


def test_the_digest_depends_only_on_the_metadata_of_documents() -> None:
    def digest(**fields: object) -> str:
        config = {"name": "a", "type": "filesystem", "path": "x"} | fields
        return SourceConfig.model_validate(config).metadata_digest

    plain = digest()
    assert digest(name="b", path="y", include=["*.md"], schedule="@daily") == plain
    others = [digest(language="ja"), digest(category="ja"), digest(tags=["ja"]), digest(tags=["j", "a"])]
    assert len({plain, *others}) == 5


def test_loading_sources_imports_no_file_system(tmp_path: Path) -> None:
    path = written(tmp_path, FULL)
    code = (
        "import sys; from pathlib import Path; from rag_pipeline.sources.config import load_sources;"
        "from rag_pipeline.sources import connect;"
        "[connect(source) for source in load_sources(Path(sys.argv[1]))];"
        "print({'fsspec', 'dagster', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
