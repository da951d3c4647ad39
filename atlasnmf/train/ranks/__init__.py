"""One training shared by the workers of a Dask cluster: ``torch.distributed`` inside, one task a worker."""

from __future__ import annotations

from atlasnmf.train.ranks.lead import Terms, train_on_workers
from atlasnmf.train.ranks.seat import Job, RankLost, Share

__all__ = ["Job", "RankLost", "Share", "Terms", "train_on_workers"]
