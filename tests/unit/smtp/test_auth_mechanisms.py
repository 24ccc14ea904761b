"""Each mechanism against the examples of its standard, and against servers that answer something else."""

from __future__ import annotations

import ssl
from base64 import b64decode, b64encode
from contextlib import suppress

import pytest
import trustme

from bulkmail.errors import AuthError, AuthUnavailable, ConfigError
from bulkmail.smtp import auth
from bulkmail.smtp.auth import MECHANISMS, Credentials, choose, next_after
from bulkmail.smtp.auth.binding import channel_binding
from bulkmail.smtp.auth.mechanism import MAX_WORDS, ChannelBinding, Explained, token_trouble
from bulkmail.smtp.auth.saslprep import saslprep
from bulkmail.smtp.auth.scram import MAX_ITERATIONS, MIN_ITERATIONS
from bulkmail.smtp.auth.scram import mechanism as scram


def answers(steps, *challenges):
    """What a mechanism says to each challenge; the first is its initial response. What is to be computed is."""
    said = []
    for challenge in (None, *challenges):
        answer = steps.send(challenge)
        while callable(answer):
            answer = steps.send(answer())
        said.append(answer)
    return said


# ---- PLAIN, LOGIN, CRAM-MD5, EXTERNAL


def test_plain_as_in_rfc_4616_section_4():
    assert answers(MECHANISMS["PLAIN"](Credentials("tim", "tanstaaftanstaaf"))) == [b"\0tim\0tanstaaftanstaaf"]


def test_login_asks_nothing_of_the_prompts():
    steps = MECHANISMS["LOGIN"](Credentials("tim", "päss"))
    assert answers(steps, b"Username:", b"") == [None, b"tim", "päss".encode()]


def test_cram_md5_as_in_rfc_2195_section_2():
    steps = MECHANISMS["CRAM-MD5"](Credentials("tim", "tanstaaftanstaaf"))
    challenge = b64decode("PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+")
    response = b64encode(answers(steps, challenge)[1])
    assert response == b"dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"


@pytest.mark.parametrize("user", ["", "fred@example.com"])
def test_external_names_whom_to_act_as(user):
    assert answers(MECHANISMS["EXTERNAL"](Credentials(user))) == [user.encode()]


# ---- tokens


def test_oauthbearer_as_in_rfc_7628_section_4_1():
    token = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
    steps = MECHANISMS["OAUTHBEARER"](Credentials("user@example.com", "", "server.example.com", 143, token))
    assert b64encode(answers(steps)[0]) == (
        b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52"
        b"YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    )


def test_oauthbearer_refused_as_in_rfc_7628_section_4_3():
    challenge = b64decode(
        "eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIiwic2NvcGUiOiJleGFtcGxlX3Njb3BlIiwib3BlbmlkLWNvbmZpZ3VyYXRpb24iOiJodHRwczovL2V4"
        "YW1wbGUuY29tLy53ZWxsLWtub3duL29wZW5pZC1jb25maWd1cmF0aW9uIn0="
    )
    answer = answers(MECHANISMS["OAUTHBEARER"](Credentials("u", token="t")), challenge)[1]
    assert answer == b"\1" and isinstance(answer, Explained)
    assert answer.text.startswith(
        "status invalid_token, scope example_scope, openid-configuration https://example.com/"
    )


def test_oauthbearer_writes_a_user_as_gs2_wants_it_and_needs_none():
    assert (
        answers(MECHANISMS["OAUTHBEARER"](Credentials("a=b,c", token="t")))[0] == b"n,a=a=3Db=2Cc,\1auth=Bearer t\1\1"
    )
    assert answers(MECHANISMS["OAUTHBEARER"](Credentials("", token="t")))[0] == b"n,,\1auth=Bearer t\1\1"


def test_xoauth2_as_google_documents_it():
    steps = MECHANISMS["XOAUTH2"](
        Credentials("someuser@example.com", token="ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg")
    )
    first, second = answers(
        steps, b64decode("eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIG1hYyIsInNjb3BlIjoiaHR0cHM6Ly9tYWlsIn0K")
    )
    assert b64encode(first) == (
        b"dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0Q2cB"
        b"AQ=="
    )
    assert second == b"" and second.text == "status 401, schemes bearer mac, scope https://mail"


@pytest.mark.parametrize(
    "challenge",
    [b"", b"\xff\xfe", b"[1]", b"[" * 100_000, b'{"status": {"a": ["b"]}}', b'{"x": "\\u001b[2J\\r\\n250 ok"}'],
)
def test_what_a_server_says_of_a_token_is_one_short_printable_line(challenge):
    text = token_trouble(challenge)
    assert len(text) <= MAX_WORDS + 1 and (text.isprintable())


# ---- SCRAM

PASSWORD = Credentials("user", "pencil")
RFC_7677 = dict(
    client_nonce="rOprNGfwEbeRWgbNEkqO",
    server_first=b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    client_final=b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    server_final=b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
)  # fmt: skip
RFC_5802 = dict(
    client_nonce="fyko+d2lbbFgONRv9qkxdawL",
    server_first=b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
    client_final=b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
    server_final=b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
)


@pytest.mark.parametrize(("hash_name", "example"), [("sha256", RFC_7677), ("sha1", RFC_5802)])
def test_scram_as_in_its_rfcs(hash_name, example):
    steps = scram(hash_name, plus=False, nonce=lambda: example["client_nonce"])(PASSWORD)
    first, final, last = answers(steps, example["server_first"], example["server_final"])
    assert first == b"n,,n=user,r=" + example["client_nonce"].encode()
    assert final == example["client_final"] and last == b""
    steps.close()  # the server accepts, and has proved itself


@pytest.fixture(autouse=True)
def no_generator_is_left():
    """One that is dropped while it waits for a proof complains, as it should."""
    yield
    for steps in BEGUN:
        with suppress(AuthError):
            steps.close()
    BEGUN.clear()


BEGUN = []


def begun(nonce="rOprNGfwEbeRWgbNEkqO", credentials=PASSWORD, plus=False):
    BEGUN.append(scram("sha256", plus=plus, nonce=lambda: nonce)(credentials))
    return BEGUN[-1]


OURS = RFC_7677["client_nonce"].encode()


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"r=" + OURS + b"x",
        b"r=" + OURS + b"x,s=QSXCR+Q6sek8bf92",
        b"r=" + OURS + b"x,i=4096,s=QSXCR+Q6sek8bf92",
        b"r=" + OURS + b"x,s=,i=4096",
        b"r=" + OURS + b"x,s=QSX,i=4096",
        b"r=" + OURS + b"x,s=Q!,i=4096",
        b"r=" + OURS + b"x,s=QSXCR+Q6sek8bf92,i=-1",
        b"r=" + OURS + b"x,s=QSXCR+Q6sek8bf92,i=04096",
        b"r=" + OURS + b"x,s=QSXCR+Q6sek8bf92,i=" + b"9" * 5000,
        b"r=" + OURS + "x,s=QSXCR+Q6sek8bf92,i=٤٠٩٦".encode(),
        b"r=" + OURS + "é,s=QSXCR+Q6sek8bf92,i=4096".encode(),
        b"m=must,r=" + OURS + b"x,s=QSXCR+Q6sek8bf92,i=4096",
        b"e=other-error",
    ],
)
def test_a_server_first_message_that_is_malformed(challenge):
    with pytest.raises(AuthError, match="malformed") as caught:
        answers(begun(), challenge)
    assert caught.value.permanent and len(str(caught.value)) < 2 * MAX_WORDS


@pytest.mark.parametrize("nonce", [OURS, OURS[:-1] + b"yz", b"other", OURS.lower() + b"x"])
def test_a_nonce_that_does_not_begin_with_ours_or_adds_nothing(nonce):
    with pytest.raises(AuthError, match="nonce"):
        answers(begun(), b"r=" + nonce + b",s=QSXCR+Q6sek8bf92,i=4096")


@pytest.mark.parametrize("iterations", [1, MIN_ITERATIONS - 1, MAX_ITERATIONS + 1, 4_294_967_295])
def test_too_few_iterations_help_a_thief_and_too_many_would_stall_us(iterations):
    with pytest.raises(AuthError, match=f"asks for {iterations} iterations"):
        answers(begun(), b"r=%sx,s=QSXCR+Q6sek8bf92,i=%d" % (OURS, iterations))


@pytest.mark.parametrize(
    "final",
    [
        b"",
        b"v=",
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=",
        RFC_7677["server_final"][:-2],
        RFC_7677["server_final"] + b"=",
        b"x" + RFC_7677["server_final"],
        b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        b"\xff",
    ],
)
def test_a_server_that_cannot_prove_that_it_knows_the_password(final):
    with pytest.raises(AuthError, match="did not prove") as caught:
        answers(begun(), RFC_7677["server_first"], final)
    assert caught.value.permanent


@pytest.mark.parametrize("challenges", [[RFC_7677["server_first"]], [RFC_7677["server_first"], b"e=invalid-proof"]])
def test_a_server_that_accepts_without_its_proof(challenges):
    steps = begun()
    answers(steps, *challenges)
    with pytest.raises(AuthError, match="did not prove"):
        steps.close()  # what the dialogue does at a 235


def test_an_error_that_the_server_names_is_told_with_what_helps():
    said = answers(begun(), RFC_7677["server_first"], b"e=invalid-proof")[2]
    assert said == b"" and said.text == "invalid-proof"
    binding = ChannelBinding("tls-unique", b"data")
    plus = begun(credentials=Credentials("user", "pencil", binding=binding), plus=True)
    said = answers(plus, RFC_7677["server_first"], b"e=unsupported-channel-binding-type")[2]
    assert "auth=scram-sha-256" in said.text


def test_extensions_behind_what_we_know_are_passed_over():
    steps = begun()
    first = RFC_7677["server_first"] + b",x=new"
    assert answers(steps, first)[1].startswith(b"c=biws,r=")


def test_every_login_has_another_nonce():
    firsts = {answers(MECHANISMS["SCRAM-SHA-256"](PASSWORD))[0] for _ in range(10)}
    assert len(firsts) == 10 and all(len(first) > len(b"n,,n=user,r=") + 20 for first in firsts)


def test_the_user_is_escaped():
    assert answers(begun(credentials=Credentials("a=b,c", "x")))[0].startswith(b"n,,n=a=3Db=2Cc,r=")


@pytest.mark.parametrize(
    ("binding", "offered", "header"),
    [
        (None, ("SCRAM-SHA-256",), b"n,,"),
        (ChannelBinding("tls-unique", b"x"), ("SCRAM-SHA-256",), b"y,,"),
        (ChannelBinding("tls-unique", b"x"), ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"), b"n,,"),
    ],
)
def test_the_server_is_told_whether_a_binding_was_possible(binding, offered, header):
    steps = begun(credentials=Credentials("user", "pencil", binding=binding, offered=offered))
    assert answers(steps)[0].startswith(header + b"n=user")


def test_plus_binds_the_connection():
    binding = ChannelBinding("tls-server-end-point", b"\1\2\3")
    first, final = answers(
        begun(credentials=Credentials("user", "pencil", binding=binding), plus=True), RFC_7677["server_first"]
    )
    assert first.startswith(b"p=tls-server-end-point,,n=user")
    assert b64decode(final.split(b",")[0][2:]) == b"p=tls-server-end-point,,\1\2\3"


def test_plus_without_tls_is_unavailable():
    with pytest.raises(AuthUnavailable, match="needs TLS"):
        next(begun(plus=True))


# ---- SASLprep (RFC 4013 section 3)


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u0627b\u0627"[0] + "1\u0627", "\u06271\u0627"),
    ],
)
def test_saslprep_as_in_its_examples(text, prepared):
    assert saslprep(text, "password") == prepared


@pytest.mark.parametrize("text", ["\u0007", "\u06271", "\ufffd", "\ud800", "a\u200eb", "\u00ad", "", "\u0627b\u0627"])
def test_what_scram_cannot_carry_is_unavailable_and_not_shown(text):
    with pytest.raises(AuthUnavailable) as caught:
        saslprep(text, "password")
    assert "the password" in str(caught.value) and (not text or text not in str(caught.value))


# ---- channel binding


def handshake(version, key_type=trustme.KeyType.ECDSA):
    """A client's ssl object and a server's after a handshake in memory."""
    authority = trustme.CA(key_type=key_type)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("mx.example.test", key_type=key_type).configure_cert(server)
    authority.configure_trust(client)
    server.maximum_version = version
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(up, down, server_side=True)
    ours = client.wrap_bio(down, up, server_hostname="mx.example.test")
    for _ in range(4):
        for side in (ours, theirs):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return ours, theirs


def test_tls_1_2_has_the_binding_that_every_scram_server_knows():
    ours, theirs = handshake(ssl.TLSVersion.TLSv1_2)
    assert channel_binding(ours) == ChannelBinding("tls-unique", theirs.get_channel_binding("tls-unique"))


@pytest.mark.parametrize("key_type", [trustme.KeyType.ECDSA, trustme.KeyType.RSA])
def test_tls_1_3_is_bound_to_the_certificate(key_type):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    ours, _ = handshake(ssl.TLSVersion.TLSv1_3, key_type)
    certificate = x509.load_der_x509_certificate(ours.getpeercert(True))
    assert certificate.signature_hash_algorithm.name == "sha256"
    assert channel_binding(ours) == ChannelBinding("tls-server-end-point", certificate.fingerprint(hashes.SHA256()))


class FakeTls:
    def __init__(self, certificate):
        self.certificate = certificate

    def version(self):
        return "TLSv1.3"

    def getpeercert(self, binary):
        return self.certificate


@pytest.mark.parametrize(
    "certificate", [None, b"", b"\x30", b"\x30\x82", b"\x30\x03\x30\x01\x00", b"\x30\x80" * 9, b"\xff" * 50]
)
def test_a_certificate_that_is_none_has_no_binding(certificate):
    assert channel_binding(FakeTls(certificate)) is None


def test_without_tls_there_is_no_binding():
    assert channel_binding(None) is None


# ---- which


ALL = tuple(MECHANISMS)


def chosen(wanted="auto", offered=ALL, user="ann", **known):
    return choose(wanted, offered, user=user, **{"token": False, "confidence": True, "bound": False, **known})


def test_in_confidence_the_way_that_every_server_can_check_comes_first():
    assert chosen()[:3] == ["PLAIN", "LOGIN", "SCRAM-SHA-256"]
    assert chosen(offered=("CRAM-MD5", "LOGIN")) == ["LOGIN", "CRAM-MD5"]


def test_among_strangers_the_password_is_not_shown_while_there_is_another_way():
    found = chosen(confidence=False, bound=True)
    assert found[0] == "SCRAM-SHA-256-PLUS" and found[-2:] == ["PLAIN", "LOGIN"]
    assert chosen(confidence=False)[0] == "SCRAM-SHA-256"


def test_a_token_goes_into_no_other_mechanism():
    assert chosen(token=True) == ["OAUTHBEARER", "XOAUTH2"]
    assert chosen(token=True, user="") == ["OAUTHBEARER"]
    with pytest.raises(AuthUnavailable, match="a token was given"):
        chosen(token=True, offered=("PLAIN", "LOGIN"))


def test_external_is_never_chosen_by_itself():
    with pytest.raises(AuthUnavailable):
        chosen(offered=("EXTERNAL",))


def test_what_is_asked_for_is_used_or_unavailable():
    assert chosen("cram-md5") == ["CRAM-MD5"]
    with pytest.raises(AuthUnavailable, match=r"does not offer AUTH XOAUTH2 \(it offers: PLAIN"):
        chosen("xoauth2", ("PLAIN",))


def test_after_a_refused_mechanism():
    assert next_after("PLAIN", 504, ["LOGIN", "CRAM-MD5"]) == ["LOGIN", "CRAM-MD5"]
    assert next_after("PLAIN", 534, ["LOGIN", "CRAM-MD5"]) == ["CRAM-MD5"]  # LOGIN is as weak
    assert next_after("CRAM-MD5", 534, ["PLAIN"]) == []
    assert next_after("PLAIN", 535, ["LOGIN", "CRAM-MD5"]) == []


def test_registering_makes_a_name_usable(monkeypatch):
    from bulkmail import loginoptions
    from bulkmail.url import parse_endpoint

    monkeypatch.setattr(auth, "MECHANISMS", dict(MECHANISMS))
    monkeypatch.setattr(loginoptions, "registered", set())
    with pytest.raises(ConfigError, match="register_auth"):
        parse_endpoint("smtp://relay", auth="x-test")
    auth.register_auth("X-Test", MECHANISMS["PLAIN"])
    assert parse_endpoint("smtp://relay?auth=X-TEST").options.auth == "x-test"
