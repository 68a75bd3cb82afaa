#!/usr/bin/env python3
"""Time one full training step of a small Llama in eager PyTorch, float32, CPU.

    python bench/torch_step.py --threads 2

A step is forward, backward, gradient clipping to norm 1.0, AdamW, and setting the
gradients to none. The model is written here in plain torch modules: RMSNorm,
rotary positions, causal attention by `F.scaled_dot_product_attention`, SwiGLU,
untied output layer. The defaults give about 13.8 million parameters.

Prints one JSON object: the median, least and largest step time over `--steps`
steps after `--warmup` steps, tokens per second, and the peak resident memory less
what the process held after the imports.
"""

import argparse
import json
import math
import os
import platform
import resource
import statistics
import sys
import time


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--vocab", type=int, default=2048)
    p.add_argument("--hidden", type=int, default=384)
    p.add_argument("--intermediate", type=int, default=1008)
    p.add_argument("--layers", type=int, default=7)
    p.add_argument("--heads", type=int, default=6)
    p.add_argument("--kv-heads", type=int, default=6)
    p.add_argument("--seq", type=int, default=256)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


args = arguments()
os.environ["OMP_NUM_THREADS"] = str(args.threads)
os.environ["MKL_NUM_THREADS"] = str(args.threads)

import torch  # noqa: E402  (after the thread count is set)
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402


def rss_now() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def rss_peak() -> int:
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads = c.heads, c.kv_heads
        self.head_dim = c.hidden // c.heads
        kv = self.kv_heads * self.head_dim
        self.norm1 = RMSNorm(c.hidden)
        self.q = nn.Linear(c.hidden, c.hidden, bias=False)
        self.k = nn.Linear(c.hidden, kv, bias=False)
        self.v = nn.Linear(c.hidden, kv, bias=False)
        self.o = nn.Linear(c.hidden, c.hidden, bias=False)
        self.norm2 = RMSNorm(c.hidden)
        self.gate = nn.Linear(c.hidden, c.intermediate, bias=False)
        self.up = nn.Linear(c.hidden, c.intermediate, bias=False)
        self.down = nn.Linear(c.intermediate, c.hidden, bias=False)

    def forward(self, x, cos, sin):
        b, t, d = x.shape
        h = self.norm1(x)
        q = self.q(h).view(b, t, self.heads, self.head_dim).transpose(1, 2)
        k = self.k(h).view(b, t, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v(h).view(b, t, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if self.kv_heads != self.heads:
            k = k.repeat_interleave(self.heads // self.kv_heads, dim=1)
            v = v.repeat_interleave(self.heads // self.kv_heads, dim=1)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(a.transpose(1, 2).reshape(b, t, d))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed = nn.Embedding(c.vocab, c.hidden)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = RMSNorm(c.hidden)
        self.head = nn.Linear(c.hidden, c.vocab, bias=False)
        dim = c.hidden // c.heads
        freq = 10000.0 ** (-torch.arange(0, dim, 2).float() / dim)
        angle = torch.outer(torch.arange(c.seq).float(), freq)
        angle = torch.cat((angle, angle), dim=-1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                deep = name.endswith((".o.weight", ".down.weight"))
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * c.layers) if deep else 1.0))

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x))


def main() -> None:
    if args.hidden % args.heads or args.heads % args.kv_heads:
        sys.exit("--hidden must be a multiple of --heads, and --heads of --kv-heads")
    torch.set_num_threads(args.threads)
    idle = rss_now()
    torch.manual_seed(args.seed)
    model = Llama(args)
    decay = [p for p in model.parameters() if p.dim() == 2]
    plain = [p for p in model.parameters() if p.dim() != 2]
    opt = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.95),
    )
    # One fixed batch: its falling loss shows that the step trains.
    ids = torch.randint(0, args.vocab, (args.batch, args.seq + 1))

    times, losses = [], []
    for i in range(args.warmup + args.steps):
        start = time.perf_counter()
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, args.vocab), ids[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if i >= args.warmup:
            times.append(time.perf_counter() - start)

    median = statistics.median(times)
    print(
        json.dumps(
            {
                "torch": torch.__version__.split("+")[0],
                "machine": platform.machine(),
                "cpus": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "parameters": sum(p.numel() for p in model.parameters()),
                "batch": args.batch,
                "seq": args.seq,
                "steps": args.steps,
                "step_ms_median": round(median * 1e3, 2),
                "step_ms_min": round(min(times) * 1e3, 2),
                "step_ms_max": round(max(times) * 1e3, 2),
                "tokens_per_s": round(args.batch * args.seq / median, 1),
                "rss_idle_bytes": idle,
                "rss_peak_bytes": rss_peak(),
                "rss_peak_minus_idle_bytes": rss_peak() - idle,
                "loss_first": round(losses[0], 4),
                "loss_last": round(losses[-1], 4),
            }
        )
    )


if __name__ == "__main__":
    main()
