"""What general-purpose compressors make of the bytes a model is scored on: numbers to hold its own against."""

from __future__ import annotations

import lzma
import zlib


def compressed_bits_per_byte(text: bytes) -> dict[str, float]:
    return {
        "zlib": 8 * len(zlib.compress(text, 9)) / len(text),
        "lzma": 8 * len(lzma.compress(text)) / len(text),
    }
