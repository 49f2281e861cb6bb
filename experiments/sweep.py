"""Runs of a study, each in a child process of its own: switches of precision are global to a process, and
compiled models outlive their run.

A run that results.jsonl holds is skipped, one that was stopped goes on from its checkpoint, one that was
killed for memory leaves a row that says so. Configurations change fastest, so that a slow hour of the machine
falls on all of them. `--shard i/n` takes every n-th run, so that n machines share a sweep, with one --out or
one each.
"""

import argparse
import copy
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess
from typing import Any

from experiments.dtype_configs import configs_of, get_config
from experiments.run_record import MakeTask, append_row, base_row, finished_keys, run_key, run_one
from training_utils import ALONE, InputError, pick_device, run_script


def list_configs(task: str) -> None:
    for config in configs_of(task):
        formats = f"parameters {config.parameters}, products {config.compute}, state {config.state}"
        print(f"{config.name:22} {formats}{'; ' + config.note if config.note else ''}")


def planned_runs(task: str, args: argparse.Namespace) -> list[argparse.Namespace]:
    """One namespace a run, with this shard's alone."""
    names = [config.name for config in configs_of(task)]
    if args.config != "all":
        names = [get_config(name).name for name in args.config.split(",")]
    runs = []
    for seed in range(args.seed, args.seed + args.seeds):
        for rate in args.learning_rate:
            for name in names:
                run = copy.copy(args)
                run.config, run.seed, run.learning_rate = name, seed, rate
                runs.append(run)
    number, count = args.shard
    return runs[number::count]


def run_all(make_task: MakeTask, task: str, fingerprint: str, args: argparse.Namespace) -> None:
    """One run here, several in child processes."""
    runs = planned_runs(task, args)
    done = finished_keys(args.out)
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    for run in runs:
        run.key = run_key(run, get_config(run.config), fingerprint, world_size)
    if len(runs) == 1 and args.shard == (0, 1):
        if runs[0].key in done and args.resume == "auto":
            print(f"{runs[0].config} seed {runs[0].seed}: {done[runs[0].key]} already, in {args.out}")
            return
        run_one(make_task, runs[0])
        return
    if world_size > 1:
        raise InputError("torchrun takes one run: name one --config and --seed, or spread a sweep by --shard")
    if args.resume not in ("auto", "none"):
        raise InputError(f"--resume {args.resume}: is of one run; a sweep takes auto or none")
    todo = [run for run in runs if args.resume == "none" or run.key not in done]
    print(f"{len(runs)} runs, {len(runs) - len(todo)} of them done already, in {args.out}", flush=True)
    crashed = Children(make_task).run(todo)
    if crashed:
        raise SystemExit(f"error: crashed: {', '.join(crashed)}; the other runs are in {args.out}")


class Children:
    """Child processes, one after the other; a signal to the sweep reaches the running one."""

    def __init__(self, make_task: MakeTask) -> None:
        self.make_task = make_task
        # A fork of a server that has imported everything and run nothing: as clean as a new interpreter,
        # without the seconds that its imports take.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self.context = multiprocessing.get_context(method)
        if method == "forkserver":
            self.context.set_forkserver_preload([make_task.__module__, "experiments.preload"])
        self.child: BaseProcess | None = None
        self.signal = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, _frame: Any) -> None:
        """The child saves and ends. From a terminal it has had SIGINT too, so it gets the other one."""
        self.signal = number
        if self.child is not None and self.child.pid and self.child.exitcode is None:
            os.kill(self.child.pid, signal.SIGTERM)

    def run(self, runs: list[argparse.Namespace]) -> list[str]:
        """Returns the names of the runs that crashed."""
        crashed = []
        for number, args in enumerate(runs, 1):
            if self.signal:
                break
            name = f"{args.config} seed {args.seed} lr {args.learning_rate:g}"
            print(f"[{number}/{len(runs)}] {name}", flush=True)
            self.child = self.context.Process(target=_child, args=(self.make_task, args))
            self.child.start()
            if self.signal:
                self._stop(self.signal, None)
            self.child.join()
            status = self.child.exitcode
            if self.signal:
                break
            if status == 2:  # bad input, which the child has named: it is that of every run
                raise SystemExit(2)
            if status == -signal.SIGKILL:
                self._out_of_memory(args)
            elif status:
                crashed.append(f"{name} (status {status})")
        if self.signal:
            print("stopped; the same command goes on from there", flush=True)
            raise SystemExit(128 + self.signal)
        return crashed

    def _out_of_memory(self, args: argparse.Namespace) -> None:
        task, device = self.make_task(args), pick_device(args.device)
        row = base_row(task, get_config(args.config), args, ALONE, device)
        reason = "killed by the system (signal 9), as it does when memory runs out"
        append_row(args.out, row | {"status": "oom", "reason": reason})
        print(f"{args.config} seed {args.seed}: {reason}", flush=True)


def _child(make_task: MakeTask, args: argparse.Namespace) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run_script(lambda: run_one(make_task, args))
    sys.stdout.flush()


def _end_with_parent() -> None:
    """A sweep that was killed must not leave a run behind, which the next sweep would meet."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
