"""Processes that torchrun starts: their number, their device, and who of them talks to the user."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from bitvar.errors import UsageError


@dataclass(frozen=True)
class Rank:
    """The place of this process among those that torchrun started; alone without torchrun.

    Attributes:
        index: Rank among all processes.
        local_index: Rank on this machine.
        world: Number of processes.
    """

    index: int = 0
    local_index: int = 0
    world: int = 1

    @classmethod
    def read(cls) -> "Rank":
        """Read the environment that torchrun gives to its processes."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        index, local, world = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
        return cls(index, local, world)

    def device(self, chosen: str) -> str:
        """Choose the GPU of this rank, where the user left it open."""
        if self.world == 1 or chosen not in ("auto", "cuda"):
            return chosen
        import torch

        return f"cuda:{self.local_index}" if torch.cuda.is_available() else chosen

    def require_shared(self, *, out_given: bool, source: str | None) -> None:
        """Refuse what several processes can't share.

        Raises:
            UsageError: There is no shared work list.
        """
        if self.world > 1 and not out_given:
            why = f"{self.world} processes would each draw everything"
            raise UsageError(
                "torchrun needs a list that its processes share.", why, "give --prompts FILE and --out DIR"
            )
        if self.world > 1 and source == "-":
            raise UsageError("The processes of torchrun can't share standard input.", fix="write the prompts to a file")

    @contextlib.contextmanager
    def quiet_unless_main(self) -> Iterator[None]:
        """Silence the notes and the report of every rank but the first. Errors are reported outside of this."""
        with contextlib.ExitStack() as silence:
            if self.index > 0:
                nowhere = silence.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123  (a device)
                silence.enter_context(contextlib.redirect_stdout(nowhere))
                silence.enter_context(contextlib.redirect_stderr(nowhere))
            yield
