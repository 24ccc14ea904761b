"""What compose() sends decodes to what Jinja2 and the standard library's `email` make of the same template and row."""

from email import message_from_bytes
from email.header import decode_header, make_header
from email.policy import SMTP
from email.utils import getaddresses

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bulkmail.errors import MessageError
from bulkmail.message.compile import compile_message
from bulkmail.message.spec import AttachmentSpec, ListUnsubscribe, MessageSpec

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"

SPECIAL = st.sampled_from(
    [
        "&",
        "<b>",
        "'",
        '"',
        "=",
        "=3D",
        ".",
        "..",
        ". ",
        " ",
        "  ",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\n.\n",
        " \n",
        "é",
        "田",
        "🙂",
        "=?utf-8?q?x?=",
        "x" * 80,
        "é" * 40,
        "a b " * 30,
        "\x0b",
        "\x0c",
        "\x1c",
        "\x85",
        "\u2028",
        "\x7f",
        "From ",
        "{{",
        "a@b",
    ]
)
TEXTS = st.lists(
    SPECIAL | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12), max_size=6
)
VALUES = TEXTS.map("".join)
# What reaches a header has no line break in these tests: that fails the recipient, which others test.
HEADER_VALUES = VALUES.map(lambda text: "".join(c for c in text if c not in "\r\n"))
SCALARS = st.one_of(
    st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False), st.lists(st.text(max_size=3), max_size=2)
)

# Pieces that templates are made of; the names are a, b (text), n (anything), flag.
CHUNKS = st.sampled_from(
    [
        "{{ a }}",
        "{{ b }}",
        "{{ n }}",
        "{{ a|upper }}",
        "{{ b|e }}",
        "{{ a|safe }}",
        "{{ gone|default('x<y') }}",
        "{{ a ~ b }}",
        "{{ a|default('none', true) }}",
        "{% if flag %}{{ a }}{% else %}.{{ b }}{% endif %}",
        "{{ 'lit<' }}",
        "{{ 3 }}",
        "{% if a == 'x' %}\n.{% elif not flag %}y{% endif %}",
        "{% for c in b %}{{ c }}{% endfor %}",
        "{# nothing #}",
        "{% for i in range(3) %}{{ loop.index }}{{ a }}{% endfor %}",
        "{% if gone is defined %}{{ gone }}{% endif %}",
        "{% if n and flag %}&amp;{% endif %}",
        "{{ b|default(a) }}",
        "\n",
        "\n\n",
        " \n",
        ".",
        "\n.",
        "plain ",
        "<p>",
        "=",
        "é",
        "x" * 75,
        "y" * 30,
        "word " * 20,
        "\t",
        "田中",
    ]
)
WHOLE = st.sampled_from(
    ["", "", "", "{% set g = a ~ '!' %}{{ g }}", "{% macro m(v) %}[{{ v }}]{% endmacro %}{{ m(b) }}"]
)
BODIES = st.tuples(WHOLE, st.lists(CHUNKS, max_size=12)).map(lambda pair: pair[0] + "".join(pair[1]))
HEADER_CHUNKS = st.lists(
    st.sampled_from(
        ["{{ h }}", "{{ k }}", "{% if flag %}{{ h }}{% endif %}", " ", "Hello ", "ü", "=?", "x" * 40, "{{ k|upper }}"]
    ),
    max_size=6,
).map("".join)
ROWS = st.fixed_dictionaries(
    {"a": VALUES, "b": VALUES, "n": SCALARS | VALUES, "flag": st.booleans(), "h": HEADER_VALUES, "k": HEADER_VALUES}
)


def text_parts(message):
    return [
        (part.get_content_type(), part.get_payload(decode=True).decode(part.get_content_charset()))
        for part in message.walk()
        if part.get_content_maintype() == "text"
    ]


def unwrapped(body):
    """The content that a server stores: the final dot and the escapes taken back, after the form is checked."""
    assert body.endswith(b"\r\n.\r\n")
    lines = body[:-3].split(b"\r\n")
    assert not any(b"\n" in line or b"\r" in line for line in lines)
    assert not any(line.startswith(b".") and not line.startswith(b"..") for line in lines)
    return b"\r\n".join(line[1:] if line.startswith(b"..") else line for line in lines)


def composed(compiled, row):
    (made,) = compiled.compose([row], [7], DATE)
    if isinstance(made, MessageError):
        return made
    return message_from_bytes(unwrapped(made[2]), policy=SMTP)


def rendered(compiled, row):
    try:
        return compiled.render(row, 7, DATE)
    except MessageError as error:
        return error


@settings(max_examples=150, deadline=None)
@given(text=BODIES, html=BODIES, row=ROWS)
@example(text="{{ a }}\n.{{ b }}", html="{{ a }}", row={"a": "x ", "b": "", "n": 1, "flag": True, "h": "", "k": ""})
def test_bodies_are_what_the_reference_renders(text, html, row):
    row["email"] = "ann@example.net"
    compiled = compile_message(MessageSpec(from_="n@example.com", text=text, html=html), job="j")
    quick, slow = composed(compiled, row), rendered(compiled, row)
    if isinstance(slow, MessageError):
        assert isinstance(quick, MessageError)
        return
    expected = [("text/plain", slow.text.replace("\n", "\r\n")), ("text/html", slow.html.replace("\n", "\r\n"))]
    assert text_parts(quick) == expected
    assert text_parts(message_from_bytes(slow.eml, policy=SMTP)) == expected


@settings(max_examples=150, deadline=None)
@given(body=BODIES, row=ROWS)
def test_encoded_lines_are_short_and_end_in_no_blank(body, row):
    row["email"] = "ann@example.net"
    compiled = compile_message(MessageSpec(from_="n@example.com", html=body), job="j")
    (made,) = compiled.compose([row], [1], DATE)
    if isinstance(made, MessageError):
        return
    for line in made[2].partition(b"\r\n\r\n")[2].split(b"\r\n"):
        assert len(line) <= 76 or ("{" not in body and len(line) <= 78 + line.startswith(b"."))
        assert not line.endswith((b" ", b"\t"))
        assert line == b"." or not line.startswith(b".") or line.startswith(b"..")
        assert line.isascii()


@settings(max_examples=150, deadline=None)
@given(subject=HEADER_CHUNKS, custom=HEADER_CHUNKS, row=ROWS)
def test_text_headers_are_what_the_template_says(subject, custom, row):
    row["email"] = "ann@example.net"
    spec = MessageSpec(from_="n@example.com", text="t", subject=subject, headers={"X-Custom-Header": custom})
    compiled = compile_message(spec, job="j")
    quick = composed(compiled, row)
    assert not isinstance(quick, MessageError)
    for name, template in (("Subject", subject), ("X-Custom-Header", custom)):
        expected = compile_message(MessageSpec(from_="n@example.com", text=template), job="j").render(row, 1, DATE).text
        assert str(quick[name]) == expected.removesuffix("\n").strip(" \t")


@settings(max_examples=150, deadline=None)
@given(
    name=HEADER_VALUES,
    to=st.sampled_from(["{{ h }} <{{ email }}>", '"{{ h }}" <{{ email }}>', '"a, {{ h }}" <{{ email }}>']),
)
@example(name="x <evil@example.org>, Ann", to="{{ h }} <{{ email }}>")
@example(name='"', to="{{ h }} <{{ email }}>")
@example(name="\\", to="{{ h }} <{{ email }}>")
@example(name="\t", to="{{ h }} <{{ email }}>")
@example(name="", to="{{ h }} <{{ email }}>")
def test_a_name_stays_a_name_whatever_it_holds(name, to):
    row = {"email": "ann@example.net", "h": name}
    compiled = compile_message(MessageSpec(from_="n@example.com", to=to, text="t"), job="j")
    ((_, _, body),) = compiled.compose([row], [7], DATE)
    (found,) = getaddresses(message_from_bytes(body).get_all("To"))
    expected = ("a, " + name if "a, " in to else name).strip(" \t")
    # The newer policies put a blank between the encoded-words of a name (RFC 2047 section 6.2 has none).
    assert (str(make_header(decode_header(found[0]))), found[1]) == (expected, "ann@example.net")


@settings(max_examples=100, deadline=None)
@given(value=HEADER_VALUES)
def test_an_unsubscribe_address_stays_one_uri(value):
    spec = MessageSpec(
        from_="n@example.com",
        text="t",
        list_unsubscribe=ListUnsubscribe("https://example.com/u/{{ h }}", "u@example.com?subject={{ h }}"),
    )
    compiled = compile_message(spec, job="j")
    quick, slow = (
        composed(compiled, {"email": "a@example.net", "h": value}),
        rendered(compiled, {"email": "a@example.net", "h": value}),
    )
    if isinstance(quick, MessageError):
        assert "URI of" in str(quick)
        return
    first, second = (
        str(quick["List-Unsubscribe"]).replace("\r\n", "").split(", " if ", " in quick["List-Unsubscribe"] else ",")
    )
    assert first.startswith("<https://example.com/u/") and second.lstrip().startswith("<mailto:u@example.com?subject=")
    for uri in (first, second.strip()):
        assert uri.count("<") == uri.count(">") == 1 and uri.endswith(">") and " " not in uri
    assert str(message_from_bytes(slow.eml, policy=SMTP)["List-Unsubscribe"]).replace(" ", "") == str(
        quick["List-Unsubscribe"]
    ).replace(" ", "")


def test_the_whole_message_equals_the_reference_with_everything_in_it():
    spec = MessageSpec(
        from_="Exämple News <news@example.com>",
        sender="robot@example.com",
        reply_to='help@example.com, "Doe, Jane" <jane@example.com>',
        to="{{ name }} <{{ email }}>",
        subject="Grüße, {{ name }}",
        text="Hi {{ name }}\n.\n",
        html="<p>{{ name }}</p>{% if vip %}<img src='cid:logo'>{% endif %}",
        headers={"X-Campaign": "november"},
        list_unsubscribe=ListUnsubscribe("https://example.com/u/{{ id }}", "u@example.com", True),
        list_id="Example News <news.example.com>",
        feedback_id="november:example",
        attachments=(
            AttachmentSpec(content=b"\x89PNG", name="logo.png", cid="logo"),
            AttachmentSpec(content="näh", name="nötes.txt"),
        ),
    )
    compiled = compile_message(spec, job="j")
    row = {"email": "ann@example.net", "name": "Ann O'Hara & Söhne", "vip": True, "id": 42}
    quick = composed(compiled, row)
    slow = message_from_bytes(compiled.render(row, 7, DATE).eml, policy=SMTP)
    for name in {*quick.keys(), *slow.keys()} - {"Content-Type"}:
        assert [str(value) for value in quick.get_all(name)] == [str(value) for value in slow.get_all(name)], name
    shapes = [
        [
            (part.get_content_type(), part.get("Content-ID"), part.get_filename(), part.get_payload(decode=True))
            for part in m.walk()
        ]
        for m in (quick, slow)
    ]
    assert shapes[0] == shapes[1]
