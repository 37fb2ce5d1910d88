"""What parsing in processes of their own costs and brings: python -m benchmarks.parse [--files 600]

Parses small HTML, PDF and Markdown files in four threads of this process and by a `ParserPool`, in turns, and prints the
ratio; then one short Markdown file, which no worker should slow down.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rag_pipeline.documents.parsing import parser
from rag_pipeline.documents.parsing.parser_pool import ParserPool
from rag_pipeline_tests.support.document_files import pdf

_THREADS = 4
_SENTENCE = "索引を正しく保つには、どの文書がいつ変わったかを知らなければならない。"


def make_files(count: int) -> list[tuple[bytes, str]]:
    files = []
    for number in range(count):
        paragraphs = [f"{_SENTENCE}{number}-{paragraph}" for paragraph in range(30)]
        kind = number % 3
        if kind == 0:
            body = "".join(
                f"<h2>節</h2><p>{text} <a href='#x'>節</a></p><ul><li>一<li>二</ul>" for text in paragraphs
            )
            files.append(
                (
                    f"<head><title>頁</title></head><body><nav>目次</nav><main>{body}</main>".encode(),
                    f"{number}.html",
                )
            )
        elif kind == 1:
            files.append((pdf(paragraphs, paragraphs, info={"Title": "書"}), f"{number}.pdf"))
        else:
            files.append((("# 題\n\n" + "\n\n".join(paragraphs)).encode(), f"{number}.md"))
    return files


def seconds(parse: Callable[[bytes, str], object], files: list[tuple[bytes, str]]) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(lambda file: parse(*file), files))
    return time.perf_counter() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--files", type=int, default=600)
    files = make_files(arguments.parse_args().files)
    for data, name in files[:3]:
        parser.parse(data, name)  # what is loaded on first use is not measured
    for _ in range(3):
        in_threads = seconds(parser.parse, files)
        pool = ParserPool(_THREADS, 60, 1024)
        in_workers = seconds(pool.parse, files)
        again = seconds(pool.parse, files)
        short = seconds(pool.parse, files[2:3])
        pool.close()
        print(
            f"{len(files)} files: {in_threads:.2f} s in threads, {in_workers:.2f} s in workers with their start "
            f"({in_workers / in_threads:.2f}), {again:.2f} s after it ({again / in_threads:.2f}); "
            f"a short Markdown file {short * 1000:.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
