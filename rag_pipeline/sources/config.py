"""`sources.yaml`: the sources, and the metadata that their documents get.

The file is read when the Dagster definitions load and at each tick, so nothing here opens a source or imports a file
system, and a text that was just read is not parsed again.
Secrets stay in the environment: the file names them as `${VARIABLE}`, and `storage_options` reads the value only
when a source is opened.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError, field_validator

from rag_pipeline.errors import ConfigError, SourceError, one_line
from rag_pipeline.sources import storage_options
from rag_pipeline.sources.naming import identifier, is_permission, printable, sensor_name
from rag_pipeline.sources.patterns import split_pattern
from rag_pipeline.urls import has_password

SourceType = Literal["filesystem"]

DEFAULT_INCLUDE = ("**/*.md", "**/*.markdown", "**/*.txt", "**/*.html", "**/*.htm", "**/*.pdf", "**/*.docx")
DEFAULT_SCHEDULE = "*/5 * * * *"

_MACROS = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")

_Text = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00]*$")]


class SourceConfig(BaseModel):
    """One entry of `sources.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    name: str
    """Letters, digits, `_` and `-`. Its `naming.identifier` names the Dagster sensor `sync_<identifier>`."""
    type: SourceType
    path: _Text
    """A folder (absolute after loading) or any fsspec URL."""
    include: tuple[_Text, ...] = Field(DEFAULT_INCLUDE, min_length=1, strict=False)
    exclude: tuple[_Text, ...] = Field((), strict=False)
    follow_links: bool = False
    """Whether links in a folder on this machine may lead out of it, and links to folders are followed. Elsewhere the
    server decides."""
    language: str | None = None
    """Two lower-case letters (ISO 639-1); None: detected for each document."""
    category: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00]*$")] | None = None
    tags: tuple[_Text, ...] = Field((), strict=False)
    schedule: Annotated[str, StringConstraints(max_length=100)] = DEFAULT_SCHEDULE
    """When to scan the source, in UTC: a cron expression of five fields or a macro such as `@hourly`."""
    access: tuple[str, ...] = Field((), strict=False)
    """The permissions that are needed, all of them, to find its documents through the search service."""
    storage_options: dict[str, Any] = Field(default_factory=dict, repr=False)
    """Keyword arguments of the fsspec file system as written in the file, with `${VARIABLE}` not yet replaced."""

    _listed_in: str = PrivateAttr("sources.yaml")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}", name):
            raise ValueError(
                f"{name!r} is not a valid name: use 1 to 63 letters, digits, _ and -, not - at the start"
            )
        return name

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: str) -> str:
        if has_password(path):
            raise ValueError("the URL contains a password: put it into storage_options as ${VARIABLE} instead")
        if re.match(r"https?://[^?]*\?", path):
            raise ValueError(
                "the URL has a query (`?…`), but a folder has none: put credentials into storage_options"
            )
        return path

    @field_validator("include", "exclude")
    @classmethod
    def _check_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            split_pattern(pattern)
        return patterns

    @field_validator("access")
    @classmethod
    def _check_access(cls, access: tuple[str, ...]) -> tuple[str, ...]:
        for permission in access:
            if not is_permission(permission):
                raise ValueError(
                    f"{permission!r} is not a permission: use up to 63 lower-case letters, digits, _, ., : and -"
                )
        return tuple(sorted(set(access)))

    @field_validator("language")
    @classmethod
    def _check_language(cls, language: str | None) -> str | None:
        if language is not None and not re.fullmatch(r"[a-z]{2}", language):
            raise ValueError(f"{language!r} is not a language code: use two lower-case letters such as ja or en")
        return language

    @field_validator("schedule")
    @classmethod
    def _check_schedule(cls, schedule: str) -> str:
        from croniter import CroniterError, croniter

        hint = 'five fields such as "*/5 * * * *" (every five minutes), or @hourly, @daily, ...'
        if len(schedule.split()) != 5 and schedule not in _MACROS:
            raise ValueError(f"{schedule!r} is not a cron expression: write {hint}")
        try:
            croniter(schedule).get_next()
        except CroniterError as error:
            raise ValueError(f"{schedule!r} is not a cron expression ({one_line(error)}): write {hint}") from None
        return schedule

    @property
    def listed_in(self) -> str:
        """The file whose entry this is, for messages that say what to correct."""
        return self._listed_in

    @property
    def is_local(self) -> bool:
        """Whether `path` is a folder on this machine rather than an fsspec URL."""
        return "://" not in self.path and "::" not in self.path

    @property
    def includes_by_default(self) -> bool:
        """Whether its entry has no `include`: then every file in a supported format is, whatever the case of its extension."""
        return "include" not in self.model_fields_set

    @property
    def metadata_digest(self) -> str:
        """Hexadecimal digest of the language, category and tags that documents get."""
        metadata = json.dumps([self.language, self.category, self.tags], ensure_ascii=False)
        return hashlib.sha256(metadata.encode()).hexdigest()

    @property
    def settings_digest(self) -> str:
        """Hexadecimal digest of everything that decides which items there are and what becomes of them."""
        return hashlib.sha256(json.dumps(self.connection_config()).encode()).hexdigest()[:16]

    def connection_config(self) -> dict[str, Any]:
        """Return the configuration as the `sources` table stores it: JSON types only, no secret.

        A `${VARIABLE}` stays as written. A literal becomes `***` unless its key is known to hold no secret.
        """
        config = self.model_dump(mode="json", exclude={"name", "type", "schedule", "access", "storage_options"})
        return config | {"storage_options": storage_options.masked(self.storage_options)}

    def open_storage_options(self) -> dict[str, Any]:
        """Return `storage_options` with each `${VARIABLE}` replaced from the environment. Never log or store it.

        Raises `SourceError` that names a variable that is not set.
        """
        try:
            options: dict[str, Any] = storage_options.expanded(self.storage_options)
        except KeyError as error:
            raise SourceError(
                f"source {self.name}: storage_options: the environment variable {error.args[0]} is not set:"
                " set it in the environment of this process"
            ) from None
        return options

    def redacted(self, text: str) -> str:
        """Return a message of a file system without any secret of `storage_options` that it repeats."""
        return storage_options.redacted(text, self.storage_options)


@dataclass(frozen=True)
class InvalidSource:
    """An entry of `sources.yaml` that cannot be used, or the whole file."""

    name: str | None
    """The name of the source, if the entry has one whose identifier no other source has."""
    message: str
    """One line with the file, the source and the key, and what to do."""


@dataclass(frozen=True)
class SourcesFile:
    """What `sources.yaml` says: the sources, and the mistakes, which do not stop the others."""

    sources: list[SourceConfig]
    invalid: list[InvalidSource]
    is_readable: bool = True
    digest: str = ""
    """Hexadecimal digest of its text: it changes with every edit. Empty if there is none to read."""

    def source(self, name: str) -> SourceConfig | None:
        """Return the source of this name; None if it is not among the sources, see `mistake_about`."""
        return next((source for source in self.sources if source.name == name), None)

    def mistake_about(self, name: str) -> str | None:
        """Return the mistake for which a source of this name is not among the sources; None if it is not listed."""
        mistakes = {entry.name: entry.message for entry in self.invalid}
        return mistakes.get(name, mistakes.get(None))


def load_sources(path: Path) -> list[SourceConfig]:
    """Return the sources of a YAML file, in order. Relative paths are relative to the file's folder.

    Raises `ConfigError`, one line with the file, the source and the key, if anything is wrong.
    """
    file = read_sources(path)
    for entry in file.invalid:
        raise ConfigError(entry.message)
    return file.sources


def read_sources(path: Path) -> SourcesFile:
    """Return the valid sources of a YAML file and what is wrong with the others. Raises nothing."""
    try:
        text = _text(path)
    except ConfigError as error:
        return SourcesFile([], [InvalidSource(None, str(error))], is_readable=False)
    return _parsed(path, path.absolute().parent, text)


@lru_cache(maxsize=2)
def _parsed(path: Path, folder: Path, text: str) -> SourcesFile:
    """Return what a text of the file says, whose relative paths are relative to the folder."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    try:
        entries = _entries(path, text)
    except ConfigError as error:
        return SourcesFile([], [InvalidSource(None, str(error))], is_readable=False, digest=digest)
    sources: dict[str, SourceConfig] = {}
    identifiers: dict[str, str] = {}
    mistakes: list[tuple[str | None, str]] = []
    for number, entry in enumerate(entries, 1):
        try:
            source = _source(path, folder, number, entry)
            if source.name in sources:
                raise ConfigError(f"{path}: source {source.name}: duplicate name: give each source its own")
            if other := identifiers.get(identifier(source.name)):
                raise ConfigError(
                    f"{path}: source {source.name}: its sensor would have the same name as that of {other}, "
                    f"{sensor_name(source.name)}: rename one"
                )
        except ConfigError as error:
            mistakes.append((_name_of(entry), str(error)))
        else:
            sources[source.name] = source
            identifiers[identifier(source.name)] = source.name
    taken = set(identifiers)
    invalid = []
    for name, message in mistakes:
        own_name = name if name and identifier(name) not in taken else None
        invalid.append(InvalidSource(own_name, message))
        taken.update({identifier(own_name)} if own_name else ())
    return SourcesFile(list(sources.values()), invalid, digest=digest)


def _entries(path: Path, text: str) -> list[object]:
    content = _loaded(path, text)
    if not isinstance(content, dict) or "sources" not in content:
        raise ConfigError(f"{path}: no key `sources`: begin with `sources:` and one `- name: …` for each source")
    for key in content:
        if key != "sources":
            raise ConfigError(f"{path}: unknown key {key!r}{_did_you_mean(str(key), ['sources'])}")
    entries = content["sources"] or []
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: sources must be a list, with one `- name: …` for each source")
    return entries


def _name_of(entry: object) -> str | None:
    """Return the name of an entry, if at least that is valid."""
    if not isinstance(entry, dict):
        return None
    try:
        return SourceConfig.model_validate({"name": entry.get("name"), "type": "filesystem", "path": "."}).name
    except ValidationError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: create it, or set RAG_SOURCES to your file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _loaded(path: Path, text: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (ValueError, RecursionError) as error:  # A day such as 2024-13-45, or lists without end.
        raise ConfigError(f"{path} cannot be read: {one_line(error, 100)}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{path}: {where}{getattr(error, 'problem', None) or 'not valid YAML'}") from None


class _Loader(yaml.SafeLoader):
    """A SafeLoader that rejects a duplicate key: it is a mistake (mostly a lost `- name:`), not an overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if key.value in seen:
                problem = f"duplicate key {key.value!r} in one entry"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def _source(file: Path, folder: Path, number: int, entry: object) -> SourceConfig:
    if not isinstance(entry, dict):
        raise ConfigError(f"{file}: source {number}: must be a mapping that begins with `- name: …`")
    where = f"{file}: source {printable(str(entry.get('name') or number))}"
    try:
        source = SourceConfig.model_validate(entry)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explained(error)}") from None
    source = source.model_copy(update={"path": _resolved(source.path, folder)})
    source._listed_in = str(file)
    return source


def _resolved(path: str, folder: Path) -> str:
    local = re.sub(r"^(file|local)://", "", path)
    if "://" in local or "::" in local:
        return path
    return str(folder / os.path.expanduser(local))


def _explained(error: ValidationError) -> str:
    """Return the first problem as `key: what to do`. A misspelt key goes before the key that it replaces."""
    errors = error.errors(include_url=False)
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    key, problem = ".".join(str(part) for part in first["loc"]), first["type"]
    if problem == "extra_forbidden":
        return f"unknown key {key!r}{_did_you_mean(key, list(SourceConfig.model_fields))}"
    if problem == "missing":
        return f"{key} is missing"
    if problem == "literal_error":
        types = list(get_args(SourceType))
        return f"{key}: unknown type of source{_did_you_mean(str(first['input']), types)}"
    if problem == "string_type":
        return f"{key}: must be text: put it in quotes (YAML reads words such as no, and numbers, as other types)"
    if problem == "tuple_type":
        return f'{key}: must be a list such as ["…", "…"]'
    return f"{key}: {first['msg'].removeprefix('Value error, ')}"


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {close[0]}?" if close else f": use {', '.join(known)}"
