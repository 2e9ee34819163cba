"""The rewriter that runs on this machine, with a tiny language model of random weights."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bitvar.rewriting import RewriteCache, RewriteError, rewrite_prompts
from bitvar.rewriting import local as local_rewriter
from bitvar.rewriting.local import LocalRewriter

WORDS = ("[UNK]", "[END]", "a", "cat", "dog", "red", "on", "sofa", "Prompt", "Rewritten", "prompt", ":")
TEMPLATE = "{% for m in messages %}{{ m['content'] }} : {% endfor %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vocabulary = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    vocabulary.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, unk_token="[UNK]", eos_token="[END]")
    tokenizer.save_pretrained(tmp_path / "lm")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=2048, eos_token_id=1, pad_token_id=1, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


@pytest.mark.parametrize(
    "template", [None, "{% for m in messages %}{{ m['content'] }} : {% endfor %}"], ids=["no", "yes"]
)
def test_a_local_model_answers_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str | None
) -> None:
    monkeypatch.setattr(local_rewriter, "MAX_TOKENS", 6)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    rewriter = LocalRewriter(str(folder), "red")
    done = rewrite_prompts(["a cat", "a dog"], rewriter, RewriteCache(tmp_path / "cache"))
    assert {one.model for one in done.values()} == {"lm"}
    assert all(one.prompt and set(one.prompt.split()) <= set(WORDS) for one in done.values())
    fresh = LocalRewriter(str(folder), "red")
    assert rewrite_prompts(["a dog", "a cat"], fresh, RewriteCache(tmp_path / "cache")) == done
    assert fresh._loaded == []  # the cache knew both
    assert rewriter.rewrite("a cat") == done["a cat"].prompt


def test_what_is_no_model_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RewriteError, match="Can't load the rewriter"):
        LocalRewriter(str(tmp_path)).rewrite("a cat")
