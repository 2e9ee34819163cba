"""Small prompt files of published benchmarks, and stand-ins for what scores their images."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GENEVAL2_ROWS: list[dict[str, Any]] = [
    {
        "prompt": "two dogs", "atom_count": 3, "skills": ["count", "object"],
        "vqa_list": [["How many dogs are in the image?", "two"], ["Are there any dogs in the image?", "Yes"]],
    },
    {
        "prompt": "a red cat", "atom_count": 3, "skills": ["attribute", "object"],
        "vqa_list": [["Is the cat red?", "Yes"], ["Are there any cats in the image?", "Yes"]],
    },
    {
        "prompt": "a dog on a cat", "atom_count": 4, "skills": ["position"],
        "vqa_list": [["Is the dog on the cat?", "Yes"]],
    },
]  # fmt: skip

DPG_HEADER = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language"
)


def prompts_file(path: Path, rows: Sequence[Any], *, as_list: bool = False) -> Path:
    """Write rows as JSON lines, or as one list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows) if as_list else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def dpg_questions(path: Path, prompts: Sequence[str]) -> Path:
    """Write questions for each prompt: the second depends on the first, the third on the second, the fourth on none."""
    lines = [DPG_HEADER]
    for name in prompts:
        kinds = (
            (1, "0", "entity - whole"),
            (2, "1", "attribute - color"),
            (3, '"2, 1"', "relation - spatial"),
            (4, "0", "global"),
        )
        lines += [f"{name},text,kw,{i},{parents},a,b,{kind} (x),Is it {i}?" for i, parents, kind in kinds]
    path.write_text("\n".join(lines) + "\n")
    return path
