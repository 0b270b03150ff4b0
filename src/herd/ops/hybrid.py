"""Two op sets as one: routed experts on one, everything else on the other, with the cache.

What it is for: a model's always-used part is small and read for every token, its experts are large and seldom read (of
Maverick 3B weights of 400B are routed to a token). The part that is always used goes where memory is fast, the experts
where memory is large. Rows and their choice of experts cross as host arrays, [T, D] each way a layer with experts.
Weights: `model.place_weights(ops, tree, where=ops.where)`.
"""

from typing import Any

import numpy as np

from herd.ops.contract import Extras, Ops
from herd.weights import Array, Moe, Norm


class HybridOps:
    """`main` computes all but the routed experts, which `far` computes; arrays that go in and out are `main`'s.

    Pairs of adapters lie where their weight lies. A pass is never one call (`layers`).
    """

    def __init__(self, main: Ops, far: Ops) -> None:
        self.main, self.far = main, far
        self.name = f"{main.name} with experts on {far.name}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.main, name)

    def where(self, name: str) -> Ops:
        """The op set of a weight of this canonical name."""
        return self.far if ".experts." in name else self.main

    def layers(self, *arguments: Any) -> None:
        """Take the operations, whatever `main` would do."""
        return

    def moe_add(
        self,
        x_TD: Array,
        norm: Norm,
        moe: Moe,
        num_experts: int,
        experts_per_token: int,
        extras: Extras | None = None,
        residual: bool = True,
        routing: Any | None = None,
    ) -> Array:
        """`main` norms and routes; `main` computes the shared expert, on a device while `far` computes the others."""
        main, far = self.main, self.far
        h_TD = main.norm(x_TD, norm)
        choice = main.route(h_TD, moe.router, experts_per_token, extras)
        experts_TA, scores_TA = main.numpy(choice[0]).astype(np.int64), main.numpy(choice[1])
        if routing is not None:
            routing(experts_TA, scores_TA)
        h_TD = far.array(main.numpy(h_TD))
        y_TD = main.mlp_add(x_TD, norm, moe.shared, extras, residual)
        z_TD = far.experts(h_TD, moe, far.array(experts_TA), far.array(scores_TA), num_experts, extras)
        return y_TD + main.array(far.numpy(z_TD))
