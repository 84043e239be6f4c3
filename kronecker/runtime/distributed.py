"""Several processes that train one run: how they find each other, through JAX's own runtime.

Each says once who and where it is.  One that never comes ends the others after `distributed.timeout_seconds`, one that
dies or fails after `distributed.heartbeat_seconds`, and JAX's message on process 0 names its index ("Some timed out
task names: 1", "Task 1 heartbeat timeout").
"""

import contextlib
import functools
import os
import socket
import sys
import zlib
from collections.abc import Iterator, Mapping

import jax
import ml_collections
import numpy as np
from jax._src import clusters, distributed
from jax.experimental import multihost_utils

from kronecker.runtime import allocator

# What SLURM and Open MPI, and Cloud TPU, tell each process of how many there are.  JAX reads the rest itself.
_SIZES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_TPU_HOSTS = "TPU_WORKER_HOSTNAMES"
SECONDS_TO_TELL = 10  # that processes wait longer than the service, whose message names who is missing
# What stands in for distributed.coordinator, processes and index, if those are not set.
COORDINATOR, PROCESSES, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def start(config: ml_collections.ConfigDict) -> None:
    """Joins the processes of this run, if there are several; before anything else asks JAX for its devices.

    Args:
      config: its group `distributed`.

    Raises:
      ValueError: if coordinator, processes and index do not fit together, distributed.enabled is on and nothing says
        where the others are, or it is off and there are several processes.

    If the others are not there in time, JAX ends the process with a message and SIGABRT.
    """
    told = explicit(config.distributed, os.environ) if config.distributed.enabled != "off" else {}
    if config.distributed.enabled == "on" or (
        config.distributed.enabled == "auto" and (told or _one_of_several(os.environ))
    ):
        if not told and not _in_a_cluster():
            raise ValueError(
                "distributed.enabled is on, and nothing says where the other processes are: no SLURM, Open MPI or "
                f"Cloud TPU is here; set distributed.coordinator, processes and index, or {COORDINATOR}, {PROCESSES} "
                f"and {INDEX}, or leave distributed.enabled at auto"
            )
        seconds = config.distributed.timeout_seconds
        with _roll_call(seconds):
            jax.distributed.initialize(
                **told,
                # Below SLURM, JAX would also give each process one GPU, where whoever tells may want one for all.
                cluster_detection_method="deactivate" if told else None,
                initialization_timeout=seconds + SECONDS_TO_TELL,
                heartbeat_timeout_seconds=config.distributed.heartbeat_seconds,
                shutdown_timeout_seconds=seconds,
            )
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise ValueError(
            f"this is one of {jax.process_count()} processes of a TPU slice, and distributed.enabled is "
            f"{config.distributed.enabled}; set --config.distributed.enabled=on on each of them"
        )
    if jax.distributed.is_initialized():
        print(
            f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()} (pid {os.getpid()}): "
            f"{jax.local_device_count()} of {jax.device_count()} devices, {jax.local_devices()[0].device_kind}",
            file=sys.stderr,
            flush=True,
        )


def leave(code: int, fault: BaseException | None = None) -> None:
    """Ends this process with `code` at once if it is one of several that fails on its own account; else returns.

    On the ordinary way out JAX waits for the others, which wait for this one; so they miss its heartbeat instead.  An
    error of JAX's runtime most often says that another one has ended: then the ordinary way tells whose heartbeat is
    missing.  Too little memory is an error of this process's own; of other ones that are, nothing here can tell.

    Args:
      code: not 0.
      fault: what ends it, where that is no bad input.
    """
    echo = isinstance(fault, jax.errors.JaxRuntimeError) and allocator.OUT_OF_MEMORY not in str(fault)
    if jax.distributed.is_initialized() and not echo:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def processes_here() -> int:
    """Returns how many of the run's processes are on this machine; collective over them."""
    own = zlib.crc32(socket.gethostname().encode())
    return told_by_all(own).count(own)


def told_by_all(number: int) -> list[int]:
    """Returns the number, from 0 up to 2^32 - 1, that each of the run's processes gives here; collective over them."""
    if jax.process_count() == 1:
        return [number]
    return multihost_utils.process_allgather(np.uint32(number)).tolist()


def explicit(group: ml_collections.ConfigDict, environment: Mapping[str, str]) -> dict[str, str | int]:
    """Returns what config or environment say of coordinator, processes and index, as JAX's arguments; {}: nothing.

    Args:
      group: the config's `distributed`.
      environment: of the process.

    Raises:
      ValueError: if some of the three are missing, or are no numbers, or the index is not one of the processes.
    """
    coordinator = group.coordinator or environment.get(COORDINATOR, "")
    processes = group.processes or _number(environment, PROCESSES, 0)
    index = group.index if group.index >= 0 else _number(environment, INDEX, -1)
    told = f"distributed.coordinator={coordinator!r}, processes={processes}, index={index}"
    if not coordinator and not processes and index < 0:
        return {}
    if not coordinator or not processes or index < 0:
        raise ValueError(
            f"{told}: they go together; give each process HOST:PORT of the first one, how many there are, and its own "
            f"number from 0, by these keys or by {COORDINATOR}, {PROCESSES} and {INDEX}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{told}: the coordinator is HOST:PORT, for example 10.0.0.1:8476")
    if index >= processes:
        raise ValueError(f"{told}: the index of {processes} processes is one of 0 to {processes - 1}")
    return {"coordinator_address": coordinator, "num_processes": processes, "process_id": index}


@contextlib.contextmanager
def _roll_call(seconds: int) -> Iterator[None]:
    """Lets JAX's service, which process 0 starts inside the block, wait `seconds` and name whoever is missing then.

    Only the service knows them, and jax.distributed.initialize leaves it waiting for an hour: the processes give up
    before, with no index in the message.  It has no argument for that, hence the patch.
    """
    library, name = distributed._jax, "get_distributed_runtime_service"
    original = getattr(library, name)
    setattr(library, name, functools.partial(original, cluster_register_timeout=seconds))
    try:
        yield
    finally:
        setattr(library, name, original)


def _in_a_cluster() -> bool:
    """Returns whether jax.distributed.initialize would find the others by itself; JAX has no public way to ask."""
    kinds = (kind for kind in clusters.ClusterEnv._cluster_types if not kind.opt_in_only_method)
    return any(kind.is_env_present() for kind in kinds)


def _one_of_several(environment: Mapping[str, str]) -> bool:
    """Returns whether a cluster says that it started this process as one of several."""
    return any(_number(environment, size, 1) > 1 for size in _SIZES) or "," in environment.get(_TPU_HOSTS, "")


def _number(environment: Mapping[str, str], variable: str, default: int) -> int:
    text = environment.get(variable, "")
    if text and not text.isdecimal():
        raise ValueError(f"{variable} is {text!r}; it must be a whole number from 0 up")
    return int(text) if text else default
