"""A training step of MCGATE with N x N attention a head, as published, and on edges, each in its own process.

usage: python benchmarks/peers/spatialfuser.py [--spots 1000,2000,4000] [--genes 1000] [--heads 4] [--steps 3]

Layers of 512 and 32 columns, tied decoder, reconstruction, Adam; float32, one torch thread. The dense form
is the formula of the paper written out (attention with the dependence on the neighbour that the published
one-head form lacks); its weights are the same, and so is its first loss, which is printed. Times are
processor seconds a step without the first; memory is the growth of the process over its size before the
first step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scale"))
from processes import machine, measure

HIDDEN = (512, 32)


def dense_step(net, rows, mask):
    """Return the loss with N x N attention per head."""
    import torch
    from torch.nn.functional import batch_norm, elu

    x, kept = rows, []
    for layer in net.layers:
        heads = len(layer.heads.weight)
        blocks = torch.nn.functional.pad(x, (0, layer.heads.pad)).reshape(len(x), heads, -1)
        projected = torch.einsum("nhi,hio->hno", blocks, layer.heads.weight)
        own, other = torch.einsum("hnc,ehc->ehn", projected, layer.ends)
        logits = torch.sigmoid(own[:, :, None] + other[:, None, :])
        shares = torch.softmax(logits.masked_fill(~mask, -torch.inf), dim=2)
        kept.append(shares)
        mixed = torch.cat(list(shares @ projected), 1)
        mixed = batch_norm(mixed, None, None, layer.before.weight, layer.before.bias, training=True)
        x = elu(layer.dense(mixed)) + mixed
        x = batch_norm(x, None, None, layer.after.weight, layer.after.bias, training=True)
    for layer, shares in zip(reversed(net.layers), reversed(kept), strict=True):
        blocks = x.reshape(len(x), len(shares), -1).transpose(0, 1)
        back = shares @ (blocks @ layer.heads.weight.transpose(1, 2))
        x = elu(torch.cat(list(back), 1)[:, : layer.heads.n_in])
    return (x - rows).square().mean()


def child(form: str, n_spots: int, n_genes: int, heads: int, n_steps: int) -> None:
    import numpy as np
    import torch
    from scipy.spatial import cKDTree

    from atlasnmf.budget import peak_bytes
    from atlasnmf.models.spatialfuser.attention import Edges
    from atlasnmf.models.spatialfuser.graph import Graph
    from atlasnmf.models.spatialfuser.networks import Mcgate, errors

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(n_spots, 2))
    near = np.sort(cKDTree(points).query(points, k=7)[1], axis=1)
    rows = torch.from_numpy(np.log1p(rng.poisson(1.0, (n_spots, n_genes))).astype(np.float32))
    net = Mcgate(
        n_genes, HIDDEN, heads, alpha=0.0, linear=False, generator=torch.Generator().manual_seed(0)
    ).train()
    optimizer = torch.optim.Adam(net.parameters())
    if form == "dense":
        mask = torch.zeros(n_spots, n_spots, dtype=torch.bool)
        mask[np.arange(n_spots)[:, None], near] = True
    else:
        edges = Edges(torch.arange(0, near.size + 1, 7), torch.from_numpy(near.ravel().astype(np.int64)))
        graph = Graph((n_spots,), edges)
    # compiled kernels and loaded libraries are no part of a step
    few = Edges(torch.arange(0, 65, 8), torch.arange(8).repeat(8))
    errors([net], [rows[:8].clone()], [Graph((8,), few)])[1][0].backward()
    before, losses, seconds = peak_bytes(), [], []
    for _ in range(n_steps + 1):
        start = time.process_time()
        loss = dense_step(net, rows, mask) if form == "dense" else errors([net], [rows], [graph])[1][0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
        losses.append(float(loss.detach()))
    grown = peak_bytes() - before
    print(json.dumps({"first_loss": losses[0], "s_a_step": seconds[1:], "grown_bytes": grown}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--spots", default="1000,2000,4000")
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, int(args.spots), args.genes, args.heads, args.steps)
        return
    print(machine(), flush=True)
    for n_spots in (int(text) for text in args.spots.split(",")):
        found = {}
        for form in ("dense", "edges"):
            size = ["--spots", str(n_spots), "--genes", str(args.genes), "--heads", str(args.heads)]
            command = [sys.executable, __file__, "--child", form, *size, "--steps", str(args.steps)]
            found[form] = json.loads(measure(command).stdout)
        dense, edges = found["dense"], found["edges"]
        times = {form: statistics.median(record["s_a_step"]) for form, record in found.items()}
        row = {
            "n_spots": n_spots,
            "dense_s": round(times["dense"], 3),
            "edges_s": round(times["edges"], 4),
            "times_faster": round(times["dense"] / times["edges"], 1),
            "dense_gb": round(dense["grown_bytes"] / 1e9, 3),
            "edges_gb": round(edges["grown_bytes"] / 1e9, 3),
            "times_less_memory": round(dense["grown_bytes"] / edges["grown_bytes"], 1),
            "first_losses": [dense["first_loss"], edges["first_loss"]],
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
