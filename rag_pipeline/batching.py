"""Calls that come at once, made together: while one runs, those that come wait, and the next takes all of a kind.

There is no timer: a call that comes alone is made at once, as it is. It is for what answers several questions in one call
more quickly than in several.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from rag_pipeline.errors import StoreUnavailableError, one_line

_log = logging.getLogger(__name__)

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batches(Generic[Question, Answer]):
    """Asks the questions of many threads, one call at a time. Thread-safe."""

    def __init__(self, what: str) -> None:
        """`what` names the questions in the log, such as `queries`."""
        self._what = what
        self._lock = threading.Lock()
        self._is_busy = False
        self._waiting: list[_Asked[Question, Answer]] = []

    def ask(
        self,
        kind: Hashable,
        question: Question,
        alone: Callable[[Question], Answer],
        together: Callable[[Sequence[Question]], Sequence[Answer]],
    ) -> Answer:
        """Return the answer to a question: of a call for it `alone`, or `together` with those of its kind that wait.

        Raises what `alone` raises for this question. If what is asked is down, that is no question's fault: all that were
        asked together fail, so that none waits for it again.
        """
        mine: _Asked[Question, Answer] = _Asked(kind, question)
        with self._lock:
            self._waiting.append(mine)
            is_first, self._is_busy = not self._is_busy, True
        if not is_first:
            mine.turn.wait()
        if mine.answer is not None:
            return mine.answer
        if mine.failure is not None:
            raise StoreUnavailableError(mine.failure)
        # After a batch that failed, each is asked alone: one question must not fail those of others.
        return alone(question) if mine.is_taken else self._ask_waiting(mine, alone, together)

    def _ask_waiting(
        self,
        mine: _Asked[Question, Answer],
        alone: Callable[[Question], Answer],
        together: Callable[[Sequence[Question]], Sequence[Answer]],
    ) -> Answer:
        """Ask all that wait and are of my kind, and hand over to the next that waits; return my answer."""
        with self._lock:
            batch = [asked for asked in self._waiting if asked.kind == mine.kind]
            self._waiting = [asked for asked in self._waiting if asked.kind != mine.kind]
        try:
            if len(batch) > 1:
                self._ask_together(batch, together)
            if mine.failure is not None:
                raise StoreUnavailableError(mine.failure)
            return alone(mine.question) if mine.answer is None else mine.answer
        finally:
            with self._lock:
                following = self._waiting[:1]
                self._is_busy = bool(following)
            for asked in batch:
                asked.is_taken = True
            for asked in (*batch, *following):
                asked.turn.set()

    def _ask_together(
        self,
        batch: Sequence[_Asked[Question, Answer]],
        together: Callable[[Sequence[Question]], Sequence[Answer]],
    ) -> None:
        try:
            answers = together([asked.question for asked in batch])
            # All of it first: of too few answers, none is known to be to the right question.
            for asked, answer in list(zip(batch, answers, strict=True)):
                asked.answer = answer
        except StoreUnavailableError as error:
            for asked in batch:
                asked.failure = str(error)
        except Exception as error:
            _log.warning(
                "%s %s are asked one by one: together they failed: %s", len(batch), self._what, one_line(error)
            )


class _Asked(Generic[Question, Answer]):
    """A question that waits for its answer, or for its turn to ask for those that wait."""

    def __init__(self, kind: Hashable, question: Question) -> None:
        self.kind, self.question = kind, question
        self.turn = threading.Event()
        self.is_taken = False
        """Whether it was in a batch that has ended."""
        self.answer: Answer | None = None
        self.failure: str | None = None
        """Why what was asked is down."""
