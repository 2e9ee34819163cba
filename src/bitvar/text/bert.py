"""The encoder of BERT, from which MiniLM is made: word, position and type embeddings, then post-norm layers.

Its parameters have the names of published files. `torch.nn.TransformerEncoderLayer` computes the same, but rounds the
rows of a batch with padding differently, which changes images. Knows neither prompts nor transformers.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from bitvar.files import named_disk_errors
from bitvar.nn.attention import attend
from bitvar.text.files import WEIGHTS, BertSizes

_TANH: Final = partial(F.gelu, approximate="tanh")
_ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "gelu": F.gelu,
    "gelu_new": _TANH,
    "gelu_pytorch_tanh": _TANH,
    "relu": F.relu,
    "silu": F.silu,
}


class BertEncoder(nn.Module):
    """A BERT without pooler and without dropout.

    Args:
        config: Sizes of the model.
    """

    def __init__(self, config: BertSizes) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": _embedding(config.vocab_size, width),
                "position_embeddings": _embedding(config.max_position_embeddings, width),
                "token_type_embeddings": _embedding(config.type_vocab_size, width),
                "LayerNorm": nn.LayerNorm(width, eps=config.layer_norm_eps),
            }
        )
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))}
        )

    def forward(self, ids: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> list[Float[Tensor, "b t c"]]:
        """Compute the hidden states: the embeddings, then the output of each layer.

        Args:
            ids: Token ids.
            mask: True for tokens, False for padding, which no token attends to.
        """
        parts = self.embeddings
        words = parts["word_embeddings"](ids) + _rows(parts["token_type_embeddings"])[0]
        states = [parts["LayerNorm"](words + _rows(parts["position_embeddings"])[: ids.shape[1]])]
        seen = None if bool(mask.all()) else mask[:, None, None].expand(-1, 1, ids.shape[1], -1)
        for layer in self.encoder["layer"]:  # type: ignore[union-attr]
            states.append(layer(states[-1], seen))
        return states

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embeddings, one row for each token id."""
        words = self.embeddings["word_embeddings"]
        assert isinstance(words, nn.Embedding)
        return words

    def save_pretrained(self, folder: Path) -> None:
        """Write `config.json` and the weights to a folder, in the format of published models.

        Raises:
            OSError: if the disk fails, with its errno and the file's name.
        """
        dtype = str(self.get_input_embeddings().weight.dtype).removeprefix("torch.")
        values = {"architectures": ["BertModel"], "dtype": dtype, "model_type": "bert"} | self.config.model_dump()
        text = json.dumps(values, indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        with named_disk_errors(folder / WEIGHTS):
            tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
            save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


class BertLayer(nn.Module):
    """One layer: self-attention and a feed-forward network, each added to its input and then normalised.

    Args:
        config: Sizes of the model.
    """

    def __init__(self, config: BertSizes) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.num_heads = config.num_attention_heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                "output": _output(width, width, eps),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = _output(inner, width, eps)
        self.activation = _ACTIVATIONS[config.hidden_act]

    def forward(self, x: Float[Tensor, "b t c"], mask: Bool[Tensor, "b 1 t t"] | None) -> Float[Tensor, "b t c"]:
        projections, output = self.attention["self"], self.attention["output"]
        heads = (*x.shape[:-1], self.num_heads, -1)
        q, k, v = (projections[name](x).view(heads).transpose(1, 2) for name in ("query", "key", "value"))  # type: ignore[index]
        attended = attend(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask).transpose(1, 2).reshape(x.shape)
        x = output["LayerNorm"](output["dense"](attended) + x)  # type: ignore[index]
        inner = self.activation(self.intermediate["dense"](x))
        return self.output["LayerNorm"](self.output["dense"](inner) + x)


def load_bert(sizes: BertSizes, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[BertEncoder, list[str]]:
    """Build a model around the tensors of a file. Tensors that it has no use for, such as a pooler's, are left out.

    Args:
        sizes: Sizes of the model.
        tensors: Tensors by their names in the file, which may have the prefix `bert.` and older names of norms.
        dtype: Precision of the model.

    Returns:
        The model, and the tensors that are missing or misshapen, in which case the model has no weights.
    """
    with torch.device("meta"):
        model = BertEncoder(sizes)
    found = {_current_name(name): tensor for name, tensor in tensors.items()}
    expected = model.state_dict()
    wrong = [f"missing: {name}" for name in sorted(expected.keys() - found.keys())]
    shared = sorted(expected.keys() & found.keys())
    wrong += [f"mismatched: {name}" for name in shared if found[name].shape != expected[name].shape]
    if not wrong:
        model.load_state_dict({name: found[name].to(dtype) for name in expected}, assign=True)
    return model, wrong


def _embedding(rows: int, width: int) -> nn.Embedding:
    """Make embeddings without drawing them: on the meta device, drawing would import torch's compiler for a second."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


def _rows(embedding: nn.Module) -> Float[Tensor, "rows c"]:
    assert isinstance(embedding, nn.Embedding)
    return embedding.weight


def _output(inputs: int, outputs: int, eps: float) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inputs, outputs), "LayerNorm": nn.LayerNorm(outputs, eps=eps)})


def _current_name(name: str) -> str:
    """Convert the name of a tensor in a file: without the prefix of models with a head, and with today's norms."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
