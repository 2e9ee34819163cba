"""`bitvar convert` says on stderr what it left out."""

from pathlib import Path

import torch
from typer.testing import CliRunner

from bitvar.cli.main import app
from tests.unit.weights.test_convert import official_transformer, write_pair


def test_a_wrapped_checkpoint_is_converted_and_what_was_left_out_is_told(tmp_path: Path) -> None:
    _, tokenizer = write_pair(tmp_path / "in")
    tensors = {f"_orig_mod.module.{name}": tensor for name, tensor in official_transformer().items()}
    torch.save({"model": tensors, "ema": tensors, "epoch": 3}, tmp_path / "mine.pth")
    command = ["convert", str(tmp_path / "mine.pth"), str(tmp_path / "model"), "--tokenizer", str(tokenizer)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "took 'model' and left out ema, epoch" in result.stderr
    assert "left out" not in result.stdout
    assert (tmp_path / "model" / "model_index.json").is_file()
