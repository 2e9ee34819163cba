"""The tools of the MCP server: generate, edit, describe and list, with progress for each scale and cancellation."""

import base64
import json
import threading
from collections.abc import Callable
from typing import Annotated, Any, Final

import anyio
import anyio.from_thread
import anyio.to_thread
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import ImageContent, TextContent, ToolAnnotations
from pydantic import Field

from bitvar import __version__
from bitvar.integrations.mcp.studio import MAX_COUNT, MAX_IMAGE_BYTES, CancelledDrawing, Drawn, Studio
from bitvar.pipeline import ScaleEvent

_MAX_WAITING: Final = 8
"""Calls that may wait for their turn; further ones are refused."""

_LOOPBACK: Final = ("127.0.0.1:*", "localhost:*", "[::1]:*")
_INSTRUCTIONS: Final = (
    "Draws images from text with an Infinity model. Call describe_model first: a small model knows only the concepts,"
    " styles and sizes that it lists, and a result names words that it was never taught. Results name their seed; the"
    " same prompt, seed and settings give the same image."
)

_Prompt = Annotated[str, Field(description="What the image shows, in English.")]
_Width = Annotated[int | None, Field(description="Width in pixels; the nearest size of the model is drawn.")]
_Height = Annotated[int | None, Field(description="Height in pixels; both or neither.")]
_Count = Annotated[int, Field(description=f"Number of images, 1 to {MAX_COUNT}.", ge=1, le=MAX_COUNT)]
_Seed = Annotated[int | None, Field(description="Seed of the first image; without it, one is drawn.", ge=0)]
_Negative = Annotated[str | None, Field(description="What the image must not show; needs guidance above 1.")]
_Guidance = Annotated[float | None, Field(description="Guidance scale; 1 is off, 2 to 4 are usual.", ge=0, le=100)]
_Image = Annotated[
    str, Field(description="Name of an earlier image (image-1), base64 of a file, or a file in the server's folder.")
]
_Mask = Annotated[str | None, Field(description="Mask in the same ways: white where the image may change.")]
_Strength = Annotated[float | None, Field(description="Share of the image that is drawn anew, 0 to 1.", ge=0, le=1)]


def build_server(studio: Studio) -> MCPServer:
    """Make a server whose tools draw in a studio.

    Args:
        studio: Model, limits and folder.
    """
    turns = _Turns()
    server = MCPServer("bitvar", title="bitvar", instructions=_INSTRUCTIONS, version=__version__, log_level="WARNING")
    drawing = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
    reading = ToolAnnotations(read_only_hint=True, open_world_hint=False)

    @server.tool(annotations=drawing, structured_output=False)
    async def generate_image(
        prompt: _Prompt,
        ctx: Context,
        width: _Width = None,
        height: _Height = None,
        count: _Count = 1,
        seed: _Seed = None,
        negative_prompt: _Negative = None,
        guidance_scale: _Guidance = None,
    ) -> list[ImageContent | TextContent]:
        """Draw images from a text. Returns each image and its settings, with a name for edit_image."""
        options = _options(width, height, count, seed, negative_prompt, guidance_scale)
        return _content(await turns.take(ctx, lambda watch: studio.generate(prompt, options, watch)))

    @server.tool(annotations=drawing, structured_output=False)
    async def edit_image(
        prompt: _Prompt,
        image: _Image,
        ctx: Context,
        mask: _Mask = None,
        strength: _Strength = None,
        count: _Count = 1,
        seed: _Seed = None,
        negative_prompt: _Negative = None,
        guidance_scale: _Guidance = None,
    ) -> list[ImageContent | TextContent]:
        """Change an image: within a mask, by a strength, or where the prompt disagrees with the image's own."""
        options = _options(None, None, count, seed, negative_prompt, guidance_scale)

        def job(watch: Callable[[ScaleEvent], None]) -> list[Drawn]:
            return studio.edit(prompt, image, mask=mask, strength=strength, options=options, watch=watch)

        return _content(await turns.take(ctx, job))

    @server.tool(annotations=reading, structured_output=False)
    async def describe_model() -> str:
        """Describe the model: its sizes, default settings, limits, and what it knows to draw."""
        return json.dumps(await _in_thread(studio.describe))

    @server.tool(annotations=reading, structured_output=False)
    async def list_models() -> str:
        """List the models on this machine. The server draws with the one that describe_model names."""
        return json.dumps(await _in_thread(studio.models))

    return server


async def serve_stdio(studio: Studio) -> None:
    """Serve one client on standard input and output, until it leaves."""
    await build_server(studio).run_stdio_async()


async def serve_http(studio: Studio, port: int) -> None:
    """Serve clients of this machine by streamable HTTP at `http://127.0.0.1:PORT/mcp`.

    Requests that name another host, or come from a page of another origin, are refused.
    """
    security = TransportSecuritySettings(
        allowed_hosts=list(_LOOPBACK), allowed_origins=[f"http://{host}" for host in _LOOPBACK]
    )
    await build_server(studio).run_streamable_http_async(
        host="127.0.0.1", port=port, transport_security=security, max_request_body_size=3 * MAX_IMAGE_BYTES
    )


class _Turns:
    """Runs one drawing at a time in a thread, and tells its progress."""

    def __init__(self) -> None:
        self._lock: anyio.Lock | None = None
        self._waiting = 0

    async def take(self, ctx: Context, job: Callable[[Callable[[ScaleEvent], None]], list[Drawn]]) -> list[Drawn]:
        """Wait for the turn and run the job. A cancelled call ends after the scale that is being drawn."""
        if self._waiting >= _MAX_WAITING:
            raise ToolError(f"The server is busy: {self._waiting} calls are waiting. Try again later.")
        self._lock = self._lock or anyio.Lock()  # it belongs to the event loop
        stop = threading.Event()

        def watch(event: ScaleEvent) -> None:
            if stop.is_set():
                raise CancelledDrawing
            message = f"scale {event.index + 1} of {event.total}: {event.grid[1]}x{event.grid[0]} tokens"
            anyio.from_thread.run(ctx.report_progress, event.index + 1, event.total, message)

        self._waiting += 1
        try:
            async with self._lock:
                return await _in_thread(lambda: job(watch))
        finally:
            self._waiting -= 1
            stop.set()


async def _in_thread(job: Callable[[], Any]) -> Any:
    """Run job in a thread, and turn errors for users into the tool's errors."""
    try:
        return await anyio.to_thread.run_sync(job, abandon_on_cancel=True)
    except (ValueError, RuntimeError, MemoryError, OSError) as error:
        raise ToolError(str(error)) from None


def _options(
    width: int | None, height: int | None, count: int, seed: int | None, negative: str | None, guidance: float | None
) -> dict[str, Any]:
    return {
        "width": width,
        "height": height,
        "num_images_per_prompt": count,
        "seed": seed,
        "negative_prompt": negative,
        "guidance_scale": guidance,
    }


def _content(images: list[Drawn]) -> list[ImageContent | TextContent]:
    """Return each image, followed by its name and settings as JSON."""
    content: list[ImageContent | TextContent] = []
    for image in images:
        facts: dict[str, Any] = {"name": image.name, "settings": image.settings}
        if image.never_taught:
            facts["never_taught"] = list(image.never_taught)
        if image.path is not None:
            facts["file"] = str(image.path)
        content.append(
            ImageContent(type="image", data=base64.b64encode(image.data).decode("ascii"), mime_type="image/png")
        )
        content.append(TextContent(type="text", text=json.dumps(facts)))
    return content
