"""Text conditions: the features that a text encoder passes to the transformer. Padding is masked and has no effect.

This module knows nothing about encoders or transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class TextCondition:
    """Text features of a batch of prompts.

    Attributes:
        features: Tensor of shape `(b, t, text width)`, zero past each prompt's length.
        mask: Tensor of shape `(b, t)`, True for real tokens and False for padding.
        dropped: Tensor of shape `(b,)`, True where the transformer uses its learned "no text" features instead.
    """

    features: Float[Tensor, "b t w"]
    mask: Bool[Tensor, "b t"]
    dropped: Bool[Tensor, " b"]

    @staticmethod
    def from_list(features: Sequence[Float[Tensor, "_ w"]]) -> "TextCondition":
        """Pad prompts of different lengths to the longest one."""
        lengths = torch.tensor([len(f) for f in features])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        padded = pad_sequence(list(features), batch_first=True)
        dropped = torch.zeros(len(features), dtype=torch.bool, device=padded.device)
        return TextCondition(padded, mask.to(padded.device), dropped)

    @property
    def batch(self) -> int:
        return self.features.shape[0]

    def to(self, device: torch.device) -> "TextCondition":
        return TextCondition(self.features.to(device), self.mask.to(device), self.dropped.to(device))

    def clone(self) -> "TextCondition":
        """Copy all tensors."""
        return TextCondition(self.features.clone(), self.mask.clone(), self.dropped.clone())

    def drop(self, dropped: Bool[Tensor, " b"]) -> "TextCondition":
        """Mark prompts as dropped. Each "no text" condition keeps the length of its prompt."""
        return TextCondition(self.features, self.mask, dropped.to(self.features.device))

    def rows(self) -> list["TextCondition"]:
        """Split the batch into one unpadded copy per prompt, equal to encoding each prompt by itself."""
        lengths = self.mask.sum(dim=1).tolist()
        return [
            TextCondition(
                self.features[i : i + 1, :length].clone(),
                self.mask[i : i + 1, :length].clone(),
                self.dropped[i : i + 1].clone(),
            )
            for i, length in enumerate(lengths)
        ]

    @staticmethod
    def join(parts: Sequence["TextCondition"]) -> "TextCondition":
        """Join several batches into one, padded to the longest prompt."""
        rows = [row.features[0] for part in parts for row in part.rows()]
        both = TextCondition.from_list(rows)
        return TextCondition(both.features, both.mask, torch.cat([part.dropped for part in parts]))

    def concatenate(self, other: "TextCondition") -> "TextCondition":
        """Append another batch, padded to the longer one: the two halves of classifier-free guidance."""
        return TextCondition.join([self, other])
