from bulkmail.wire.server_state import ServerState

class ServerText(ServerState):
    @property
    def in_transaction(self) -> bool: ...
