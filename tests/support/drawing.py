"""A stand-in for a pipeline that draws at once, without torch: its images depend on prompt, seed and settings."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from bitvar.bulk import LEDGER, WorkItem
from bitvar.pipeline.request import GenerationRequest
from bitvar.sampling.params import SamplingParams


@dataclass
class QuickPipeline:
    """Draws 4x4 images. `drawn` lists prompt and seed of each; `before` is called before each batch."""

    digest: str = "ab" * 32
    dtype: str = "torch.float32"
    seconds: float = 0.0
    before: Callable[[int], None] = lambda batch: None
    drawn: list[tuple[str, int]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    device: Any = field(default_factory=lambda: SimpleNamespace(type="cpu"))
    recorded_optimizations: list[str] = field(default_factory=list)
    used_adapters: list[Any] = field(default_factory=list)
    control_sha256: str | None = None

    @property
    def components(self) -> Any:
        return SimpleNamespace(digest=self.digest)

    @property
    def model_name(self) -> str:
        return f"quick@{self.digest[:12]}"

    def stream_request(self, request: GenerationRequest, *, watermark: Any, control: Any) -> Iterator[Any]:
        self.before(len(self.batches))
        time.sleep(self.seconds)
        images, metadata = [], []
        for prompt, seed in zip(request.repeated_prompts(), request.seeds(), strict=True):
            text = f"{prompt} {seed} {request.params} {request.negative_prompt} {self.digest}"
            images.append(Image.frombytes("RGB", (4, 4), hashlib.shake_256(text.encode()).digest(48)))
            metadata.append(self._describe(request, prompt, seed))
            self.drawn.append((prompt, seed))
        self.batches.append(len(images))
        yield SimpleNamespace(preview=lambda: images, metadata=metadata)

    def _describe(self, request: GenerationRequest, prompt: str, seed: int) -> dict[str, Any]:
        params = request.params.complete()
        return {
            "prompt": prompt,
            "negative_prompt": request.negative_prompt,
            "seed": seed,
            "width": 4,
            "height": 4,
            "guidance_scale": params.guidance_scale,
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "model": self.model_name,
            "dtype": self.dtype.removeprefix("torch."),
            "device": "cpu",
        }


def item(number: int, *, file: str | None = None, guidance: float | None = None, **more: Any) -> WorkItem:
    """A work item with a prompt of its own."""
    request = GenerationRequest(prompts=(f"thing {number}",), params=SamplingParams(guidance_scale=guidance))
    return WorkItem(f"{number:04d}.png" if file is None else file, request, seed=number, **more)


def visible_files(folder: Path) -> dict[str, bytes]:
    """Every file of a bulk run's folder but the ledger, whose lines have times, and what the run hides."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".bulk" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.name != LEDGER}
