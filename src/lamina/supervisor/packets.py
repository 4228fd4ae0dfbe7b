"""What a supervisor and those who attach to its container say to each other: packets of a SOCK_SEQPACKET socket.

to a client             o, e + bytes   what was written to standard output (and a terminal), to standard error
                        h              its hello was heard: what is written from now on it gets
                        x + JSON       the end: {"status": n}
from a client           h + JSON       hello: which of "stdin", "stdout", "stderr" it wants
                        i + bytes      input; c: the end of input
                        r + 4 bytes    the size of its terminal: rows and columns (uint16, little endian)
                        s + byte       a signal for the container
"""

from __future__ import annotations

import struct

# of what was read or typed, with its letter
CHUNK = 1 << 16
LONGEST = CHUNK + 1
SIZE = struct.Struct("<HH")
SOCKET = b"attach"
