"""The command line: `rag-pipeline`. Arguments, exit codes and output; what a command does is in the library.

Errors that a person can fix are one line on standard error and exit code 1. `--json` prints one JSON object on standard
output, and nothing else goes there. Commands import what they need when they run, so that `--help` is quick.
"""

from __future__ import annotations

import gc
import sys

import click

from rag_pipeline.cli import (
    account_commands,
    check_commands,
    evaluate_command,
    generation_commands,
    ingest_commands,
    judgement_commands,
    migrate_command,
    search_command,
    server_commands,
)
from rag_pipeline.cli.common import print_error
from rag_pipeline.errors import RagError, one_line

_OBJECTS_BETWEEN_COLLECTIONS = 50_000
"""Python's own 700 have it look through the growing heap hundreds of times while modules are imported."""


def main() -> None:
    """Run the command; a `RagError` becomes one line and exit code 1."""
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, 20)
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        print_error("interrupted; run again to resume")
        sys.exit(130)
    except KeyboardInterrupt:
        print_error("interrupted; run again to resume")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except RagError as error:
        print_error(one_line(error, 2000))
        sys.exit(1)
    except OSError as error:
        print_error(one_line(error, 2000))
        sys.exit(1)
    finally:
        # Else the interpreter looks for cycles in all that was imported before it ends: most of a second after Dagster.
        gc.freeze()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rag-pipeline")
def cli() -> None:
    """Keep a retrieval index in PostgreSQL and Milvus consistent with its sources, run through Dagster."""


for command in (
    *(
        server_commands.up,
        server_commands.down,
        server_commands.status,
        server_commands.dev,
        migrate_command.migrate,
    ),
    *(ingest_commands.sources, ingest_commands.ingest, search_command.search, ingest_commands.documents),
    *(check_commands.check, check_commands.repair, check_commands.alerts),
    *(evaluate_command.evaluate, judgement_commands.judgements, judgement_commands.searches),
    generation_commands.generations,
    *(server_commands.serve, server_commands.mcp, account_commands.users, account_commands.keys),
):
    cli.add_command(command)
