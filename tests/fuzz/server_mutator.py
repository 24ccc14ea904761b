"""Inputs of the server's harness as what they are made of: commands, addresses, parameters, texts, chunks.

libFuzzer's own mutations change bytes; these change lines, so that what it builds upon remains a conversation.
"""

from __future__ import annotations

from base64 import b64encode

HEADER = 8
PLAIN = b64encode(b"\0user\0pass word")
TOKEN = b64encode(b"user=user\1auth=Bearer xyz\1\1")
BEARER = b64encode(b"n,a=user,\1host=mx.test\1port=25\1auth=Bearer xyz\1\1")
HELLOS = [
    b"EHLO me\r\n", b"HELO me\r\n", b"LHLO me\r\n", b"EHLO [127.0.0.1]\r\n", b"ehlo me \r\n", b"EHLO\r\n",
    b"LHLO a b\r\n",
]  # fmt: skip
ADDRESSES = [
    b"<a@b>", b"<>", b"<Postmaster>", b'<"a b"@c>', b'<"a\\"b"@c>', b"<@x,@y:a@b>", b"<a@[127.0.0.1]>",
    b"<a@[IPv6:::1]>", b"<a.b@c.d>", b"<a..b@c>", b"<a@b.>", b"<.a@b>", b"<\xc3\xa4@b>", b"<a@\xc3\xa4>", b"<\xff@b>",
    b"<a@b_c>", b"<a@>", b"<@>", b"< a@b>", b"a@b", b"<a@b", b'<"a@b>', b'<"a\\', b"<@x:>", b"<@x,a@b>", b"<a@[>",
    b"<a@[\\]>", b"<a@-b>", b"<x>",
]  # fmt: skip
MAIL_WORDS = [
    b"SIZE=50", b"SIZE=70", b"SIZE=", b"SIZE=9999999999999999999", b"SIZE", b"BODY=7BIT", b"BODY=8BITMIME",
    b"BODY=BINARYMIME", b"BODY=X", b"BODY", b"SMTPUTF8", b"SMTPUTF8=1", b"AUTH=<>", b"AUTH", b"AUTH=", b"REQUIRETLS",
    b"REQUIRETLS=", b"RET=FULL", b"RET=HDRS", b"RET=X", b"ENVID=q+2Bq", b"ENVID=", b"ENVID=+2", b"ENVID=+00",
    b"ENVID=a=b", b"X=Y", b"=", b"size=1",
]  # fmt: skip
RCPT_WORDS = [
    b"NOTIFY=NEVER", b"NOTIFY=SUCCESS,FAILURE,DELAY", b"NOTIFY=SUCCESS,", b"NOTIFY=", b"NOTIFY=NEVER,DELAY",
    b"NOTIFY", b"ORCPT=rfc822;a+40b", b"ORCPT=rfc822;", b"ORCPT=;a", b"ORCPT=rfc822", b"ORCPT=utf-8;a\\x{E4}b",
    b"ORCPT=utf-8;\\x{E}", b"ORCPT=utf-8;\xc3\xa4", b"ORCPT=utf-8;a=b", b"ORCPT=utf-8;", b"ORCPT=utf-8;\\x",
    b"ORCPT=a b;c", b"ORCPT=r\xff;x", b"ORCPT=rfc822;+2", b"ORCPT=rfc822;+1F", b"ORCPT=UTF-8;\\x{110000}", b"ORCPT=",
    b"SIZE=1",
]  # fmt: skip
OTHERS = [
    b"DATA\r\n", b"data \r\n", b"DATA x\r\n", b"RSET\r\n", b"RSET x\r\n", b"NOOP\r\n", b"NOOP x\r\n", b"VRFY x\r\n",
    b"QUIT\r\n", b"QUIT x\r\n", b"HELP\r\n", b"EXPN x\r\n", b"TURN\r\n", b"STARTTLS\r\n\x16\x03", b"STARTTLS\r\n",
    b"STARTTLS x\r\n", b"GET / HTTP/1.1\r\n", b"POST /\r\n", b"\r\n", b"\n", b"NOOP\n", b"NOOP\0\r\n",
    b"NOOP \x7f\r\n", b"EHLO \xff\r\n", b"\x16\x18", b"\x16\x19", b"NOOP\r", b"XXXX\r\n", b" \r\n", b"MAIL\r\n",
    b"RCPT\r\n", b"MAIL FROM: <a@b>\r\n", b"RCPT TO: <a@b>\r\n", b"MAIL FROM:\r\n",
    b"MAIL FROM:<\xc3\xa4@b> SMTPUTF8\r\n", b"MAIL FROM:<a\xff@b> SMTPUTF8\r\n", b"RCPT TO:<c\xff@d>\r\n",
    b"RCPT TO:<\xc3\xa4@b>\r\n", b"BDAT 58\r\n" + b"\n" * 58, b"RCPT TO:<c@d> ORCPT=utf-8;\xff\r\n",
]  # fmt: skip
LOGINS = [
    b"AUTH PLAIN " + PLAIN + b"\r\n", b"AUTH PLAIN\r\n", PLAIN + b"\r\n", b"AUTH LOGIN\r\n",
    b64encode(b"user") + b"\r\n", b64encode(b"pass word") + b"\r\n", b"*\r\n",
    b"AUTH LOGIN " + b64encode(b"user") + b"\r\n", b"AUTH PLAIN =\r\n", b"AUTH X\r\n",
    b"AUTH XOAUTH2 " + TOKEN + b"\r\n", b"AUTH XOAUTH2\r\n", TOKEN + b"\r\n", b"AUTH OAUTHBEARER " + BEARER + b"\r\n",
    BEARER + b"\r\n", b"AUTH OAUTHBEARER " + b64encode(b"n,a=user,\1auth=Basic x\1\1") + b"\r\n",
    b"AUTH XOAUTH2 " + b64encode(b"user=x\1\1") + b"\r\n", b"AUTH\r\n", b"AUTH \xff\r\n", b"AUTH PLAIN a=b\r\n",
    b"AUTH PLAIN AAAA\r\n", b"AUTH PLAIN /w==\r\n", b"=\r\n", b"\r\n",
    b"AUTH LOGIN\r\n" + b64encode(b"user") + b"\r\n" + b64encode(b"pass word") + b"\r\n",
]  # fmt: skip
TEXTS = [
    b"a line\r\n", b"..\r\n", b"\r\n.\r\n", b".\r\n", b"\n", b"\r", b".", b"x" * 70 + b"\r\n", b"\0\xff\r\n", b"\r\n",
    b"\n.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b".\r.\r\n", b"\r\r\n", b"y" * 64, b"\r\n..\r\n.\r\n", b".\rx",
    b"x" * 63 + b"\r\n.",
]  # fmt: skip
SIZES = [
    b"0",
    b"1",
    b"10",
    b"61",
    b"",
    b"-1",
    b"x",
    b"999999999999999999",
    b"1000000000000000000",
    b"007",
    b"5 LAST",
    b"0 LAST",
]
ENDS = [b"\r\n.\r\n", b".\r\n", b"\r\n", b"\n.\n", b"\r\n.\r\n\r\n.\r\n", b""]


class Dice:
    """Numbers that follow from a seed."""

    def __init__(self, seed: int) -> None:
        self.state = (seed * 2654435761 + 1013904223) & 0xFFFFFFFF

    def below(self, n: int) -> int:
        self.state = (self.state * 1664525 + 1013904223) & 0xFFFFFFFF
        return (self.state >> 8) % n

    def of(self, choices: list[bytes]) -> bytes:
        return choices[self.below(len(choices))]


def command(dice: Dice, verb: bytes, words: list[bytes]) -> bytes:
    line = verb + dice.of(ADDRESSES if dice.below(3) == 0 else ADDRESSES[:3])
    for _ in range(dice.below(4) >> dice.below(2)):
        line += b" " + dice.of(words)
    return line + (b"\r\n" if dice.below(16) else b" \r\n")


def text(dice: Dice) -> bytes:
    return b"".join([dice.of(TEXTS) for _ in range(dice.below(5))])


def chunk(dice: Dice) -> bytes:
    content = text(dice)
    if dice.below(8) == 0:
        return b"BDAT " + dice.of(SIZES) + b"\r\n" + content
    size = max(0, len(content) + (0, 0, 0, 0, 0, -1, 1, 20)[dice.below(8)])
    return b"BDAT %d%s\r\n" % (size, b" LAST" if dice.below(2) else b"") + content


def message(dice: Dice) -> bytes:
    parts = [b"MAIL FROM:<a@b> BODY=BINARYMIME\r\n" if dice.below(6) == 0 else b"MAIL FROM:<a@b>\r\n"]
    parts += [b"RCPT TO:<c@d>\r\n"] * (1 + dice.below(4))
    if dice.below(2):
        parts += [chunk(dice) for _ in range(1 + dice.below(3))]
    else:
        parts += [b"DATA\r\n", text(dice), dice.of(ENDS)]
    return b"".join(parts)


def piece(dice: Dice) -> bytes:
    kind = dice.below(10)
    if kind < 2:
        return command(dice, b"MAIL FROM:", MAIL_WORDS)
    if kind < 4:
        return command(dice, b"RCPT TO:", RCPT_WORDS)
    if kind == 4:
        return message(dice)
    if kind == 5:
        return chunk(dice)
    if kind == 6:
        return text(dice)
    if kind == 7:
        return dice.of(LOGINS)
    if kind == 8:
        return dice.of(HELLOS)
    return dice.of(OTHERS)


def inside(dice: Dice, line: bytes) -> bytes:
    """A line with something put into it, or taken from it."""
    at = dice.below(len(line) + 1)
    kind = dice.below(6)
    if kind == 0:
        return line[:at] + line[at + 1 + dice.below(3) :]
    if kind == 1:
        return line[:at] + b"x" * (dice.below(300) >> dice.below(6)) + line[at:]
    if kind == 2:
        return (
            line[:at]
            + dice.of([b" ", b"\r", b"\n", b"\0", b"\x80", b".", b"+", b"=", b'"', b"\\", b"<", b">"])
            + line[at:]
        )
    if kind == 3:
        return line[: len(line) - 2] + b" " + dice.of(MAIL_WORDS + RCPT_WORDS) + b"\r\n"
    if kind == 4:
        return line.swapcase()
    return line[: line.find(b":") + 1] + dice.of(ADDRESSES) + b"\r\n"


def long_line(dice: Dice) -> bytes:
    """A line near one of the bounds: of commands, of logins, of names."""
    size = (160, 240, 60, 120, 2048, 12288)[dice.below(4)] + dice.below(7) - 3
    start = dice.of(
        [
            b"NOOP ",
            b"AUTH PLAIN ",
            b"EHLO ",
            b"MAIL FROM:<",
            b"AUTH LOGIN\r\n",
            b"BDAT ",
            b"RCPT TO:<a@b> ORCPT=rfc822;",
        ]
    )
    return start + b"x" * (size - len(start)) + dice.of([b"\r\n", b"\n", b">\r\n", b"@b>\r\n"])


def mutate(data: bytes, seed: int, room: int) -> bytes:
    dice = Dice(seed)
    header = bytearray(data[:HEADER].ljust(HEADER, b"\0"))
    if dice.below(4) == 0:
        header[dice.below(HEADER)] = dice.below(256)
    elif dice.below(4) == 0:
        header[dice.below(HEADER)] ^= 1 << dice.below(8)
    lines = data[HEADER:].splitlines(True)
    for _ in range(1 + dice.below(3)):
        change(dice, lines)
    if dice.below(32) == 0:  # one greeting for all the servers that expect the other
        lines.insert(0, HELLOS[2] if header[0] & 1 else HELLOS[0])
    changed = bytes(header) + b"".join(lines)
    return changed[:room]


def change(dice: Dice, lines: list[bytes]) -> None:
    at = dice.below(len(lines) + 1)
    kind = dice.below(12)
    if kind < 4 or at == len(lines):
        lines.insert(at, piece(dice))
    elif kind == 4:
        del lines[at]
    elif kind == 5:
        del lines[at : at + 1 + dice.below(6)]
    elif kind == 6:
        lines[at] = piece(dice)
    elif kind == 7:
        lines.insert(at, lines[dice.below(len(lines))])
    elif kind == 8:
        lines[at : at + 1] = [lines[at]] * (2 + dice.below(4))
    elif kind == 9:
        lines.insert(at, long_line(dice))
    else:
        lines[at] = inside(dice, lines[at])
