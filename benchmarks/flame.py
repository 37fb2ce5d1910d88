"""Where an ingest's time goes: python -m benchmarks.flame [--files 2000] [--change new|edit] [--to flame.svg]

Samples `rag-pipeline ingest` with py-spy, which it installs under .peers, writes a flame graph, and prints how much of
the run's time threads spend in the functions of this project, with all that these call. Threads run side by side, so
the shares add up to more than 100 %; a thread that waits for a lock or a store is sampled too.
"""

from __future__ import annotations

import argparse
import html
import re
import subprocess
from collections import Counter
from pathlib import Path

from benchmarks.environments import environment_of
from benchmarks.harness import INGEST, benchmark_workspace, ingest
from benchmarks.ingest import edit, make_files, spread

_SAMPLES_PER_SECOND = 200
_LINES = 40
_FRAME = re.compile(r"<title>(\S+) \(rag_pipeline/([\w/]+)\.py:\d+\) \(([\d,]+) samples")
"""A frame in py-spy's flame graph, whose samples include those of what it calls."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--change", choices=("new", "edit"), default="new")
    parser.add_argument("--to", type=Path, default=Path("flame.svg"))
    arguments = parser.parse_args()
    spy = environment_of("py-spy").parent / "py-spy"
    with benchmark_workspace("benchmarks.free_embedder:make_of_long_chunks") as (workspace, environment):
        environment |= {"RAG_VECTORS": "dense"}
        paths = make_files(workspace.docs, arguments.files, 1)
        if arguments.change == "edit":
            ingest(environment)
            edit(spread(paths, 20))
        record = [
            str(spy),
            "record",
            "--function",
            "--rate",
            str(_SAMPLES_PER_SECOND),
            "--output",
            str(arguments.to.absolute()),
            "--",
        ]
        subprocess.run([*record, *INGEST], env=environment, check=True, stderr=subprocess.DEVNULL)
    _print_table(arguments.to.read_text("utf-8"))
    print(f"flame graph: {arguments.to}")


def _print_table(flame_graph: str) -> None:
    """Print the functions of this project in which threads spent most time."""
    found: Counter[str] = Counter()
    for function, module, samples in _FRAME.findall(html.unescape(flame_graph)):
        found[f"{module}: {function}"] += int(samples.replace(",", ""))
    # py-spy takes fewer samples than it is asked to, so they are compared with those of the thread that runs throughout.
    throughout = found["cli/interruption: run_until_interrupted.<locals>.run"]
    for name, samples in found.most_common(_LINES):
        print(f"{samples / throughout:7.0%} {name}")


if __name__ == "__main__":
    main()
