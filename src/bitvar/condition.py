"""Text conditions: what a text encoder hands to the transformer. Padding is masked, so it changes nothing.

Knows nothing of any encoder or transformer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class TextCondition:
    """Features of a batch of prompts.

    Attributes:
        features: `(b, t, text width)`; rows past a prompt's own length are zero.
        mask: `(b, t)`, true where a token is real.
        dropped: `(b,)`, true where the transformer shall put its learned "no text" features in their place.
    """

    features: Float[Tensor, "b t w"]
    mask: Bool[Tensor, "b t"]
    dropped: Bool[Tensor, " b"]

    @staticmethod
    def from_list(features: Sequence[Float[Tensor, "_ w"]]) -> "TextCondition":
        """Pad prompts of different lengths to the longest."""
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
        """A copy."""
        return TextCondition(self.features.clone(), self.mask.clone(), self.dropped.clone())

    def drop(self, dropped: Bool[Tensor, " b"]) -> "TextCondition":
        """Mark prompts as dropped. Their lengths stay, so "no text" is as long as the prompt was."""
        return TextCondition(self.features, self.mask, dropped.to(self.features.device))

    def rows(self) -> list["TextCondition"]:
        """Each prompt by itself, unpadded: copies, as they would be without the others."""
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
        """Several batches in one, padded to the longest."""
        rows = [row.features[0] for part in parts for row in part.rows()]
        both = TextCondition.from_list(rows)
        return TextCondition(both.features, both.mask, torch.cat([part.dropped for part in parts]))

    def concatenate(self, other: "TextCondition") -> "TextCondition":
        """Both batches in one, padded to the longer: the two halves of classifier-free guidance."""
        return TextCondition.join([self, other])
