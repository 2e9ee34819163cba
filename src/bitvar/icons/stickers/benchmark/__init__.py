"""The stickers benchmark: harder prompts than the scenes benchmark, over the thousand concepts of the sticker set."""
