"""Rules for who vouches for the message: DKIM signatures, the envelope's sender, and From (DMARC)."""

from __future__ import annotations

from collections.abc import Iterator

from bulkmail.message.finding import Finding
from bulkmail.message.lint import domains
from bulkmail.message.lint.rule import ERROR, GMAIL, NOTE, OUTLOOK, WARNING, YAHOO, Rule
from bulkmail.message.lint.sample import Sample

ENOUGH_BITS = 2048  # fewer than 1024 are refused where the key is read

NO_DKIM = Rule(
    "dkim-missing",
    WARNING,
    "no DKIM signature: Gmail, Yahoo and Outlook ask one of bulk mail",
    "give a key in dkim, unless the relay signs",
    GMAIL + "; " + YAHOO + "; " + OUTLOOK,
)
UNALIGNED = Rule(
    "dkim-unaligned",
    WARNING,
    "no DKIM signature is by From's domain {domain}, but by {signers}: DMARC needs one",
    "sign with a key of From's domain",
    "RFC 7489 section 3.1.1; " + GMAIL,
)
ENVELOPE = Rule(
    "envelope-unaligned",
    NOTE,
    "the envelope's sender is at {sender}, From at {domain}: SPF then says nothing for From",
    "use a sender below From's domain",
    "RFC 7489 section 3.1.2; " + GMAIL,
)
NEITHER = Rule(
    "from-unaligned",
    WARNING,
    "neither a DKIM signature nor the envelope's sender ({sender}) is of From's domain {domain}: DMARC fails",
    "sign with a key of From's domain",
    "RFC 7489 section 4.2; " + GMAIL + "; " + OUTLOOK,
)
UNKNOWN = Rule(
    "alignment-unknown",
    NOTE,
    "whether {one} and {other} are one organization's cannot be told",
    "install bulkmail[dns], which brings the Public Suffix List",
    "RFC 7489 section 3.2",
)
UNSIGNED = Rule(
    "dkim-from",
    ERROR,
    "the DKIM signature of {domain} does not cover From",
    "sign From",
    "RFC 6376 section 5.4",
)
WEAK = Rule(
    "dkim-weak",
    WARNING,
    "the DKIM key of {domain} has {bits} bits, 2048 are advised",
    "make a key of 2048 bits",
    "RFC 8301 section 3.2; " + GMAIL,
)
SHA1 = Rule(
    "dkim-sha1",
    ERROR,
    "the DKIM signature of {domain} is by rsa-sha1, which proves nothing",
    "sign with rsa-sha256",
    "RFC 8301 section 3.1",
)
ED25519 = Rule(
    "dkim-ed25519",
    WARNING,
    "all DKIM signatures are by Ed25519, which several big receivers do not verify",
    "sign with an RSA key too",
    "RFC 8463 section 5",
)
EXPOSED = Rule(
    "dkim-key-open",
    WARNING,
    "the DKIM key of {domain} is not safe: {why}",
    "let only the sending user read it",
    "RFC 6376 section 8.3",
)

RULES = (NO_DKIM, UNALIGNED, ENVELOPE, NEITHER, UNKNOWN, UNSIGNED, WEAK, SHA1, ED25519, EXPOSED)


def signatures(sample: Sample) -> Iterator[Finding]:
    made = sample.signatures
    if not made and sample.bulk:
        yield NO_DKIM.at(sample.where("dkim"))
    for one in made:
        path = sample.where(one.place)
        if one.headers is not None and "from" not in one.headers:
            yield UNSIGNED.at(path, domain=one.domain)
        if one.algorithm == "rsa-sha1":
            yield SHA1.at(path, domain=one.domain)
        if one.bits is not None and one.bits < ENOUGH_BITS:
            yield WEAK.at(path, domain=one.domain, bits=one.bits)
        if one.exposed:
            yield EXPOSED.at(path, domain=one.domain, why=one.exposed)
    if made and all(one.algorithm.startswith("ed25519") for one in made):
        yield ED25519.at(sample.where(made[0].place))


def alignment(sample: Sample) -> Iterator[Finding]:
    author, sender = sample.from_domain, sample.sender_domain
    if not author:
        return
    signers = list(dict.fromkeys(one.domain for one in sample.signatures if one.domain))
    by_key = _best([domains.aligned(author, signer) for signer in signers])
    by_envelope = domains.aligned(author, sender) if sender else False if sample.sender == "" else None
    if by_key is None:
        yield UNKNOWN.at(sample.where("dkim"), one=author, other=signers[0])
    elif signers and not by_key:
        rule = NEITHER if by_envelope is False else UNALIGNED
        yield rule.at(sample.where("dkim"), domain=author, sender=sender or "<>", signers=", ".join(signers))
    if sender and by_envelope is None:
        yield UNKNOWN.at(sample.where("envelope_from"), one=author, other=sender)
    elif sender and not by_envelope and by_key is not False:
        yield ENVELOPE.at(sample.where("envelope_from"), domain=author, sender=sender)
    elif sender and not by_envelope and not signers:
        yield NEITHER.at(sample.where("envelope_from"), domain=author, sender=sender)


def _best(found: list[bool | None]) -> bool | None:
    """True if any is, None if one may be; False for none at all."""
    return True if True in found else None if None in found else False


CHECKS = (signatures, alignment)
