//! Row-wise arithmetic of a Llama block on slices, vectorised and split over threads by rows. Sums
//! run in sixteen fixed lanes and blocks of rows are added in order, so neither the width of vectors
//! nor the number of threads shows in a result.

use crate::simd::{exp, wide};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Rows that one task takes.
const ROWS: usize = 32;

/// Σ or replacement, for results of products.
pub(super) use faer::Accum as Into;

fn par() -> Par {
    if rayon::current_num_threads() > 1 { Par::rayon(0) } else { Par::Seq }
}

/// out `[n, m]` ← or += a `[n, k]` · bᵀ, b `[m, k]`.
pub(super) fn times_transposed(out: &mut [f32], into: Accum, a: &[f32], b: &[f32], n: usize, m: usize) {
    let k = a.len() / n;
    let (a, b) = (MatRef::from_row_major_slice(a, n, k), MatRef::from_row_major_slice(b, m, k));
    matmul(MatMut::from_row_major_slice_mut(out, n, m), into, a, b.transpose(), 1.0, par());
}

/// out `[n, m]` ← or += a `[n, k]` · b `[k, m]`.
pub(super) fn times(out: &mut [f32], into: Accum, a: &[f32], b: &[f32], n: usize, m: usize) {
    let k = a.len() / n;
    let (a, b) = (MatRef::from_row_major_slice(a, n, k), MatRef::from_row_major_slice(b, k, m));
    matmul(MatMut::from_row_major_slice_mut(out, n, m), into, a, b, 1.0, par());
}

/// out `[n, m]` += aᵀ · b, a `[k, n]`, b `[k, m]`: the gradient of a weight.
pub(super) fn add_transposed_times(out: &mut [f32], a: &[f32], b: &[f32], n: usize, m: usize) {
    let k = a.len() / n;
    let (a, b) = (MatRef::from_row_major_slice(a, k, n), MatRef::from_row_major_slice(b, k, m));
    matmul(MatMut::from_row_major_slice_mut(out, n, m), Accum::Add, a.transpose(), b, 1.0, par());
}

/// Σ `each(i)` over a row of `n`, in sixteen lanes.
#[inline(always)]
fn lane_sum(n: usize, each: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let whole = n / 16 * 16;
    for i in (0..whole).step_by(16) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += each(i + lane);
        }
    }
    for i in whole..n {
        lanes[i - whole] += each(i);
    }
    lanes.iter().sum()
}

#[inline(always)]
fn row_max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (rows, rest) = row.as_chunks::<16>();
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    for row in rows {
        for (lane, &x) in lanes.iter_mut().zip(row) {
            *lane = larger(*lane, x);
        }
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, larger);
    rest.iter().copied().fold(max, larger)
}

/// row ← e^(row − its maximum); gives the maximum and the sum.
#[inline(always)]
fn exp_row(row: &mut [f32]) -> (f32, f32) {
    let max = row_max(row);
    for x in row.iter_mut() {
        *x = exp(*x - max);
    }
    (max, lane_sum(row.len(), |i| row[i]))
}

/// Replaces each row of logits by `scale` × (softmax − one-hot(target)) and sums the negative log-likelihoods.
pub(super) fn softmax_minus_one_hot(logits: &mut [f32], targets: &[u32], vocab: usize, scale: f32) -> f64 {
    assert_eq!(logits.len(), targets.len() * vocab, "one target per row");
    let nats: Vec<f32> = logits
        .par_chunks_exact_mut(vocab)
        .zip(targets)
        .map(|(row, &target)| {
            wide(
                #[inline(always)]
                || {
                    let logit = row[target as usize];
                    let (max, sum) = exp_row(row);
                    let factor = scale / sum;
                    row.iter_mut().for_each(|x| *x *= factor);
                    row[target as usize] -= scale;
                    sum.ln() - (logit - max)
                },
            )
        })
        .collect();
    // Summed in order, so the number of threads does not show.
    nats.iter().map(|&x| f64::from(x)).sum()
}

/// 1 / √(mean of squares + ε) of each row of `x` `[N, C]`.
pub(super) fn inverse_rms(x: &[f32], inverse: &mut [f32], eps: f32) {
    let c = x.len() / inverse.len();
    x.par_chunks(ROWS * c).zip(inverse.par_chunks_mut(ROWS)).for_each(|(x, inverse)| {
        wide(
            #[inline(always)]
            || {
                for (x, inverse) in x.chunks_exact(c).zip(inverse) {
                    *inverse = 1.0 / (lane_sum(c, |i| x[i] * x[i]) / c as f32 + eps).sqrt();
                }
            },
        );
    });
}

/// out ← x · inverse · gain: RMSNorm (Zhang and Sennrich, 2019).
pub(super) fn normed(x: &[f32], inverse: &[f32], gain: &[f32], out: &mut [f32]) {
    let c = gain.len();
    let rows = x.par_chunks(ROWS * c).zip(inverse.par_chunks(ROWS)).zip(out.par_chunks_mut(ROWS * c));
    rows.for_each(|((x, inverse), out)| {
        wide(
            #[inline(always)]
            || {
                for ((x, &inverse), out) in x.chunks_exact(c).zip(inverse).zip(out.chunks_exact_mut(c)) {
                    for ((&x, &gain), out) in x.iter().zip(gain).zip(out) {
                        *out = x * inverse * gain;
                    }
                }
            },
        );
    });
}

/// Backward of RMSNorm: dx += …, d_gain += …, from the gradient `dy` of its output.
pub(super) fn normed_backward(
    dy: &[f32],
    x: &[f32],
    inverse: &[f32],
    gain: &[f32],
    dx: &mut [f32],
    d_gain: &mut [f32],
) {
    let c = gain.len();
    let blocks: Vec<Vec<f32>> = dy
        .par_chunks(ROWS * c)
        .zip(x.par_chunks(ROWS * c))
        .zip(inverse.par_chunks(ROWS))
        .zip(dx.par_chunks_mut(ROWS * c))
        .map(|(((dy, x), inverse), dx)| {
            let mut part = vec![0.0f32; c];
            wide(
                #[inline(always)]
                || {
                    let rows = dy.chunks_exact(c).zip(x.chunks_exact(c)).zip(inverse).zip(dx.chunks_exact_mut(c));
                    for (((dy, x), &inverse), dx) in rows {
                        let dot = lane_sum(c, |i| gain[i] * dy[i] * x[i]);
                        let pull = inverse * inverse * inverse * dot / c as f32;
                        for i in 0..c {
                            part[i] += dy[i] * x[i] * inverse;
                            dx[i] += inverse * gain[i] * dy[i] - pull * x[i];
                        }
                    }
                },
            );
            part
        })
        .collect();
    for block in blocks {
        d_gain.iter_mut().zip(block).for_each(|(sum, part)| *sum += part);
    }
}

/// out ← silu(gate) · up.
pub(super) fn gated(gate: &[f32], up: &[f32], out: &mut [f32]) {
    const LEN: usize = 1 << 13;
    out.par_chunks_mut(LEN).zip(gate.par_chunks(LEN)).zip(up.par_chunks(LEN)).for_each(|((out, gate), up)| {
        wide(
            #[inline(always)]
            || {
                for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                    *out = gate / (1.0 + exp(-gate)) * up;
                }
            },
        );
    });
}

/// Backward of [`gated`]: gate and up are replaced by their gradients, from that of the output.
pub(super) fn gated_backward(d_out: &[f32], gate: &mut [f32], up: &mut [f32]) {
    const LEN: usize = 1 << 13;
    let rows = d_out.par_chunks(LEN).zip(gate.par_chunks_mut(LEN)).zip(up.par_chunks_mut(LEN));
    rows.for_each(|((d_out, gate), up)| {
        wide(
            #[inline(always)]
            || {
                for ((&d, gate), up) in d_out.iter().zip(gate).zip(up) {
                    let sigmoid = 1.0 / (1.0 + exp(-*gate));
                    let silu = *gate * sigmoid;
                    let slope = sigmoid * (1.0 + *gate * (1.0 - sigmoid));
                    (*gate, *up) = (d * *up * slope, d * silu);
                }
            },
        );
    });
}

/// Rotary positions for one sequence length (Su et al., 2021), rotate-half: pairs are (i, i + D/2).
pub(super) struct Rope {
    pub(super) seq_len: usize,
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    pub(super) fn new(seq_len: usize, head_dim: usize, theta: f32) -> Self {
        let half = head_dim / 2;
        let angle = |at: usize| {
            let exponent = -2.0 * (at % half) as f64 / head_dim as f64;
            (at / half) as f32 * f64::from(theta).powf(exponent) as f32
        };
        let cos = (0..seq_len * half).map(|at| angle(at).cos()).collect();
        let sin = (0..seq_len * half).map(|at| angle(at).sin()).collect();
        Self { seq_len, half, cos, sin }
    }

    /// Turns rows `[N, heads · D]` by their positions, or back.
    pub(super) fn turn(&self, rows: &mut [f32], width: usize, back: bool) {
        let (half, sign) = (self.half, if back { -1.0 } else { 1.0 });
        rows.par_chunks_mut(width).enumerate().for_each(|(n, row)| {
            let at = n % self.seq_len * half;
            let (cos, sin) = (&self.cos[at..at + half], &self.sin[at..at + half]);
            wide(
                #[inline(always)]
                || {
                    for head in row.chunks_exact_mut(2 * half) {
                        let (a, b) = head.split_at_mut(half);
                        for (((a, b), &cos), &sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                            let sin = sign * sin;
                            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                        }
                    }
                },
            );
        });
    }
}

/// Shape of an attention: heads `h` over key/value heads `kv` of size `d`, sequences of `t`.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) h: usize,
    pub(super) kv: usize,
    pub(super) d: usize,
    pub(super) t: usize,
}

/// Queries that are attended at a time: scores stay in the cache and later keys are never looked at.
const QUERIES: usize = 64;

/// Causal attention. q `[N, H·D]`, k and v `[N, K·D]`; `out` as q; `log_sum` `[B, H, T]` is kept for
/// the backward pass, which computes the probabilities again (Dao et al., 2022).
pub(super) fn attention(heads: Heads, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32], log_sum: &mut [f32]) {
    let Heads { h, kv, d, t } = heads;
    let scale = 1.0 / (d as f32).sqrt();
    let sequences = out.par_chunks_mut(t * h * d).zip(log_sum.par_chunks_mut(h * t)).enumerate();
    sequences.for_each(|(b, (out, log_sum))| {
        let [q, k, v] = sequence(heads, b, [(q, h), (k, kv), (v, kv)]);
        let mut out = MatMut::from_row_major_slice_mut(out, t, h * d);
        let mut scores = vec![0.0; QUERIES.min(t) * t];
        for (head, first) in blocks(heads) {
            let (rows, keys) = (QUERIES.min(t - first), t.min(first + QUERIES));
            let (at, group) = (head * d, head / (h / kv) * d);
            let scores = &mut scores[..rows * keys];
            let (q, k) = (q.submatrix(first, at, rows, d), k.submatrix(0, group, keys, d));
            let scored = MatMut::from_row_major_slice_mut(scores, rows, keys);
            matmul(scored, Accum::Replace, q, k.transpose(), scale, Par::Seq);
            let log_sum = &mut log_sum[head * t + first..][..rows];
            wide(
                #[inline(always)]
                || {
                    for (i, (row, log_sum)) in scores.chunks_exact_mut(keys).zip(log_sum).enumerate() {
                        let (seen, later) = row.split_at_mut(first + i + 1);
                        let (max, sum) = exp_row(seen);
                        let factor = 1.0 / sum;
                        seen.iter_mut().for_each(|x| *x *= factor);
                        later.fill(0.0);
                        *log_sum = max + sum.ln();
                    }
                },
            );
            let out = out.as_mut().submatrix_mut(first, at, rows, d);
            let weights = MatRef::from_row_major_slice(scores, rows, keys);
            matmul(out, Accum::Replace, weights, v.submatrix(0, group, keys, d), 1.0, Par::Seq);
        }
    });
}

/// What the forward pass of an attention read and wrote.
pub(super) struct Attended<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) out: &'a [f32],
    pub(super) log_sum: &'a [f32],
}

/// Backward of [`attention`]: gradients of q, k and v replace what the three slices hold.
pub(super) fn attention_backward(heads: Heads, saved: &Attended<'_>, d_out: &[f32], [dq, dk, dv]: [&mut [f32]; 3]) {
    let Heads { h, kv, d, t } = heads;
    let scale = 1.0 / (d as f32).sqrt();
    let sequences = dq.par_chunks_mut(t * h * d).zip(dk.par_chunks_mut(t * kv * d)).zip(dv.par_chunks_mut(t * kv * d));
    sequences.enumerate().for_each(|(b, ((dq, dk), dv))| {
        let [q, k, v] = sequence(heads, b, [(saved.q, h), (saved.k, kv), (saved.v, kv)]);
        let [out, d_out] = sequence(heads, b, [(saved.out, h), (d_out, h)]);
        dk.fill(0.0);
        dv.fill(0.0);
        let mut dq = MatMut::from_row_major_slice_mut(dq, t, h * d);
        let mut dk = MatMut::from_row_major_slice_mut(dk, t, kv * d);
        let mut dv = MatMut::from_row_major_slice_mut(dv, t, kv * d);
        let (mut weights, mut scores) = (vec![0.0; QUERIES.min(t) * t], vec![0.0; QUERIES.min(t) * t]);
        for (head, first) in blocks(heads) {
            let (rows, keys) = (QUERIES.min(t - first), t.min(first + QUERIES));
            let (at, group) = (head * d, head / (h / kv) * d);
            let (weights, scores) = (&mut weights[..rows * keys], &mut scores[..rows * keys]);
            let (q, k) = (q.submatrix(first, at, rows, d), k.submatrix(0, group, keys, d));
            let (out, d_out) = (out.submatrix(first, at, rows, d), d_out.submatrix(first, at, rows, d));
            let matrix = MatMut::from_row_major_slice_mut(weights, rows, keys);
            matmul(matrix, Accum::Replace, q, k.transpose(), scale, Par::Seq);
            let matrix = MatMut::from_row_major_slice_mut(scores, rows, keys);
            matmul(matrix, Accum::Replace, d_out, v.submatrix(0, group, keys, d).transpose(), 1.0, Par::Seq);
            let log_sum = &saved.log_sum[(b * h + head) * t + first..][..rows];
            wide(
                #[inline(always)]
                || {
                    let pairs = weights.chunks_exact_mut(keys).zip(scores.chunks_exact_mut(keys)).zip(log_sum);
                    for (i, ((weights, scores), &log_sum)) in pairs.enumerate() {
                        let dot = lane_sum(d, |j| out[(i, j)] * d_out[(i, j)]);
                        let seen = first + i + 1;
                        for (weight, score) in weights[..seen].iter_mut().zip(&mut scores[..seen]) {
                            *weight = exp(*weight - log_sum);
                            *score = *weight * (*score - dot) * scale;
                        }
                        weights[seen..].fill(0.0);
                        scores[seen..].fill(0.0);
                    }
                },
            );
            let weights = MatRef::from_row_major_slice(weights, rows, keys);
            let scores = MatRef::from_row_major_slice(scores, rows, keys);
            matmul(dq.as_mut().submatrix_mut(first, at, rows, d), Accum::Replace, scores, k, 1.0, Par::Seq);
            let dk = dk.as_mut().submatrix_mut(0, group, keys, d);
            matmul(dk, Accum::Add, scores.transpose(), q, 1.0, Par::Seq);
            let dv = dv.as_mut().submatrix_mut(0, group, keys, d);
            matmul(dv, Accum::Add, weights.transpose(), d_out, 1.0, Par::Seq);
        }
    });
}

/// Each head with the first query of each block.
fn blocks(heads: Heads) -> impl Iterator<Item = (usize, usize)> {
    (0..heads.h).flat_map(move |head| (0..heads.t).step_by(QUERIES).map(move |first| (head, first)))
}

/// Rows of sequence `b` in tensors of so many heads.
fn sequence<const N: usize>(heads: Heads, b: usize, tensors: [(&[f32], usize); N]) -> [MatRef<'_, f32>; N] {
    tensors.map(|(rows, n)| {
        let len = heads.t * n * heads.d;
        MatRef::from_row_major_slice(&rows[b * len..(b + 1) * len], heads.t, n * heads.d)
    })
}
