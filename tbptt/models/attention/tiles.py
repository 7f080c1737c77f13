"""Tile operations of the relative attention kernels: load, store, conversion between distances and keys, mask, dropout.

Position scores are indexed by distance, content scores by key: query i and key j use row T-1-i+j of r, whose rows run
from distance K-1 down to 0. A square tile of N queries from i0 and N keys from j0 uses the 2N-1 rows from T-N-i0+j0 on:
the tile of N rows that begins there, and the next one. Both axes are therefore divided into tiles of N, and

- `to_keys` converts two neighbouring (query, distance) tiles into one (query, key) tile,
- `to_distances` converts two neighbouring (query, key) tiles into one (query, distance) tile,

each by selecting entries from the two tiles and rotating every row.

Legend: T queries, K keys, E head size, N tile, P the head size padded to a power of two.
"""

import triton
import triton.language as tl


@triton.jit
def load_rows(matrix, row, n_rows, stride, E: tl.constexpr, P: tl.constexpr):
    """The (N, P) tile of these rows, zero outside the matrix."""
    column = tl.arange(0, P)
    inside = ((row >= 0) & (row < n_rows))[:, None] & (column < E)[None, :]
    return tl.load(matrix + row[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def store_rows(matrix, row, n_rows, stride, tile, E: tl.constexpr, P: tl.constexpr):
    column = tl.arange(0, P)
    inside = ((row >= 0) & (row < n_rows))[:, None] & (column < E)[None, :]
    tl.store(matrix + row[:, None] * stride + column[None, :], tile.to(matrix.dtype.element_ty), mask=inside)


@triton.jit
def add_bias(q, bias, h, E: tl.constexpr, P: tl.constexpr):
    """q plus the bias of head h, added in float32 and rounded once."""
    column = tl.arange(0, P)
    bias_P = tl.load(bias + h * E + column, mask=column < E, other=0.0)
    return (q.to(tl.float32) + bias_P.to(tl.float32)[None, :]).to(q.dtype)


@triton.jit
def to_keys(lower, upper, N: tl.constexpr):
    """(query, distance) tiles with rows from T-N-i0+j0 and from T-i0+j0 -> the (query, key) tile at i0, j0."""
    row, column = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    selected = tl.where(row + column >= N - 1, lower, upper)
    return tl.gather(selected, (column - row + N - 1) % N, 1)


@triton.jit
def to_distances(tile, previous, N: tl.constexpr):
    """(query, key) tiles at i0, j0 and at i0, j0-N -> the (query, distance) tile with rows from T-N-i0+j0."""
    row, column = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    selected = tl.where(column <= row, tile, previous)
    return tl.gather(selected, (column + row + 1) % N, 1)


@triton.jit
def load_since(since, b, i, T, K):
    """How far queries of lane b see back in their document, (N,), from (B, T) int64; 0 outside the segment."""
    return tl.minimum(tl.load(since + b * T + i, mask=i < T, other=0), K).to(tl.int32)


@triton.jit
def visibility(i, j, T, K, window, since_N):
    """The (N, N) boolean mask: a query sees the last `window` keys, its own position included, of its document."""
    distance = i[:, None] + (K - T) - j[None, :]
    visible = (distance >= 0) & (distance < window) & (i < T)[:, None]
    return visible if since_N is None else visible & (distance <= since_N[:, None])


@triton.jit
def apply_dropout(tile, seed, lane_head, i, j0, dropout, N: tl.constexpr):
    """Dropout of a (query, key) tile. The mask depends only on seed, lane, head, query and key, not on the tiling.

    Philox generates four numbers per call, used for four neighbouring keys.
    """
    block = i[:, None] * 0 + (j0 // 4 + tl.arange(0, N // 4))[None, :]
    a, b, c, d = tl.philox(seed, i[:, None] + block * 0, block, lane_head + block * 0, block * 0)
    bits = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (N, N))
    return tl.where(tl.uint_to_uniform_float(bits) >= dropout, tile / (1 - dropout), 0.0)
