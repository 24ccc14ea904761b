# Logins (RFC 4954): whether AUTH is in order, its lines, and the verdict: ours, where a name and password are set, or the
# caller's.
from hmac import compare_digest

from bulkmail.wire.server_settings cimport *
from bulkmail.wire.server_state cimport *

from bulkmail.wire.server_login import Login
from bulkmail.wire.server_state import MAX_ERRORS


cdef class ServerAuth(ServerText):
    cdef int _auth_refusal(self) except -1:
        """Why AUTH is not in order, or R_LOGGED_IN."""
        if self._state == NEW:
            return R_HELLO_FIRST
        if not self.settings.login or not (self.secure or self.local):
            return R_NO_AUTH
        if self.user is not None:
            return R_AUTH_AGAIN
        return R_LOGGED_IN if self._state == READY else R_AUTH_IN_MAIL

    cdef int _auth(self, const unsigned char* p, Py_ssize_t n) except -1:
        cdef int reply = self._auth_refusal()
        if reply != R_LOGGED_IN:
            return self._wrong(reply)
        word, _, response = p[:n].strip().partition(b" ")
        mechanism = word.upper().decode("utf-8", "replace")
        if mechanism not in self.settings.mechanisms:
            return self._wrong(R_MECHANISM)
        self._login = Login(mechanism)
        self._denial = None
        if response:
            return self._login_line(b"" if response == b"=" else response)
        self._state = LOGIN
        return self.put(self._login.challenge + b"\r\n")

    cdef int _login_line(self, bytes line) except -1:
        """A response in base64; "*" gives up."""
        self._steps += 1
        if self._denial is not None:
            denial, self._denial = self._denial, None
            return self.put(denial)
        if line == b"*":
            return self._wrong(R_CANCELLED)
        try:
            self._login.answer(line)
        except ValueError:
            return self._wrong(R_BASE64)
        if self._login.credentials is not None:
            return 0 if self._may(ASK_LOGIN, "auth", self._login.credentials[0].encode()) else self._judge()
        self._state = LOGIN
        return self.put(self._login.challenge + b"\r\n")

    cdef int _judge(self) except -1:
        user, password = self._login.credentials
        if self.settings.ask & ASK_AUTH:
            self.emit(("auth", self._login.mechanism, user, password))
            self._ask(ASK_AUTH)
            return 0
        known, secret = self.settings.auth
        good = compare_digest(user.encode(), known.encode())
        good &= compare_digest(password.encode(), secret.encode())
        self.counts.refused += not good
        self.user = user if good else None
        return self._say(R_LOGGED_IN) if good else self._wrong(R_DENIED)

    cdef int _deny(self, int code, bytes line) except -1:
        """The caller's no to a login, 4xx or 5xx."""
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            return self._close(R_ERRORS)
        if code < 500 or self._login.trouble is None:
            return self.put(line)
        # RFC 7628 section 3.2.3, and Gmail: what is wrong is a challenge; the refusal follows the client's answer to it.
        self._denial = line
        self._state = LOGIN
        return self.put(b"334 " + self._login.trouble + b"\r\n")
