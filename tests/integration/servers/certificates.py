"""A throw-away certificate authority: made for a run, kept in memory and in the test's folder, never in the tree."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SERVER_NAMES = ("localhost", "127.0.0.1", "mx.example.test")
PROXY_NAMES = ("localhost", "127.0.0.1", "::1", "proxy.example.test")


@dataclass(frozen=True)
class Certificates:
    """ca_file: what a client trusts. chain_file: a server's key and certificate for its names, as Postfix wants it.
    wrong_file: the same for a server that calls itself other.test. client_file: a client's key and certificate."""

    ca_file: Path
    chain_file: Path
    wrong_file: Path
    client_file: Path

    def server_context(self, *, wrong_name: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.wrong_file if wrong_name else self.chain_file)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))


def make_certificates(folder: Path, names: Sequence[str] = SERVER_NAMES) -> Certificates:
    """A new authority and its two servers, as PEM files in `folder`."""
    import trustme

    authority = trustme.CA()
    made = Certificates(*(folder / f"{name}.pem" for name in ("ca", "server", "wrong", "client")))
    authority.cert_pem.write_to_path(str(made.ca_file))
    authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(made.chain_file))
    authority.issue_cert("other.test").private_key_and_cert_chain_pem.write_to_path(str(made.wrong_file))
    authority.issue_cert(
        "client.example.test", common_name="client.example.test"
    ).private_key_and_cert_chain_pem.write_to_path(str(made.client_file))
    for file in (made.chain_file, made.wrong_file, made.client_file):
        file.chmod(0o600)
    return made
