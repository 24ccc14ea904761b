"""A body in pieces, of which messages share the large ones: the server cannot tell it from one that is whole."""

from hypothesis import given
from hypothesis import strategies as st

from bulkmail.wire.body import encode_message
from bulkmail.wire.client import Client
from bulkmail.wire.transaction import DONE, Transaction

OK_ENVELOPE = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 go\r\n"
QUEUED = b"250 2.0.0 queued as 1\r\n"

lines = st.lists(
    st.sampled_from([b"", b".", b"..x", b"text", b"a.b", b"longer text of a line"]), min_size=1, max_size=8
)


def cut(wire, places):
    """The body as a tuple that is cut before the lines at `places`."""
    pieces, rows = [b""], wire.splitlines(keepends=True)
    for number, row in enumerate(rows):
        if number in places and pieces[-1]:
            pieces.append(b"")
        pieces[-1] += row
    return tuple(pieces)


def sent(body, chunking):
    """Everything that a client writes for one message with this body."""
    client = Client(True, chunking=chunking)
    tx = Transaction(b"a@example.test", [b"b@example.test"], body)
    client.push(tx, 0.0)
    written = [client.take_output()]
    client.feed(OK_ENVELOPE.replace(b"354", b"250") if chunking else OK_ENVELOPE, 1.0)
    if not chunking:
        written.append(client.take_output())
        client.feed(QUEUED, 2.0)
    assert tx.state == DONE and tx.reply.code == 250
    return b"".join(b"".join(piece) if isinstance(piece, list) else piece for piece in written if piece is not None)


@given(lines, st.sets(st.integers(0, 9)), st.booleans())
def test_however_it_is_cut_the_same_bytes_are_written(text, places, chunking):
    whole = encode_message(b"\r\n".join(text) + b"\r\n")
    assert sent(cut(whole, places), chunking) == sent(whole, chunking)


def test_its_size_is_that_of_all_pieces():
    tx = Transaction(b"", [b"b@example.test"], (b"Subject: x\r\n\r\n", b"x" * 100 + b"\r\n", b".\r\n"))
    assert tx.body_size == 14 + 102 + 3
    assert Transaction(b"", [b"b@example.test"], b"x\r\n.\r\n").body_size == 6
    assert Transaction(b"", [b"b@example.test"]).body_size == 0
