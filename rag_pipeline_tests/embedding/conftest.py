"""A BGE-M3 model in its real layout on disk, small and random, so that the real loading code runs anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

HIDDEN = 64

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


@pytest.fixture(scope="session")
def tiny_bge_m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an XLM-RoBERTa with BGE-M3's two heads: 2 layers, 64 dimensions, 3 MB, random weights."""
    pytest.importorskip("FlagEmbedding", reason="needs the extra bge-m3")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    folder = tmp_path_factory.mktemp("bge-m3")
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    texts = [f"{text} {number}" for text in _LEARNT_FROM for number in range(12)]
    tokenizer.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=400, special_tokens=[*special, "<mask>"], unk_token="<unk>")
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=8192,
    ).save_pretrained(folder)

    torch.manual_seed(7)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=8194,
        type_vocab_size=1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    sparse = torch.nn.Linear(HIDDEN, 1)
    torch.nn.init.constant_(sparse.bias, 1.0)  # so that tokens have a weight
    torch.save(sparse.state_dict(), folder / "sparse_linear.pt")
    torch.save(torch.nn.Linear(HIDDEN, HIDDEN).state_dict(), folder / "colbert_linear.pt")
    return folder
