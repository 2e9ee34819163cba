"""The package `webuiapi`, a client of A1111, as a program: prints what its calls gave, as JSON."""

import importlib
import json
import sys
import threading
import time
from typing import Any

webuiapi: Any = importlib.import_module("webuiapi")
url, key = sys.argv[1:]
api = webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1", username="any", password=key)
results: dict[str, Any] = {}

drawn = api.txt2img(prompt="a red apple", negative_prompt="green", seed=7, batch_size=2, cfg_scale=3)
results["sizes"] = [image.size for image in drawn.images]
results["seeds"] = drawn.info["all_seeds"]
results["text"] = drawn.info["infotexts"][1]
results["prompt"] = drawn.parameters["prompt"]
results["records"] = ["bitvar" in image.text for image in drawn.images]
results["checkpoint"] = api.util_get_current_model()
results["models"] = api.util_get_model_names()
results["samplers"] = [sampler["name"] for sampler in api.get_samplers()]
api.util_set_model(results["checkpoint"])
api.util_wait_for_ready()

# Progress and interrupting, while a request of ten images is drawn.
many: list[Any] = []
thread = threading.Thread(target=lambda: many.append(api.txt2img(prompt="a red apple", batch_size=10)))
thread.start()
other = webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1", username="any", password=key)
progress: dict[str, Any] = {"progress": 0.0}
end = time.monotonic() + 60
while progress["progress"] < 0.15 and time.monotonic() < end:
    progress = other.get_progress()
other.interrupt()
thread.join(60)
results["progress"] = progress["progress"]
results["steps"] = progress["state"]["sampling_steps"]
results["preview"] = progress["current_image"] is not None
results["interrupted"] = len(many[0].images)

try:
    api.txt2img(prompt="a red apple", width=64, height=640)
except RuntimeError as error:
    results["error"] = [error.args[0], json.loads(error.args[1])["detail"]]
try:
    webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1", username="any", password="wrong").txt2img(prompt="a red apple")
except RuntimeError as error:
    results["stranger"] = error.args[0]
sys.stdout.write(json.dumps(results))
