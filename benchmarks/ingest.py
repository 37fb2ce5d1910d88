"""The cost of an ingest outside the embedder, by stage: python -m benchmarks.ingest [--files 2000] [--months 24]

Writes Japanese Markdown files of some months and runs `rag-pipeline ingest` as a user would, in a new process each
time, on its own embedded servers: everything new, nothing changed, 1 % edited, 1 % deleted. Compare only figures of
the same call.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import benchmark_workspace, ingest

WORDS = [
    "索引",
    "検索",
    "文書",
    "月次",
    "区画",
    "差分",
    "更新",
    "削除",
    "一貫性",
    "補償",
    "監視",
    "通知",
    "障害",
    "復旧",
    "設定",
    "接続",
    "埋め込み",
    "語彙",
    "形態素",
    "解析",
    "辞書",
    "段落",
    "見出し",
    "重み",
    "距離",
    "近傍",
    "候補",
    "順位",
    "再計算",
    "世代",
    "切替",
    "検証",
]


def make_files(folder: Path, count: int, months: int, first_year: int = 2024) -> list[Path]:
    random.seed(7)
    paths = []
    for number in range(count):
        sections = []
        for section in range(3):
            sentences = [
                f"{random.choice(WORDS)}の{random.choice(WORDS)}は{random.choice(WORDS)}と"
                f"{random.choice(WORDS)}を{random.randrange(1000)}回くり返して{random.choice(WORDS)}を保つ。"
                for _ in range(24)
            ]
            paragraphs = ["".join(sentences[start : start + 6]) for start in range(0, 24, 6)]
            sections.append(f"## 第{section + 1}節 {random.choice(WORDS)}\n\n" + "\n\n".join(paragraphs))
        month = number % months
        front = f"---\ntitle: 文書{number}\ndate: {first_year + month // 12}-{month % 12 + 1:02d}-15\n---\n"
        path = folder / f"{number % 50:02d}" / f"{number}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(front + f"# 文書{number}\n\n" + "\n\n".join(sections) + "\n", "utf-8")
        paths.append(path)
    return paths


def spread(paths: Sequence[Path], count: int) -> Sequence[Path]:
    """Return so many of these files, from all over them."""
    return paths[:: max(1, len(paths) // count)][:count]


def run(name: str, environment: dict[str, str]) -> None:
    done = ingest(environment)
    found = done.printed
    outside = done.seconds - found["seconds"].get("embed", 0.0)
    per_chunk = (
        f", {outside * 1000 / found['embedded']:.2f} ms a chunk outside the embedder" if found["embedded"] else ""
    )
    print(f"{name}: {done.seconds:.2f} s, {found['embedded']} embedded, {len(found['months'])} months{per_chunk}")
    print(f"    {done.stages}")
    print(f"    peak memory: {done.megabytes:.0f} MB", flush=True)


def edit(paths: Sequence[Path]) -> None:
    """Change one sentence of each file."""
    for path in paths:
        path.write_text(path.read_text("utf-8").replace("くり返して", "くりかえして", 1), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--months", type=int, default=24)
    arguments = parser.parse_args()
    with benchmark_workspace() as (workspace, environment):
        paths = make_files(workspace.docs, arguments.files, arguments.months)
        run("everything new", environment)
        run("nothing changed", environment)
        some = paths[::100]
        edit(some)
        run(f"1 % edited ({len(some)} files)", environment)
        for path in some:
            path.unlink()
        run(f"1 % deleted ({len(some)} files)", environment)


if __name__ == "__main__":
    main()
