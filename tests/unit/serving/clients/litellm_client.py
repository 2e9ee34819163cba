"""LiteLLM as a program: prints what its image calls gave, as JSON. Run by `test_python_clients.py`."""

import base64
import importlib
import io
import json
import sys
from typing import Any

litellm: Any = importlib.import_module("litellm")
litellm.suppress_debug_info = True
common = {"model": "openai/icons", "api_base": f"{sys.argv[1]}/v1", "api_key": sys.argv[2], "max_retries": 0}


def failure(call: Any, **fields: Any) -> dict[str, Any]:
    """Make a call that fails."""
    try:
        call(**common, **fields)
    except Exception as error:
        status = getattr(error, "status_code", None)
        return {"class": type(error).__name__, "status": status, "message": str(error)}
    return {}


answer = litellm.image_generation(**common, prompt="a red apple", n=2, size="256x256", seed=7, guidance_scale=2.5)
same = litellm.image_generation(**common, prompt="a red apple", size="256x256", seed=7, guidance_scale=2.5)
source = io.BytesIO(base64.b64decode(answer.data[0].b64_json))
edited = litellm.image_edit(**common, prompt="a green pear", image=source)
sys.stdout.write(
    json.dumps(
        {
            "images": [item.b64_json[:8] for item in answer.data],
            "is_seeded": answer.data[0].b64_json == same.data[0].b64_json,
            "tokens": answer.usage.output_tokens,
            "wrong": failure(litellm.image_generation, prompt="a red apple", size="100x100"),
            "unknown": failure(litellm.image_generation, prompt="a red apple", num_inference_steps=20),
            "edited": [item.b64_json[:8] for item in edited.data],
            "edit": failure(litellm.image_edit, prompt="a red apple", image=io.BytesIO(bytes(1000))),
        }
    )
)
