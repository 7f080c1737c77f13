"""Triton kernels of relative attention: a tile of queries meets a tile of keys, and the scores never leave the chip.

No shifted copy is made, nothing is added atomically, and every program writes what it alone owns, so that results
repeat bit for bit. How position scores find their keys: attention_tiles.py.

Legend: B lanes, T queries, K keys, H heads, E head size, N tile, P the head size padded to a power of two. Tensors are
contiguous: q, y (B, T, H, E); kv (B, K, 2, H, E); r (K, H, E); u, v (H, E); lse (base 2), delta (B, H, T).
"""

import triton
import triton.language as tl

from tbptt.models.attention.tiles import biased, drop, load_rows, sees, store_rows, to_distances, to_keys

SIZES = ("B", "T", "K", "window", "LANES")  # arguments that change from call to call without a compilation


@triton.jit(do_not_specialize=SIZES)
def forward(
    q, kv, r, u, v, seed, y, lse, T, K, window, scale, dropout,
    H: tl.constexpr, E: tl.constexpr, P: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """One program for every tile of queries of every lane and head. `scale` turns scores into exponents of 2."""
    tiles = tl.cdiv(T, N)
    i0, lane_head = tl.program_id(0) % tiles * N, tl.program_id(0) // tiles
    b, h = (lane_head // H).to(tl.int64), lane_head % H
    span = tl.arange(0, N)
    i = i0 + span
    q_tile = load_rows(q + (b * T * H + h) * E, i, T, H * E, E, P)
    q_content, q_position = biased(q_tile, u, h, E, P), biased(q_tile, v, h, E, P)
    keys = kv + (b * K * 2 * H + h) * E
    first = tl.maximum(0, i0 + K - T - window + 1) // N * N
    r_tile = load_rows(r + h * E, T - N - i0 + first + span, K, H * E, E, P)
    lower = tl.dot(q_position, tl.trans(r_tile), input_precision=PRECISION)
    most, total = tl.full([N], -1e30, tl.float32), tl.zeros([N], tl.float32)
    y_tile = tl.zeros([N, P], tl.float32)
    for j0 in range(first, tl.minimum(K, i0 + N + K - T), N):
        j = j0 + span
        r_tile = load_rows(r + h * E, T - i0 + j, K, H * E, E, P)
        k_tile = load_rows(keys, j, K, 2 * H * E, E, P)
        upper = tl.dot(q_position, tl.trans(r_tile), input_precision=PRECISION)
        score = to_keys(lower, upper, N) + tl.dot(q_content, tl.trans(k_tile), input_precision=PRECISION)
        lower = upper
        visible = sees(i, j, T, K, window)
        score = tl.where(visible, score * scale, -1e30)
        new_most = tl.maximum(most, tl.max(score, 1))
        shrink = tl.exp2(most - new_most)
        weight = tl.where(visible, tl.exp2(score - new_most[:, None]), 0.0)
        total = total * shrink + tl.sum(weight, 1)
        most = new_most
        if DROP:
            weight = drop(weight, tl.load(seed), lane_head, i, j0, dropout, N)
        v_tile = load_rows(keys + H * E, j, K, 2 * H * E, E, P)
        y_tile = y_tile * shrink[:, None] + tl.dot(weight.to(v_tile.dtype), v_tile, input_precision=PRECISION)
    total = tl.where(i < T, total, 1.0)
    store_rows(y + (b * T * H + h) * E, i, T, H * E, y_tile / total[:, None], E, P)
    tl.store(lse + lane_head.to(tl.int64) * T + i, most + tl.log2(total), mask=i < T)


@triton.jit(do_not_specialize=SIZES)
def backward_queries(
    q, kv, r, u, v, seed, y, lse, dy, dq, du_parts, dv_parts, delta, T, K, window, scale, factor, dropout,
    H: tl.constexpr, E: tl.constexpr, P: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of queries and their sums, the tile's part of the biases' gradients: (B H tiles, E) each.

    Also writes delta = sum(y * dy), which the other two kernels read. `factor` is the scale itself.
    """
    tiles = tl.cdiv(T, N)
    i0, lane_head = tl.program_id(0) % tiles * N, tl.program_id(0) // tiles
    b, h = (lane_head // H).to(tl.int64), lane_head % H
    span, column = tl.arange(0, N), tl.arange(0, P)
    i, queries = i0 + span, (b * T * H + h) * E
    q_tile, dy_tile = load_rows(q + queries, i, T, H * E, E, P), load_rows(dy + queries, i, T, H * E, E, P)
    q_content, q_position = biased(q_tile, u, h, E, P), biased(q_tile, v, h, E, P)
    delta_N = tl.sum(load_rows(y + queries, i, T, H * E, E, P).to(tl.float32) * dy_tile.to(tl.float32), 1)
    tl.store(delta + lane_head.to(tl.int64) * T + i, delta_N, mask=i < T)
    lse_N = tl.load(lse + lane_head.to(tl.int64) * T + i, mask=i < T, other=0.0)
    keys = kv + (b * K * 2 * H + h) * E
    first = tl.maximum(0, i0 + K - T - window + 1) // N * N
    r_lower = load_rows(r + h * E, T - N - i0 + first + span, K, H * E, E, P)
    lower = tl.dot(q_position, tl.trans(r_lower), input_precision=PRECISION)
    before = tl.zeros([N, N], tl.float32).to(q_tile.dtype)
    dq_content, dq_position = tl.zeros([N, P], tl.float32), tl.zeros([N, P], tl.float32)
    for j0 in range(first, tl.minimum(K, i0 + N + K - T), N):
        j = j0 + span
        r_upper = load_rows(r + h * E, T - i0 + j, K, H * E, E, P)
        k_tile = load_rows(keys, j, K, 2 * H * E, E, P)
        v_tile = load_rows(keys + H * E, j, K, 2 * H * E, E, P)
        upper = tl.dot(q_position, tl.trans(r_upper), input_precision=PRECISION)
        score = to_keys(lower, upper, N) + tl.dot(q_content, tl.trans(k_tile), input_precision=PRECISION)
        weight = tl.where(sees(i, j, T, K, window), tl.exp2(score * scale - lse_N[:, None]), 0.0)
        d_weight = tl.dot(dy_tile, tl.trans(v_tile), input_precision=PRECISION)
        if DROP:
            d_weight = drop(d_weight, tl.load(seed), lane_head, i, j0, dropout, N)
        d_score = (weight * (d_weight - delta_N[:, None])).to(q_tile.dtype)
        dq_content += tl.dot(d_score, k_tile, input_precision=PRECISION)
        dq_position += tl.dot(to_distances(d_score, before, N), r_lower, input_precision=PRECISION)
        lower, r_lower, before = upper, r_upper, d_score
    rest = to_distances(tl.zeros_like(before), before, N)
    dq_position += tl.dot(rest, r_lower, input_precision=PRECISION)
    store_rows(dq + queries, i, T, H * E, (dq_content + dq_position) * factor, E, P)
    part = tl.program_id(0).to(tl.int64) * E + column
    tl.store(du_parts + part, tl.sum(dq_content, 0) * factor, mask=column < E)
    tl.store(dv_parts + part, tl.sum(dq_position, 0) * factor, mask=column < E)


@triton.jit(do_not_specialize=SIZES)
def backward_keys(
    q, kv, r, u, v, seed, lse, dy, delta, dkv, T, K, window, scale, factor, dropout,
    H: tl.constexpr, E: tl.constexpr, P: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and their values."""
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
        q_content, q_position = biased(q_tile, u, h, E, P), biased(q_tile, v, h, E, P)
        lse_N = tl.load(lse + lane_head.to(tl.int64) * T + i, mask=i < T, other=0.0)
        delta_N = tl.load(delta + lane_head.to(tl.int64) * T + i, mask=i < T, other=0.0)
        r_lower = load_rows(r + h * E, T - N - i0 + j, K, H * E, E, P)
        lower = tl.dot(q_position, tl.trans(r_lower), input_precision=PRECISION)
        upper = tl.dot(q_position, tl.trans(r_upper), input_precision=PRECISION)
        r_upper = r_lower
        score = to_keys(lower, upper, N) + tl.dot(q_content, tl.trans(k_tile), input_precision=PRECISION)
        weight = tl.where(sees(i, j, T, K, window), tl.exp2(score * scale - lse_N[:, None]), 0.0)
        d_weight = tl.dot(dy_tile, tl.trans(v_tile), input_precision=PRECISION)
        kept = weight
        if DROP:
            kept = drop(weight, tl.load(seed), lane_head, i, j0, dropout, N)
            d_weight = drop(d_weight, tl.load(seed), lane_head, i, j0, dropout, N)
        dv_tile += tl.dot(tl.trans(kept.to(dy_tile.dtype)), dy_tile, input_precision=PRECISION)
        d_score = (weight * (d_weight - delta_N[:, None])).to(q_tile.dtype)
        dk_tile += tl.dot(tl.trans(d_score), q_content, input_precision=PRECISION)
    store_rows(dkv + keys, j, K, 2 * H * E, dk_tile * factor, E, P)
    store_rows(dkv + keys + H * E, j, K, 2 * H * E, dv_tile, E, P)


@triton.jit(do_not_specialize=SIZES)
def backward_positions(
    q, kv, r, u, v, seed, lse, dy, delta, dr_parts, B, T, K, window, scale, factor, dropout, LANES,
    H: tl.constexpr, E: tl.constexpr, P: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """The part of some LANES in the gradient of a tile of r: (parts, K, H, E), to be summed over the parts.

    The tile's rows begin at one that is T modulo N, so that its entries lie in whole tiles of queries and keys.
    """
    h, part = tl.program_id(1), tl.program_id(2)
    row0 = tl.program_id(0) * N - (N - T % N) % N
    span = tl.arange(0, N)
    row = row0 + span
    r_tile = load_rows(r + h * E, row, K, H * E, E, P)
    dr_tile = tl.zeros([N, P], tl.float32)
    for lane in range(part * LANES, tl.minimum(B, (part + 1) * LANES)):
        b, lane_head = tl.cast(lane, tl.int64), tl.cast(lane, tl.int32) * H + h
        queries, keys = (b * T * H + h) * E, (b * K * 2 * H + h) * E
        for i0 in range(tl.maximum(0, T - N - row0) // N * N, T, N):
            j0 = row0 - T + N + i0
            i, j = i0 + span, j0 + span
            q_tile, dy_tile = load_rows(q + queries, i, T, H * E, E, P), load_rows(dy + queries, i, T, H * E, E, P)
            q_content, q_position = biased(q_tile, u, h, E, P), biased(q_tile, v, h, E, P)
            k_tile, k_before = (
                load_rows(kv + keys, j, K, 2 * H * E, E, P),
                load_rows(kv + keys, j - N, K, 2 * H * E, E, P),
            )
            content = tl.dot(q_content, tl.trans(k_tile), input_precision=PRECISION)
            content_before = tl.dot(q_content, tl.trans(k_before), input_precision=PRECISION)
            values = kv + keys + H * E
            v_tile, v_before = load_rows(values, j, K, 2 * H * E, E, P), load_rows(values, j - N, K, 2 * H * E, E, P)
            d_weight = tl.dot(dy_tile, tl.trans(v_tile), input_precision=PRECISION)
            d_weight_before = tl.dot(dy_tile, tl.trans(v_before), input_precision=PRECISION)
            if DROP:
                d_weight = drop(d_weight, tl.load(seed), lane_head, i, j0, dropout, N)
                d_weight_before = drop(d_weight_before, tl.load(seed), lane_head, i, j0 - N, dropout, N)
            score = tl.dot(q_position, tl.trans(r_tile), input_precision=PRECISION)
            score += to_distances(content, content_before, N)
            lse_N = tl.load(lse + lane_head.to(tl.int64) * T + i, mask=i < T, other=0.0)
            delta_N = tl.load(delta + lane_head.to(tl.int64) * T + i, mask=i < T, other=0.0)
            key = row[None, :] - T + 1 + i[:, None]
            visible = (key >= 0) & (i < T)[:, None] & ((row < K) & (row >= K - window))[None, :]
            weight = tl.where(visible, tl.exp2(score * scale - lse_N[:, None]), 0.0)
            d_score = weight * (to_distances(d_weight, d_weight_before, N) - delta_N[:, None])
            dr_tile += tl.dot(tl.trans(d_score.to(q_tile.dtype)), q_position, input_precision=PRECISION)
    store_rows(dr_parts + (part * K * H + h).to(tl.int64) * E, row, K, H * E, dr_tile * factor, E, P)
