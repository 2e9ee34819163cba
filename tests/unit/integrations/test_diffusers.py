"""The pipeline of diffusers: what diffusers' own pipeline tests check, and that it draws what bitvar draws."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

from bitvar.errors import UsageError  # noqa: E402
from bitvar.integrations.diffusers import InfinityDiffusionPipeline  # noqa: E402
from bitvar.pipeline import InfinityPipeline  # noqa: E402
from bitvar.text import T5Encoder  # noqa: E402
from tests.support.tiny import rough_pipeline, tiny_components  # noqa: E402

PROMPT = "a red circle on a square"


@pytest.fixture(scope="module")
def infinity(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return rough_pipeline(tmp_path_factory.mktemp("rough"))


@pytest.fixture
def pipe(infinity: InfinityPipeline) -> InfinityDiffusionPipeline:
    made = InfinityDiffusionPipeline.from_infinity(infinity)
    made.set_progress_bar_config(disable=True)
    return made


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(pipe: InfinityDiffusionPipeline, **options: Any) -> Any:
    return pipe(PROMPT, **{"generator": seeded(), "guidance_scale": 3.0, "output_type": "np", **options})


def test_it_draws_what_the_pipeline_draws(pipe: InfinityDiffusionPipeline, infinity: InfinityPipeline) -> None:
    out = pipe(PROMPT, generator=seeded(), guidance_scale=3.0, negative_prompt="a blue dog", num_images_per_prompt=2)
    same = infinity(PROMPT, seed=out.seeds, guidance_scale=3.0, negative_prompt="a blue dog", num_images_per_prompt=2)
    for mine, theirs in zip(out.images, same.images, strict=True):
        assert np.array_equal(np.asarray(mine), np.asarray(theirs))


def test_forms_and_dictionaries(pipe: InfinityDiffusionPipeline) -> None:
    array = draw(pipe).images
    assert array.shape == (1, 16, 16, 3) and 0 <= array.min() < array.max() <= 1
    tensor = draw(pipe, output_type="pt").images
    assert np.array_equal(tensor.movedim(1, -1).numpy(), array)
    (alone,) = draw(pipe, return_dict=False)
    assert np.array_equal(alone, array)
    assert draw(pipe, output_type="latent").images.shape == (1, 4, 4, 4)
    assert draw(pipe, height=8, width=16).images.shape == (1, 8, 16, 3)


def test_a_batch_draws_the_single_image(pipe: InfinityDiffusionPipeline) -> None:
    single = draw(pipe).images[0]
    batch = pipe(
        [PROMPT, "a dog", "a cat"],
        generator=[seeded(seed) for seed in range(3)],
        guidance_scale=3.0,
        output_type="np",
    ).images
    assert np.array_equal(batch[0], single)


def test_saved_and_loaded(pipe: InfinityDiffusionPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path, variant="fp16")
    again = InfinityDiffusionPipeline.from_pretrained(tmp_path, variant="fp16")
    again.set_progress_bar_config(disable=True)
    assert np.array_equal(draw(again).images, draw(pipe).images)
    assert again.to_infinity().index.name == "tiny"
    again.to(dtype=torch.float16)
    assert {part.dtype for part in again.components.values()} == {torch.float16}


def test_folders_of_bitvar_are_loaded(tiny_model: Path) -> None:
    pipe = InfinityDiffusionPipeline.from_pretrained(tiny_model, torch_dtype=torch.bfloat16)
    assert pipe.transformer.dtype == torch.bfloat16
    with pytest.raises(UsageError, match="Unknown option 'variant'"):
        InfinityDiffusionPipeline.from_pretrained(tiny_model, variant="fp16")
    with pytest.raises(UsageError, match="no such folder"):
        InfinityDiffusionPipeline.from_pretrained("nothing")


def test_a_callback_sees_every_scale_and_may_interrupt(pipe: InfinityDiffusionPipeline) -> None:
    seen: list[int] = []

    def watch(pipe: InfinityDiffusionPipeline, i: int, t: int, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(i)
        assert set(tensors) == {"latents"}
        pipe._interrupt = i == 1
        return tensors

    stopped = draw(pipe, callback_on_step_end=watch).images
    assert seen == [0, 1]
    assert stopped.shape == (1, 16, 16, 3) and not np.array_equal(stopped, draw(pipe).images)


def test_a_callback_may_replace_the_last_latents_only(pipe: InfinityDiffusionPipeline) -> None:
    def blank(at: int) -> Any:
        def callback(pipe: Any, i: int, t: int, tensors: dict[str, Any]) -> dict[str, Any]:
            return {"latents": torch.zeros_like(tensors["latents"])} if i == at else tensors

        return callback

    out = draw(pipe, output_type="latent", callback_on_step_end=blank(pipe.num_timesteps or 2))
    assert out.images.abs().sum() == 0
    with pytest.raises(UsageError, match="Only the last scale"):
        draw(pipe, callback_on_step_end=blank(0))


def test_a_callback_may_change_guidance(pipe: InfinityDiffusionPipeline) -> None:
    def raise_guidance(pipe: Any, i: int, t: int, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale += 40.0
        return tensors

    changed = draw(pipe, callback_on_step_end=raise_guidance, output_type="latent").images
    assert pipe.guidance_scale == 3.0 + 40.0 * pipe.num_timesteps
    assert not torch.equal(changed, draw(pipe, output_type="latent").images)


def test_prompts_can_be_encoded_before(pipe: InfinityDiffusionPipeline) -> None:
    features, mask, _, _ = pipe.encode_prompt(PROMPT)
    plain = InfinityDiffusionPipeline(pipe.transformer, pipe.vae, None, index=dict(pipe.config["index"]))  # type: ignore[arg-type]
    plain.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"generator": seeded(), "guidance_scale": 3.0, "output_type": "np"}
    out = plain(prompt_embeds=features, prompt_attention_mask=mask, **options)
    assert np.array_equal(out.images, draw(pipe).images)
    with pytest.raises(UsageError, match="no text encoder"):
        plain(PROMPT)
    with pytest.raises(UsageError, match="come with their mask"):
        plain(prompt_embeds=features)


def test_a_long_prompt_is_cut_with_a_warning(pipe: InfinityDiffusionPipeline, caplog: pytest.LogCaptureFixture) -> None:
    diffusers.utils.logging.enable_propagation()
    out = pipe("a red dog on a cat " * 20, generator=seeded(), output_type="np")
    assert len(out.images) == 1 and "more than the 16 tokens" in caplog.text


def test_offloading_leaves_the_image(pipe: InfinityDiffusionPipeline) -> None:
    pytest.importorskip("accelerate")
    before = draw(pipe).images
    pipe.enable_model_cpu_offload(device="cpu")
    assert all(hasattr(part, "_hf_hook") for part in pipe.components.values())
    assert np.array_equal(draw(pipe).images, before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_inference_steps": 50}, "can't draw in 50 steps"),
        ({"output_type": "jpeg"}, "Unknown output_type"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "Unknown tensor input 'noise'"),
        ({"height": 16}, "Only one of height and width"),
        ({"generator": [seeded(), seeded()]}, "2 generators for 1 images"),
        ({"negative_prompt": ["a", "a dog"]}, "2 negative prompts for 1 prompts"),
        ({"prompt_embeds": torch.zeros(1, 2, 64)}, "takes a prompt or prompt_embeds"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments(pipe: InfinityDiffusionPipeline, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        draw(pipe, **options)


def test_a_t5_shares_its_embeddings_and_is_saved(tmp_path: Path) -> None:
    from transformers.models.t5 import T5Config, T5EncoderModel

    made = tiny_components(tmp_path)
    assert made.text_encoder is not None
    sizes = T5Config(vocab_size=40, d_model=64, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    made.text_encoder = T5Encoder(T5EncoderModel(sizes), made.text_encoder.tokenizer, ())
    pipe = InfinityDiffusionPipeline.from_infinity(InfinityPipeline(made))
    pipe.save_pretrained(tmp_path / "saved")
    again = InfinityDiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert torch.equal(pipe.encode_prompt(PROMPT)[0], again.encode_prompt(PROMPT)[0])
