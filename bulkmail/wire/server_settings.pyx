# What all connections of a server share: its limits, what it offers, the words of its replies, its counts.

# Nothing of a message is held here; it keeps one client from filling a disk. Gmail takes 35 MB, Exchange Online 150.
DEFAULT_MAX_SIZE = 64 * 1024 * 1024
# RFC 5321 section 4.5.3.1.8 asks for 100 at least; Postfix takes 1,000.
DEFAULT_MAX_RECIPIENTS = 1000

# In the order of the reply to EHLO.
EXTENSIONS = (
    "PIPELINING", "SIZE", "STARTTLS", "AUTH", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING",
    "BINARYMIME", "REQUIRETLS", "LIMITS",
)
# RFC 9422 section 4: a number in LIMITS has six digits at most.
MAX_TOLD_LIMIT = 999999

# For a password, and for a token, whose judge can only be the caller.
PASSWORD_MECHANISMS, TOKEN_MECHANISMS = ("PLAIN", "LOGIN"), ("XOAUTH2", "OAUTHBEARER")

# What a caller may want to decide.
ASK_MAIL, ASK_RCPT, ASK_END, ASK_AUTH = 1, 2, 4, 8
# Whether to do at all what would be done without being asked: its event is ("ask", phase, word).
ASK_HELLO, ASK_STARTTLS, ASK_LOGIN, ASK_DATA, ASK_QUIT = 16, 32, 64, 128, 256
PAUSED = 512  # `asking` between pause() and resume()

REPLIES = {
    R_MAIL_OK: b"250 2.1.0 Ok",
    R_RCPT_OK: b"250 2.1.5 Ok",
    R_GO_AHEAD: b"354 End data with <CR><LF>.<CR><LF>",
    R_TAKEN: b"250 2.0.0 Ok",
    R_OK: b"250 2.0.0 Ok",
    R_BYE: b"221 2.0.0 Bye",
    R_HELP: b"214 2.0.0 RFC 5321; this server receives mail and delivers it to nobody",
    R_VRFY: b"252 2.1.5 Cannot verify, but would take a message",
    R_TLS_GO: b"220 2.0.0 Ready to start TLS",
    R_LOGGED_IN: b"235 2.7.0 Authentication successful",
    R_UNKNOWN: b"500 5.5.2 Command not recognized",
    R_NOT_LMTP: b"500 5.5.1 This is SMTP: say EHLO",
    R_ONLY_LMTP: b"500 5.5.1 This is LMTP: say LHLO",
    R_NOT_HERE: b"502 5.5.1 Command not implemented",
    # The bytes of its chunk would be read as commands: the way to smuggle them in.
    R_BDAT: b"502 5.5.1 CHUNKING is not offered; closing, since what follows BDAT is no command",
    R_BDAT_SYNTAX: b"501 5.5.4 Syntax: BDAT size [LAST]; closing, since where the chunk ends cannot be known",
    # A browser can be made to talk to a mail server; nothing that follows its first line is meant for us.
    R_NOT_MAIL: b"421 4.7.0 This is a mail server, not a web server",
    R_LONG: b"500 5.5.2 Line too long",
    R_LF: b"500 5.5.2 A command line ends with CR LF, not with LF alone",
    R_CONTROL: b"500 5.5.2 Control character in a command",
    R_NO_ARGUMENT: b"501 5.5.4 This command takes no argument",
    R_NAME: b"501 5.5.4 Say who you are: one name or address literal",
    R_HELLO_FIRST: b"503 5.5.1 Send a greeting (EHLO, HELO or LHLO) first",
    R_NESTED: b"503 5.5.1 A transaction is open: end it or send RSET",
    R_MAIL_FIRST: b"503 5.5.1 Send MAIL first",
    R_NO_RCPT: b"503 5.5.1 No valid recipients",
    R_IN_CHUNKS: b"503 5.5.1 Only BDAT or RSET may follow a BDAT that was not the last",
    R_BDAT_HELO: b"503 5.5.1 BDAT needs EHLO, not HELO",
    R_BINARY: b"503 5.5.1 BODY=BINARYMIME needs BDAT, not DATA",
    R_MAIL_SYNTAX: b"501 5.5.4 Syntax: MAIL FROM:<address> [parameters]",
    R_RCPT_SYNTAX: b"501 5.5.4 Syntax: RCPT TO:<address> [parameters]",
    R_SPACE: b"501 5.5.4 No space is allowed before the address",
    R_SENDER: b"501 5.1.7 Bad sender address syntax",
    R_RECIPIENT: b"501 5.1.3 Bad recipient address syntax",
    R_UTF8: b"553 5.6.7 A non-ASCII address needs SMTPUTF8, and valid UTF-8",
    R_ESMTP: b"555 5.5.4 Parameters need EHLO, not HELO",
    R_WORD: b"555 5.5.4 Parameter not recognized or not offered",
    R_TWICE: b"501 5.5.4 Parameter given twice",
    R_SIZE_WORD: b"501 5.5.4 SIZE needs a number",
    R_BODY_WORD: b"501 5.5.4 BODY needs 7BIT, or 8BITMIME or BINARYMIME where offered",
    R_RET_WORD: b"501 5.5.4 RET needs FULL or HDRS",
    R_ENVID_WORD: b"501 5.5.4 ENVID needs 1 to 100 characters of xtext",
    R_NOTIFY_WORD: b"501 5.5.4 NOTIFY needs NEVER, or a list of SUCCESS, FAILURE, DELAY",
    R_ORCPT_WORD: b"501 5.5.4 ORCPT needs a type, a semicolon and an address in xtext, 500 characters at most",
    R_TOO_BIG: b"552 5.3.4 Message too big",
    R_TOO_MANY: b"452 4.5.3 Too many recipients",
    R_BARE: b"554 5.6.0 The message has a CR or LF that is not part of a CR LF",
    R_NO_TLS: b"502 5.5.1 STARTTLS is not offered",
    R_IN_TLS: b"503 5.5.1 TLS is already active",
    R_NO_AUTH: b"503 5.5.1 AUTH is not offered",
    R_AUTH_AGAIN: b"503 5.5.1 Already logged in",
    R_AUTH_IN_MAIL: b"503 5.5.1 AUTH is not allowed in a transaction",
    R_MECHANISM: b"504 5.5.4 Mechanism not offered",
    R_BASE64: b"501 5.5.2 Not base64, or not what the mechanism wants",
    R_CANCELLED: b"501 5.7.0 Authentication cancelled",
    R_DENIED: b"535 5.7.8 Authentication credentials invalid",
    R_AUTH_FIRST: b"530 5.7.0 Authentication required",
    R_ERRORS: b"421 4.7.0 Too many errors",
    R_COMMANDS: b"421 4.7.0 Too many commands without a message",
}


cdef class ServerCounts:
    """What a server took and refused, all its connections together.

    recipients and bytes are those of accepted messages (bytes: content, dots undone, no terminator). refused counts
    the answers 4xx and 5xx to MAIL, RCPT, DATA, BDAT, the end of a message, logins and connections that policy or a limit
    gave; not slips of syntax or order.
    """

    def as_dict(self):
        return {
            "connections": self.connections,
            "messages": self.messages,
            "recipients": self.recipients,
            "bytes": self.bytes,
            "refused": self.refused,
        }


cdef class ServerSettings:
    """What a server is and offers. Nothing but what is asked, by ask_also(), changes after it is made.

    name            in the greeting and the reply to EHLO
    max_size        bytes of content, 0 for no limit
    max_recipients  of one transaction
    without         extensions not to offer, in capitals
    starttls        whether TLS can be had
    auth            (user, password) that must log in before MAIL, or None
    lmtp            LHLO, and a reply per recipient at the end of a message (RFC 2033)
    envelopes       whether the events of transactions are wanted
    content         whether `content` events are
    ask             the questions wanted: ASK_MAIL | ASK_RCPT | ASK_END ...; ASK_AUTH offers AUTH, too, also by tokens, of
                    which `auth` knows nothing
    lenient         a CR or LF of its own in a message becomes a CRLF, and LF alone may end a command
    """

    def __init__(self, str name not None="localhost", *, long long max_size=DEFAULT_MAX_SIZE,
                 long long max_recipients=DEFAULT_MAX_RECIPIENTS, without=(), bint starttls=False, tuple auth=None,
                 bint lmtp=False, bint envelopes=True, bint content=True, int ask=0, bint lenient=False):
        self.name = name
        self.max_size = max_size
        self.max_recipients = max_recipients
        self.without = frozenset(without)
        self.starttls = starttls and "STARTTLS" not in self.without
        self.auth = auth
        self.lmtp = lmtp
        self.envelopes = envelopes
        self.content = content and envelopes
        self.ask = ask
        self.lenient = lenient
        self.mechanisms = PASSWORD_MECHANISMS + (TOKEN_MECHANISMS if ask & ASK_AUTH else ())
        self.login = (auth is not None or ask & ASK_AUTH != 0) and "AUTH" not in self.without
        self.esmtp_size = "SIZE" not in self.without
        self.esmtp_8bit = "8BITMIME" not in self.without
        self.esmtp_utf8 = "SMTPUTF8" not in self.without
        self.chunking = "CHUNKING" not in self.without
        self.binary = self.chunking and "BINARYMIME" not in self.without
        self.dsn = "DSN" not in self.without
        self.require_tls = "REQUIRETLS" not in self.without
        self.enhanced = "ENHANCEDSTATUSCODES" not in self.without
        self.replies = [self.line(REPLIES[number]) for number in range(len(REPLIES))]
        self._hello = {}

    def ask_also(self, int ask):
        """More questions, on all connections from their next command on. They come with the events of transactions."""
        self.ask |= ask
        self.envelopes = True

    def line(self, bytes reply not None):
        """`reply` ("250 2.0.0 Ok") as a line to send, its enhanced code taken out where that extension is off."""
        if not self.enhanced and reply[:1] in (b"2", b"4", b"5"):
            reply = reply[:4] + reply[4:].partition(b" ")[2]
        return reply + b"\r\n"

    def greeting(self, str ident not None):
        protocol = "LMTP" if self.lmtp else "ESMTP"
        return f"220 {self.name} {protocol} bulkmail sink {ident}".rstrip().encode() + b"\r\n"

    cdef bytes hello(self, bint secure, bint auth):
        lines = self._hello.get((secure, auth))
        if lines is None:
            last, *rest = reversed([self.name, *self._offers(secure, auth)])
            lines = "".join(f"250-{word}\r\n" for word in reversed(rest)) + f"250 {last}\r\n"
            lines = self._hello[secure, auth] = lines.encode()
        return lines

    def _offers(self, secure, auth):
        offered = {
            "STARTTLS": self.starttls and not secure,
            "AUTH": auth,
            "BINARYMIME": self.binary,      # RFC 3030 section 3: not without CHUNKING
            "REQUIRETLS": secure,           # RFC 8689 section 4.1
            "LIMITS": self.max_recipients <= MAX_TOLD_LIMIT,
        }
        values = {
            "SIZE": f"SIZE {self.max_size}",
            "AUTH": " ".join(["AUTH", *self.mechanisms]),
            "LIMITS": f"LIMITS RCPTMAX={self.max_recipients}",
        }
        return [values.get(word, word) for word in EXTENSIONS if word not in self.without and offered.get(word, True)]
