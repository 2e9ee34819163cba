"""A rewriter that runs on this machine: a language model of transformers, from a folder or the hub.

It loads when the first prompt is asked, so it never loads where the cache knows every answer.
"""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bitvar.rewriting.instruction import INSTRUCTION, prompt_in_answer
from bitvar.rewriting.rewrite import RewriteError

MAX_TOKENS: Final = 1024
"""Most tokens of an answer."""


@dataclass(frozen=True)
class LocalRewriter:
    """A `Rewriter` that computes answers, the likeliest one for each prompt.

    Attributes:
        model: Folder or hub id of a causal language model with safetensors weights.
        instruction: Instruction for every prompt.
        device: Device to compute on.
    """

    model: str
    instruction: str = INSTRUCTION
    device: str = "cpu"
    _loaded: list[Any] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def name(self) -> str:
        """Hub id of the model, or the name of its folder."""
        return Path(self.model).name if Path(self.model).is_dir() else self.model

    @property
    def settings(self) -> dict[str, Any]:
        """Model and instruction."""
        place = str(Path(self.model).resolve()) if Path(self.model).is_dir() else self.model
        return {"kind": "transformers", "model": place, "instruction": self.instruction}

    def rewrite(self, prompt: str) -> str:
        """Compute a rewritten prompt.

        Raises:
            RewriteError: The model can't be loaded, or gives no answer that can be used.
        """
        with self._lock:
            if not self._loaded:
                self._loaded.extend(self._load())
            answer = self._answer(prompt)
        try:
            return prompt_in_answer(answer)
        except ValueError as error:
            why, fix = f"{error}; the prompt was {prompt[:60]!r}", "try another model, or leave rewriting out"
            raise RewriteError(f"The answer of {self.name} can't be used.", why, fix) from None

    def _load(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model)
            model = AutoModelForCausalLM.from_pretrained(self.model, dtype="auto", use_safetensors=True)
        except (OSError, ValueError, ImportError) as error:
            why = str(error).strip().splitlines()[0]
            fix = "give a folder or hub id of a causal language model, or --rewriter-url for an endpoint"
            raise RewriteError(f"Can't load the rewriter {self.model}.", why, fix, is_general=True) from None
        loaded: Any = model  # transformers' own types know no `to` that takes a name
        return tokenizer, loaded.to(self.device).eval()

    def _answer(self, prompt: str) -> str:
        tokenizer, model = self._loaded
        messages = [{"role": "system", "content": self.instruction}, {"role": "user", "content": prompt}]
        if tokenizer.chat_template is None:
            text = f"{self.instruction}\n\nPrompt: {prompt}\nRewritten prompt:"
            inputs = tokenizer(text, return_tensors="pt")
        else:
            inputs = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
        inputs = {name: values.to(self.device) for name, values in inputs.items() if name != "token_type_ids"}
        length = inputs["input_ids"].shape[1]
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_TOKENS)
        return tokenizer.decode(tokens[0, length:], skip_special_tokens=True)
