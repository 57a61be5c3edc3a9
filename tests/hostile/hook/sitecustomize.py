"""Found by every Python process of a test: writes down each connection that it opens, or asks for.

The file is named by CONNECTIONS; sockets of this machine's file system (AF_UNIX) are let be.
"""

import os
import socket
import sys

_EVENTS = {
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyaddr",
    "socket.gethostbyname",
    "socket.sendmsg",
    "socket.sendto",
}


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event not in _EVENTS:
        return
    first = arguments[0]
    if isinstance(first, socket.socket) and first.family == socket.AF_UNIX:
        return
    said = arguments[1:] if isinstance(first, socket.socket) else arguments
    line = f"{os.getpid()} {event} {said!r}\n"
    descriptor = os.open(os.environ["CONNECTIONS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, line.encode("utf-8", "backslashreplace"))
    os.close(descriptor)


if "CONNECTIONS" in os.environ:
    sys.addaudithook(_note)
