"""The images that a manifest's html shows: read once, together with everything else that the message is made of."""

from __future__ import annotations

from dataclasses import replace

from bulkmail.errors import MessageError
from bulkmail.job.document import Problems
from bulkmail.job.loading import Loading
from bulkmail.message.spec import AttachmentSpec, MessageSpec


def with_images(message: MessageSpec, loading: Loading, problems: Problems) -> MessageSpec:
    """The message with cid: in the places of its images, if it asks for that; they are attachments then.

    Names are looked for beside the html's own file, then in the manifest's folder; nothing outside of that is read.
    """
    if not message.embed_images or message.html is None:
        return message
    from bulkmail.message.embed import embed_images

    beside = (loading.folder / (message.html_file or "")).parent if message.html_file else loading.folder
    try:
        html, images = embed_images(message.html, "html", [beside, loading.folder], loading.access)
    except MessageError as error:
        problems.add("$.message.html", str(error))
        return message
    for image in images:
        loading.note(f"image {image.name}", image.digest)
    specs = [AttachmentSpec(name=image.name, cid=image.cid, loaded=image) for image in images]
    return replace(message, html=html, attachments=(*message.attachments, *specs), embed_images=False)
