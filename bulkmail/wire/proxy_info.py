"""What a PROXY header said: the client's ends, and what the proxy knows of its connection.

"The PROXY protocol, versions 1 & 2" (haproxy.org, doc/proxy-protocol.txt), section 2.2: the types of TLVs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

End = tuple[str, int]  # address text, port
Tlv = tuple[int, bytes]  # type, value

ALPN: Final = 0x01
AUTHORITY: Final = 0x02
UNIQUE_ID: Final = 0x05
SSL: Final = 0x20
NETNS: Final = 0x30
# inside SSL
SSL_VERSION: Final = 0x21
SSL_CN: Final = 0x22
SSL_CIPHER: Final = 0x23
SSL_SIG_ALG: Final = 0x24
SSL_KEY_ALG: Final = 0x25

CLIENT_SSL: Final = 0x01
CLIENT_CERT_CONN: Final = 0x02
CLIENT_CERT_SESS: Final = 0x04


@dataclass(slots=True, frozen=True)
class ProxyTls:
    """Of the client's connection to the proxy (section 2.2.6). Names are None where the header has none.

    encrypted              the client came over TLS
    certificate            it showed a certificate, on this connection or when the TLS session began
    verified               and the proxy found that to be good
    version, cipher        such as "TLSv1.3", "TLS_AES_256_GCM_SHA384"
    cn                     the common name in the client's certificate: of worth only if `verified`
    sig_alg, key_alg       of the proxy's own certificate, such as "RSA-SHA256", "RSA2048"
    """

    encrypted: bool
    certificate: bool
    verified: bool
    version: str | None
    cipher: str | None
    cn: str | None
    sig_alg: str | None
    key_alg: str | None


@dataclass(slots=True, eq=True)
class ProxyInfo:
    """A valid header.

    version              1 or 2
    source, destination  the client's end and the one that it connected to, as (address, port); None twice where the
                         header does not say (UNKNOWN, LOCAL, an unspecified, UDP or UNIX connection): then the socket's
                         own hold
    tlvs                 (type, value) in their order, without padding and the checksum; the properties read those that
                         the specification names, the first of a type
    local                the proxy connected for itself, to see whether we are there
    """

    version: int
    source: End | None = None
    destination: End | None = None
    tlvs: tuple[Tlv, ...] = ()
    local: bool = False

    @property
    def alpn(self) -> bytes | None:
        return find(self.tlvs, ALPN)

    @property
    def authority(self) -> str | None:
        """The host name that the client asked for (TLS: SNI)."""
        return text_of(self.tlvs, AUTHORITY)

    @property
    def unique_id(self) -> bytes | None:
        """The proxy's id of the connection, at most 128 bytes: HAProxy's are text."""
        return find(self.tlvs, UNIQUE_ID)

    @property
    def netns(self) -> str | None:
        return text_of(self.tlvs, NETNS)

    @property
    def tls(self) -> ProxyTls | None:
        value = find(self.tlvs, SSL)
        if value is None:
            return None
        flags, verify, inner = value[0], value[1:5], tuple(split(value[5:]))
        certificate = bool(flags & (CLIENT_CERT_CONN | CLIENT_CERT_SESS))
        return ProxyTls(
            encrypted=bool(flags & CLIENT_SSL),
            certificate=certificate,
            verified=certificate and not any(verify),
            version=text_of(inner, SSL_VERSION),
            cipher=text_of(inner, SSL_CIPHER),
            cn=text_of(inner, SSL_CN),
            sig_alg=text_of(inner, SSL_SIG_ALG),
            key_alg=text_of(inner, SSL_KEY_ALG),
        )


def find(tlvs: Iterable[Tlv], kind: int) -> bytes | None:
    return next((value for found, value in tlvs if found == kind), None)


def text_of(tlvs: Iterable[Tlv], kind: int) -> str | None:
    value = find(tlvs, kind)
    return None if value is None else value.decode("utf-8", "replace")


def split(block: bytes) -> Iterable[Tlv]:
    """The TLVs of a block that the reader found to be TLVs and nothing else."""
    while block:
        end = 3 + int.from_bytes(block[1:3], "big")
        yield block[0], block[3:end]
        block = block[end:]
