"""LangChain's image tool for Python as a program: as it is, and with a client that asks for URLs."""

import importlib
import json
import sys
import urllib.request
import warnings
from typing import Any

warnings.simplefilter("ignore")
wrapper: Any = importlib.import_module("langchain_community.utilities.dalle_image_generator").DallEAPIWrapper
openai: Any = importlib.import_module("openai")
base, key = f"{sys.argv[1]}/v1", sys.argv[2]


class UrlImages:
    """The images of a client, asked for as URLs: this tool reads `url` and has no field to ask for it."""

    def __init__(self, images: Any) -> None:
        self._images = images

    def generate(self, **fields: Any) -> Any:
        """Generate images behind URLs."""
        return self._images.generate(**fields, response_format="url")


try:
    plain = wrapper(base_url=base, api_key=key).run("a red apple")
except TypeError as error:  # it joins URLs, and there are none
    plain = str(error)
client = UrlImages(openai.OpenAI(base_url=base, api_key=key).images)
url = wrapper(client=client, api_key=key).run("a red apple")
with urllib.request.urlopen(url) as response:
    signature = response.read(4)[1:].decode("ascii")
sys.stdout.write(json.dumps({"plain": plain, "url": url, "signature": signature}))
