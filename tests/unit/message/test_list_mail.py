"""List mail: its fields, and the recipient's own unsubscribe URL in header and text, signed or not."""

import re
import sys
from email import message_from_bytes
from email.policy import SMTP
from subprocess import run

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bulkmail.errors import ConfigError, MessageError
from bulkmail.message import ListLink, ListUnsubscribe, Message, MessageSpec
from bulkmail.message.compile import CompileError, compile_message
from bulkmail.unsubscribe import sign_url, verify_url

DATE = b"Sun, 01 Nov 2026 08:00:00 +0000"
KEY = "k3y-of-the-newsletter-department"
URL = "https://example.com/u/{{ id }}?list=news"


def compiled(defaults=None, **fields):
    given = {"from_": "News <news@example.com>", "text": "Hi"}
    return compile_message(MessageSpec(**{**given, **fields}), job="job", defaults=defaults)


def one(message, **row):
    (made,) = message.compose([{"email": "ann@example.net", **row}], [1], DATE)
    return made


def parsed(made):
    assert not isinstance(made, MessageError), made
    return message_from_bytes(made[2].removesuffix(b".\r\n"), policy=SMTP)


def signed(url):
    return sign_url(url, KEY)


def header_url(message):
    return re.fullmatch(r"<([^>]*)>(?:, *<mailto:.*>)?", " ".join(message["List-Unsubscribe"].split()))[1]


def by_the_reference(message, **row):
    return message_from_bytes(message.render({"email": "ann@example.net", **row}, 1, DATE).eml, policy=SMTP)


# ---- the name in templates

PLACES = [
    "{{ unsubscribe_url }}",
    "{{ unsubscribe_url | upper | lower }}",
    "{% if unsubscribe_url %}{{ unsubscribe_url }}{% endif %}",
    "{% if unsubscribe_url is defined %}{{ unsubscribe_url }}{% endif %}",
    "{% if 'https' in unsubscribe_url %}{{ unsubscribe_url }}{% endif %}",
    "{% for x in [unsubscribe_url] %}{{ x }}{% endfor %}",
    "{% set u = unsubscribe_url %}{{ u }}",
    "{{ unsubscribe_url | default('nowhere') }}",
]


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("place", PLACES)
def test_the_url_in_header_text_and_html_is_the_same(place, key):
    message = compiled(
        list_unsubscribe=ListUnsubscribe(URL + "&x=1", "u@example.com", True, key),
        text=place + "\n",
        html=f'<a href="{place}">out</a>\n',
    )
    plain = "https://example.com/u/17?list=news&x=1"
    expected = signed(plain) if key else plain
    for found in (parsed(one(message, id=17)), by_the_reference(message, id=17)):
        text, html = (part.get_content().replace("\r\n", "\n") for part in found.iter_parts())
        lower = expected.lower() if "lower" in place else expected
        assert header_url(found) == expected
        assert text == lower + "\n"
        assert html == f'<a href="{lower.replace("&", "&amp;")}">out</a>\n'
        assert found["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    rendered = message.render({"email": "ann@example.net", "id": 17}, 1, DATE)
    assert rendered.text == lower + "\n"


def test_each_recipient_has_a_url_of_their_own_and_no_others():
    message = compiled(list_unsubscribe=ListUnsubscribe(URL, None, True, KEY), text="{{ unsubscribe_url }}")
    rows = [{"email": "a@example.net", "id": number} for number in range(20)]
    urls = [header_url(parsed(made)) for made in message.compose(rows, list(range(20)), DATE)]
    assert len(set(urls)) == 20 and all(verify_url(url, KEY) for url in urls)
    assert not verify_url(urls[3].replace("/u/3?", "/u/4?"), KEY)
    assert "unsubscribe_url" not in rows[0]


def test_recipients_need_the_urls_fields_and_not_the_name_itself():
    message = compiled(
        list_unsubscribe=ListUnsubscribe(URL, key=KEY), html="{{ unsubscribe_url }} {{ name }}", subject="{{ name }}"
    )
    assert message.fields == message.names == {"id", "name"}
    assert "unsubscribe_url" not in message.places
    assert message.header_fields == {"email", "id", "name"}
    assert "'id' is undefined" in str(one(message, name="x"))


def test_a_field_of_that_name_is_what_the_url_is_made_of_and_nothing_else():
    message = compiled(
        list_unsubscribe=ListUnsubscribe("{{ unsubscribe_url }}", None, True, KEY), text="{{ unsubscribe_url }}"
    )
    assert message.fields == {"unsubscribe_url"}
    own = "https://example.org/own?r=1"
    assert parsed(one(message, unsubscribe_url=own)).get_content().strip() == signed(own)
    other = compiled(list_unsubscribe=ListUnsubscribe(URL), text="{{ unsubscribe_url }}")
    found = parsed(one(other, id=1, unsubscribe_url="https://other.example/"))
    assert found.get_content().strip() == "https://example.com/u/1?list=news"
    plain = compiled(text="{{ unsubscribe_url }}", list_unsubscribe=ListUnsubscribe(None, "u@example.com"))
    assert plain.fields == {"unsubscribe_url"}


def test_a_url_that_is_the_same_for_everybody_leaves_the_message_shared():
    message = compiled(
        list_unsubscribe=ListUnsubscribe("https://example.com/u?a=1&b=2", key=KEY),
        text="{{ unsubscribe_url }}",
        html="<a href='{{ unsubscribe_url }}'>",
    )
    assert message.shared
    found = message_from_bytes(message.compose_shared(DATE)[1].removesuffix(b".\r\n"), policy=SMTP)
    url = signed("https://example.com/u?a=1&b=2")
    assert header_url(found) == url
    assert [part.get_content().strip() for part in found.iter_parts()] == [
        url,
        f"<a href='{url.replace('&', '&amp;')}'>",
    ]
    assert message.render({"email": "a@example.net"}, 1, DATE).text == url + "\n"


@pytest.mark.parametrize("place", PLACES)
def test_a_constant_url_means_the_same_in_every_form_even_beside_a_field_of_its_name(place):
    message = compiled(list_unsubscribe=ListUnsubscribe("https://example.com/u"), text=place, subject="{{ name }}")
    found = one(message, name="x", unsubscribe_url="https://other.example/")
    assert parsed(found).get_content().strip() == "https://example.com/u"


def test_what_no_uri_may_hold_is_encoded_in_the_text_as_in_the_header():
    for key in (None, KEY):
        message = compiled(
            list_unsubscribe=ListUnsubscribe("https://bücher.example/{{ id }}", key=key), text="{{ unsubscribe_url }}"
        )
        found = parsed(one(message, id='a b>,<"é'))
        url = "https://xn--bcher-kva.example/a%20b%3E,%3C%22%C3%A9"
        assert header_url(found) == (signed(url) if key else url)
        assert found.get_content().strip() == header_url(found)


@pytest.mark.parametrize("bad", ["a\nb", "a\r\nBcc: evil@example.org", "a\0b"])
@pytest.mark.parametrize("key", [None, KEY])
def test_a_line_break_in_the_urls_field_fails_that_recipient(bad, key):
    message = compiled(list_unsubscribe=ListUnsubscribe(URL, key=key), text="{{ unsubscribe_url }}")
    made = one(message, id=bad)
    assert isinstance(made, MessageError) and made.scope == "recipient"
    assert str(made).startswith("list_unsubscribe: 'id'")
    with pytest.raises(MessageError, match="line break or NUL"):
        by_the_reference(message, id=bad)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("http://example.com/u", "begins with https://"),
        ("javascript:alert(1)", "begins with https://"),
        ("https://", "and a host"),
        ("https:///x", "and a host"),
        ("", "begins with https://"),
    ],
)
@pytest.mark.parametrize("key", [None, KEY])
def test_a_recipients_whole_url_has_to_be_https_for_one_click(value, words, key):
    message = compiled(list_unsubscribe=ListUnsubscribe("{{ url }}", None, True, key))
    made = one(message, url=value)
    assert isinstance(made, MessageError) and words in str(made) and made.scope == "recipient"
    assert header_url(parsed(one(message, url="HTTPS://example.com/u"))).startswith("HTTPS://example.com/u")


def test_a_recipients_whole_url_has_a_scheme():
    message = compiled(list_unsubscribe=ListUnsubscribe("{{ url }}"))
    assert "no scheme" in str(one(message, url="example.com/u"))
    assert header_url(parsed(one(message, url="http://example.com/u"))) == "http://example.com/u"


def test_a_url_that_cannot_be_signed_fails_that_recipient():
    message = compiled(list_unsubscribe=ListUnsubscribe("https://example.com/u?{{ q }}", key=KEY))
    made = one(message, q="sig=x")
    assert isinstance(made, MessageError) and "parameter 'sig' already" in str(made) and made.scope == "recipient"


def test_a_url_is_no_longer_than_a_header_takes_its_signature_included():
    message = compiled(list_unsubscribe=ListUnsubscribe("https://example.com/{{ id }}", key=KEY))
    room = 980 - len("https://example.com/?sig=") - 24
    assert len(header_url(parsed(one(message, id="x" * room)))) == 980
    assert "1 to 980 fit a header" in str(one(message, id="x" * (room + 1)))


# ---- the key


def test_the_key_is_in_no_text():
    for text in (
        repr(ListUnsubscribe(URL, key=KEY)),
        repr(MessageSpec(list_unsubscribe=ListUnsubscribe(URL, key=KEY))),
    ):
        assert KEY not in text
    with pytest.raises(CompileError, match="has 8 bytes, expected at least 16") as caught:
        compiled(list_unsubscribe=ListUnsubscribe(URL, key="too-shrt"))
    assert "too-shrt" not in str(caught.value)
    made = one(compiled(list_unsubscribe=ListUnsubscribe(URL, key=KEY)), id="\n")
    assert KEY not in repr(made)


def test_a_key_without_a_url_is_refused():
    with pytest.raises(CompileError, match="'key' signs the 'url'"):
        compiled(list_unsubscribe=ListUnsubscribe(None, "u@example.com", key=KEY))


# ---- the other fields


def lines_of(message):
    return [line for line in message.decode().split("\r\n\r\n")[0].split("\r\n")]


CASES = [
    ({"help": "help@example.com"}, ["List-Help: <mailto:help@example.com>"]),
    ({"help": "MAILTO:help@example.com?subject=h"}, ["List-Help: <MAILTO:help@example.com?subject=h>"]),
    ({"archive": "https://example.com/a b"}, ["List-Archive: <https://example.com/a%20b>"]),
    ({"post": "NO"}, ["List-Post: NO"]),
    ({"post": ListLink("no", "nobody reads it")}, ["List-Post: NO (nobody reads it)"]),
    ({"owner": ListLink("o@example.com", 'Ann (\\ "A")')}, ['List-Owner: <mailto:o@example.com> (Ann \\(\\\\ "A"\\))']),
    (
        {"subscribe": [ListLink("https://example.com/s", "on the web"), "s@example.com"]},
        ["List-Subscribe: <https://example.com/s> (on the web), <mailto:s@example.com>"],
    ),
    (
        {"owner": ListLink("o@example.com", "Zoë")},
        ["List-Owner: <mailto:o@example.com>", " (=?utf-8?q?Zo=C3=AB?=)"],
    ),
    (
        {"help": ListLink("https://example.com/help", "word " * 20)},
        [
            "List-Help: <https://example.com/help> (word word word word word word word word",
            " word word word word word word word word word word word word)",
        ],
    ),
]


@pytest.mark.parametrize(("given", "expected"), CASES)
def test_a_list_field_is_written_alike_in_jobs_and_messages(given, expected):
    ((name, value),) = given.items()
    own = Message("a@example.com", "b@example.com", "s", "t", **{f"list_{name}": value}).as_bytes()
    links = value if isinstance(value, list) else [value]
    links = tuple(link if isinstance(link, ListLink) else ListLink(link) for link in links)
    job = compiled(list_fields={name: links})
    for made in (own, job.compose_shared(DATE)[1], one(compiled(list_fields={name: links}, subject="{{ email }}"))[2]):
        at = lines_of(made).index(expected[0])
        assert lines_of(made)[at : at + len(expected)] == expected


def test_no_comment_makes_a_line_too_long():
    made = Message("a@example.com", list_help=[ListLink("h@example.com", "x" * 5000)] * 3).as_bytes()
    assert max(map(len, lines_of(made))) <= 78
    assert message_from_bytes(made, policy=SMTP)["List-Help"].count("x" * 5000) == 3


def test_a_link_may_be_a_template_with_a_comment_for_people():
    links = (ListLink("https://example.com/a/{{ id }}", "Zoë's"), ListLink("x{{ id }}@example.com"))
    message = compiled(list_fields={"archive": links})
    for found in (parsed(one(message, id=7)), by_the_reference(message, id=7)):
        assert found["List-Archive"] == "<https://example.com/a/7> (Zoë's), <mailto:x7@example.com>"
    assert str(one(message, id="\r\n")).startswith("list_archive: ")


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ({"list_fields": {"help": (ListLink("example.com/help"),)}}, "list_help", "neither a URL nor an address"),
        ({"list_fields": {"help": (ListLink("https://e.com/\n"),)}}, "list_help", "line break"),
        ({"list_fields": {"help": (ListLink("https://e.com", "a\nb"),)}}, "list_help", "line break"),
        ({"list_fields": {"help": (ListLink("https://e.com", "\ud800"),)}}, "list_help", "surrogate"),
        ({"list_fields": {"help": ()}}, "list_help", "found none"),
        ({"list_fields": {"id": (ListLink("x@e.com"),)}}, "list_id", "expected 'help'"),
        ({"precedence": "first-class"}, "precedence", "'bulk', 'list' or 'junk'"),
        ({"auto_submitted": "no\r\nX: y"}, "auto_submitted", "'auto-generated' or 'auto-replied'"),
        ({"list_unsubscribe": ListUnsubscribe(None, "https://e.com")}, "list_unsubscribe", "mailto: 'https://e.com'"),
        ({"list_unsubscribe": ListUnsubscribe(None, "mailto:?subject=x")}, "list_unsubscribe", "address is empty"),
        ({"precedence": "bulk", "headers": {"Precedence": "list"}}, "headers.Precedence", "given too"),
        (
            {"list_fields": {"help": (ListLink("h@e.com"),)}, "headers": {"LIST-HELP": "x"}},
            "headers.LIST-HELP",
            "given too",
        ),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_path(fields, path, words):
    with pytest.raises(CompileError) as caught:
        compiled(**fields)
    (problem,) = caught.value.problems
    assert problem[0] == "$.message." + path and words in problem[1]


def test_precedence_and_auto_submitted_are_there_when_stated_only():
    for made in (
        Message("a@example.com", "b@example.com", precedence="bulk", auto_submitted="auto-generated").as_bytes(),
        compiled(precedence="bulk", auto_submitted="auto-generated").compose_shared(DATE)[1],
    ):
        assert b"\r\nPrecedence: bulk\r\nAuto-Submitted: auto-generated\r\n" in made
    for made in (Message("a@example.com", "b@example.com").as_bytes(), compiled().compose_shared(DATE)[1]):
        assert b"Precedence" not in made and b"Auto-Submitted" not in made
    assert b"\r\nPrecedence: x\r\n" in compiled(headers={"Precedence": "x"}).compose_shared(DATE)[1]


# ---- messages of a program


def test_a_message_of_a_program_has_its_url_signed():
    for stated in (
        {"url": "https://example.com/u/1", "one_click": True, "key": KEY},
        ListUnsubscribe("https://example.com/u/1", None, True, KEY),
    ):
        made = message_from_bytes(Message("a@example.com", list_unsubscribe=stated).as_bytes(), policy=SMTP)
        assert header_url(made) == signed("https://example.com/u/1")
        assert made["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"list_unsubscribe": {"url": "http://e.com/", "one_click": True}}, "https://"),
        ({"list_unsubscribe": {"url": "https://", "one_click": True}}, "a host"),
        ({"list_unsubscribe": {"mailto": "u@e.com", "one_click": True}}, "https 'url'"),
        ({"list_unsubscribe": {"url": "https://e.com/", "key": "short"}}, "has 5 bytes"),
        ({"list_unsubscribe": {}}, "found neither"),
        ({"list_unsubscribe": "e.com/u"}, "scheme"),
        ({"list_unsubscribe": "https://e.com/\r\nX: y"}, "line break"),
        ({"list_unsubscribe": {"mailto": "a b"}}, "mailto"),
        ({"list_help": 7}, "list_help: 7, expected a URL"),
        ({"list_help": {"url": "h@e.com", "text": "x"}}, "list_help: "),
        ({"list_help": []}, "list_help: an empty list"),
        ({"precedence": "high"}, "precedence: 'high'"),
        ({"list_help": "h@e.com", "headers": {"List-Help": "x"}}, "'List-Help' cannot be set here"),
    ],
)
def test_a_message_says_what_it_cannot_say(arguments, words):
    with pytest.raises(MessageError, match=words):
        Message("a@example.com", **arguments).as_bytes()


def test_an_unknown_part_of_list_unsubscribe_is_refused_at_once():
    with pytest.raises(ConfigError, match="'oneclick', expected 'url'"):
        Message("a@example.com", list_unsubscribe={"oneclick": True})


def test_defaults_of_a_mailer_hold_for_the_new_arguments():
    message = Message("a@example.com").with_defaults({"list_help": "h@example.com", "precedence": "list"})
    assert b"List-Help: <mailto:h@example.com>\r\nPrecedence: list\r\n" in message.as_bytes()


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import bulkmail.unsubscribe", "jinja2 pydantic email.message bulkmail.message idna"),
        ("import bulkmail; bulkmail.Message('a@b.example', list_help='h@b.example').as_bytes()", "jinja2 pydantic"),
    ],
)
def test_a_web_handler_and_a_single_message_import_little(code, absent):
    check = f"import sys; found = [name for name in {absent.split()} if name in sys.modules]; print(*found)"
    done = run([sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@settings(max_examples=200, deadline=None)
@given(value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=30))
@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize(
    "url", ["https://example.com/u/{{ id }}", "https://example.com/?a={{ id | urlencode }}&b={{ id }}"]
)
def test_whatever_a_field_holds_the_url_is_one_uri_and_verifies(url, key, value):
    assume("sig=" not in value)
    message = compiled(list_unsubscribe=ListUnsubscribe(url, key=key), text="{{ unsubscribe_url }}")
    made = one(message, id=value)
    if isinstance(made, MessageError):
        assert "fit a header" in str(made)
        return
    quick, slow = parsed(made), by_the_reference(message, id=value)
    found = quick.get_content().strip()
    assert re.fullmatch(r"[!-;=?-~]+", found)
    assert (header_url(quick), header_url(slow)) == (found, found) == (slow.get_content().strip(), found)
    assert key is None or verify_url(found, key)
