"""A training step of INSPIRE: the plain dense form of the published method against the streaming forms.

usage: python benchmarks/step_inspire.py [--rows 512] [--slices 4] [--genes 2000] [--nnz 200] [--factors 40]
           [--threads 1] [--repeats 8]

The dense form is what one writes down from the paper: dense [x, A~x], rates and residuals of shape (n, G),
cosines of shape (n, n), a discriminator step that back-propagates into the encoder, and the encoder run
twice. All forms get the same counts and take turns, so that a busy machine troubles them alike; the figures
are medians over steps.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn
from torch.nn.functional import elu, normalize, softplus

from atlasnmf.models.inspire.method import build
from atlasnmf.models.inspire.params import PRESETS, Params
from atlasnmf.schema import AtlasFacts, Csr, SliceBatch
from atlasnmf.seeds import rng_for


def make_unit(args: argparse.Namespace, step: int) -> list[SliceBatch]:
    unit = []
    for s in range(args.slices):
        rng = rng_for(0, "bench", step, s)
        popularity = rng_for(0, "bench", "genes").lognormal(0, 1.0, args.genes)
        rate = popularity / popularity.mean() * args.nnz / args.genes
        wide = args.rows + 600  # neighbours to average over
        y = sp.csr_matrix(
            rng.poisson(-np.log(np.maximum(1 - np.minimum(rate, 0.95), 0.05)), (wide, args.genes))
        )
        totals = np.asarray(y.sum(1)).ravel().astype(np.float32)
        x = sp.diags(1e4 / np.maximum(totals, 1)) @ y
        x.data = np.log1p(x.data)
        near = np.concatenate([np.arange(args.rows)[:, None], rng.integers(0, wide, (args.rows, 6))], 1)
        graph = sp.csr_matrix(
            (np.full(near.size, 1 / 7), near.ravel(), np.arange(0, near.size + 1, 7)), shape=(args.rows, wide)
        )
        unit.append(
            SliceBatch(
                slice_index=s,
                rows=np.arange(args.rows),
                rings=(args.rows,),
                counts=Csr.from_scipy(y[: args.rows].astype(np.uint16)),
                totals=totals[: args.rows],
                scores=rng.standard_normal((args.rows, 3, 32)).astype(np.float32),
                smoothed=(Csr.from_scipy((graph @ x).astype(np.float32)),),
            )
        )
    return unit


class DenseInspire:
    """The published method written down plainly; every array is (n, G) or (n, n)."""

    def __init__(self, genes: int, slices: int, factors: int) -> None:
        self.encoder = nn.Sequential(nn.Linear(2 * genes, 512), nn.ELU(), nn.Linear(512, 32))
        self.head = nn.Linear(32, factors)
        self.hidden, self.out = nn.Linear(36, 512), nn.Linear(512, genes)
        self.labels = nn.Parameter(torch.randn(slices, 4))
        self.mu = nn.Parameter(torch.randn(factors, genes) * 0.01)
        self.gamma = nn.Parameter(torch.zeros(slices, genes))
        self.critics = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1))
            for _ in range(slices - 1)
        )
        modules = nn.ModuleList([self.encoder, self.head, self.hidden, self.out])
        weights = [*modules.parameters(), self.labels, self.mu, self.gamma]
        self.net_optimizer = torch.optim.Adamax(weights, lr=5e-4, weight_decay=1e-4)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=5e-4, weight_decay=1e-4)

    def step(self, unit: list[SliceBatch]) -> float:
        counts = [torch.from_numpy(b.counts.to_scipy().toarray().astype(np.float32)) for b in unit]
        features = []
        for batch, y in zip(unit, counts, strict=True):
            x = torch.log1p(1e4 * y / torch.from_numpy(batch.totals).clamp_min(1)[:, None])
            around = torch.from_numpy(batch.smoothed[0].to_scipy().toarray())
            features.append((x, torch.cat([x, around], 1)))
        z = [self.encoder(wide) for _, wide in features]
        pairs = list(enumerate(self.critics))
        loss = sum(
            softplus(-d(z[s]).clamp(-5, 5)).mean() + softplus(d(z[s + 1]).clamp(-5, 5)).mean()
            for s, d in pairs
        )
        self.critic_optimizer.zero_grad()
        loss.backward()  # into the encoder, too: thrown away below
        self.critic_optimizer.step()
        z = [self.encoder(wide) for _, wide in features]
        mu, loss, betas = torch.softmax(self.mu, 1), 0.0, []
        for s, (y, (x, _)) in enumerate(zip(counts, features, strict=True)):
            beta = torch.softmax(self.head(elu(z[s])), 1)
            betas.append(beta)
            library = y.sum(1, keepdim=True)
            rate = torch.log(beta @ mu + 1e-6) + self.gamma[s]
            loss = loss - (y * (torch.log(library) + rate) - library * rate.exp()).sum(1).mean()
            code = torch.cat([z[s], self.labels[s].expand(len(y), -1)], 1)
            loss = loss + (x - self.out(elu(self.hidden(code)))).norm(dim=1).mean()
            zn, xn = normalize(z[s]), normalize(x)
            loss = loss + 0.02 * (zn @ zn.T - xn @ xn.T).square().sum(1).mean()
        loss = loss - 4 * torch.log(torch.cat(betas).mean(0) + 1e-6).sum()
        loss = loss + sum(softplus(-d(z[s + 1]).clamp(-5, 5)).mean() for s, d in pairs)
        self.net_optimizer.zero_grad()
        loss.backward()
        self.net_optimizer.step()
        return float(loss.detach())


def streaming(args: argparse.Namespace, **given: object) -> Callable[[list[SliceBatch]], None]:
    rng = rng_for(0, "bench", "facts")
    facts = AtlasFacts(
        slices=tuple(str(s) for s in range(args.slices)),
        n_spots=np.full(args.slices, 10**6),
        genes=tuple(str(g) for g in range(args.genes)),
        gene_mask=np.ones((args.slices, args.genes), bool),
        gene_sums=np.ones((args.slices, args.genes)),
        nnz_per_spot=args.nnz,
        components=rng.standard_normal((args.genes, 32)).astype(np.float32),
        component_scale=np.linspace(3, 1, 32, dtype=np.float32),
    )
    model = build(Params(n_factors=args.factors, encoder="lgcn", **given), facts, "cpu", 0)
    state = model.method.init(make_unit(args, -1))

    def step(unit: list[SliceBatch]) -> None:
        model.method.step(state, unit)

    return step


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in dict(
        rows=512, slices=4, genes=2000, nnz=200, factors=40, threads=1, repeats=8
    ).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    forms: dict[str, Callable] = {
        "dense, as published": DenseInspire(args.genes, args.slices, args.factors).step,
        "streaming, published preset": streaming(args, **PRESETS["published"]),
        "streaming, default preset": streaming(args),
    }
    units = [make_unit(args, step) for step in range(3)]
    print(f"{np.mean([b.counts.nnz / args.rows for b in units[0]]):.0f} non-zeros a spot, ", end="")
    print(f"A~x {np.mean([b.smoothed[0].nnz / args.rows / args.genes for b in units[0]]):.0%} dense")
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for repeat in range(args.repeats + 2):
        for name, step in forms.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step(units[repeat % len(units)])
            if repeat > 1:  # the first two compile and allocate
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    base = None
    for name, values in seconds.items():
        wall, cpu = np.median(np.array(values), 0)
        base = base or (wall, cpu)
        print(
            f"{name:30s} {1e3 * wall:7.0f} ms, {1e3 * cpu:7.0f} ms of processor time a step, "
            f"{base[0] / wall:.1f}x and {base[1] / cpu:.1f}x as fast"
        )


if __name__ == "__main__":
    main()
