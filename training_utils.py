"""What every training script shares: errors, files, seeds, AMP, steps, ranks, checkpoints and the run log."""

import ctypes
import errno
import importlib.metadata
import json
import math
import os
import pickle
import platform
import random
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


class InputError(Exception):
    """The user's input cannot be used; the message is one line naming file, row and remedy."""


FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`: bad input, a full disk or a closed folder ends in one line and status 2."""
    keep_freed_memory()
    try:
        main()
        if dist.is_initialized():
            dist.barrier()  # ranks end together: gloo aborts one whose peer is gone
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except torch.OutOfMemoryError as error:
        print(f"error: out of memory; a smaller --batch_size helps ({str(error)[:120]})", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in (FULL if error.filename is None else FULL + CLOSED):
            raise
        verb = "write" if error.errno in FULL else "open"
        print(f"error: cannot {verb} {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def keep_freed_memory() -> None:
    """Have glibc keep large freed blocks, which a CPU step would page in again each time."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


@contextmanager
def replacing(path: Path, keep: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file beside `path`; on success fsync it and rename it into place, on failure leave `path` be: a
    reader sees the old file or the whole new one, also after a crash. `keep`: where the old one stays.
    """
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        kept = path.with_name(f".{keep.name}.tmp") if keep and path.exists() else None
        if kept:
            os.replace(path, kept)  # onto `keep` only then: a kill here must not cost a sound `keep`
        os.replace(aside, path)
        if kept:
            os.replace(kept, keep)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself must survive a power cut
    finally:
        os.close(directory)


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def get_rng_state() -> dict[str, Any]:
    """All generators' states, in types that `torch.load(weights_only=True)` reads."""
    _, key, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(key.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    key, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


def pick_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU; under torchrun a process takes the card of its local rank."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            torch.cuda.init()
            device = torch.device("cuda", local_rank if device.index is None else device.index)
            torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not usable ({str(error).splitlines()[0]}); try cpu") from None
    return device


def autocast(device: torch.device, enabled: bool, dtype: str = "auto") -> AbstractContextManager:
    """AMP's forward context. `auto` is fp16 on CUDA and bfloat16 on a CPU; other devices run in fp32."""
    if not enabled or device.type not in ("cuda", "cpu"):
        return nullcontext()
    half = device.type == "cuda" and dtype in ("auto", "float16")
    return torch.autocast(device.type, dtype=torch.float16 if half else torch.bfloat16)


def make_grad_scaler(device: torch.device, enabled: bool, dtype: str = "auto") -> torch.amp.GradScaler:
    """A scaler that works for fp16 on CUDA and is a no-op everywhere else."""
    half = enabled and device.type == "cuda" and dtype in ("auto", "float16")
    return torch.amp.GradScaler("cuda", enabled=half)


def accumulate(loader: Iterable, steps: int) -> Iterator[list]:
    """Lists of `steps` micro-batches; the last, shorter list is a real step."""
    batches = iter(loader)
    while group := list(islice(batches, steps)):
        yield group


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale all gradients, sparse ones too, to a global 2-norm of `max_norm` or less; returns the norm."""
    parameters = [p for p in parameters if p.grad is not None]
    for p in parameters:
        if p.grad.is_sparse:
            p.grad = p.grad.coalesce()  # repeated rows must be summed before they are squared
    grads = [p.grad.values() if p.grad.is_sparse else p.grad for p in parameters]
    norm = nn.utils.get_total_norm(grads)
    if max_norm and grads:
        torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def optimizer_step(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: Iterable[nn.Parameter],
    scheduler: LRScheduler | None = None,
    max_grad_norm: float | None = None,
) -> tuple[float, bool]:
    """Unscale, clip, step, zero. Returns (gradient norm, stepped); a non-finite gradient never steps."""
    scaler.unscale_(optimizer)
    norm = float(clip_gradients(parameters, max_grad_norm))
    finite = math.isfinite(norm)
    if finite or scaler.is_enabled():  # fp16: the scaler itself skips an overflow and lowers its scale
        scaler.step(optimizer)
        scaler.update()
    if finite and scheduler is not None:
        scheduler.step()
    optimizer.zero_grad(set_to_none=True)
    return norm, finite


def warmup_cosine(step: int, warmup_steps: int, total_steps: int, min_scale: float = 0.0) -> float:
    """Factor on the learning rate: linear from 1 / warmup_steps to 1, then half a cosine to `min_scale`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return min_scale + (1 - min_scale) * 0.5 * (1 + math.cos(math.pi * progress))


def make_lr_scheduler(
    optimizer: torch.optim.Optimizer, kind: str, warmup_steps: int, total_steps: int, min_scale: float = 0.0
) -> LambdaLR:
    """`kind`: cosine, constant. A resume with another `total_steps` follows the new curve."""
    last = {"cosine": min_scale, "constant": 1.0}[kind]
    return LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup_steps, total_steps, last))


@dataclass(frozen=True)
class World:
    """The processes of one torchrun; a single process is a world of one whose operations do nothing."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:  # buffers are equal already, or of what a rank has seen
        return DistributedDataParallel(model, broadcast_buffers=False) if self.size > 1 else model

    def sum(self, tensor: Tensor) -> Tensor:
        """In place. A CPU tensor goes over gloo, so that no CUDA stream has to wait."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values


ALONE = World()


def init_distributed() -> World:
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return World()
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]))


def save_checkpoint(
    path: Path, progress: dict[str, Any], world: World = ALONE, *, keep: Path | None = None, **parts: Any
) -> None:
    """Progress, generators, parts: whole or not at all. All ranks call it. `keep`: name of the old file."""
    rng = world.gather(get_rng_state())
    if not world.is_main:
        return
    state = {"progress": progress, "rng": rng, **{name: part.state_dict() for name, part in parts.items()}}
    with replacing(path, keep) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # the zip writer's form of a failed write
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def read_checkpoint(path: Path, mmap: bool = False) -> dict[str, Any]:
    """A checkpoint's contents, on the CPU. Only tensors and plain values are built: no file can run code."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    try:
        if not mmap:  # compare the checksums, which `torch.load` does not
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():
                    raise zipfile.BadZipFile
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        what = "holds more than plain values" if isinstance(error, pickle.UnpicklingError) else "is damaged"
        raise InputError(f"{path}: checkpoint {what} ({type(error).__name__}); use another one") from None
    if not isinstance(state, dict) or not isinstance(state.get("progress"), dict):
        raise InputError(f"{path}: not a checkpoint of this project; use a checkpoint-*.pt or best.pt")
    return state


def load_checkpoint(path: Path, *, restore_rng: bool = True, world: World = ALONE, **parts: Any) -> dict:
    """Restore `parts` and the random generators from `path`; returns the stored progress."""
    state = read_checkpoint(path)
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        name = "random state"
        if restore_rng and len(state["rng"]) == world.size:
            set_rng_state(state["rng"][world.rank])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: its {name} does not fit this run ({reason})") from None
    return state["progress"]


def _checkpoints(out: Path, pattern: str) -> list[tuple[int, int, Path]]:
    """(step, time, path), the furthest last; damaged ones are named and skipped."""
    found = []
    for path in Path(out).glob(pattern):
        try:
            step = int(read_checkpoint(path, mmap=True)["progress"]["step"])
            found.append((step, path.stat().st_mtime_ns, path))
        except (InputError, KeyError, TypeError, ValueError) as error:
            warnings.warn(f"skipped {path}: {error}", stacklevel=3)
    return sorted(found)


def latest_checkpoint(out: Path, pattern: str = "checkpoint-*.pt") -> Path | None:
    """The furthest checkpoint in `out` that is sound; damaged ones are named and skipped."""
    for _, _, path in reversed(_checkpoints(out, pattern)):
        try:
            read_checkpoint(path)
            return path
        except InputError as error:
            warnings.warn(f"skipped {error}", stacklevel=2)
    return None


def leave_later_ones(best: Path, step: int, world: World, pattern: str = "checkpoint-*.pt") -> bool:
    """After a resume at `step`, perhaps from further back or another folder: checkpoints beyond it become
    abandoned-*, or `--resume auto` would go back to them. Returns whether `best` is there and no later.
    """
    has_best = False
    with suppress(InputError, LookupError, TypeError):
        has_best = read_checkpoint(best, mmap=True)["progress"]["step"] <= step
    world.gather(None)  # before anything moves
    for at, _, path in _checkpoints(best.parent, pattern) if world.is_main else ():
        if at > step:
            names = (path.with_name(f"abandoned{number or ''}-{path.name}") for number in count())
            aside = path.rename(next(name for name in names if not name.exists()))
            print(f"resume: a checkpoint beyond step {step} is now {aside}", flush=True)
    return has_best


class StopSignal:
    """SIGTERM or SIGINT asks for a stop after the running step; a second one ends the process at once."""

    def __init__(self) -> None:
        self.number = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, _frame: object) -> None:
        self.number = number
        signal.signal(number, signal.SIG_DFL)

    def __bool__(self) -> bool:
        return self.number != 0

    @property
    def exit_status(self) -> int:
        return 128 + (self.number or signal.SIGTERM)


def describe_run(device: torch.device) -> dict[str, Any]:
    """What a reader needs to repeat a run: command, versions, machine and commit."""
    commit, git = "", ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    with suppress(OSError):  # no git on this machine
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "numpy")}
    return {
        "command": " ".join(sys.argv),
        "versions": {"python": platform.python_version(), **versions},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "git_commit": commit or None,
    }


class RunLog:
    """`config.json`, `metrics.jsonl`, `summary.json` in `out`; with `wandb`, the same records there too."""

    def __init__(self, out: Path, config: dict[str, Any], wandb: bool = False, is_main: bool = True) -> None:
        self.out, self.is_main, self._start, self._wandb = Path(out), is_main, time.time(), None
        if not is_main:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / "config.json", config)
        if wandb:
            import wandb as wandb_module

            self._wandb = wandb_module.init(dir=str(self.out), config=config, name=self.out.name)

    def rewind(self, step: int, epochs: int) -> None:
        """Drop what came after `step` and `epochs` whole epochs (and a half line left by a kill)."""
        path = self.out / "metrics.jsonl"
        if not self.is_main or not path.exists():
            return
        kept = []
        for line in path.read_text().splitlines():
            with suppress(ValueError):
                record = json.loads(line)
                whole = record["split"] == "train" or record["epoch"] <= epochs
                if record["step"] <= step and whole and record["split"] != "test":  # a run's last record
                    kept.append(line + "\n")
        with replacing(path) as file:
            file.write("".join(kept).encode())

    def log(self, split: str, step: int, epoch: int, **values: Any) -> None:
        if not self.is_main:
            return
        record = {"split": split, "step": step, "epoch": epoch, **values}
        with open(self.out / "metrics.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
        if self._wandb:
            named = {name if "/" in name else f"{split}/{name}": value for name, value in values.items()}
            self._wandb.log(named, step=step)

    def finish(self, summary: dict[str, Any]) -> None:
        if not self.is_main:
            return
        write_json(self.out / "summary.json", summary | {"wall_seconds": round(time.time() - self._start, 1)})
        if self._wandb:
            self._wandb.finish()
