"""What a training record holds: means over the steps since the last one."""

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from category_classification.training import Run


class Interval:
    """Means over the steps since the last training record."""

    def __init__(self, run: "Run") -> None:
        self.run = run
        self._reset()

    def _reset(self) -> None:
        self.steps, self.rows, self.started, self.sums = 0, 0, time.perf_counter(), {}

    def add(self, group: list[dict], loss: float, parts: dict[str, float], norm: float) -> None:
        self.steps += 1
        self.rows += sum(batch["global_rows"] for batch in group)
        for name, value in {"loss": loss, **parts, "grad_norm": norm}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def close(self) -> None:
        if not self.steps:
            return
        run, step, epoch = self.run, self.run.progress["step"], self.run.progress["epoch"] + 1
        means = {name: value / self.steps for name, value in self.sums.items()}
        means = {name: value if math.isfinite(value) else None for name, value in means.items()}
        speed = self.rows / (time.perf_counter() - self.started)
        lr = run.optimizer.param_groups[0]["lr"]
        run.log.log("train", step, epoch, **means, lr=lr, samples_per_second=round(speed, 1))
        loss = "non-finite" if means["loss"] is None else f"{means['loss']:.4f}"
        run.say(f"epoch {epoch} step {step}/{run.total_steps}  loss {loss}  lr {lr:.2e}  {speed:.0f} rows/s")
        self._reset()
