"""A line to a server on which a client's bytes travel only when the test lets them."""

import socket
import threading
from contextlib import suppress


class SlowLine:
    """Forwards one connection; a context manager.

    Attributes:
        url: HOST:PORT to connect to instead of the server's.
    """

    def __init__(self, url: str):
        host, port = url.split(":")
        self._server = socket.create_connection((host, int(port)))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._changed, self._allowed = threading.Condition(), 0
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._forward)]

    def __enter__(self) -> "SlowLine":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let(1 << 30)
        for end in (self._listener, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join()

    def let(self, count: int) -> None:
        """Let this many more bytes of the client through."""
        with self._changed:
            self._allowed += count
            self._changed.notify_all()

    def _forward(self) -> None:
        with suppress(OSError):
            client, _ = self._listener.accept()
            self._threads.append(threading.Thread(target=self._backward, args=(client,)))
            self._threads[1].start()
            while client.recv(1, socket.MSG_PEEK):
                with self._changed:
                    self._changed.wait_for(lambda: self._allowed)
                    data = client.recv(min(self._allowed, 1 << 16))
                    self._allowed -= len(data)
                self._server.sendall(data)

    def _backward(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            while data := self._server.recv(1 << 16):
                client.sendall(data)
