"""Logins without a password against servers that others wrote: tokens that Dovecot checks, certificates of clients."""

from __future__ import annotations

import re

import pytest

import bulkmail
from bulkmail.errors import AuthError
from integration.servers.aiosmtpd_server import USER
from integration.servers.common import wait_until
from integration.servers.dovecot import TOKENS

ANN, NEWS = "ann@example.test", "news@example.test"
DATA = f"From: {NEWS}\nTo: {ANN}\nSubject: hello\n\nhello\n"


async def send(url, **options):
    async with bulkmail.Connection(url, **options) as connection:
        return await connection.send(bulkmail.Envelope(NEWS, [ANN]), DATA)


def logged(server, pattern):
    """What Postfix's log has of `pattern`, once it has some: the log is written by a process of its own."""
    wait_until(lambda: re.search(pattern, server.log()) is not None, f"{pattern} in Postfix's log")
    return re.findall(pattern, server.log())


def tries(server):
    return logged(server, r"warning: .* SASL ([A-Z0-9-]+) authentication failed")


@pytest.mark.parametrize("mechanism", TOKENS)
def test_a_token_by_each_mechanism_until_it_runs_out(run, start_dovecot, start_postfix, mechanism):
    dovecot = start_dovecot()
    server = start_postfix(sasl=dovecot.sasl)
    url = server.url.replace("//", f"//{USER}@")
    assert run(send(url, auth=mechanism.lower(), token=dovecot.token())).accepted == [ANN]
    assert logged(server, r"sasl_method=(\S+), sasl_username=(\S+)") == [(mechanism, USER)]
    with pytest.raises(AuthError) as refused:
        run(send(url, auth=mechanism.lower(), token=dovecot.token(seconds=-60)))
    assert dovecot.token(seconds=-60)[:20] not in str(refused.value)
    assert tries(server) == [mechanism]


BY_CERTIFICATE = {
    "smtpd_tls_security_level": "encrypt",
    "smtpd_tls_req_ccert": "yes",
    "smtpd_recipient_restrictions": "permit_tls_all_clientcerts, reject",
    "mynetworks": "192.0.2.1",
}


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_certificate_of_the_client_opens_what_is_closed_without(run, start_postfix, certificates, tls):
    server = start_postfix(tls=tls, settings=BY_CERTIFICATE | {"smtpd_tls_CAfile": str(certificates.ca_file)})
    options = {"ca_file": str(certificates.ca_file)}
    # Which error it is depends on TLS: by 1.3 the refusal comes after the handshake, in place of a reply.
    with pytest.raises(bulkmail.BulkmailError):
        run(send(server.url, **options))
    assert run(send(server.url, cert_file=str(certificates.client_file), **options)).accepted == [ANN]
    assert len(server.wait_for(1)) == 1
