"""The page's modules in Node: their own tests, and what they read and write against this package and the shell."""

import ast
import io
import json
import shlex
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import typer.main
from PIL import Image, PngImagePlugin

from bitvar.cli.main import app
from bitvar.pipeline.image_files import encode_image
from bitvar.pipeline.record import ImageRecord
from tests.support.browser import require_node

HERE = Path(__file__).parent
SETTINGS = {
    "prompt": "a cat",
    "negative_prompt": "",
    "seed": "9223372036854775807",
    "guidance_scale": 2,
    "temperature": [0.25, 0.5],
    "top_p": 0,
    "top_k": 1,
    "size": [256, 256],
    "adapters": [{"name": "ink", "scale": 0.5}, {"name": "clay", "scale": 1}],
    "background": "transparent",
    "format": "webp",
    "model": "icons",
}
PROMPTS = [
    "a cat",
    'it\'s "quoted" $HOME `id` $(id) \\ !x',
    "--help",
    "two\nlines\tand a tab",
    "caf\u00e9 \u2028 \U0001f431 \u0000".rstrip("\u0000"),
    "'; rm -rf / #",
    "{a|b} * ? ~ & | > <",
]


def node(script: str, *arguments: str, text: str | None = None) -> bytes:
    command = [require_node(), str(HERE / script), *arguments]
    done = subprocess.run(
        command, input=None if text is None else text.encode(), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_the_modules_pass_their_own_tests() -> None:
    command = [require_node(), "--test", str(HERE / "modules.test.mjs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-5000:]


def a_record() -> ImageRecord:
    values = {
        "prompt": "caf\u00e9 \U0001f431",
        "seed": 2**63 - 1,
        "width": 8,
        "height": 8,
        "guidance_scale": (1.0, 2.5),
    }
    return ImageRecord.of({**values, "temperature": 0.25, "top_k": 0, "top_p": 0.0})


def png_with(chunk: str, text: str) -> bytes:
    """A PNG whose text is packed in another way than bitvar's own."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "other")
    if chunk == "zTXt":
        info.add_text("bitvar", text, zip=True)
    else:
        info.add_itxt("bitvar", text, "en", "bitvar", zip=True)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def big_endian_jpeg(text: str) -> bytes:
    """A JPEG whose EXIF data has the other byte order."""
    comment = b"ASCII\0\0\0" + f'{{"bitvar": {text}}}'.encode("ascii")
    directory = b"MM\0*\0\0\0\x08" + b"\0\1" + bytes.fromhex("8769 0004 00000001 0000001a") + b"\0\0\0\0"
    inner = b"\0\1" + bytes.fromhex("9286 0007") + len(comment).to_bytes(4, "big") + (44).to_bytes(4, "big")
    exif = b"Exif\0\0" + directory + inner + b"\0\0\0\0" + comment
    return b"\xff\xd8\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + b"\xff\xd9"


def test_the_page_reads_what_bitvar_writes(tmp_path: Path) -> None:
    record = a_record()
    image = Image.new("RGB", (8, 8), "red")
    files = {f"own.{name}": encode_image(image, record, name.upper()) for name in ("png", "webp", "jpeg")}
    files |= {f"{kind}.png": png_with(kind, record.json_text()) for kind in ("zTXt", "iTXt")}
    files["big.jpeg"] = big_endian_jpeg(record.json_text())
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    results = json.loads(node("read_records.mjs", *(str(tmp_path / name) for name in files)))
    expected = json.loads(record.json_text())
    expected["seed"] = str(expected["seed"])  # JavaScript's numbers have 53 bits
    for name, result in zip(files, results, strict=True):
        assert result == {"record": expected}, name


def test_the_page_refuses_damage_and_tells_what_it_lacks(tmp_path: Path) -> None:
    data = encode_image(Image.new("RGB", (8, 8)), a_record())
    at = data.index(b"iTXt") + 20
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format="WEBP")
    files = {
        "flipped.png": data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :],
        "cut.png": data[: at + 30],
        "list.png": png_with("iTXt", "[1]"),
        "broken.png": png_with("zTXt", '{"prompt": '),
        "bomb.png": png_with("zTXt", '{"prompt": "' + "a" * 1_000_000 + '"}'),
        "plain.webp": file.getvalue(),
        "text.png": b"not an image",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    results = json.loads(node("read_records.mjs", *(str(tmp_path / name) for name in files)))
    texts = [result.get("refused", result.get("record")) for result in results]
    assert [text and text.split(":")[-1].strip() for text in texts] == [
        "their checksum is wrong.",
        None,
        "they are no JSON object.",
        "they are no JSON.",
        "The settings in this file are damaged or too long.",
        None,
        "This is not a PNG, WebP or JPEG file.",
    ]


@pytest.fixture(scope="module")
def codes() -> list[dict[str, str]]:
    settings = [{**SETTINGS, "prompt": prompt, "negative_prompt": prompt} for prompt in PROMPTS]
    return json.loads(node("write_code.mjs", text=json.dumps(settings)))


def words_of(code: str, folder: Path) -> list[str]:
    """The words that a shell makes of a command of bitvar."""
    script = 'bitvar() { for word; do printf "%s\\0" "$word"; done; }\n' + code
    done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=20, check=True, cwd=folder)
    return done.stdout.decode().split("\0")[:-1]


def test_commands_survive_the_shell(codes: list[dict[str, str]], tmp_path: Path) -> None:
    generate: Any = typer.main.get_command(app)
    for prompt, code in zip(PROMPTS, codes, strict=True):
        words = words_of(code["command"], tmp_path)
        values = generate.commands["generate"].make_context("generate", words[1:]).params
        wanted = {
            "prompt": prompt,
            "negative": prompt,
            "seed": 2**63 - 1,
            "size": "256x256",
            "exact_size": True,
            "temperature": "0.25,0.5",
            "background": "transparent",
            "top_k": 1,
            "lora": ["ink:0.5", "clay:1"],
            "output": code["file"],
        }
        assert {name: values[name] for name in wanted} == wanted
        assert code["file"].endswith(".webp")
    assert list(tmp_path.iterdir()) == []


def test_curl_sends_the_settings(codes: list[dict[str, str]]) -> None:
    for prompt, code in zip(PROMPTS, codes, strict=True):
        words = shlex.split(code["curl"].replace("\\\n", " "))
        body = json.loads(words[words.index("-d") + 1])
        assert (body["prompt"], body["seed"], body["temperature"]) == (prompt, 2**63 - 1, [0.25, 0.5])
        assert (body["background"], body["output_format"]) == ("transparent", "webp")
        assert "Authorization: Bearer $BITVAR_API_KEY" in words


def test_python_sends_the_settings(codes: list[dict[str, str]]) -> None:
    for prompt, code in zip(PROMPTS, codes, strict=True):
        calls = [node for node in ast.walk(ast.parse(code["python"])) if isinstance(node, ast.Call)]
        [generate] = [call for call in calls if ast.unparse(call.func) == "client.images.generate"]
        values = {keyword.arg: ast.literal_eval(keyword.value) for keyword in generate.keywords}
        assert values["prompt"] == prompt
        assert (values["size"], values["background"], values["output_format"]) == ("256x256", "transparent", "webp")
        assert values["extra_body"] == {
            "negative_prompt": prompt,
            "guidance_scale": 2,
            "temperature": [0.25, 0.5],
            "top_k": 1,
            "lora": SETTINGS["adapters"],
            "seed": 2**63 - 1,
        }


FIELDS = {
    "model": "icons",
    "guidance_scale": "2",
    "temperature": "[0.25,0.5]",
    "top_k": "1",
    "lora": json.dumps(SETTINGS["adapters"], separators=(",", ":")),
    "background": "transparent",
    "output_format": "webp",
    "exact": "true",
    "strength": "0.75",
    "seed": "9223372036854775807",
}


def test_the_code_of_an_edit_sends_a_form(codes: list[dict[str, str]]) -> None:
    for prompt, code in zip(PROMPTS, codes, strict=True):
        words = shlex.split(code["editCurl"].replace("\\\n", " "))
        assert {"image=@source.png", "mask=@mask.png", "Authorization: Bearer $BITVAR_API_KEY"} <= set(words)
        texts = [words[at + 1] for at, word in enumerate(words) if word == "--form-string"]
        assert dict(text.split("=", 1) for text in texts) == {**FIELDS, "prompt": prompt, "negative_prompt": prompt}


def test_python_of_an_edit_sends_the_files_and_fields(codes: list[dict[str, str]]) -> None:
    for prompt, code in zip(PROMPTS, codes, strict=True):
        calls = [node for node in ast.walk(ast.parse(code["editPython"])) if isinstance(node, ast.Call)]
        [edit] = [call for call in calls if ast.unparse(call.func) == "client.images.edit"]
        values = {keyword.arg: keyword.value for keyword in edit.keywords}
        assert ast.unparse(values.pop("image")) == "open('source.png', 'rb')"
        assert ast.unparse(values.pop("mask")) == "open('mask.png', 'rb')"
        plain = {name: ast.literal_eval(value) for name, value in values.items()}
        extra = plain.pop("extra_body")
        assert {**plain, **extra} == {**FIELDS, "prompt": prompt, "negative_prompt": prompt}


def test_archives_can_be_unpacked(tmp_path: Path) -> None:
    contents = {"one.png": bytes(range(256)) * 50, "caf\u00e9.json": b"{}", "empty": b""}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    archive = zipfile.ZipFile(io.BytesIO(node("write_zip.mjs", *(str(tmp_path / name) for name in contents))))
    assert archive.testzip() is None
    assert {name: archive.read(name) for name in archive.namelist()} == contents
    assert archive.infolist()[0].date_time == (2026, 11, 29, 12, 34, 56)
