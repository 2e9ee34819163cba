"""Downloading the weights of a repository so that a killed download continues where it stopped.

`huggingface_hub` begins a file again when its process was killed. This downloads large files under a name of its own
into the same cache, and gives them the name by which `huggingface_hub` knows them once they are complete.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from filelock import FileLock

_LARGE: Final = 1 << 20
"""Bytes from which a file is worth continuing."""

_LARGEST: Final = 50 * 10**9
"""Bytes up to which the hub gives files by plain HTTP."""

_CONNECTIONS: Final = 4


def download_weights(name: str, commit: str, files: Mapping[str, int], cache: Path) -> None:
    """Download the large files of a commit into the hub's cache, several at once.

    Args:
        name: Hub id.
        commit: Commit, 40 hexadecimal digits.
        files: Bytes of each file, by name.
        cache: The cache folder.

    Raises:
        Exception: of many classes, as `huggingface_hub` raises them. What has arrived is kept.
    """
    large = [file for file, size in files.items() if _LARGE <= size <= _LARGEST]
    with ThreadPoolExecutor(max_workers=_CONNECTIONS) as pool:
        list(pool.map(lambda file: _download(name, commit, file, cache), large))


def _download(name: str, commit: str, file: str, cache: Path) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers

    folder = repo_folder_name(repo_id=name, repo_type="model")
    if (cache / folder / "snapshots" / commit / file).exists():
        return
    url = hf_hub_url(name, file, revision=commit)
    metadata = get_hf_file_metadata(url)
    etag, size = metadata.etag, metadata.size
    if etag is None or not etag.isalnum() or size is None:
        return  # huggingface_hub says what is wrong
    blob = cache / folder / "blobs" / etag
    partial = blob.with_name(f"{etag}.bitvar-partial")
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock = cache / ".locks" / folder / f"{etag}.bitvar.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if blob.exists():
            return
        if partial.is_file() and partial.stat().st_size > size:
            partial.unlink()
        headers = build_hf_headers()
        if metadata.location != url:  # a store behind the hub, which must not see the token
            headers = {key: value for key, value in headers.items() if key.lower() != "authorization"}
        with partial.open("ab") as target:
            start = target.tell()
            http_get(
                metadata.location,
                target,
                resume_size=start,
                expected_size=size,
                headers=headers,
                displayed_filename=file,
            )
        partial.replace(blob)
