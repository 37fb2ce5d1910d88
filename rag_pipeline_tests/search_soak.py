"""Searches while the index changes: python -m rag_pipeline_tests.search_soak [--minutes 10] [--clients 4]

Documents switch versions, are deleted and come back, and the rights of one key are taken away and given back, while
clients search over HTTP. Counts the answers that held a version which was gone when they were asked for, documents that
the asker may not see, full-text searches that missed a document which was there all the time, and answers that failed;
all have to be zero. Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from rag_pipeline_tests.support.http_service import Service, new_key, running
from rag_pipeline_tests.support.search_index import SearchIndex, new_index
from rag_pipeline_tests.support.servers import temporary_folder, temporary_servers

_POTS = 6
_OF_ALL, _ALL = "豆腐 鍋", 50
"""What every pot is found by, and at most so many chunks there are."""
_VERSION = re.compile(r"鍋(\d+) 版(\d+)。")


@dataclass
class State:
    """What was committed, as far as a client can rely on it."""

    versions: Counter[int] = field(default_factory=Counter)
    """Pot → the version that was written last."""
    least: dict[int, int] = field(default_factory=dict)
    """Pot → the version that is live at least; absent while its document is deleted."""
    deleted: set[int] = field(default_factory=set)
    """Pots whose documents are gone until further notice."""
    may_see_secrets: bool = True
    """Whether the key `sometimes` may see them; only read where nothing is changing it."""
    changing: threading.Lock = field(default_factory=threading.Lock)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def ask(service: Service, keys: dict[str, str], state: State, ended: threading.Event, seed: int) -> None:
    """Ask until the end, and look at each answer."""
    chosen = random.Random(seed)
    while not ended.is_set():
        who = chosen.choice(list(keys))
        query = chosen.choice([_OF_ALL, "鍋の版", "秘密の鍋", f"鍋{chosen.randrange(_POTS)}"])
        mode = chosen.choice(["hybrid", "dense", "sparse", "fulltext"])
        least, deleted = dict(state.least), set(state.deleted)
        limit = chosen.choice([3, 10, _ALL])
        filters = chosen.choice([{}, {"category": "煮物"}, {"tags": ["鍋", "冬"]}, {"from": "2024-01-01"}])
        answer = service.search(keys[who], query, mode=mode, limit=limit, filters=filters)
        if answer.status_code != 200:
            state.faults.append(f"{answer.status_code}: {answer.text}")
            continue
        stayed = least.keys() & dict(state.least).keys()
        body = answer.json()
        state.counts["cached" if body["cached"] else "searched"] += 1
        for hit in body["hits"]:
            if hit["source_id"].startswith("secret:") and who == "never":
                state.faults.append(f"hidden: {hit['source_id']} for {who}")
            if found := _VERSION.search(hit["content"]):
                pot, version = int(found[1]), int(found[2])
                if pot in deleted and pot in state.deleted:
                    state.faults.append(f"deleted: pot {pot}")
                if version < least.get(pot, 0):
                    state.faults.append(f"gone: pot {pot} version {version} after {least[pot]}")
                stayed.discard(pot)
        if stayed and mode == "fulltext" and query == _OF_ALL and limit == _ALL:
            state.faults.append(f"missed: pots {sorted(stayed)}, with {filters}")


def look_at_rights(index: SearchIndex, service: Service, key: str, state: State, ended: threading.Event) -> None:
    """Take the right to see the secret source away and give it back, and look at what is found each time."""
    while not ended.is_set():
        for permissions, expected in (("{}", False), ("{kitchen}", True)):
            index.execute("UPDATE users SET permissions = %s WHERE email = 'sometimes@example.com'", permissions)
            answer = service.search(key, "秘密の鍋", mode="fulltext", limit=50)
            seen = any(hit["source_id"].startswith("secret:") for hit in answer.json().get("hits", ()))
            state.counts["rights changed"] += 1
            if answer.status_code != 200 or seen != expected:
                state.faults.append(f"rights: {answer.status_code}, seen {seen}, expected {expected}")
        time.sleep(0.05)


def change(index: SearchIndex, state: State, end: float) -> None:
    """Write new versions, delete documents and bring them back, until a moment."""
    chosen = random.Random(3)
    while time.monotonic() < end:
        some = chosen.sample(range(_POTS), 2)
        for pot in some:
            if chosen.random() < 0.25 and pot in state.least:
                del state.least[pot]
                index.delete(f"pot{pot}.md")
                state.counts["deleted"] += 1
            else:
                state.deleted.discard(pot)
                state.versions[pot] += 1
                text = f"# 鍋{pot}\n\n豆腐 鍋{pot} 版{state.versions[pot]}。" + "出汁をとる。" * chosen.randrange(
                    40
                )
                front = f"2024-{pot % 3 + 1:02d}-05\ncategory: 煮物\ntags: [鍋, 冬, 豆腐]"
                index.write(f"pot{pot}.md", text, front)
                state.counts["written"] += 1
        index.ingest()
        for pot in some:
            if (index.docs / f"pot{pot}.md").exists():
                state.least[pot] = state.versions[pot]
            else:
                state.deleted.add(pot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=4)
    arguments = parser.parse_args()
    with (
        temporary_servers("search-soak") as servers,
        temporary_folder("search-soak") as folder,
        new_index(folder, servers.up()) as index,
    ):
        index.pipeline.prepare()
        (folder / "secret").mkdir()
        (folder / "secret" / "s.md").write_text(
            "---\ndate: 2024-02-02\n---\n# 秘密の鍋\n\n秘密の鍋の作り方。", "utf-8"
        )
        index.sources.write_text(
            "sources:\n- {name: docs, type: filesystem, path: ./docs}\n"
            "- {name: secret, type: filesystem, path: ./secret, access: [kitchen]}\n",
            "utf-8",
        )
        state, ended = State(), threading.Event()
        change(index, state, time.monotonic() + 2)
        with running(index.pipeline) as service:
            keys = {
                "never": new_key(index.pipeline, "never@example.com", "*"),
                "always": new_key(index.pipeline, "always@example.com", "*", own=("kitchen",)),
            }
            sometimes = new_key(index.pipeline, "sometimes@example.com", "*", own=("kitchen",))
            threads = [
                threading.Thread(target=ask, args=(service, keys, state, ended, n))
                for n in range(arguments.clients)
            ]
            threads.append(threading.Thread(target=look_at_rights, args=(index, service, sometimes, state, ended)))
            for thread in threads:
                thread.start()
            change(index, state, time.monotonic() + arguments.minutes * 60)
            ended.set()
            for thread in threads:
                thread.join()
    print(
        ", ".join(f"{name} {count}" for name, count in sorted(state.counts.items())),
        f"; faults {len(state.faults)}",
    )
    for fault in state.faults[:20]:
        print(f"    {fault}")
    sys.exit(1 if state.faults else 0)


if __name__ == "__main__":
    main()
