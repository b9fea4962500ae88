"""Numbers that are said of a picture, as part of what a network is told beside the time."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Values(nn.Module):
    """embedding + W (values − mean) / deviation + b, where something is said; the embedding itself where not.

    * ``embedding``: (B, width).
    * ``values``: (B, K), of any size; ``standard`` has (mean, deviation) of each of the K. A row with a NaN says none.

    The embedding goes through a nonlinearity and another linear map in every block of the network, so W need be no more
    than linear. b tells "average" from "not said". Raises ``ValueError`` for values that do not fit.
    """

    def __init__(self, standard: Sequence[tuple[float, float]], width: int) -> None:
        super().__init__()
        mean, deviation = torch.tensor(standard, dtype=torch.float32).T
        # Settings, not weights: whoever builds the network knows them.
        self.register_buffer("mean", mean.contiguous(), persistent=False)
        self.register_buffer("deviation", deviation.contiguous(), persistent=False)
        self.linear = nn.Linear(len(standard), width)

    def forward(self, embedding: Tensor, values: Tensor) -> Tensor:
        mean, deviation = self.get_buffer("mean"), self.get_buffer("deviation")
        if values.ndim != 2 or values.shape != (embedding.shape[0], mean.shape[0]):
            wanted = f"({embedding.shape[0]}, {mean.shape[0]})"
            raise ValueError(f"values should be {wanted} for this network and these pictures: {tuple(values.shape)}")
        said = ~values.isnan().any(dim=1, keepdim=True)
        # Zeros in place of NaN, for what is not chosen below still has a gradient, and 0 times NaN is NaN.
        standard = torch.where(said, (values - mean) / deviation, 0).to(embedding.dtype)
        return torch.where(said, embedding + self.linear(standard), embedding)
