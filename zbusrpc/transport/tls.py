"""TLS: the contexts of both sides of a connection, from files as settings name them.

A broker shows a certificate and, where a client CA is given, asks clients for theirs (mutual TLS). A client checks the
broker's certificate and the name in it against the CAs of the system, or against one that it is given.

Promises: TLS 1.2 at least; a file that cannot be used is told in one line with its name; no key is ever logged.
"""

import re
import ssl
from datetime import datetime
from pathlib import Path
from typing import Final

from zbusrpc.config import ClientSecurity
from zbusrpc.errors import ConfigError
from zbusrpc.transport.certificate import expiry_of

MINIMUM: Final = ssl.TLSVersion.TLSv1_2
_UNTRUSTED: Final = {
    10: "has expired",
    9: "is not valid yet",
    18: "is signed by itself and not by a trusted CA",
    19: "is not signed by a trusted CA",
    20: "is not signed by a trusted CA",
    21: "is not signed by a trusted CA",
    62: "is for another host name",
    64: "is for another address",
}
"""Codes of OpenSSL (x509_vfy.h) for what goes wrong most often."""
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_UNTRUSTED_CA: Final = frozenset({18, 19, 20, 21})


def certificates_in(cert: str) -> str:
    """Return the certificates in a file, PEM, without a key that may be there, too."""
    text = Path(cert).read_text(encoding="utf-8", errors="replace")
    return "".join(f"{block}\n" for block in _CERTIFICATE.findall(text))


def expiry_of_chain(certificates: str) -> datetime | None:
    """Return until when all of some certificates hold, or None where that cannot be read."""
    found = [expiry_of(block) for block in _CERTIFICATE.findall(certificates)]
    return min((expiry for expiry in found if expiry is not None), default=None)


def server_context(cert: str, key: str | None, client_ca: str | None = None) -> ssl.SSLContext:
    """Return the context of a broker.

    Args:
        cert: File with the certificate and its chain, PEM.
        key: File with the private key, PEM; by default it is in `cert`, too.
        client_ca: File with the CAs that sign the certificates of clients; with it, clients must show one.

    Raises:
        ConfigError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = MINIMUM
    _load_certificate(context, "tls_cert", cert, "tls_key", key)
    if client_ca is not None:
        _load_ca(context, "tls_client_ca", client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def renew_certificate(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    """Have a broker show another certificate to those who connect from now on.

    Raises:
        ConfigError: a file cannot be used; the old certificate stays.
    """
    server_context(cert, key)  # half of a pair that does not match would stay in the context
    _load_certificate(context, "tls_cert", cert, "tls_key", key)


def client_context(security: ClientSecurity) -> ssl.SSLContext:
    """Return the context of a client.

    Raises:
        ConfigError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = MINIMUM
    if security.tls_ca is None:
        context.load_default_certs()
    else:
        _load_ca(context, "tls_ca", security.tls_ca)
    if security.tls_client_cert is not None:
        cert, key = security.tls_client_cert, security.tls_client_key
        _load_certificate(context, "tls_client_cert", cert, "tls_client_key", key)
    return context


def explain_tls(error: ssl.SSLError) -> str:
    """Return why a handshake failed, and what to do about it, for the end of a line that names the broker."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = _UNTRUSTED.get(error.verify_code, f"is not trusted: {error.verify_message}")
        hint = "; name its CA with --tls-ca FILE (ZBUSRPC_TLS_CA)" if error.verify_code in _UNTRUSTED_CA else ""
        return f"its certificate {reason}{hint}"
    if isinstance(error, ssl.SSLEOFError):
        return "it closed the connection before it said anything; it may speak no TLS"
    if error.reason == "WRONG_VERSION_NUMBER":
        return "it does not speak TLS; name it without tls://, and without ZBUSRPC_TLS"
    if error.reason is not None and "CERTIFICATE_REQUIRED" in error.reason:
        return "it asks for a certificate of yours; name one with ZBUSRPC_TLS_CLIENT_CERT and ZBUSRPC_TLS_CLIENT_KEY"
    if error.reason is not None and "UNKNOWN_CA" in error.reason:
        return "it does not trust the CA of your certificate (ZBUSRPC_TLS_CLIENT_CERT)"
    return f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}"


def _load_certificate(context: ssl.SSLContext, cert_setting: str, cert: str, key_setting: str, key: str | None) -> None:
    _check_readable(cert_setting, cert)
    if key is not None:
        _check_readable(key_setting, key)

    def refuse() -> str:  # in place of a question at the terminal, which nobody would answer
        raise ConfigError(f"{key_setting} = {key or cert!r}: the key needs a password; keep it without one, mode 600")

    try:
        context.load_cert_chain(cert, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{key_setting} = {key or cert!r}: the key is not that of {cert}") from None
        where = f"{cert_setting} = {cert!r}" + (f" with {key_setting} = {key!r}" if key is not None else "")
        missing = "" if key is not None else f", or {key_setting} is missing"
        raise ConfigError(f"{where}: no certificate and key in PEM{missing}") from None


def _load_ca(context: ssl.SSLContext, setting: str, path: str) -> None:
    _check_readable(setting, path)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise ConfigError(f"{setting} = {path!r}: no certificate in PEM") from None


def _check_readable(setting: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{setting} = {path!r}: {(error.strerror or str(error)).lower()}") from None
