"""Signed manifests inside image files (C2PA): what made the image, in a form that other programs verify.

A manifest says that a generative model made the image, names bitvar and the model, and holds the digest of the image's
record. Its signature covers every byte of the file, so a later change shows. Whether the signer is to be trusted is for
the reader to decide: this module keeps no list of trusted certificates. It fetches nothing from the network.
"""

import functools
import hashlib
import importlib.util
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from bitvar import __version__
from bitvar.errors import UsageError, install_hint
from bitvar.files import open_plain, read_plain
from bitvar.imaging.formats import HEAD, find_format
from bitvar.pipeline.record import ImageRecord

SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media that a trained model made."""

LABEL: Final = "bitvar.generation"
"""Label of the assertion with the model and the digest of the record."""

MIME_TYPES: Final = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
MAX_BYTES: Final = 256 << 20
"""Largest file to verify."""

_CURVES: Final = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_SETTINGS: Final[dict[str, Any]] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}


@dataclass(frozen=True)
class Signer:
    """A certificate and its key, which sign image files. Neither appears in any text of this object.

    Attributes:
        chain: Certificates in PEM, the signer's first.
        key: Private key in PEM.
        algorithm: Name of the signature algorithm, such as "es256".
    """

    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)
    algorithm: str

    @classmethod
    def from_files(cls, certificate: str | Path, key: str | Path) -> "Signer":
        """Read a signer, and sign a small image to make sure that the two belong together and can be used.

        Args:
            certificate: PEM file with the signer's certificate and the certificates above it. C2PA demands a
                certificate for e-mail protection or document signing that isn't self-signed.
            key: PEM file with the private key: EC (P-256, P-384, P-521), Ed25519 or RSA, without a password.

        Raises:
            UsageError: A file is missing or unusable, the two don't belong together, or the package c2pa is missing.
        """
        _library()
        chain, secret = _read(certificate, "certificate"), _read(key, "private key")
        signer = cls(chain, secret, _algorithm(secret, key))
        try:
            state = read_manifest(signer._embed(_blank_png(), "png", {}))
        except UsageError:
            raise
        except Exception as error:  # the library raises errors of many classes
            why = _first_line(error)
            raise UsageError(f"Can't sign with {certificate}.", why, "give a C2PA certificate and its key") from None
        if state.state != "valid":
            why = f"a file signed with it is not valid: {', '.join(state.problems)}"
            raise UsageError(f"Can't sign with {certificate}.", why, "give a C2PA certificate and its key")
        return signer

    def sign(self, data: bytes, image_format: str, record: ImageRecord, *, include_prompt: bool = False) -> bytes:
        """Put a signed manifest into an encoded image. The record inside the file stays readable.

        Args:
            data: Encoded image.
            image_format: Its format: png, webp or jpeg.
            record: Record of the image.
            include_prompt: Whether the manifest, too, names the prompt.

        Returns:
            The signed file. Its bytes differ from call to call.

        Raises:
            UsageError: for another format, or an image that can't be signed.
        """
        if image_format.lower() not in MIME_TYPES:
            what = f"Can't sign the format {image_format!r}."
            raise UsageError(what, fix=f"choose from {', '.join(MIME_TYPES)}")
        facts = {"model": record.model, "record_sha256": record_digest(record), "watermark": record.watermark}
        if include_prompt:
            facts["prompt"] = record.prompt
        try:
            return self._embed(data, image_format.lower(), facts)
        except Exception as error:  # the library raises errors of many classes
            why = _first_line(error)
            raise UsageError("The image can't be signed.", why, "check the image and the certificate") from None

    def _embed(self, data: bytes, image_format: str, facts: Mapping[str, Any]) -> bytes:
        c2pa, signed, manifest = _library(), io.BytesIO(), json.dumps(_manifest(facts))
        # made anew for every image: the library's own objects can't be shared by threads or processes
        info = c2pa.C2paSignerInfo(self.algorithm.encode(), self.chain, self.key, None)
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Context(c2pa.Settings.from_dict(_SETTINGS)) as context,
            c2pa.Builder(manifest, context) as builder,
        ):
            builder.sign(signer, MIME_TYPES[image_format], io.BytesIO(data), signed)
        return signed.getvalue()


@dataclass(frozen=True)
class ManifestReport:
    """What a file's manifest says, and whether it holds.

    Attributes:
        state: "valid": signed, and unchanged since. "tampered": changed after signing, or damaged. "none": no manifest.
        trusted: Whether the signer's certificate leads to one that the C2PA library trusts; false for a self-made one.
        signer: Name in the signer's certificate; None if there is none.
        generator: Program that made the claim.
        source_type: IPTC digital source type.
        facts: Content of our own assertion: model, digest of the record, watermark.
        problems: Codes of everything that failed, by the C2PA specification.
    """

    state: Literal["valid", "tampered", "none"]
    trusted: bool = False
    signer: str | None = None
    generator: str | None = None
    source_type: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def matches(self, record: ImageRecord) -> bool:
        """Whether the manifest was made for an image with this record."""
        return self.facts.get("record_sha256") == record_digest(record)


def record_digest(record: ImageRecord) -> str:
    """SHA-256 of a record as files hold it."""
    return hashlib.sha256(record.json_text().encode()).hexdigest()


def read_manifest_file(path: Path) -> ManifestReport:
    """Read and verify the manifest of an image file.

    Raises:
        UsageError: The file can't be read, is no PNG, WebP or JPEG, or the package c2pa is missing.
    """
    try:
        with open_plain(path) as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"There is no {path}.", fix="check the path") from None
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise UsageError(f"Can't read {path}.", why, "give an image") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"Can't verify {path}.", f"it has more than {MAX_BYTES:,} bytes", "give a smaller file")
    return read_manifest(data)


def read_manifest(data: bytes) -> ManifestReport:
    """Read and verify the manifest inside an encoded image. Nothing is fetched from the network.

    Raises:
        UsageError: The bytes are no PNG, WebP or JPEG, or the package c2pa is missing.
    """
    c2pa, mime = _library(), _mime_of(data)
    try:
        with (
            c2pa.Context(c2pa.Settings.from_dict(_SETTINGS)) as context,
            c2pa.Reader(mime, io.BytesIO(data), context=context) as reader,
        ):
            manifest, state = reader.get_active_manifest() or {}, reader.get_validation_state()
            results = reader.get_validation_results() or {}
    except c2pa.C2paError as error:
        if "ManifestNotFound" in str(error):
            return ManifestReport("none")
        return ManifestReport("tampered", problems=(_first_line(error),))
    failures = [entry["code"] for entry in results.get("activeManifest", {}).get("failure", [])]
    return _report(manifest, state, tuple(code for code in failures if code != "signingCredential.untrusted"))


def _report(manifest: Mapping[str, Any], state: str | None, problems: tuple[str, ...]) -> ManifestReport:
    assertions = {entry.get("label"): entry.get("data") or {} for entry in manifest.get("assertions", [])}
    actions = assertions.get("c2pa.actions.v2", {}).get("actions") or [{}]
    generators = manifest.get("claim_generator_info") or [{}]
    name = " ".join(str(generators[0][key]) for key in ("name", "version") if key in generators[0])
    signature = manifest.get("signature_info") or {}
    facts = assertions.get(LABEL, {})
    return ManifestReport(
        state="valid" if state in ("Valid", "Trusted") and not problems else "tampered",
        trusted=state == "Trusted",
        signer=signature.get("common_name") or signature.get("issuer"),
        generator=name or None,
        source_type=actions[0].get("digitalSourceType"),
        facts=facts if isinstance(facts, dict) else {},
        problems=problems,
    )


@functools.cache
def _blank_png() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(file, format="PNG")
    return file.getvalue()


def _manifest(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Describe an image that a generative model made."""
    agent = {"name": "bitvar", "version": __version__}
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "softwareAgent": agent}
    assertions = [
        {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
        {"label": LABEL, "data": {name: value for name, value in facts.items() if value is not None}},
    ]
    return {"claim_generator_info": [agent], "assertions": assertions}


def _mime_of(data: bytes) -> str:
    mime = MIME_TYPES.get((find_format(data[:HEAD]) or "").lower())
    if mime is None:
        raise UsageError("The file can't be verified.", "it is not a PNG, WebP or JPEG file", "give an image")
    return mime


def _read(path: str | Path, what: str) -> bytes:
    try:
        text = read_plain(Path(path))
    except FileNotFoundError:
        raise UsageError(f"There is no {what} {path}.", fix="check the path") from None
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or "no file can have this name").lower()
        raise UsageError(f"Can't read the {what} {path}.", why, "check the path") from None
    if b"-----BEGIN" not in text:
        raise UsageError(f"{path} is no {what}.", "it is not in the PEM format", "convert it with openssl")
    return text


def _algorithm(key: bytes, path: str | Path) -> str:
    """Name the signature algorithm of a private key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        loaded = load_pem_private_key(key, password=None)
    except Exception:  # errors of many classes; their texts might quote the key
        why = "it is damaged, or protected by a password"
        raise UsageError(f"Can't use the private key {path}.", why, "give an unencrypted PEM file") from None
    if isinstance(loaded, ec.EllipticCurvePrivateKey) and loaded.curve.name in _CURVES:
        return _CURVES[loaded.curve.name]
    if isinstance(loaded, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(loaded, rsa.RSAPrivateKey):
        return "ps256"
    raise UsageError(f"Can't use the private key {path}.", "C2PA has no such kind of key", "make an EC key, P-256")


def is_installed() -> bool:
    """Whether the package that manifests need is there."""
    return importlib.util.find_spec("c2pa") is not None


def _library() -> Any:
    try:
        import c2pa
    except ImportError:
        todo = install_hint("provenance")
        raise UsageError("Manifests need the package c2pa-python.", "it isn't installed", todo) from None
    return c2pa


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
