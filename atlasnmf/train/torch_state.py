"""Networks and optimisers as named arrays and JSON scalars, to the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["pack_torch", "unpack_torch"]


def pack_torch(
    modules: Mapping[str, torch.nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Copy parameters, buffers and optimiser moments to host arrays.

    Parameters
    ----------
    modules, optimizers
        By name; the names become prefixes, ``<name>/<parameter>`` and ``<name>/<index>/<moment>``.

    Returns
    -------
    tuple
        Arrays, and per optimiser the options of its parameter groups (learning rates may be scheduled).
    """
    tensors: dict[str, np.ndarray] = {}
    scalars: dict[str, Any] = {}
    for name, module in modules.items():
        for label, tensor in module.state_dict().items():
            tensors[f"{name}/{label}"] = _to_host(tensor)
    for name, optimizer in optimizers.items():
        stored = optimizer.state_dict()
        numbers: dict[str, float] = {}
        for index, moments in stored["state"].items():
            for label, value in moments.items():
                if hasattr(value, "detach"):
                    tensors[f"{name}/{index}/{label}"] = _to_host(value)
                elif value is not None:
                    numbers[f"{index}/{label}"] = value
        options = [{**group, "params": None} for group in stored["param_groups"]]
        scalars[name] = {"numbers": numbers, "options": options}
    return tensors, scalars


def unpack_torch(
    tensors: Mapping[str, np.ndarray],
    scalars: Mapping[str, Any],
    modules: Mapping[str, torch.nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Fill fresh networks and optimisers of the same shape with what :func:`pack_torch` gave."""
    import torch

    for name, module in modules.items():
        prefix = f"{name}/"
        module.load_state_dict(
            {
                label.removeprefix(prefix): torch.from_numpy(np.array(array))
                for label, array in tensors.items()
                if label.startswith(prefix)
            }
        )
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Any]] = {}
        for label, array in tensors.items():
            if label.startswith(f"{name}/"):
                index, moment = label.removeprefix(f"{name}/").split("/", 1)
                state.setdefault(int(index), {})[moment] = torch.from_numpy(np.array(array))
        for label, number in scalars[name]["numbers"].items():
            index, moment = label.split("/", 1)
            state.setdefault(int(index), {})[moment] = number
        groups = []
        for group, options in zip(
            optimizer.state_dict()["param_groups"], scalars[name]["options"], strict=True
        ):
            # JSON has no tuples, and torch's optimisers have no lists among their options.
            restored = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
            groups.append({**restored, "params": group["params"]})
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def _to_host(tensor: torch.Tensor) -> np.ndarray:
    # A copy: the optimiser goes on writing into the original.
    return np.array(tensor.detach().cpu().numpy())
