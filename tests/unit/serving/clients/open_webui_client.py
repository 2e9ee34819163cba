"""Open WebUI's image router as a program: its own file, with stand-ins for its database, settings and files.

It prints what came of the requests that the router sent, as JSON.
"""

import asyncio
import base64
import contextlib
import importlib
import importlib.util
import io
import json
import logging
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from PIL import Image

aiohttp: Any = importlib.import_module("aiohttp")
HTTPException: Any = importlib.import_module("fastapi").HTTPException
BaseModel: Any = importlib.import_module("pydantic").BaseModel
logging.disable(logging.CRITICAL)
router_file, url, key = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

CONFIG: dict[str, Any] = {}
SAVED: list[dict[str, Any]] = []
USER = SimpleNamespace(id="user", role="admin")


def stand_in(name: str, **values: Any) -> None:
    """Put a module in the place of one of theirs."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        parent = ".".join(parts[:count])
        if parent not in sys.modules:
            sys.modules[parent] = ModuleType(parent)
            sys.modules[parent].__path__ = []  # type: ignore[attr-defined]
    vars(sys.modules[name]).update(values)


class Settings:
    """Their table of settings."""

    @staticmethod
    async def get_many(*names: str) -> dict[str, Any]:
        """Read settings."""
        return {name: CONFIG.get(name) for name in names}

    @staticmethod
    async def upsert(values: dict[str, Any]) -> None:
        """Change settings."""
        CONFIG.update(values)


async def get_session() -> Any:
    """Return the session of the running loop."""
    return SESSION[0]


async def save(request: Any, *, file: Any, metadata: dict[str, Any], process: bool, user: Any) -> Any:
    """Keep an uploaded file in memory."""
    data = await file.read()
    SAVED.append({"type": file.headers["content-type"], "begin": base64.b64encode(data[:6]).decode(), **metadata})
    return SimpleNamespace(id="file", meta={}, filename=file.filename)


def refuse_private_addresses(address: str) -> None:
    """Stand for their guard against request forgery."""
    raise ValueError("private address")


async def nothing(*values: Any, **named: Any) -> None:
    """Stand for what has no effect here."""


class Form(BaseModel):
    """Stand for their forms of another engine."""


SESSION: list[Any] = []
messages = SimpleNamespace(DEFAULT=lambda error, *rest: str(error), ACCESS_PROHIBITED="prohibited", INVALID_URL="url")
stand_in(
    "open_webui.config",
    CACHE_DIR=Path(tempfile.mkdtemp()),
    ENABLE_OPENAI_IMAGE_EDIT_NORMALIZATION=True,
    IMAGE_AUTO_SIZE_MODELS_REGEX_PATTERN="^gpt-image",
    IMAGE_URL_RESPONSE_MODELS_REGEX_PATTERN="^gpt-image",
)
stand_in("open_webui.constants", ERROR_MESSAGES=messages)
stand_in(
    "open_webui.env",
    AIOHTTP_CLIENT_ALLOW_REDIRECTS=False,
    AIOHTTP_CLIENT_SESSION_SSL=True,
    ENABLE_FORWARD_USER_INFO_HEADERS=False,
)
stand_in("open_webui.events", EVENTS=SimpleNamespace(), publish_event=nothing)
stand_in("open_webui.internal.db", get_async_session=nothing)
stand_in("open_webui.models.chats", Chats=SimpleNamespace())
stand_in("open_webui.models.config", Config=Settings)
stand_in(
    "open_webui.retrieval.web.utils",
    get_ssrf_safe_session=contextlib.nullcontext,
    validate_url=refuse_private_addresses,
)
stand_in("open_webui.routers.files", get_file_content_by_id=nothing, upload_file_handler=save)
stand_in("open_webui.utils.access_control", has_permission=nothing)
stand_in("open_webui.utils.auth", get_admin_user=nothing, get_verified_user=nothing)
stand_in("open_webui.utils.headers", include_user_info_headers=lambda headers, user: headers)
stand_in(
    "open_webui.utils.images.comfyui",
    ComfyUICreateImageForm=Form,
    ComfyUIEditImageForm=Form,
    ComfyUIWorkflow=Form,
    comfyui_create_image=nothing,
    comfyui_edit_image=nothing,
    comfyui_upload_image=nothing,
)
stand_in("open_webui.utils.json_codec", JSONCodec=json)
stand_in("open_webui.utils.session_pool", get_session=get_session)
stand_in("sqlalchemy.ext.asyncio", AsyncSession=object)
stand_in("aiofiles")

spec = importlib.util.spec_from_file_location("open_webui.routers.images", router_file)
assert spec is not None and spec.loader is not None
router: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(router)
REQUEST = SimpleNamespace(app=SimpleNamespace(url_path_for=lambda name, **path: "/files/file"))


async def attempt(call: Any) -> Any:
    """Report what a call saved, or how it failed."""
    SAVED.clear()
    try:
        answer = await call
    except HTTPException as error:
        return {"status": error.status_code, "detail": str(error.detail)}
    return [dict(saved) for saved in SAVED] if isinstance(answer, list) and SAVED else answer


def configure(**values: Any) -> None:
    """Choose settings by the names of their fields."""
    CONFIG.clear()
    usual = {"IMAGE_SIZE": "512x512", "IMAGE_STEPS": 50, "IMAGE_GENERATION_MODEL": "", "IMAGE_EDIT_MODEL": ""}
    CONFIG.update({router.IMAGE_CONFIG_KEYS[name]: value for name, value in {**usual, **values}.items()})


def openai(**more: Any) -> dict[str, Any]:
    """Settings of the engine for OpenAI's API."""
    names = ("IMAGES_OPENAI_API_BASE_URL", "IMAGES_EDIT_OPENAI_API_BASE_URL")
    keys = ("IMAGES_OPENAI_API_KEY", "IMAGES_EDIT_OPENAI_API_KEY")
    engines = {"IMAGE_GENERATION_ENGINE": "openai", "IMAGE_EDIT_ENGINE": "openai"}
    return {**engines, **dict.fromkeys(names, f"{url}/v1"), **dict.fromkeys(keys, key), **more}


async def run() -> dict[str, Any]:
    """Use the router as the application does."""
    results: dict[str, Any] = {}

    async def generate(**fields: Any) -> Any:
        form = router.CreateImageForm(prompt="a red apple", **fields)
        return await attempt(router.image_generations(REQUEST, form, user=USER))

    configure(**openai())
    results["openai"] = await generate(n=2)
    results["openai, wrong size"] = await generate(size="100x100")
    configure(**openai(IMAGE_GENERATION_MODEL="gpt-image-1", IMAGE_SIZE="auto"))
    results["openai, gpt-image"] = await generate()
    configure(**openai(IMAGES_OPENAI_API_PARAMS={"seed": 7, "quality": "low"}, IMAGES_OPENAI_API_VERSION="2025-04-01"))
    results["openai, parameters"] = await generate()
    file = io.BytesIO()
    Image.effect_noise((200, 200), 90).save(file, "PNG")
    image = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    configure(**openai())
    for name, images in (("one", image), ("two", [image, image])):
        form = router.EditImageForm(image=images, prompt="blue")
        results[f"edit, {name}"] = await attempt(router.image_edits(REQUEST, form, user=USER))

    a1111 = {"IMAGE_GENERATION_ENGINE": "automatic1111", "AUTOMATIC1111_BASE_URL": url}
    a1111["AUTOMATIC1111_API_AUTH"] = f"user:{key}"
    configure(**a1111)
    results["a1111"] = await generate(n=2, negative_prompt="green")
    results["a1111, models"] = await attempt(router.get_models(REQUEST, user=USER))
    results["a1111, model"] = await attempt(router.get_image_model(REQUEST))
    results["a1111, chosen"] = await generate(model="icons")
    form = router.ConnectionVerificationForm(engine="automatic1111", url=url, key=f"user:{key}")
    results["a1111, verified"] = await attempt(router.verify_connection(form, user=USER))
    configure(**a1111, AUTOMATIC1111_PARAMS={"cfg_scale": 3, "sampler_name": "Euler a", "seed": 7})
    results["a1111, parameters"] = await generate(steps=20)
    configure(**{**a1111, "AUTOMATIC1111_API_AUTH": "user:wrong"})
    results["a1111, stranger"] = await generate()
    return results


async def main() -> None:
    """Run within a session."""
    async with aiohttp.ClientSession() as session:
        SESSION.append(session)
        sys.stdout.write(json.dumps(await run()))


asyncio.run(main())
