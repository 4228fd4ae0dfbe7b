"""Whom we believe to be a registry: the system's roots, and those of certs.d; and who we say we are.

certs.d/<host[:port]>/*.crt      more roots
certs.d/<host[:port]>/*.cert     a certificate of ours, with the key of the same name, *.key
"""

from __future__ import annotations

import os
import ssl
import threading

from lamina.errors import InvalidInput
from lamina.image.registry.places import Places

__all__ = ["Tls"]


class Tls:
    """Contexts for hosts, each made once. `verify` False: whoever answers is believed (`--tls-verify=false`)."""

    def __init__(self, places: Places, *, verify: bool = True) -> None:
        self._places, self._verify = places, verify
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}
        self._turn = threading.Lock()

    def context(self, host: str, *, verify: bool = True) -> ssl.SSLContext:
        """The context for *host* (with its port). Raises InvalidInput for certificates that cannot be read."""
        verify = verify and self._verify
        with self._turn:
            if (host, verify) not in self._contexts:
                self._contexts[host, verify] = self._make(host, verify)
            return self._contexts[host, verify]

    def _make(self, host: str, verify: bool) -> ssl.SSLContext:
        if verify:
            context = ssl.create_default_context()
        else:  # without the system's roots, which nobody is compared with: reading them takes 16 ms
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        for directory in self._places.certificates(host):
            for name in sorted(os.listdir(directory)):
                self._add(context, os.path.join(directory, name))
        return context

    def _add(self, context: ssl.SSLContext, path: str) -> None:
        stem, extension = os.path.splitext(path)
        try:
            if extension == ".crt":
                context.load_verify_locations(path)
            elif extension == ".cert":
                if not os.path.exists(f"{stem}.key"):
                    raise InvalidInput(f"read {path}: its key {stem}.key is not there")
                context.load_cert_chain(path, f"{stem}.key", password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput(f"read {path}: {error}") from None


def _no_password() -> str:
    raise ValueError("the key has a password")
