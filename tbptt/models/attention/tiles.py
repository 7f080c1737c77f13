"""What the kernels of relative attention do to tiles: load, store, turn from distances to keys and back, mask, drop.

A query's position scores lie at distances, its content scores at keys: query i and key j share row T-1-i+j of r (which
runs from distance K-1 down to 0). For a square tile of N queries from i0 and N keys from j0 these are the 2N-1 rows
from T-N-i0+j0 on: the tile of N rows that begins there, and the next one. So both axes are cut into tiles of N, and

- `to_keys` turns two neighbouring tiles (query, distance) into one tile (query, key),
- `to_distances` turns two neighbouring tiles (query, key) into one tile (query, distance),

each by picking from either and rotating every row.

Legend: T queries, K keys, E head size, N tile, P the head size padded to a power of two.
"""

import triton
import triton.language as tl


@triton.jit
def load_rows(matrix, row, n_rows, stride, E: tl.constexpr, P: tl.constexpr):
    """The (N, P) tile of these rows, zero outside of the matrix."""
    column = tl.arange(0, P)
    inside = ((row >= 0) & (row < n_rows))[:, None] & (column < E)[None, :]
    return tl.load(matrix + row[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def store_rows(matrix, row, n_rows, stride, tile, E: tl.constexpr, P: tl.constexpr):
    column = tl.arange(0, P)
    inside = ((row >= 0) & (row < n_rows))[:, None] & (column < E)[None, :]
    tl.store(matrix + row[:, None] * stride + column[None, :], tile.to(matrix.dtype.element_ty), mask=inside)


@triton.jit
def biased(q, bias, h, E: tl.constexpr, P: tl.constexpr):
    """q plus a bias of its head, rounded once."""
    column = tl.arange(0, P)
    bias_P = tl.load(bias + h * E + column, mask=column < E, other=0.0)
    return (q.to(tl.float32) + bias_P.to(tl.float32)[None, :]).to(q.dtype)


@triton.jit
def to_keys(lower, upper, N: tl.constexpr):
    """(query, distance) tiles of rows from T-N-i0+j0 and from T-i0+j0 -> the (query, key) tile at i0, j0."""
    row, column = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    mixed = tl.where(row + column >= N - 1, lower, upper)
    return tl.gather(mixed, (column - row + N - 1) % N, 1)


@triton.jit
def to_distances(tile, before, N: tl.constexpr):
    """(query, key) tiles at i0, j0 and at i0, j0-N -> the (query, distance) tile of rows from T-N-i0+j0."""
    row, column = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    mixed = tl.where(column <= row, tile, before)
    return tl.gather(mixed, (column + row + 1) % N, 1)


@triton.jit
def sees(i, j, T, K, window):
    """Whether a query sees a key: itself and what is less than a window before it."""
    distance = i[:, None] + (K - T) - j[None, :]
    return (distance >= 0) & (distance < window) & (i < T)[:, None]


@triton.jit
def drop(tile, seed, lane_head, i, j0, dropout, N: tl.constexpr):
    """Zero or enlarge the entries of a (query, key) tile, always the same at the same place.

    Philox makes four numbers at a time, here for four neighbouring keys.
    """
    four = i[:, None] * 0 + (j0 // 4 + tl.arange(0, N // 4))[None, :]
    a, b, c, d = tl.philox(seed, i[:, None] + four * 0, four, lane_head + four * 0, four * 0)
    bits = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (N, N))
    return tl.where(tl.uint_to_uniform_float(bits) >= dropout, tile / (1 - dropout), 0.0)
