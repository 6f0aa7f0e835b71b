"""Says why an address cannot be reached, and what to do, from what the operating system and TLS report.

It opens nothing and knows no websocket, so the commands that only ask over HTTP use it too.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from urllib.parse import urlsplit

from stream_server.client.proxies import shown
from stream_server.errors import ConnectFailed

NOT_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}
"""OpenSSL's reasons for a peer that answers in plain text; which one depends on its version."""

CUT = (ConnectionResetError, ConnectionAbortedError)

OUT_OF_DATE, OTHER_NAME = (9, 10), (62, 64)
"""OpenSSL's codes (x509_vfy.h): not yet valid, expired; another host name, another IP address."""

TRUST = "to trust it, set SSL_CERT_FILE to a PEM file with it or its authority"


def network_failure(exc: OSError, url: str, proxy: str | None = None) -> ConnectFailed:
    """Explain why no connection could be opened.

    Args:
        url: the address; what is behind its host is ignored.
        proxy: the proxy that was used.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if isinstance(exc, ssl.SSLError) or (parts.scheme in ("https", "wss") and isinstance(exc, CUT)):
        return ConnectFailed(_tls_failure(exc, host))
    reason = _reason(exc)
    if proxy is not None:
        return ConnectFailed(
            f"the proxy {shown(proxy)}, which the environment names, cannot be reached ({reason}); "
            f"correct that, or set no_proxy={parts.hostname} to go without it"
        )
    if isinstance(exc, socket.gaierror):
        return ConnectFailed(f"the host name {parts.hostname} cannot be resolved ({reason}); is it right?")
    return ConnectFailed(f"no server at {host} ({reason}); is it running? start one: stream-server serve")


def _tls_failure(exc: OSError, host: str) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return _certificate_failure(exc, host)
    reason = isinstance(exc, ssl.SSLError) and (exc.reason or str(exc))
    if not reason:
        return f"{host} ended the connection where TLS begins; write http://{host} if that server has no TLS"
    said = reason.replace("_", " ").lower()
    if reason in NOT_TLS:
        return f"{host} does not speak TLS ({said}); write its address as http://{host}"
    return f"TLS with {host} failed ({said}); write http://{host} if that server has no TLS"


def _certificate_failure(exc: ssl.SSLCertVerificationError, host: str) -> str:
    said = f"the certificate of {host} is not accepted ({exc.verify_message})"
    if exc.verify_code in OUT_OF_DATE:
        return f"{said}; renew it there, or set this machine's clock right"
    if exc.verify_code in OTHER_NAME:
        return f"{said}; write the address with the name in the certificate"
    return f"{said}; {TRUST}"


def _reason(exc: OSError) -> str:
    number = exc.errno
    if number is None and (found := re.search(r"\[Errno (\d+)\]", str(exc))):
        number = int(found[1])  # of a host with several addresses: asyncio joins their errors to one text
    # asyncio's own words hold a tuple; a name that does not resolve has a negative number
    return os.strerror(number) if number and number > 0 else exc.strerror or str(exc)
