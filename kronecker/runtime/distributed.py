"""Several processes that train one run: they connect through JAX's runtime.

Each prints that it waits for the others, and then its index, host and devices.  If a process never starts, its log
lacks both lines, and the others end after `distributed.timeout_seconds`.  If one dies or fails, the others end after
`distributed.heartbeat_seconds`, and JAX's message on process 0 names it ("Task 1 heartbeat timeout").
"""

import os
import socket
import sys
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from kronecker.runtime import allocator, printing

# Where SLURM, Open MPI and Cloud TPU tell a process how many there are.  JAX reads the rest itself.
_SIZES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_TPU_HOSTS = "TPU_WORKER_HOSTNAMES"
# Replace distributed.coordinator, processes and index where these are not set.
COORDINATOR, PROCESSES, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def start(config: ml_collections.ConfigDict) -> None:
    """Connects the processes of this run, if there are several; call it before anything uses JAX's devices.

    Raises ValueError if coordinator, processes and index do not fit together, if distributed.enabled is on and no other
    process can be found, or if it is off and there are several.  If the others do not connect in time, JAX ends this
    process with a message and SIGABRT.
    """
    d = config.distributed
    given = explicit(d, os.environ) if d.enabled != "off" else {}
    if d.enabled == "on" or (d.enabled == "auto" and (given or _one_of_several(os.environ))):
        seconds = d.timeout_seconds
        which = "process {process_id} of {num_processes} at {coordinator_address}" if given else "process"
        where = f"{which.format(**given)} on {socket.gethostname()} (pid {os.getpid()})"
        printing.say(f"{where}: waiting up to {seconds} s for other processes")
        try:
            jax.distributed.initialize(
                **given,
                # In a SLURM job JAX gives each process one GPU; with an explicit index a process has all of them.
                cluster_detection_method="deactivate" if given else None,
                initialization_timeout=seconds,
                heartbeat_timeout_seconds=d.heartbeat_seconds,
                shutdown_timeout_seconds=seconds,
            )
        except ValueError as error:  # JAX found no cluster
            raise ValueError(
                "distributed.enabled is on, but the other processes cannot be found: no SLURM, Open MPI or Cloud TPU "
                f"started this one ({error}); set distributed.coordinator, processes and index, or {COORDINATOR}, "
                f"{PROCESSES} and {INDEX}, or set distributed.enabled to auto"
            ) from error
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise ValueError(
            f"this is one of {jax.process_count()} processes of a TPU slice, but distributed.enabled is {d.enabled}; "
            "start each of them with --config.distributed.enabled=on"
        )
    if jax.distributed.is_initialized():
        printing.say(
            f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()} (pid {os.getpid()}): "
            f"{jax.local_device_count()} of {jax.device_count()} devices, {jax.local_devices()[0].device_kind}"
        )


def leave(code: int, fault: BaseException | None = None) -> None:
    """Ends this process with `code` at once if it is one of several and failed alone; else returns.

    JAX normally waits for its peers at exit.  If this process failed alone, it exits at once so that peers see a
    missing heartbeat.  A JaxRuntimeError usually means that a peer died, so there is no early exit for it, except on
    out of memory, which is local.  `code` is not 0; `fault` is the exception that ends the process, None for bad input.
    """
    echo = isinstance(fault, jax.errors.JaxRuntimeError) and allocator.OUT_OF_MEMORY not in str(fault)
    if jax.distributed.is_initialized() and not echo:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def processes_here() -> int:
    """Returns how many of the run's processes are on this machine; all of them must call it."""
    own = zlib.crc32(socket.gethostname().encode())
    return told_by_all(own).count(own)


def told_by_all(number: int) -> list[int]:
    """Returns the `number` that each process of the run passes, from 0 to 2^32 - 1; all of them must call it."""
    if jax.process_count() == 1:
        return [number]
    return multihost_utils.process_allgather(np.uint32(number)).tolist()


def require_equal(facts: Mapping[str, Any]) -> None:
    """Raises ValueError in every process if one of `facts`, or what they are named, is not the same in all of them."""
    if len(set(told_by_all(zlib.crc32(repr([*facts]).encode())))) > 1:  # else the arrays below differ in size
        raise ValueError("the processes of this run have other keys; start all of them with one version of kronecker")
    own = np.array([zlib.crc32(repr(value).encode()) for value in facts.values()], np.uint32)
    told = multihost_utils.process_allgather(own) if jax.process_count() > 1 else own[None]
    for name, same in zip(facts, (told == told[0]).all(axis=0), strict=True):
        if not same:
            raise ValueError(
                f"{name} is {facts[name]!r:.200} in process {jax.process_index()}, and not the same in all processes "
                "of this run; start all of them with one command, on the same text"
            )


def explicit(group: ml_collections.ConfigDict, environment: Mapping[str, str]) -> dict[str, str | int]:
    """Returns coordinator, processes and index as arguments of JAX, from config or environment; {}: none is set.

    `group` is the config's `distributed`.  Raises ValueError if some of the three are missing or malformed.
    """
    coordinator = group.coordinator or environment.get(COORDINATOR, "")
    processes = group.processes or _number(environment, PROCESSES, 0)
    index = group.index if group.index >= 0 else _number(environment, INDEX, -1)
    given = f"distributed.coordinator={coordinator!r}, processes={processes}, index={index}"
    if not coordinator and not processes and index < 0:
        return {}
    if not coordinator or not processes or index < 0:
        raise ValueError(
            f"{given}: set all three or none; give each process HOST:PORT of the first one, the number of processes, "
            f"and its own index from 0, by these keys or by {COORDINATOR}, {PROCESSES} and {INDEX}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{given}: the coordinator must be HOST:PORT, for example 10.0.0.1:8476")
    if index >= processes:
        raise ValueError(f"{given}: the index must be from 0 to {processes - 1}")
    return {"coordinator_address": coordinator, "num_processes": processes, "process_id": index}


def _one_of_several(environment: Mapping[str, str]) -> bool:
    return any(_number(environment, size, 1) > 1 for size in _SIZES) or "," in environment.get(_TPU_HOSTS, "")


def _number(environment: Mapping[str, str], variable: str, default: int) -> int:
    text = environment.get(variable, "")
    if text and not text.isdecimal():
        raise ValueError(f"{variable} is {text!r}; it must be a whole number, 0 or above")
    return int(text) if text else default
