"""Models in BGE-M3's layout on disk, small and random, so that the real loading code runs anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]
"""With the ids that XLM-RoBERTa gives them: 0 to 3."""

_LEARNT_FROM = [
    "PostgreSQLのバックアップを取得する",
    "検索索引を最新に保つ",
    "文書はいくつもの断片に分けられる",
    "失敗した処理は翌朝もう一度行われる",
    "Keep the retrieval index true",
    "Every document is cut into chunks",
    "A failed batch is retried in halves",
    "The backup is restored every quarter",
]


def short_vocabulary() -> list[tuple[str, float]]:
    """Return the pieces of a few Japanese and English texts with their scores, the special tokens first."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    texts = [f"{text}。, {number}" for text in _LEARNT_FROM for number in range(12)]
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=[*SPECIAL_TOKENS, "<mask>"], unk_token="<unk>"
    )
    tokenizer.train_from_iterator(texts, trainer)
    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]


def write_model(
    folder: Path,
    vocabulary: Sequence[tuple[str, float]],
    *,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    inner: int = 128,
) -> None:
    """Write an XLM-RoBERTa with BGE-M3's two heads and random weights; with the defaults 3 MB."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    _tokenizer(vocabulary).save_pretrained(folder)
    torch.manual_seed(7)
    config = XLMRobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=8194,
        type_vocab_size=1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    sparse = torch.nn.Linear(hidden, 1)
    torch.nn.init.constant_(sparse.bias, 1.0)  # so that tokens have a weight
    torch.save(sparse.state_dict(), folder / "sparse_linear.pt")
    torch.save(torch.nn.Linear(hidden, hidden).state_dict(), folder / "colbert_linear.pt")


def _tokenizer(vocabulary: Sequence[tuple[str, float]]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram(list(vocabulary), unk_id=SPECIAL_TOKENS.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=8192,
    )
