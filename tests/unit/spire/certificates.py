"""Certificates as they should be, and as they should not be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.adapters.spire.identity import TrustBundle
from tests.fakes.system import NOON
from tests.unit.client.authority import TRUST_DOMAIN

AGENT = f"spiffe://{TRUST_DOMAIN}/agent/invoice-bot/one"
BEFORE = NOON - timedelta(minutes=5)
AFTER = NOON + timedelta(minutes=5)
YEAR = timedelta(days=365)
BOTH_SIDES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def usage(*rights: str) -> x509.KeyUsage:
    """Exactly those rights."""
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    assert set(rights) <= set(names)
    return x509.KeyUsage(**{name: name in rights for name in names})


class Authority:
    """Signs what it is told to, good or bad."""

    def __init__(
        self,
        *,
        name: str = "authority",
        signer: Authority | None = None,
        valid_from: datetime = NOON - YEAR,
        valid_to: datetime = NOON + YEAR,
        names: Sequence[x509.GeneralName] = (),
        ca: bool = True,
        key_usage: x509.KeyUsage | None = usage("key_cert_sign", "crl_sign"),  # noqa: B008 - is never changed
        usage_critical: bool = True,
        more: Sequence[tuple[x509.ExtensionType, bool]] = (),
        path_length: int | None = None,
    ) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (signer or self)._sign(
            self._name,
            self._key.public_key(),
            [
                (x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), True),
                *([(key_usage, usage_critical)] if key_usage else []),
                *([(x509.SubjectAlternativeName(names), False)] if names else []),
                *more,
            ],
            valid_from,
            valid_to,
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def leaf(
        self,
        *names: x509.GeneralName,
        key_usage: x509.KeyUsage | None = usage("digital_signature"),  # noqa: B008 - is never changed
        extended: Sequence[x509.ObjectIdentifier] = BOTH_SIDES,
        ca: bool = False,
        valid_from: datetime = BEFORE,
        valid_to: datetime = AFTER,
        usage_critical: bool = True,
        names_critical: bool = True,
        extended_critical: bool = False,
        constraints: bool = True,
        subject: str = "",
    ) -> bytes:
        """A leaf for those names: as SPIRE makes it, where nothing else is said."""
        extensions: list[tuple[x509.ExtensionType, bool]] = []
        if constraints:
            extensions.append((x509.BasicConstraints(ca=ca, path_length=None), True))
        if names:
            extensions.append((x509.SubjectAlternativeName(names), names_critical))
        if key_usage is not None:
            extensions.append((key_usage, usage_critical))
        if extended:
            extensions.append((x509.ExtendedKeyUsage(extended), extended_critical))
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
        return self._sign(name, key, extensions, valid_from, valid_to).public_bytes(Encoding.PEM)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
        valid_from: datetime,
        valid_to: datetime,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(valid_from)
            .not_valid_after(valid_to)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


def bundle_of(*authorities: Authority, trust_domain: str = TRUST_DOMAIN) -> TrustBundle:
    certificates = tuple(authority.certificate for authority in authorities)
    digest = hashlib.sha256(b"".join(item.public_bytes(Encoding.DER) for item in certificates)).hexdigest()
    return TrustBundle(trust_domain=trust_domain, authorities=certificates, digest=digest)
