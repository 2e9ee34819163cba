"""A self-made chain of certificates that C2PA accepts for signing, though nothing trusts it."""

import datetime
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_USES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


class SignerFiles(NamedTuple):
    """The PEM files of a signer."""

    certificate: Path
    key: Path


def signer_files(folder: Path, *, days: int = 30, name: str = "bitvar test signer") -> SignerFiles:
    """Write a certificate, signed by a root of its own, with that root, and its private key.

    Args:
        folder: Folder of the files.
        days: Days from now until the certificate ends; negative for one that has ended.
        name: Common name of the signer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _unsigned("bitvar test root", "bitvar test root", root_key.public_key(), days=days, ca=True)
    leaf = _unsigned(name, "bitvar test root", key.public_key(), days=days, ca=False)
    leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=True)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    chain = [
        leaf.add_extension(authority, critical=False).sign(root_key, hashes.SHA256()),
        root.sign(root_key, hashes.SHA256()),
    ]
    certificate, secret = folder / "chain.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return SignerFiles(certificate, secret)


def _unsigned(subject: str, issuer: str, public_key: Any, *, days: int, ca: bool) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    uses = ("key_cert_sign", "crl_sign") if ca else ("digital_signature",)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=100))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{use: use in uses for use in _USES}), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "bitvar tests"),
        ]
    )
