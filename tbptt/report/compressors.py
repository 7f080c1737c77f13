"""Bits per byte of general-purpose compressors on the scored text, as a baseline for models of bytes."""

from __future__ import annotations

import lzma
import zlib


def compressed_bits_per_byte(text: bytes) -> dict[str, float]:
    return {
        "zlib": 8 * len(zlib.compress(text, 9)) / len(text),
        "lzma": 8 * len(lzma.compress(text)) / len(text),
    }
