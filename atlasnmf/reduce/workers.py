"""Who the workers of a cluster are: the same programs, the same files, or a refusal with their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from atlasnmf.errors import BadOption

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["TILES", "TRAINING", "addresses", "greet", "settled_device", "threads_of"]

#: What must be of one version everywhere: what moves between processes, and what decides the bits.
TILES = ("atlasnmf", "numpy")
TRAINING = (*TILES, "torch")


def addresses(client: Client) -> list[str]:
    """Return the workers that the scheduler knows now, in a fixed order."""
    return sorted(client.scheduler_info(n_workers=-1)["workers"])


def threads_of(client: Client) -> int:
    """Return the threads of all workers; 0 when the scheduler is gone."""
    workers = client.scheduler_info(n_workers=-1).get("workers", {})
    return sum(int(worker["nthreads"]) for worker in workers.values())


def greet(
    client: Client,
    workers: Sequence[str] | None = None,
    refusal: Callable[[], str | None] | None = None,
    *,
    programs: tuple[str, ...] = TILES,
) -> None:
    """Ask workers who they are, before any work is given to them.

    Parameters
    ----------
    client
        Of the cluster.
    workers
        Their addresses; None asks all.
    refusal
        Asked on each: why it cannot take part, or None.
    programs
        What must be there in the version of this process.

    Raises
    ------
    BadOption
        A worker cannot import atlasnmf, has other versions than this process, or refuses: which, and why.
    OSError
        A worker has gone in the meantime.
    """
    chosen = None if workers is None else list(workers)
    here = _look_around(programs)()
    answers = client.run(_look_around(programs), workers=chosen, on_error="return")
    for address in sorted(answers):
        answer = answers[address]
        if isinstance(answer, OSError):
            raise answer
        if not isinstance(answer, dict):
            raise BadOption(f"worker {address} does not answer ({answer}); restart it, or leave it out")
        missing = [name for name in programs if not answer[name] or answer[name].startswith("cannot")]
        if missing:
            raise BadOption(
                f"worker {address} (python {answer['executable']}) {answer[missing[0]]}; "
                "install atlasnmf in the environment its workers run in"
            )
        other = [name for name in here if name != "executable" and answer[name] != here[name]]
        if other:
            differ = ", ".join(f"{name} {answer[name]} (here {here[name]})" for name in other)
            raise BadOption(
                f"worker {address} runs {differ}; give it the same versions as this process, then restart it"
            )
    if refusal is None:
        return
    for address, reason in sorted(client.run(refusal, workers=chosen, on_error="return").items()):
        if isinstance(reason, OSError):
            raise reason
        if reason is not None:
            raise BadOption(f"worker {address}: {reason}")


def settled_device(client: Client, workers: Sequence[str], wanted: str) -> str:
    """Return ``cuda`` when it is wanted and every worker has a device, else ``cpu``.

    Raises
    ------
    BadOption
        ``cuda`` was asked for and a worker has none.
    """
    if wanted == "cpu":
        return "cpu"
    found = client.run(_has_cuda, workers=list(workers))
    without = sorted(address for address, has in found.items() if not has)
    if wanted == "cuda" and without:
        raise BadOption(f"--device cuda: worker {without[0]} sees no CUDA device; use --device auto or cpu")
    return "cpu" if without else "cuda"


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _look_around(programs: tuple[str, ...]) -> Callable[[], dict[str, str]]:
    """Return a function that travels by value: a worker that lacks atlasnmf can still run it."""

    def look() -> dict[str, Any]:
        import importlib
        import platform
        import sys

        found = {"python": platform.python_version(), "executable": sys.executable}
        for name in programs:
            try:
                found[name] = importlib.import_module(name).__version__
            except Exception as problem:
                found[name] = f"cannot import {name} ({problem})"
        return found

    return look
