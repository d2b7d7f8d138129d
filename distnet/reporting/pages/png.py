"""Small pictures as PNG files within a page."""

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

GREY, PALETTE = 0, 3  # colour types, of PNG's specification, section 11.2.1


def encode_png(pixels: Bytes, palette: Bytes | None = None) -> str:
    """A PNG file of `pixels`, (rows, columns), as a data URL.

    Without a palette they are shades of grey, 0 for black. palette: (colours, 4), red, green, blue and opacity; pixels
    are then indices of its rows.
    """
    rows, columns = pixels.shape
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, GREY if palette is None else PALETTE, 0, 0, 0))]
    if palette is not None:
        chunks += [(b"PLTE", palette[:, :3].tobytes()), (b"tRNS", palette[:, 3].tobytes())]
    lines = np.pad(pixels, ((0, 0), (1, 0)))  # each line begins with its filter; 0 means none
    chunks += [(b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return "data:image/png;base64," + base64.b64encode(content).decode()
