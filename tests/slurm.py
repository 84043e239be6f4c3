"""A real SLURM of one node for tests: munged, slurmctld and slurmd of Debian's slurm-wlm, started by hand in a folder.

No systemd, no cgroups, no accounting.  The node claims more cores than the machine has, so that two jobs run at once.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PATH = os.environ["PATH"] + ":/usr/sbin"  # where the daemons are, also for users that are not root

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=30
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


def _missing() -> str:
    absent = [program for program in PROGRAMS if not shutil.which(program, path=PATH)]
    if absent:
        return f"needs {', '.join(absent)}: apt-get install slurm-wlm munge"
    return "" if os.getuid() == 0 else "needs root, which starts SLURM's daemons"


needed = pytest.mark.extras(_missing())


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Mapping[str, str]]:
    """Starts SLURM with all its files in `folder`, which is new, and yields the environment that its commands need."""
    for name in ("state", "spool", "log"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)  # munge refuses a socket in a folder that others cannot enter
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder, controller_port=_free_port(), node_port=_free_port()))
    env = os.environ | {"SLURM_CONF": str(conf), "PATH": PATH}
    munge = [
        f"--socket={folder}/munge.socket",
        f"--key-file={key}",
        f"--pid-file={folder}/munged.pid",
        f"--log-file={folder}/log/munged",
    ]
    commands = [
        ["munged", "--foreground", "--force", *munge, f"--seed-file={folder}/munge.seed"],
        ["slurmctld", "-D", "-c", "-L", str(folder / "log" / "slurmctld")],
        ["slurmd", "-D", "-c", "-N", host, "-L", str(folder / "log" / "slurmd")],
    ]
    daemons = []
    try:
        for command in commands:
            with (folder / "log" / f"{command[0]}.out").open("w") as out:
                daemons.append(subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT))
            if command[0] == "munged":
                _wait(folder, lambda: (folder / "munge.socket").exists())
        _wait(folder, lambda: _asked(env, "sinfo", "--noheader", "--format=%T") in ("idle\nidle\n", "idle\n"))
        yield env
    finally:
        if len(daemons) == len(commands):
            _asked(env, "scancel", "--user=root", "--full")
            _asked(env, "scancel", "--user=root", "--signal=KILL")
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _asked(env: Mapping[str, str], *command: str) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout


def _wait(folder: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        if time.monotonic() > deadline:
            logs = "\n".join(f"{log.name}: {log.read_text()[-800:]}" for log in sorted((folder / "log").iterdir()))
            raise RuntimeError(f"SLURM did not start:\n{logs}")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
