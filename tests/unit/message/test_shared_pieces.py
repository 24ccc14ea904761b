"""What is large and the same for everybody is encoded once and held once, whatever else is each recipient's own."""

import json
import tracemalloc
from email import message_from_bytes
from email.policy import SMTP

from bulkmail.job.job import Job
from bulkmail.message.attach import load_attachment
from bulkmail.message.compile import compile_message
from bulkmail.message.dkim import Dkim
from bulkmail.message.raw import from_wire
from bulkmail.message.spec import AttachmentSpec, MessageSpec
from unit.message.dkim_corpus import ed25519_key

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
LARGE = bytes(range(256)) * 400
ROWS = [{"email": f"u{n}@example.net", "name": f"Name {n}"} for n in range(3)]


def composed(*attachments, **fields):
    given = {"from_": "News <news@example.com>", "text": "Hi {{ name }}", "attachments": attachments, **fields}
    compiled = compile_message(MessageSpec(**given), job="job")
    return compiled, compiled.compose(ROWS, [1, 2, 3], DATE)


def large_ones(body):
    return [piece for piece in body if len(piece) > len(LARGE)]


def test_copies_share_a_large_attachment():
    _, made = composed(AttachmentSpec(content=LARGE, name="a.bin"))
    first, *others = [body for _, _, body in made]
    assert len(large_ones(first)) == 1
    assert all(large_ones(body)[0] is large_ones(first)[0] for body in others)


def test_the_pieces_are_one_message():
    compiled, made = composed(
        AttachmentSpec(content=LARGE, name="a.bin"),
        AttachmentSpec(content=b"small", name="b.bin"),
        html="<p>{{ name }}",
    )
    for number, (_, _, body) in enumerate(made):
        assert all(piece.endswith(b"\r\n") for piece in body)
        message = message_from_bytes(b"".join(body).removesuffix(b".\r\n"), policy=SMTP)
        text, html = message.get_body(("plain",)), message.get_body(("html",))
        assert (text.get_content(), html.get_content()) == (f"Hi Name {number}\r\n", f"<p>Name {number}\r\n")
        assert [part.get_content() for part in message.iter_attachments()] == [LARGE, b"small"]
        assert from_wire(compiled.signed_copy(ROWS[number], number + 1, DATE)[1]) == b"".join(body).removesuffix(
            b".\r\n"
        )


def test_a_large_ready_message_is_shared_though_each_has_a_sender_of_its_own():
    raw = b"From: a@example.com\r\n\r\n" + b"x" * 70_000 + b"\r\n"
    _, made = composed(
        raw=raw, from_=None, text=None, attachments=(), envelope_from="bounce+{{ name[-1] }}@example.com"
    )
    assert [sender for sender, _, _ in made] == [b"bounce+%d@example.com" % n for n in range(3)]
    assert all(body[0] is made[0][2][0] and b"".join(body) == raw + b".\r\n" for _, _, body in made)


def test_small_ones_are_copied_into_one_piece():
    _, made = composed(AttachmentSpec(content=b"x" * 700, name="a.bin"))
    assert all(type(body) is bytes for _, _, body in made)


def test_of_many_small_stretches_only_some_are_pieces_and_what_is_large_is_one_all_the_same():
    """One call to the kernel takes a bounded number of pieces (csrc/gather.h)."""
    stretch = "".join(f"line {n} of what is the same for all\n" for n in range(50))
    text = "".join(f"{{{{ name }}}} has {n}\n{stretch}" for n in range(100))
    compiled, made = composed(AttachmentSpec(content=LARGE, name="a.bin"), text=text)
    for number, (_, _, body) in enumerate(made):
        assert 40 < len(body) <= 60 and len(large_ones(body)) == 2  # what is copied of the text is large too
        message = message_from_bytes(from_wire(body), policy=SMTP)
        rendered = compiled.render(ROWS[number], number + 1, DATE).text
        assert message.get_body().get_content() == rendered.replace("\n", "\r\n")


def test_a_message_that_is_the_same_for_everybody_is_in_pieces_too():
    compiled = compile_message(
        MessageSpec(from_="n@example.com", text=".x\n", attachments=(AttachmentSpec(content=LARGE, name="a.bin"),)),
        job="job",
    )
    first, second = (compiled.compose_shared(DATE)[1] for _ in "12")
    assert large_ones(first)[0] is large_ones(second)[0] and all(piece.endswith(b"\r\n") for piece in first)
    whole = message_from_bytes(b"".join(first).removesuffix(b".\r\n").replace(b"\n..x", b"\n.x"), policy=SMTP)
    text, attached = whole.iter_parts()
    assert (text.get_content(), attached.get_content()) == (".x\r\n", LARGE)


def test_a_large_file_is_held_once_and_only_encoded(tmp_path):
    size = 8_000_000
    (tmp_path / "a.bin").write_bytes(bytes(256) * (size // 256))
    path = tmp_path / "news.json"
    content = {"from": "n@example.com", "to": "{{ email }}", "text": "t", "attachments": [{"file": "a.bin"}]}
    path.write_text(json.dumps({"message": content, "recipients": ["a@example.net"], "relays": "smtp://h.example"}))
    Job.load(path, environ={})  # what it imports is not counted
    tracemalloc.start()
    try:
        job = Job.load(path, environ={})
        made = job.compiled.compose(ROWS * 10, list(range(30)), DATE)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        load_attachment(AttachmentSpec(file=tmp_path / "a.bin"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(made) == 30 and held < 1.45 * size  # base64 with its line ends is 1.37 times as long
    assert peak < held + 2.5 * size


def test_a_long_stretch_of_a_text_is_held_once_and_what_is_around_it_is_each_recipients_own():
    """Whole lines of it: the values before and behind may make their lines longer or shorter."""
    stretch = "".join(f"line {n} = of what is the same for all\n.dots begin this one\n" for n in range(400))
    text = "Dear {{ name }}, " + stretch + "and you, {{ name }}, too"
    compiled, made = composed(text=text, html="<p>{{ name }}" + stretch)
    first, *others = [body for _, _, body in made]
    large = [place for place, piece in enumerate(first) if len(piece) > 8 << 10]
    assert len(large) == 2
    assert all(body[place] is first[place] for body in others for place in large)
    assert all(sum(map(len, body)) - sum(len(body[place]) for place in large) < 2000 for body in others)
    for number, (_, _, body) in enumerate(made):
        assert all(piece.endswith(b"\r\n") for piece in body)
        message = message_from_bytes(from_wire(body), policy=SMTP)
        rendered = compiled.render(ROWS[number], number + 1, DATE)
        for kind, expected in (("plain", rendered.text), ("html", rendered.html)):
            assert message.get_body((kind,)).get_content().rstrip() == expected.replace("\n", "\r\n").rstrip()


def test_a_message_that_is_signed_is_in_as_few_pieces_as_can_be():
    stretch = "".join(f"line {n} of what is the same for all\n" for n in range(100))
    text = f"Dear {{{{ name }}}}, {stretch} and you, {{{{ name }}}}"
    _, made = composed(text=text)
    assert all(len(body) == 3 for _, _, body in made)
    _, made = composed(text=text, dkim=(Dkim("example.com", "s", key=ed25519_key()),))
    assert all(type(body) is bytes for _, _, body in made)
