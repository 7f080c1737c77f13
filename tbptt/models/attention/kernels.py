"""Triton kernels of relative attention, tiled over queries and keys; scores are never written to global memory.

There is no shifted copy of the position scores (see tiles.py). There are no atomic additions: every program writes its
own part of an output, so that results are reproducible bit for bit.

Legend: B lanes, T queries, K keys, H heads, E head size, N tile, P the head size padded to a power of two. Tensors are
contiguous: q, y (B, T, H, E); kv (B, K, 2, H, E); r (K, H, E); u, v (H, E); lse (base 2), delta (B, H, T); since (B, T)
int64, or None where no documents are told apart: then the kernels are compiled without it.
"""

import triton
import triton.language as tl

from tbptt.models.attention.tiles import (
    add_bias,
    apply_dropout,
    load_rows,
    load_since,
    store_rows,
    to_distances,
    to_keys,
    visibility,
)

SIZES = ("B", "T", "K", "window", "group_size")  # arguments that do not trigger a recompilation when they change


@triton.jit(do_not_specialize=SIZES)
def forward(
    q, kv, r, u, v, seed, since, y, lse, T, K, window, scale, dropout,
    H: tl.constexpr, E: tl.constexpr, P: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """One program per lane, head and tile of queries. `scale` includes log2(e): the softmax is computed with exp2."""
    tiles = tl.cdiv(T, N)
    i0, lane_head = tl.program_id(0) % tiles * N, tl.program_id(0) // tiles
    b, h = (lane_head // H).to(tl.int64), lane_head % H
    span = tl.arange(0, N)
    i = i0 + span
    q_tile = load_rows(q + (b * T * H + h) * E, i, T, H * E, E, P)
    q_content, q_position = add_bias(q_tile, u, h, E, P), add_bias(q_tile, v, h, E, P)
    keys = kv + (b * K * 2 * H + h) * E
    since_N = None if since is None else load_since(since, b, i, T, K)
    oldest = i0 + K - T - window + 1
    if since is not None:  # nothing of earlier documents
        oldest = tl.maximum(oldest, tl.min(i + (K - T) - since_N, 0))
    first = tl.maximum(0, oldest) // N * N
    r_tile = load_rows(r + h * E, T - N - i0 + first + span, K, H * E, E, P)
    lower = tl.dot(q_position, tl.trans(r_tile), input_precision=PRECISION)
    row_max, row_sum = tl.full([N], -1e30, tl.float32), tl.zeros([N], tl.float32)
    y_tile = tl.zeros([N, P], tl.float32)
    for j0 in range(first, tl.minimum(K, i0 + N + K - T), N):
        j = j0 + span
        r_tile = load_rows(r + h * E, T - i0 + j, K, H * E, E, P)
        k_tile = load_rows(keys, j, K, 2 * H * E, E, P)
        upper = tl.dot(q_position, tl.trans(r_tile), input_precision=PRECISION)
        score = to_keys(lower, upper, N) + tl.dot(q_content, tl.trans(k_tile), input_precision=PRECISION)
        lower = upper
        visible = visibility(i, j, T, K, window, since_N)
        score = tl.where(visible, score * scale, -1e30)
        new_max = tl.maximum(row_max, tl.max(score, 1))
        rescale = tl.exp2(row_max - new_max)
        weight = tl.where(visible, tl.exp2(score - new_max[:, None]), 0.0)
        row_sum = row_sum * rescale + tl.sum(weight, 1)
        row_max = new_max
        if DROP:
            weight = apply_dropout(weight, tl.load(seed), lane_head, i, j0, dropout, N)
        v_tile = load_rows(keys + H * E, j, K, 2 * H * E, E, P)
        y_tile = y_tile * rescale[:, None] + tl.dot(weight.to(v_tile.dtype), v_tile, input_precision=PRECISION)
    row_sum = tl.where(i < T, row_sum, 1.0)
    store_rows(y + (b * T * H + h) * E, i, T, H * E, y_tile / row_sum[:, None], E, P)
    tl.store(lse + lane_head.to(tl.int64) * T + i, row_max + tl.log2(row_sum), mask=i < T)


@triton.jit(do_not_specialize=SIZES)
def backward_queries(
    q, kv, r, u, v, seed, since, y, lse, dy, dq, du_partial, dv_partial, delta, T, K, window, scale, factor, dropout,
    H: tl.constexpr, E: tl.constexpr, P: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of queries, and the tile's partial sums of the gradients of u and v: (B H tiles, E) each.

    Also writes delta = sum(y * dy), which the other two kernels read. `factor` is the scale without log2(e).
    """
    tiles = tl.cdiv(T, N)
    i0, lane_head = tl.program_id(0) % tiles * N, tl.program_id(0) // tiles
    b, h = (lane_head // H).to(tl.int64), lane_head % H
    span, column = tl.arange(0, N), tl.arange(0, P)
    i, queries = i0 + span, (b * T * H + h) * E
    q_tile, dy_tile = load_rows(q + queries, i, T, H * E, E, P), load_rows(dy + queries, i, T, H * E, E, P)
    q_content, q_position = add_bias(q_tile, u, h, E, P), add_bias(q_tile, v, h, E, P)
    delta_N = tl.sum(load_rows(y + queries, i, T, H * E, E, P).to(tl.float32) * dy_tile.to(tl.float32), 1)
    tl.store(delta + lane_head.to(tl.int64) * T + i, delta_N, mask=i < T)
    lse_N = tl.load(lse + lane_head.to(tl.int64) * T + i, mask=i < T, other=0.0)
    keys = kv + (b * K * 2 * H + h) * E
    since_N = None if since is None else load_since(since, b, i, T, K)
    oldest = i0 + K - T - window + 1
    if since is not None:  # nothing of earlier documents
        oldest = tl.maximum(oldest, tl.min(i + (K - T) - since_N, 0))
    first = tl.maximum(0, oldest) // N * N
    r_lower = load_rows(r + h * E, T - N - i0 + first + span, K, H * E, E, P)
    lower = tl.dot(q_position, tl.trans(r_lower), input_precision=PRECISION)
    previous = tl.zeros([N, N], tl.float32).to(q_tile.dtype)
    dq_content, dq_position = tl.zeros([N, P], tl.float32), tl.zeros([N, P], tl.float32)
    for j0 in range(first, tl.minimum(K, i0 + N + K - T), N):
        j = j0 + span
        r_upper = load_rows(r + h * E, T - i0 + j, K, H * E, E, P)
        k_tile = load_rows(keys, j, K, 2 * H * E, E, P)
        v_tile = load_rows(keys + H * E, j, K, 2 * H * E, E, P)
        upper = tl.dot(q_position, tl.trans(r_upper), input_precision=PRECISION)
        score = to_keys(lower, upper, N) + tl.dot(q_content, tl.trans(k_tile), input_precision=PRECISION)
        weight = tl.where(visibility(i, j, T, K, window, since_N), tl.exp2(score * scale - lse_N[:, None]), 0.0)
        d_weight = tl.dot(dy_tile, tl.trans(v_tile), input_precision=PRECISION)
        if DROP:
            d_weight = apply_dropout(d_weight, tl.load(seed), lane_head, i, j0, dropout, N)
        d_score = (weight * (d_weight - delta_N[:, None])).to(q_tile.dtype)
        dq_content += tl.dot(d_score, k_tile, input_precision=PRECISION)
        dq_position += tl.dot(to_distances(d_score, previous, N), r_lower, input_precision=PRECISION)
        lower, r_lower, previous = upper, r_upper, d_score
    last = to_distances(tl.zeros_like(previous), previous, N)
    dq_position += tl.dot(last, r_lower, input_precision=PRECISION)
    store_rows(dq + queries, i, T, H * E, (dq_content + dq_position) * factor, E, P)
    offset = tl.program_id(0).to(tl.int64) * E + column
    tl.store(du_partial + offset, tl.sum(dq_content, 0) * factor, mask=column < E)
    tl.store(dv_partial + offset, tl.sum(dq_position, 0) * factor, mask=column < E)


@triton.jit(do_not_specialize=SIZES)
def backward_keys(
    q, kv, r, u, v, seed, since, lse, dy, delta, dkv, T, K, window, scale, factor, dropout,
    H: tl.constexpr, E: tl.constexpr, P: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and their values: one program per lane, head and tile of keys."""
    tiles = tl.cdiv(K, N)
    j0, lane_head = tl.program_id(0) % tiles * N, tl.program_id(0) // tiles
    b, h = (lane_head // H).to(tl.int64), lane_head % H
    span = tl.arange(0, N)
    j, keys = j0 + span, (b * K * 2 * H + h) * E
    k_tile = load_rows(kv + keys, j, K, 2 * H * E, E, P)
    v_tile = load_rows(kv + keys + H * E, j, K, 2 * H * E, E, P)
    dk_tile, dv_tile = tl.zeros([N, P], tl.float32), tl.zeros([N, P], tl.float32)
    first = tl.maximum(0, j0 + T - K) // N * N
    r_upper = load_rows(r + h * E, T - first + j, K, H * E, E, P)
    for i0 in range(first, tl.minimum(T, j0 + N - 1 + T - K + window), N):
        i, queries = i0 + span, (b * T * H + h) * E
        q_tile, dy_tile = load_rows(q + queries, i, T, H * E, E, P), load_rows(dy + queries, i, T, H * E, E, P)
        q_content, q_position = add_bias(q_tile, u, h, E, P), add_bias(q_tile, v, h, E, P)
        lse_N = tl.load(lse + lane_head.to(tl.int64) * T + i, mask=i < T, other=0.0)
        delta_N = tl.load(delta + lane_head.to(tl.int64) * T + i, mask=i < T, other=0.0)
        since_N = None if since is None else load_since(since, b, i, T, K)
        r_lower = load_rows(r + h * E, T - N - i0 + j, K, H * E, E, P)
        lower = tl.dot(q_position, tl.trans(r_lower), input_precision=PRECISION)
        upper = tl.dot(q_position, tl.trans(r_upper), input_precision=PRECISION)
        r_upper = r_lower
        score = to_keys(lower, upper, N) + tl.dot(q_content, tl.trans(k_tile), input_precision=PRECISION)
        weight = tl.where(visibility(i, j, T, K, window, since_N), tl.exp2(score * scale - lse_N[:, None]), 0.0)
        d_weight = tl.dot(dy_tile, tl.trans(v_tile), input_precision=PRECISION)
        dropped_weight = weight
        if DROP:
            dropped_weight = apply_dropout(weight, tl.load(seed), lane_head, i, j0, dropout, N)
            d_weight = apply_dropout(d_weight, tl.load(seed), lane_head, i, j0, dropout, N)
        dv_tile += tl.dot(tl.trans(dropped_weight.to(dy_tile.dtype)), dy_tile, input_precision=PRECISION)
        d_score = (weight * (d_weight - delta_N[:, None])).to(q_tile.dtype)
        dk_tile += tl.dot(tl.trans(d_score), q_content, input_precision=PRECISION)
    store_rows(dkv + keys, j, K, 2 * H * E, dk_tile * factor, E, P)
    store_rows(dkv + keys + H * E, j, K, 2 * H * E, dv_tile, E, P)


@triton.jit(do_not_specialize=SIZES)
def backward_positions(
    q, kv, r, u, v, seed, since, lse, dy, delta, dr_partial, B, T, K, window, scale, factor, dropout, group_size,
    H: tl.constexpr, E: tl.constexpr, P: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of r, summed over a group of lanes: (groups, K, H, E), to be summed over the groups.

    The first row of a tile is congruent to T modulo N, so that its entries lie in whole tiles of queries and keys.
    """
    h, group = tl.program_id(1), tl.program_id(2)
    row0 = tl.program_id(0) * N - (N - T % N) % N
    span = tl.arange(0, N)
    row = row0 + span
    r_tile = load_rows(r + h * E, row, K, H * E, E, P)
    dr_tile = tl.zeros([N, P], tl.float32)
    for lane in range(group * group_size, tl.minimum(B, (group + 1) * group_size)):
        b, lane_head = tl.cast(lane, tl.int64), tl.cast(lane, tl.int32) * H + h
        queries, keys = (b * T * H + h) * E, (b * K * 2 * H + h) * E
        for i0 in range(tl.maximum(0, T - N - row0) // N * N, T, N):
            j0 = row0 - T + N + i0
            i, j = i0 + span, j0 + span
            q_tile, dy_tile = load_rows(q + queries, i, T, H * E, E, P), load_rows(dy + queries, i, T, H * E, E, P)
            q_content, q_position = add_bias(q_tile, u, h, E, P), add_bias(q_tile, v, h, E, P)
            k_tile, k_previous = (
                load_rows(kv + keys, j, K, 2 * H * E, E, P),
                load_rows(kv + keys, j - N, K, 2 * H * E, E, P),
            )
            content = tl.dot(q_content, tl.trans(k_tile), input_precision=PRECISION)
            content_previous = tl.dot(q_content, tl.trans(k_previous), input_precision=PRECISION)
            values = kv + keys + H * E
            v_tile, v_previous = load_rows(values, j, K, 2 * H * E, E, P), load_rows(values, j - N, K, 2 * H * E, E, P)
            d_weight = tl.dot(dy_tile, tl.trans(v_tile), input_precision=PRECISION)
            d_weight_previous = tl.dot(dy_tile, tl.trans(v_previous), input_precision=PRECISION)
            if DROP:
                d_weight = apply_dropout(d_weight, tl.load(seed), lane_head, i, j0, dropout, N)
                d_weight_previous = apply_dropout(d_weight_previous, tl.load(seed), lane_head, i, j0 - N, dropout, N)
            score = tl.dot(q_position, tl.trans(r_tile), input_precision=PRECISION)
            score += to_distances(content, content_previous, N)
            lse_N = tl.load(lse + lane_head.to(tl.int64) * T + i, mask=i < T, other=0.0)
            delta_N = tl.load(delta + lane_head.to(tl.int64) * T + i, mask=i < T, other=0.0)
            key = row[None, :] - T + 1 + i[:, None]
            visible = (key >= 0) & (i < T)[:, None] & ((row < K) & (row >= K - window))[None, :]
            if since is not None:
                since_N = load_since(since, b, i, T, K)
                visible = visible & (K - 1 - row[None, :] <= since_N[:, None])
            weight = tl.where(visible, tl.exp2(score * scale - lse_N[:, None]), 0.0)
            d_score = weight * (to_distances(d_weight, d_weight_previous, N) - delta_N[:, None])
            dr_tile += tl.dot(tl.trans(d_score.to(q_tile.dtype)), q_position, input_precision=PRECISION)
    store_rows(dr_partial + (group * K * H + h).to(tl.int64) * E, row, K, H * E, dr_tile * factor, E, P)
