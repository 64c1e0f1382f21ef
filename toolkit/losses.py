"""The training methods, side by side: the five of the paper (equations 1 to 4), and classification.

| method     | classifies (eq. 1) | pulls and pushes             | equation | score (eq. 5)     |
|------------|--------------------|------------------------------|----------|-------------------|
| bce        | yes                | -                            | 1        | q = 1 - p         |
| dsad       | no                 | around c                     | 2        | d′                |
| ddcsad     | no                 | around c_p and c_n           | 3        | d′                |
| bce+dsad   | yes                | around c                     | 1 + λ 2  | α q + (1 - α) d′  |
| bce+ddcsad | yes                | around c_p and c_n           | 4        | α q + (1 - α) d′  |

With d_p² = ‖z - c_p‖² and d_n² = ‖z - c_n‖², each sample adds (and the sum is divided by N + M):

| sample        | dsad      | ddcsad              |
|---------------|-----------|---------------------|
| normal        | η d_p²    | η (d_p² + 1 / d_n²) |
| outlier       | 1 / d_p²  | 1 / d_p² + d_n²     |
| known anomaly | η / d_p²  | η (1 / d_p² + d_n²) |

`classify` tells machine IDs, and the attributes that file names give, apart, all with one encoder. With C classes of
K sub-centres w_ck each, θ the angle between z and w_ck, and y (C,) the mixed shares of the classes in a segment:

    l_c = log Σ_k exp(s cos θ(z, w_ck)),   L = -Σ_c y_c log softmax(l)_c,   s = √2 log(C K - 1)

The scale s is the fixed one of AdaCos (Zhang et al., CVPR 2019), the sub-centres are those of sub-cluster AdaCos
(Wilkinghoff, IJCNN 2021), the mixing is mixup (Zhang et al., ICLR 2018). A segment scores by the distance of z to a
bank of its machine's normals, as of `knn`: see calibration/fit/bank.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeasd.calibration.fit.bank import CLASSIFY as CLASSIFY_NAME
from edgeasd.calibration.fit.bank import KNN as KNN_NAME
from edgeasd.runtime.errors import InputError

NORMAL, OUTLIER, ANOMALY = 0, 1, 2
"""Kinds of sample in a batch, as an int64 tensor (N,)."""


@dataclass(frozen=True)
class Method:
    """What a method optimises and how its score is made."""

    name: str
    classifies: bool
    metric: str | None
    """None, "dsad" (one centroid) or "ddcsad" (two)."""

    @property
    def moving_centroids(self) -> bool:
        """DSAD keeps its first centroid; DDCSAD computes both anew at each epoch (section III)."""
        return self.metric == "ddcsad"

    @property
    def fixed_alpha(self) -> float | None:
        """α where the method leaves no choice: 1 with a classifier alone, 0 without a classifier."""
        if self.metric is None:
            return 1.0 if self.classifies else 0.0
        return None if self.classifies else 0.0


METHODS = {
    m.name: m
    for m in (
        Method("bce", True, None),
        Method("dsad", False, "dsad"),
        Method("ddcsad", False, "ddcsad"),
        Method("bce+dsad", True, "dsad"),
        Method("bce+ddcsad", True, "ddcsad"),
    )
}

KNN = Method(KNN_NAME, False, None)
"""No training and no loss: segments are compared with a bank of stored normals; see calibration/fit/bank.py."""
CLASSIFY = Method(CLASSIFY_NAME, False, None)
"""One encoder for all IDs, trained to tell them apart, and a bank for each: outliers need not be named."""


def method_named(name: str) -> Method:
    """Look a method up, `knn` and `classify` included; InputError for an unknown name."""
    known = {**METHODS, CLASSIFY.name: CLASSIFY, KNN.name: KNN}
    if name not in known:
        raise InputError(f"--loss {name}: unknown; use one of {', '.join(known)}")
    return known[name]


@dataclass
class LossParts:
    """Scalars of one step; `total` carries the gradient."""

    total: Tensor
    bce: Tensor
    metric: Tensor
    largest_inverse: Tensor
    """The largest 1 / (d² + ε) of the batch: a warning sign when it explodes."""


def bce_loss(logit: Tensor, kind: Tensor) -> Tensor:
    """Equation 1 on logits (N,): mean binary cross-entropy, normal = 1, outlier and anomaly = 0."""
    return F.binary_cross_entropy_with_logits(logit, (kind == NORMAL).to(logit.dtype))


def squared_distance(z: Tensor, centroid: Tensor) -> Tensor:
    """‖z - c‖² summed over dimensions: (N, D), (D,) -> (N,), float32 or wider."""
    return torch.sum((z - centroid) ** 2, dim=1)


def dsad_loss(z: Tensor, kind: Tensor, c: Tensor, eta: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """Equation 2 with y = -1 for outliers. Returns (loss, largest inverse)."""
    d = squared_distance(z, c)
    inverse = 1.0 / (d + epsilon)
    terms = torch.where(kind == NORMAL, d, inverse)
    return torch.mean(_weight(kind, eta, z) * terms), _largest(inverse[kind != NORMAL])


def ddcsad_loss(z: Tensor, kind: Tensor, c_p: Tensor, c_n: Tensor, eta: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """Equation 3 with y = -1 for outliers. Returns (loss, largest inverse)."""
    d_p, d_n = squared_distance(z, c_p), squared_distance(z, c_n)
    near = torch.where(kind == NORMAL, d_p, d_n)
    inverse = 1.0 / (torch.where(kind == NORMAL, d_n, d_p) + epsilon)
    return torch.mean(_weight(kind, eta, z) * (near + inverse)), _largest(inverse)


def _weight(kind: Tensor, eta: float, like: Tensor) -> Tensor:
    """η for labelled data (normal and anomalous), 1 for outliers."""
    one = torch.ones((), dtype=like.dtype, device=like.device)
    return torch.where(kind == OUTLIER, one, one * eta)


def _largest(inverse: Tensor) -> Tensor:
    return inverse.detach().max() if inverse.numel() else torch.zeros((), device=inverse.device)


def method_loss(
    method: Method,
    logit: Tensor,
    z: Tensor,
    kind: Tensor,
    c_p: Tensor,
    c_n: Tensor,
    *,
    lam: float,
    eta: float,
    epsilon: float,
) -> LossParts:
    """The loss of `method`, L_BCE + λ L_metric (equation 4), or whichever part the method has.

    logit (N,), z (N, D), kind (N,), centroids (D,). Everything is computed in float32 outside
    autocast: d² over thousands of dimensions overflows float16 and loses its digits in bfloat16.
    """
    with torch.autocast(device_type=z.device.type, enabled=False):
        logit, z = _at_least_float32(logit), _at_least_float32(z)
        zero = torch.zeros((), dtype=z.dtype, device=z.device)
        bce = bce_loss(logit, kind) if method.classifies else zero
        metric, largest = zero, zero
        if method.metric == "dsad":
            metric, largest = dsad_loss(z, kind, c_p, eta, epsilon)
        elif method.metric == "ddcsad":
            metric, largest = ddcsad_loss(z, kind, c_p, c_n, eta, epsilon)
        weight = lam if method.classifies else 1.0
        return LossParts(bce + weight * metric, bce.detach(), metric.detach(), largest)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


class SubCentres(nn.Module):
    """Cosine logits of classes with several centres each: z (N, D) to l (N, C), D > 0, C > 1."""

    def __init__(self, embedding_size: int, classes: int, sub_centres: int) -> None:
        super().__init__()
        self.classes, self.sub_centres = classes, sub_centres
        self.weight = nn.Parameter(torch.empty(classes * sub_centres, embedding_size))
        nn.init.xavier_uniform_(self.weight)
        # Two classes of one centre would make the scale of AdaCos 0, and the loss a constant.
        self.scale = math.sqrt(2.0) * max(1.0, math.log(classes * sub_centres - 1))

    def forward(self, z: Tensor) -> Tensor:
        cosines = F.linear(F.normalize(z, dim=1), F.normalize(self.weight, dim=1))
        return torch.logsumexp(self.scale * cosines.view(len(z), self.classes, self.sub_centres), dim=2)


def classification_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of logits (N, C) with the shares of each class (N, C), whose rows sum to 1, in float32."""
    with torch.autocast(device_type=logits.device.type, enabled=False):
        return -torch.mean(torch.sum(shares * F.log_softmax(_at_least_float32(logits), dim=1), dim=1))
