"""TLS contexts and what their failures say, by real handshakes with certificates of the test's own authority."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from contextlib import contextmanager, suppress

import pytest

from bulkmail.errors import ConfigError, TlsError
from bulkmail.net.tls import client_context, server_hostname, tls_error
from bulkmail.url import Options, parse_endpoint, parse_options

trustme = pytest.importorskip("trustme")


def options(**values):
    return Options(**parse_options(values))


class Pki:
    """An authority, the server's certificate (mx.example, 127.0.0.1) and a client's, as PEM files."""

    def __init__(self, folder):
        self.folder = folder
        self.authority = trustme.CA()
        self.server = self.authority.issue_cert("mx.example", "127.0.0.1", "::1", "bücher.example", "*.wild.example")
        self.ca_file = self.write("ca.pem", self.authority.cert_pem)
        client = self.authority.issue_cert("client.example")
        self.cert_file = self.write("client.pem", client.cert_chain_pems[0])
        self.key_file = self.write("client.key", client.private_key_pem)
        self.both_file = self.write("both.pem", client.private_key_and_cert_chain_pem)
        self.other_key = self.write("other.key", self.authority.issue_cert("other.example").private_key_pem)
        other = trustme.CA()
        self.other_ca = self.write("other-ca.pem", other.cert_pem)

    def write(self, name, blob):
        blob.write_to_path(str(self.folder / name))
        return str(self.folder / name)

    def server_context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.configure_cert(context)
        return context


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("pki"))


@contextmanager
def server(context):
    """A server that greets each client over TLS (context None: in clear); blocking, since that sends its alerts."""

    def serve():
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with suppress(OSError), context.wrap_socket(client, server_side=True) if context else client as peer:
                    peer.sendall(b"220 hi\r\n")
                    peer.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # ends accept()
            thread.join(10)


def shake_hands(run, server_context, opts, host):
    """(TLS version, verified certificate) of a connection, or what tls_error makes of its failure."""
    with server(server_context) as address:
        return run(connect(address, opts, host))


async def connect(address, opts, host):
    sock = socket.create_connection(address)
    try:
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=client_context(opts, host), server_hostname=server_hostname(opts, host)
        )
        try:
            await reader.readline()  # with TLS 1.3 a server refuses after the client's part is done
            found = writer.get_extra_info("ssl_object")
            return found.version(), found.getpeercert()
        finally:
            writer.transport.abort()
    except OSError as error:
        raise tls_error(error, host, opts) from error


def refusal(*args):
    with pytest.raises(TlsError) as caught:
        shake_hands(*args)
    assert isinstance(caught.value.__cause__, OSError) and str(caught.value).isprintable()
    return str(caught.value)


# ---- what passes


@pytest.mark.parametrize(
    "host", ["mx.example", "MX.example.", "127.0.0.1", "::1", "::1%lo", "xn--bcher-kva.example", "a.wild.example"]
)
def test_a_good_certificate_for_a_name_and_for_an_address(run, pki, host):
    version, certificate = shake_hands(run, pki.server_context(), options(ca_file=pki.ca_file), host)
    assert version == "TLSv1.3" and certificate


def test_a_host_beyond_ascii_is_the_a_label_that_certificates_carry(run, pki):
    endpoint = parse_endpoint("smtps://BÜCHER.example", ca_file=pki.ca_file)
    assert shake_hands(run, pki.server_context(), endpoint.options, endpoint.host)
    opts = options(ca_file=pki.ca_file, server_name="bücher.example")
    assert shake_hands(run, pki.server_context(), opts, "192.0.2.1")


def test_server_name_is_verified_in_place_of_the_host(run, pki):
    opts = options(ca_file=pki.ca_file, server_name="mx.example")
    assert shake_hands(run, pki.server_context(), opts, "192.0.2.1")


@pytest.mark.parametrize("values", [{"verify": False}, {"tls": "opportunistic"}])
def test_without_verification_any_certificate_passes(run, pki, values):
    _, certificate = shake_hands(run, pki.server_context(), options(**values), "wrong.example")
    assert not certificate


@pytest.mark.parametrize("files", [("cert_file", "key_file"), ("both_file", None)])
def test_a_client_certificate_is_shown(run, pki, files):
    context = pki.server_context()
    pki.authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    names = zip(("cert_file", "key_file"), files, strict=True)
    own = {option: getattr(pki, name) for option, name in names if name}
    assert shake_hands(run, context, options(ca_file=pki.ca_file, **own), "mx.example")


# ---- what fails, and what helps


@pytest.mark.parametrize(
    ("values", "host", "words"),
    [
        ({"ca_file": "ca_file"}, "wrong.example", "the certificate is not for wrong.example (option 'server_name'"),
        ({"ca_file": "ca_file"}, "127.0.0.2", "the certificate is not for 127.0.0.2 (option 'server_name'"),
        ({"ca_file": "ca_file", "server_name": "x.example"}, "mx.example", "the certificate is not for x.example"),
        ({"ca_file": "ca_file"}, "::2", "the certificate is not for ::2 (option 'server_name'"),
        ({"ca_file": "ca_file"}, "wild.example", "the certificate is not for wild.example"),
        ({"ca_file": "ca_file"}, "a.b.wild.example", "the certificate is not for a.b.wild.example"),
        ({"ca_file": "other_ca"}, "mx.example", "not from a known authority"),
        ({}, "mx.example", "(option 'ca_file'"),
    ],
)
def test_a_certificate_that_does_not_prove_the_name(run, pki, values, host, words):
    values = {name: getattr(pki, value, value) for name, value in values.items()}
    text = refusal(run, pki.server_context(), options(**values), host)
    assert text.startswith(f"{host}: TLS failed: ") and words in text


def test_a_server_whose_tls_is_too_old(run, pki):
    context = pki.server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    text = refusal(run, context, options(ca_file=pki.ca_file, tls_min="1.3"), "mx.example")
    assert "no common TLS version (option 'tls_min')" in text
    assert shake_hands(run, context, options(ca_file=pki.ca_file, tls_min="1.2"), "mx.example")[0] == "TLSv1.2"


def test_a_server_that_wants_a_client_certificate(run, pki):
    context = pki.server_context()
    pki.authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    assert "(option 'cert_file')" in refusal(run, context, options(ca_file=pki.ca_file), "mx.example")


def test_a_server_that_does_not_speak_tls(run, pki):
    assert "does not speak TLS here (smtps://" in refusal(run, None, options(ca_file=pki.ca_file), "mx.example")


def alert(reason):
    error = ssl.SSLError(1, f"[SSL: {reason}] {reason} (_ssl.c:1)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "closed the connection during the handshake"),
        (ConnectionAbortedError("SSL handshake is taking longer than 60.0 seconds"), "longer than 60.0 seconds"),
        (ssl.SSLError(1, "[SSL: SOMETHING_NEW] something new (_ssl.c:1)"), "something new"),
        (EOFError(), "closed the connection"),
        (alert("TLSV1_ALERT_UNKNOWN_CA"), "does not take our client certificate (option 'cert_file'): tlsv1 alert"),
        (alert("SSLV3_ALERT_CERTIFICATE_EXPIRED"), "(option 'cert_file')"),
        (alert("TLSV1_UNRECOGNIZED_NAME"), "no certificate for mx.example (option 'server_name'"),
        (alert("DH_KEY_TOO_SMALL"), "dh key too small"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_other_failures_say_what_they_are(error, words):
    found = tls_error(error, "mx.example", Options())
    assert words in str(found) and found.__cause__ is error


# ---- contexts


def test_the_same_options_share_a_context(pki):
    one, other = (client_context(options(ca_file=pki.ca_file, connections=n), f"{n}.example") for n in (1, 2))
    assert one is other
    assert client_context(options(ca_file=pki.ca_file, tls_min="1.3"), "x") is not one


def test_files_that_are_renewed_are_read_anew(pki):
    def context():
        return client_context(options(ca_file=file, cert_file=pki.both_file), "x")

    file = pki.folder / "renewed.pem"
    file.write_bytes((pki.folder / "ca.pem").read_bytes())
    first = context()
    assert context() is first
    file.write_bytes((pki.folder / "ca.pem").read_bytes() + (pki.folder / "other-ca.pem").read_bytes())
    second = context()
    assert len(first.get_ca_certs()) == 1 and len(second.get_ca_certs()) == 2


def test_a_context_verifies_by_default():
    context = client_context(Options(), "x")
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ca_file": "missing.pem"}, r"option 'ca_file': .*missing\.pem cannot be read: No such file"),
        ({"ca_file": "."}, r"option 'ca_file': .* cannot be read: |holds no certificate"),
        ({"ca_file": "empty.pem"}, "holds no certificate in PEM form"),
        ({"ca_file": "text.pem"}, "holds no certificate in PEM form"),
        ({"ca_file": "client.key"}, "holds no certificate in PEM form"),
        ({"cert_file": "missing.pem"}, r"option 'cert_file': .*missing\.pem cannot be read: No such file"),
        ({"cert_file": "client.pem", "key_file": "missing.key"}, r"option 'key_file': .*missing\.key cannot be read"),
        ({"cert_file": "client.pem"}, "which must hold the key too"),
        ({"cert_file": "text.pem", "key_file": "client.key"}, r"option 'cert_file': .* cannot be used"),
        ({"cert_file": "client.pem", "key_file": "other.key"}, "the key is not the certificate's"),
        ({"cert_file": "client.pem", "key_file": "locked.key"}, "the key is encrypted"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_option(pki, values, words):
    (pki.folder / "empty.pem").write_text("")
    (pki.folder / "text.pem").write_text("not a certificate\n")
    (pki.folder / "locked.key").write_bytes(encrypted(pki.folder / "client.key"))
    with pytest.raises(ConfigError, match=words):
        client_context(options(**{option: pki.folder / file for option, file in values.items()}), "x")


def encrypted(key_file):
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, pkcs8, serialization.BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize(
    ("host", "name", "verified"),
    [
        ("mx.example", None, "mx.example"),
        ("mx.example.", None, "mx.example"),
        ("fe80::1%eth0", None, "fe80::1"),
        ("192.0.2.1", "mx.example", "mx.example"),
    ],
)
def test_the_name_to_verify(host, name, verified):
    assert server_hostname(options(server_name=name), host) == verified
