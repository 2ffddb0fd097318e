"""The last layer's feed-forward network, which only the tokens need that a head reads: the fewest, for a reward."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def last_feed_forward(network: nn.Module) -> nn.Module | None:
    """The `mlp` of the network's last layer, or None where it has another name."""
    layers = getattr(network, "layers", None) or getattr(network, "h", None)
    return getattr(layers[-1], "mlp", None) if isinstance(layers, nn.ModuleList) else None


@contextmanager
def only_for(rows_R: torch.Tensor, feed_forward: nn.Module | None) -> Iterator[None]:
    """Inside, the network computes these tokens alone, and gives zeros for the others. None: nothing is left out."""
    if feed_forward is None:
        yield
        return
    whole, own = feed_forward.forward, feed_forward.__dict__.get("forward")

    def forward(states_1TH: torch.Tensor) -> torch.Tensor:
        rows = rows_R.to(states_1TH.device)
        result_1TH = torch.zeros_like(states_1TH)
        result_1TH[:, rows] = whole(states_1TH[:, rows])
        return result_1TH

    feed_forward.forward = forward
    try:
        yield
    finally:
        if own is None:
            del feed_forward.forward
        else:
            feed_forward.forward = own
