"""An endpoint of an embedding server: what is sent to it, and how its answers are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rag_pipeline.embedding.openai.answers import Answer, WrongAnswerError, read_answer

if TYPE_CHECKING:
    from rag_pipeline.embedding.openai.options import Options

T = TypeVar("T")

NUMBER_BYTES = 64
"""More than a number takes in an answer, indented and with all its digits; and more than an index and a weight do."""
_LARGEST_DIMENSION = 65_536
"""While the dimension is not known; models have up to about 16,000."""


class Endpoint(ABC, Generic[T]):
    """Something that a server can be asked; `T` is what it answers. Knows what it has learnt of the server."""

    url: str
    """Where requests go."""
    model_variable: str
    """The setting that names the model."""
    model: str
    called: str
    """What errors call the server."""
    what_else: str
    """What to look at if an answer is none."""
    is_guarded = True
    """Whether the circuit breaker counts its failures, and keeps queries from it after some."""
    optional: Sequence[tuple[str, ...]] = ((),)
    """Parameters that are left out, one group after the other, for a server that refuses them."""

    def __init__(self) -> None:
        self.left_out: tuple[str, ...] | None = None
        """The parameters that this server refuses; None until it has answered once."""

    @property
    def if_not_found(self) -> str:
        """What to do if the server says that there is no such thing."""
        return f"set {self.model_variable}={self.model} to a model that the server has, or correct the URL"

    @abstractmethod
    def body(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return what is sent for these texts."""

    @abstractmethod
    def largest_answer(self, texts: Sequence[str]) -> int:
        """Return the most bytes that an answer to these texts can have, with room to spare."""

    @abstractmethod
    def read(self, content: bytes, texts: int) -> T:
        """Return the answer to so many texts. Raises `WrongAnswerError` if it is not what was asked for."""


class Embeddings(Endpoint[Answer]):
    """`/v1/embeddings` of OpenAI's API: dense vectors."""

    model_variable = "RAG_EMBEDDING_MODEL"
    called = "the embedding server"
    what_else = "is it an embedding server, and RAG_EMBEDDING_MODEL a model for embeddings?"

    def __init__(self, options: Options, recorded_dimension: int | None = None) -> None:
        super().__init__()
        self.url = options.dense.url
        self.model = options.model
        # Some servers know no base64, and vLLM refuses `dimensions` for a model that has one dimension only, even if
        # it is that.
        self.optional = ((), ("encoding_format",))
        if options.dimensions is not None:
            self.optional = (*self.optional, ("dimensions",), ("encoding_format", "dimensions"))
        self._asked_for = options.dimensions
        self.dimension = options.dimensions if options.dimensions is not None else recorded_dimension
        """That of all vectors; None until it is known."""
        self._to_be_set = (
            "set RAG_EMBEDDING_MODEL and RAG_EMBEDDING_DIMENSIONS to those of the index"
            if recorded_dimension is None
            else f"the index has {recorded_dimension}: set RAG_EMBEDDING_URL and RAG_EMBEDDING_MODEL to the model that it "
            "was made with, or build another one beside it: `rag-pipeline generations build --same-settings`, after "
            "`rag-pipeline generations drop ID` of one that is being built (`rag-pipeline generations list` shows it)"
        )

    def body(self, texts: Sequence[str]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "input": list(texts), "encoding_format": "base64"}
        if self._asked_for is not None:
            body["dimensions"] = self._asked_for
        return body

    def largest_answer(self, texts: Sequence[str]) -> int:
        return len(texts) * (self.dimension or _LARGEST_DIMENSION) * NUMBER_BYTES

    def read(self, content: bytes, texts: int) -> Answer:
        answer = read_answer(content, texts)
        found = answer.vectors.shape[1]
        if self.dimension is None:
            self.dimension = found
        if found != self.dimension:
            raise WrongAnswerError(
                f"vectors of {found} dimensions, not {self.dimension}; {self._to_be_set}", says_what_to_do=True
            )
        return answer
