"""AdamW that visits only the embedding rows a step has touched (`--embedding_update rows`)."""

import torch
from torch import Tensor, nn

MOMENTUM_STEPS = 192  # after so many steps without a gradient beta1 = 0.9 has left 2e-9 of a row's momentum
ROWS_AT_ONCE = 16_384


class RowAdamW(torch.optim.AdamW):
    """AdamW for a model whose embedding table has sparse gradients; the same weights, to rounding.

    Dense AdamW goes on moving a row by its momentum, and decays it, in every step in which the row has no
    gradient: a rare token owes most of its way to those steps, so they must not be left out (as "lazy"
    variants do). Here they are made up for in closed form when the row is next looked up: over k steps
    without gradient the m-th one moves it by lr_m r^m m / sqrt(v), r = beta1 / sqrt(beta2), with the bias
    corrections of that step. A step on 64 titles touches 0.35 % of the Qwen3 vocabulary.

    Dense gradients take PyTorch's own AdamW. `follow` the table that has sparse ones, and call `catch_up`
    before its weights are used elsewhere.
    """

    def __init__(self, parameters, **settings) -> None:
        super().__init__(parameters, **settings)
        # The fused kernel would take over the GradScaler's skipping, which the row update must obey as well.
        self._step_supports_amp_scaling = False
        self._table: nn.Parameter | None = None

    def follow(self, embedding: nn.Embedding) -> None:
        """Bring rows up to date before a training pass looks them up. The table has a group's settings."""
        self._table = table = embedding.weight
        # Of each step: its learning rate with bias corrections, and the logarithm of all decay up to it.
        self._group.update(row_step=0, row_history=torch.zeros(1024, 2, dtype=torch.float64))
        state = self.state[table]
        state["step"] = torch.zeros(len(table), device=table.device)  # step each row stands at
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)

        def look_up(module: nn.Embedding, inputs: tuple[Tensor]) -> None:
            if module.training:
                self._catch_up(inputs[0].unique())

        embedding.register_forward_pre_hook(look_up)

    @property
    def _group(self) -> dict:
        (group,) = (group for group in self.param_groups if any(p is self._table for p in group["params"]))
        return group

    @torch.no_grad()
    def catch_up(self) -> None:
        """Bring all rows to the last step."""
        for rows in torch.arange(len(self._table), device=self._table.device).split(ROWS_AT_ONCE):
            self._catch_up(rows)

    @torch.no_grad()
    def _catch_up(self, rows: Tensor) -> None:
        """`rows` (U), distinct. eps stands beside a root that shrinks meanwhile; that change is left out."""
        table, group, state = self._table, self._group, self.state[self._table]
        now = group["row_step"]
        rows = rows[state["step"][rows] < now]
        if not len(rows):
            return
        then = state["step"][rows].long()
        history = group["row_history"] = group["row_history"].to(table.device)
        (beta1, beta2), gap = group["betas"], (now - then)[:, None]
        steps = torch.arange(1, min(MOMENTUM_STEPS, int(gap.max())) + 1, device=table.device)
        rate, decay = history[(then[:, None] + steps).clamp(max=now)].unbind(-1)
        rate = rate * (beta1 / beta2**0.5) ** steps * (history[now, 1] - decay).exp()
        way = (rate * (steps <= gap)).sum(1, keepdim=True).to(table.dtype)
        kept = (history[now, 1] - history[then, 1]).exp()[:, None].to(table.dtype)
        mean, square = state["exp_avg"][rows], state["exp_avg_sq"][rows]
        eps = group["eps"] * (1 - beta2**now) ** 0.5
        table[rows] = table[rows] * kept - way * mean / (square.sqrt() + eps)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean * beta1**gap, square * beta2**gap
        state["step"][rows] = float(now)

    @torch.no_grad()
    def step(self, closure=None):
        table = self._table
        if table is not None and table.grad is not None:
            self._update_rows(table.grad.coalesce())
            table.grad = None  # what is left is dense
        return super().step(closure)

    def _update_rows(self, gradient: Tensor) -> None:
        table, group, state = self._table, self._group, self.state[self._table]
        rows, g = gradient.indices()[0], gradient.values()  # (U), (U, D)
        self._catch_up(rows)  # other ranks have looked up others
        beta1, beta2 = group["betas"]
        group["row_step"] = now = group["row_step"] + 1
        rate = group["lr"] * (1 - beta2**now) ** 0.5 / (1 - beta1**now)
        decay = 1 - group["lr"] * group["weight_decay"]
        history = group["row_history"]
        if now == len(history):
            history = group["row_history"] = torch.cat((history, torch.zeros_like(history)))
        history[now, 0], history[now, 1] = rate, history[now - 1, 1] + torch.tensor(decay).double().log()
        mean = state["exp_avg"][rows].lerp_(g, 1 - beta1)
        square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        eps = group["eps"] * (1 - beta2**now) ** 0.5
        table[rows] = table[rows] * decay - rate * mean / (square.sqrt() + eps)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        state["step"][rows] = float(now)
