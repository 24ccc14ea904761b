"""Images that html names become inline parts: those of the folder only, whole ones only, each once."""

import base64
from email import message_from_bytes
from email.policy import SMTP

import pytest

from bulkmail.errors import MessageError
from bulkmail.message.compile import CompileError, compile_message
from bulkmail.message.embed import embed_images, referenced_cids
from bulkmail.message.message import Message
from bulkmail.message.raw import from_wire
from bulkmail.message.spec import Access, MessageSpec

PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\1" * 40 + b"\0\0\0\0IEND\xaeB`\x82"
GIF = b"GIF89a\1\0\1\0\0\0\0;"
JPEG = b"\xff\xd8\xff\xe0" + b"\2" * 30 + b"\xff\xd9"
SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "img").mkdir()
    for name, data in (
        ("logo.png", PNG),
        ("img/a b.gif", GIF),
        ("photo.jpg", JPEG),
        ("x.svg", SVG),
        ("ü&.png", PNG + b"\0"),
        ("empty.png", b""),
        ("cut.png", PNG[:30]),
        ("cut.jpg", JPEG[:20]),
        ("cut.gif", GIF[:8]),
        ("text.png", b"not an image"),
        ("font.woff", b"wOFF"),
    ):
        (tmp_path / name).write_bytes(data)
    return tmp_path


def embedded(html, folder, **access):
    return embed_images(html, "html", [folder], Access(**access))


def test_each_image_is_embedded_once_wherever_it_is_named(folder):
    html = (
        '<body background=\'logo.png\'><IMG alt="a>b" SRC="logo.png"><img src=photo.jpg>'
        "<img src='img/a%20b.gif?v=1'><img src=\"&uuml;&amp;.png\">"
        "<p style=\"background: url('logo.png') no-repeat; x: url(x.svg)\">"
        '<style>td { background-image: url( "photo.jpg" ) } @font-face { src: url(font.woff) }</style>'
        "<!--[if mso]><v:image src='logo.png'/><![endif]-->"
    )
    made, parts = embedded(html, folder)
    by_name = {part.name: part for part in parts}
    assert {name: (part.data, part.type, part.inline) for name, part in by_name.items()} == {
        "logo.png": (PNG, "image/png", True),
        "photo.jpg": (JPEG, "image/jpeg", True),
        "a b.gif": (GIF, "image/gif", True),
        "ü&.png": (PNG + b"\0", "image/png", True),
        "x.svg": (SVG, "image/svg+xml", True),
    }
    logo, photo, gif, odd, svg = (by_name[n].cid for n in ("logo.png", "photo.jpg", "a b.gif", "ü&.png", "x.svg"))
    assert made == (
        f'<body background=\'cid:{logo}\'><IMG alt="a>b" SRC="cid:{logo}"><img src="cid:{photo}">'
        f"<img src='cid:{gif}'><img src=\"cid:{odd}\">"
        f"<p style=\"background: url('cid:{logo}') no-repeat; x: url(cid:{svg})\">"
        f'<style>td {{ background-image: url( "cid:{photo}" ) }} @font-face {{ src: url(font.woff) }}</style>'
        f"<!--[if mso]><v:image src='cid:{logo}'/><![endif]-->"
    )
    assert referenced_cids(made) == {part.cid for part in parts}


@pytest.mark.parametrize(
    "html",
    [
        "<img src='https://example.com/a.png'><img src=//example.com/a.png><img src='cid:x'>",
        "<img src='{{ picture }}'><img src=\"img/{{ id }}.png\"><img {% if a %}src='{{ b }}'{% endif %}>",
        "{# <img src='gone.png'> #}<img alt='src=gone.png'><img src=''><img src='#'>",
        "<script src='gone.js'></script><iframe src='gone.html'></iframe><a href='gone.png'>x</a>",
        "<img data-src='gone.png'><p title=it's>plain < text</p>",
        "<style>@import url(gone.css); p { background: url('https://example.com/a.png') }</style>",
        "<p style='x: url({{ u }})'>{{ 'a' ~ \"<img>\" }}</p>",
    ],
)
def test_what_is_no_image_of_ours_stays_as_it_is(folder, html):
    assert embedded(html, folder) == (html, [])


def test_data_urls_become_parts(folder):
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    made, (part,) = embedded(f"<img src='{url}'><p style='x: url({url})'>", folder)
    assert made == f"<img src='cid:{part.cid}'><p style='x: url(cid:{part.cid})'>"
    assert (part.data, part.type, part.name) == (PNG, "image/png", "image.png")


@pytest.mark.parametrize(
    ("html", "words"),
    [
        ("<img src='gone.png'>", r"html: there is no image .*/gone.png"),
        ("<img src='gone.png?x'>", r"html: there is no image .*/gone.png"),
        ("<p style='x: url(gone.gif)'>", r"html: there is no image .*/gone.gif"),
        ("<img src='img'>", "there is no image"),
        ("<img src='../outside.png'>", "outside.png' is outside the folder"),
        ("<img src='link.png'>", "link.png' is outside the folder"),
        ("<img src='%00.png'>", "image"),
        ("<img src='empty.png'>", "'empty.png' is no whole image"),
        ("<img src='cut.png'>", "'cut.png' is no whole image"),
        ("<img src='cut.jpg'>", "'cut.jpg' is no whole image"),
        ("<img src='cut.gif'>", "'cut.gif' is no whole image"),
        ("<img src='text.png'>", "'text.png' is no whole image"),
        ("<img src='data:image/png;base64,eHh4'>", "data:image/png;base64,eHh4' is no whole image"),
        ("<img src='data:image/png;base64,***'>", "is not base64"),
    ],
)
def test_what_cannot_be_embedded_is_an_error_with_its_name(folder, html, words):
    inner = folder / "inner"
    inner.mkdir()
    for name in ("empty.png", "cut.png", "cut.jpg", "cut.gif", "text.png"):
        (inner / name).write_bytes((folder / name).read_bytes())
    (inner / "img").mkdir()
    (folder / "outside.png").write_bytes(PNG)
    (inner / "link.png").symlink_to(folder / "logo.png")
    with pytest.raises(MessageError, match=words):
        embedded(html, inner)


def test_an_absolute_name_is_outside_and_files_may_be_off(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "a.png"
    other.write_bytes(PNG)
    with pytest.raises(MessageError, match="is outside the folder"):
        embedded(f"<img src='{other}'>", folder)
    with pytest.raises(MessageError, match="files are off"):
        embedded("<img src='logo.png'>", folder, files=False)
    assert embedded(f"<img src='{folder}/logo.png'>", folder)[1][0].name == "logo.png"


def test_names_are_looked_for_beside_the_html_first(folder):
    (folder / "img" / "logo.png").write_bytes(PNG + b"\0")
    _, (part,) = embed_images("<img src='logo.png'>", "html", [folder / "img", folder], Access())
    assert part.data == PNG + b"\0"
    _, (part,) = embed_images("<img src='../photo.jpg'>", "html", [folder / "img", folder], Access())
    assert part.data == JPEG
    _, (part,) = embed_images("<img src='photo.jpg'>", "html", [folder / "img", folder], Access())
    assert part.data == JPEG


def test_the_library_and_compiled_messages_embed(folder, monkeypatch):
    message = Message("n@example.com", html="<img src='logo.png'>", embed_images=folder)
    found = message_from_bytes(message.as_bytes(), policy=SMTP)
    page, image = found.iter_parts()
    assert f"cid:{image['Content-ID'].strip('<>')}" in page.get_content() and image.get_content() == PNG
    monkeypatch.chdir(folder)
    assert b"cid:" in Message("n@example.com", html="<img src='logo.png'>", embed_images=True).as_bytes()
    spec = MessageSpec(from_="n@example.com", html="{{ x }}<img src='logo.png'>", embed_images=True)
    compiled = compile_message(spec, job="j", folder=folder)
    ((_, _, body),) = compiled.compose([{"email": "a@example.net", "x": "1"}], [1], b"")
    page, image = message_from_bytes(from_wire(body), policy=SMTP).iter_parts()
    assert referenced_cids(page.get_content()) == {image["Content-ID"].strip("<>")}
    with pytest.raises(CompileError, match="there is no image") as caught:
        compile_message(MessageSpec(from_="n@example.com", html="<img src='no.png'>", embed_images=True), job="j")
    assert caught.value.problems[0][0] == "$.message.html"


def test_referenced_cids():
    html = (
        "<img src='cid:a@b'><p style='x: url(cid:c%20d)'><img src=\"CID:e&amp;f\"> acid:x cid: y <td background=cid:g>"
    )
    assert referenced_cids(html) == {"a@b", "c d", "e&f", "g"}
