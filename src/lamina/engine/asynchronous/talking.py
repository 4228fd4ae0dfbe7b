"""The pipes of a process as streams of asyncio, of bytes or of text."""

from __future__ import annotations

import asyncio
import codecs
import io
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from lamina.linux.fd import Fd

CHUNK = 1 << 16


class TextReader:
    """A StreamReader's words for text, with universal newlines as subprocess has them."""

    def __init__(self, reader: asyncio.StreamReader, encoding: str, errors: str) -> None:
        self._reader = reader
        decoder = codecs.getincrementaldecoder(encoding)(errors)
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._text, self._over = "", False

    async def read(self, n: int = -1) -> str:
        """Up to *n* characters, at least one unless it has ended; or (negative) everything to its end."""
        while not self._over and (n < 0 or not self._text):
            await self._more()
        n = len(self._text) if n < 0 else n
        found, self._text = self._text[:n], self._text[n:]
        return found

    async def readline(self) -> str:
        """A line with its end; what follows the last one at the end of all, and then ""."""
        while "\n" not in self._text and not self._over:
            await self._more()
        line, newline, self._text = self._text.partition("\n")
        return line + newline

    def at_eof(self) -> bool:
        """Whether there is nothing more to read."""
        return self._over and not self._text

    async def _more(self) -> None:
        data = await self._reader.read(CHUNK)
        self._over = not data
        self._text += self._decoder.decode(data, final=self._over)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if not (line := await self.readline()):
            raise StopAsyncIteration
        return line


class TextWriter:
    """A StreamWriter's words for text."""

    def __init__(self, writer: asyncio.StreamWriter, encoding: str, errors: str) -> None:
        self._writer, self._encoding, self._errors = writer, encoding, errors

    def write(self, text: str) -> None:
        """Have it written; `drain` waits until there is room."""
        self._writer.write(text.encode(self._encoding, self._errors))

    def writelines(self, lines: Iterable[str]) -> None:
        """Have all of them written."""
        self.write("".join(lines))

    async def drain(self) -> None:
        """Wait until there is room. Raises ConnectionError where nobody reads any more."""
        await self._writer.drain()

    def close(self) -> None:
        """The end of its input, once everything is written."""
        self._writer.close()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._writer.is_closing()

    async def wait_closed(self) -> None:
        """Until it is closed."""
        await self._writer.wait_closed()


async def reader_of(pipe: Fd) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    """A reader of *pipe*, which is its own from now on, and what closes it."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=CHUNK, loop=loop)
    file = os.fdopen(pipe.steal(), "rb", 0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), file)
    return reader, transport


async def writer_of(pipe: Fd) -> asyncio.StreamWriter:
    """A writer to *pipe*, which is its own from now on."""
    loop = asyncio.get_running_loop()
    file = os.fdopen(pipe.steal(), "wb", 0)
    nothing = asyncio.StreamReader(loop=loop)
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(nothing, loop=loop), file
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)
