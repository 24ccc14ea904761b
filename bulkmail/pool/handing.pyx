# Which sessions of a lane have room, and the hand-out of what its source gives: what would be Python per session.
#
# Who is first. Few sessions have it in turn: who waited longest. Of thousands a fast server keeps few busy; used in turn,
# each message would find its session, socket and buffers in no cache, here and at the server. So of many who came last
# is first: those in use stay in use.
#
# Owns      two rows of sessions that have room and were given nothing.
# Promises  nothing costs more than the sessions that it names or gives to, however many are idle.
# Errors    none of its own. A session that ended may still stand here until its lane hears of it.
cdef enum:
    FEW = 64                # sessions that have their turn in the order in which they came
    HOLES = 32              # left in a row of nobody before it is closed up


cdef class Row:
    """Sessions in the order in which they came; anyone may leave. Each knows its place (Session.row, .place)."""

    def __cinit__(self):
        self._places = []

    cdef add(self, Session one):
        one.row, one.place = self, len(self._places)
        self._places.append(one)
        self.count += 1

    cdef remove(self, Session one):
        self._places[one.place] = None
        one.row = None
        self.count -= 1
        if len(self._places) > 2 * self.count + HOLES:
            self._close_up()

    cdef Session next(self):
        """Who is to be given something, of a row that is not empty."""
        if self.count > FEW:
            while self._places[len(self._places) - 1] is None:
                self._places.pop()
            return self._places[len(self._places) - 1]
        while self._places[self._head] is None:
            self._head += 1
        return self._places[self._head]

    cdef _close_up(self):
        # half of the places were given up since the last time, each of which pays for one that is kept
        cdef Session one
        cdef Py_ssize_t place = 0
        self._places = [one for one in self._places if one is not None]
        self._head = 0
        for one in self._places:
            one.place = place
            place += 1

    def __iter__(self):
        return iter([one for one in self._places if one is not None])


cdef class Idle:
    """room: what its sessions would take together, as they said when they were noted; since then it can only be more."""

    def __cinit__(self):
        self._ready, self._others = Row(), Row()

    def __len__(self):
        return self._ready.count + self._others.count

    def __iter__(self):
        """Those that are ready first, and who waited longest."""
        return iter([*self._ready, *self._others])

    @property
    def ready(self):
        """How many would have the MAIL of a transaction written at once."""
        return self._ready.count

    # -- who stands here

    def note_all(self, list hungry not None, set sessions not None):
        """These have room, those of them that are in `sessions`."""
        cdef Session one
        for one in hungry:
            if one in sessions:
                self.note(one)

    cpdef note(self, Session one):
        """It has room, or more than before."""
        cdef Row row = self._ready if one.ready() else self._others
        cdef Py_ssize_t room = one.room()
        if one.row is not None and (one.row is not row or room == 0):
            self.discard(one)
        if room == 0:
            return
        if one.row is None:
            row.add(one)
            one.noted = 0
        self.room += room - one.noted
        one.noted = room

    cpdef discard(self, Session one):
        if one.row is not None:
            (<Row>one.row).remove(one)
            self.room -= one.noted

    def clear(self):
        cdef Session one
        for one in self:
            self.discard(one)

    # -- the hand-out

    def hand_out(self, list taken not None, set spent not None):
        """Give them these transactions, at most as many as there is room for.

        The first ones go to those who write them at once, one each, and all are dealt out as evenly as the rooms allow.
        Who may have no more afterwards is added to `spent`.
        """
        cdef list given = self._one_each(taken) if len(taken) <= len(self) else self._all(taken)
        cdef Session one
        for one in given:
            if one.left <= 0:
                spent.add(one)

    cdef list _one_each(self, list taken):
        cdef list given = []
        cdef Session one, ended = None
        cdef Py_ssize_t at = 0
        while at < len(taken) and len(self):
            one = self._ready.next() if self._ready.count else self._others.next()
            self.discard(one)
            if one.room() > 0:
                one.push([taken[at]])
                given.append(one)
                at += 1
            else:
                ended = one
        if at < len(taken):
            self._rest(taken[at:], given, ended)
        return given

    cdef _rest(self, list taken, list living, Session ended):
        """What was for those that have ended: others have it, or one of those, which settles it as not taken."""
        cdef Session one
        cdef Py_ssize_t at = 0, room
        for one in living:
            room = one.room()
            if room > 0 and at < len(taken):
                one.push(taken[at:at + room])
                at += room
        if at < len(taken):
            ended.push(taken[at:])

    cdef list _all(self, list taken):
        cdef list given = [], ended = [], rooms = [], share
        cdef Session one
        cdef Py_ssize_t place, more, at
        for one in self:
            (given if one.room() > 0 else ended).append(one)
        for one in given:
            rooms.append(one.room())
        at = len(given)
        for place, more in enumerate(shares(rooms, len(taken))):
            share = [taken[place]]
            share.extend(taken[at : at + more - 1])
            at += more - 1
            self._give(given[place], share)
        if at < len(taken):
            self._give((ended or given)[0], taken[at:])     # one that has ended settles them as not taken
        return given

    cdef _give(self, Session one, list share):
        self.discard(one)
        one.push(share)


def shares(list rooms not None, Py_ssize_t count):
    """`count` things (at most the sum of `rooms`) dealt out as evenly as the rooms allow."""
    cdef list dealt = [0] * len(rooms)
    cdef Py_ssize_t place, part, each, left, unfilled = len(rooms)
    while count > 0 and unfilled > 0:
        each = max(1, count // unfilled)
        unfilled = 0
        for place in range(len(rooms)):
            left = <Py_ssize_t>rooms[place] - <Py_ssize_t>dealt[place]
            part = min(left, each, count)
            if part > 0:
                dealt[place] = <Py_ssize_t>dealt[place] + part
                count -= part
            unfilled += left > part
    return dealt
