"""The tree of errors: which builtin each is too, what every one carries, and that it is raised as it was made."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bulkmail
from bulkmail import errors
from bulkmail.wire.reply import Reply

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.BulkmailError)]
OF_A_PEER = [kind for kind in ALL if not issubclass(kind, errors.ConfigError)]
ALSO = {
    ConnectionError: "ResolveError ConnectError ConnectionLost InDoubt TlsError ProxyError",
    TimeoutError: "TimedOut",
    ValueError: "ConfigError ManifestError MessageError",
}


@given(kind=st.sampled_from(ALL), text=st.text())
def test_the_text_is_the_one_that_was_given(kind, text):
    error = kind(text)
    assert isinstance(error, bulkmail.BulkmailError) and str(error) == text and error.reply is None
    assert error.scope in ("recipient", "message", "connection", "relay", "job") and error.code.startswith("E")


@given(kind=st.sampled_from(OF_A_PEER), code=st.integers(200, 599), words=st.text("aä1 ", max_size=50))
def test_a_reply_decides_whether_it_is_permanent(kind, code, words):
    reply = Reply(code, [words])
    error = kind("x", reply=reply, command="MAIL")
    assert (error.reply, error.command, error.permanent) == (reply, "MAIL", code >= 500)


@pytest.mark.parametrize("builtin", ALSO)
def test_the_builtin_that_people_expect(builtin):
    assert {kind.__name__ for kind in ALL if issubclass(kind, builtin)} == set(ALSO[builtin].split())


def test_every_error_is_public_and_has_a_code_of_its_own():
    for kind in ALL:
        assert getattr(bulkmail, kind.__name__) is kind
    assert len({kind.code for kind in ALL}) == len(ALL)


def test_a_rejected_recipient_has_address_reply_and_error():
    reply = Reply(550, ["5.1.1 no"])
    rejected = bulkmail.Rejected("ann@example.test", reply, errors.EnvelopeRefused("no", reply=reply))
    assert (rejected.address, rejected.reply.code, rejected.error.permanent) == ("ann@example.test", 550, True)


@pytest.mark.parametrize("kind", ALL)
def test_an_error_crosses_to_another_process(kind):
    error = pickle.loads(pickle.dumps(kind("some words")))
    assert type(error) is kind and str(error) == "some words"
