"""Rules for the html part: what mail programs take out, what hides or breaks, images."""

from __future__ import annotations

from collections.abc import Iterator

from bulkmail.message.finding import Finding
from bulkmail.message.lint.rule import GMAIL, NOTE, PRACTICE, WARNING, Rule
from bulkmail.message.lint.sample import Sample

SCRIPT = Rule(
    "html-script",
    WARNING,
    "the html has a <script>: mail programs drop it and filters distrust it",
    "take it out",
    PRACTICE,
)
HANDLER = Rule(
    "html-handler",
    WARNING,
    "the html has the event handler {name}: mail programs drop it and filters distrust it",
    "take it out",
    PRACTICE,
)
FORM = Rule(
    "html-form",
    WARNING,
    "the html has a <form>: mail programs warn of it or drop it",
    "link to a page with the form",
    PRACTICE,
)
FRAME = Rule("html-frame", WARNING, "the html has <{name}>, which mail programs drop", "link to the content", PRACTICE)
STYLESHEET = Rule(
    "html-remote-css",
    WARNING,
    "the html loads styles from elsewhere, which mail programs drop: {what!r}",
    "put the styles into the message",
    PRACTICE,
)
HIDDEN = Rule(
    "html-hidden",
    WARNING,
    "the html hides {count} letters by CSS: {text!r}",
    "show the text or leave it out; up to 200 letters pass for a preview line",
    GMAIL,
)
UNCLOSED = Rule(
    "html-unclosed",
    WARNING,
    "<{name}> of line {line} of the html is never closed",
    "close it",
    "HTML, section 13.1.2; " + GMAIL,
)
BASE = Rule("html-base", WARNING, "the html has <base href>, which mail programs drop", "write whole URLs", PRACTICE)
ALT = Rule(
    "img-alt",
    WARNING,
    "{count} of {all} images have no alt text, the first is {src!r}",
    'say what they show, or alt="" where they only decorate',
    "WCAG 2 criterion 1.1.1; HTML, section 4.8.3",
)
ONLY = Rule(
    "img-only",
    WARNING,
    "the html shows images and next to no text ({letters} letters): nothing where images are off",
    "write the text as text",
    PRACTICE,
)
RATIO = Rule(
    "img-ratio",
    NOTE,
    "{images} images beside {letters} letters of text: filters compare them",
    "write more as text",
    PRACTICE + " (SpamAssassin HTML_IMAGE_RATIO)",
)
EMPTY_SRC = Rule("img-src", WARNING, "an image has no src", "name its file", "HTML, section 4.8.3")
DATA = Rule(
    "img-data",
    WARNING,
    "an image is in a data: URI, which Gmail and Outlook do not show",
    "attach it with a cid, or link it",
    PRACTICE,
)

RULES = (SCRIPT, HANDLER, FORM, FRAME, STYLESHEET, HIDDEN, UNCLOSED, BASE, ALT, ONLY, RATIO, EMPTY_SRC, DATA)

FRAMES = ("iframe", "frame", "object", "embed", "applet", "video", "audio")
DROPPED = FRAMES[:5]  # video and audio have a fallback inside that is shown
PREVIEW = 200  # letters of hidden text that are the line a mailbox shows beside the subject
FEW_LETTERS = 20  # of a page of images: a link to leave the list is about as much
LETTERS_PER_IMAGE = 40


def active(sample: Sample) -> Iterator[Finding]:
    page, path = sample.page, sample.where("html")
    if page.elements.get("script"):
        yield SCRIPT.at(path)
    if page.handlers:
        yield HANDLER.at(path, name=page.handlers[0])
    if page.elements.get("form"):
        yield FORM.at(path)
    for name in DROPPED:
        if page.elements.get(name):
            yield FRAME.at(path, name=name)
            break
    if page.stylesheets:
        yield STYLESHEET.at(path, what=page.stylesheets[0])
    if page.base is not None:
        yield BASE.at(path)


def shape(sample: Sample) -> Iterator[Finding]:
    page, path = sample.page, sample.where("html")
    hidden = sum(_letters(text) for text in page.hidden)
    if hidden > PREVIEW:
        yield HIDDEN.at(path, count=hidden, text=max(page.hidden, key=_letters))
    for name, line in page.unclosed[:1]:
        yield UNCLOSED.at(path, name=name, line=line)


def images(sample: Sample) -> Iterator[Finding]:
    page, path = sample.page, sample.where("html")
    bare = [image for image in page.images if image.alt is None and not _is_pixel(image.width, image.height)]
    if bare:
        yield ALT.at(path, count=len(bare), all=len(page.images), src=bare[0].src)
    if any(not image.src for image in page.images):
        yield EMPTY_SRC.at(path)
    if any(image.src.lower().startswith("data:") for image in page.images):
        yield DATA.at(path)
    shown = [image for image in page.images if not _is_pixel(image.width, image.height)]
    letters = _letters(page.text)
    if shown and letters <= FEW_LETTERS:
        yield ONLY.at(path, letters=letters)
    elif len(shown) * LETTERS_PER_IMAGE > letters:
        yield RATIO.at(path, images=len(shown), letters=letters)


def _is_pixel(width: str, height: str) -> bool:
    """A counting pixel, or what holds tables open."""
    return width.strip(" px") in ("0", "1") or height.strip(" px") in ("0", "1")


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))


CHECKS = (active, shape, images)
