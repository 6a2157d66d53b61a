"""A real SLURM on this machine, for tests: munged, slurmctld, and one slurmd for each of several virtual nodes.

It needs neither systemd nor cgroups nor a database, runs as the calling user, and keeps everything in one folder.
Accounting is off; in the place of `sacct` stands a script that answers from the controller's own table.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PACKAGES = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
PORTS = range(20000, 30000)
"""Below the ports that the kernel hands out itself."""
ADMINISTRATORS = os.pathsep.join(["/usr/local/sbin", "/usr/sbin", "/sbin"])
START_SECONDS = 30.0
STOP_SECONDS = 15.0

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2,batch_sched_delay=0
ReturnToService=2
KillWait=5
MinJobAge=86400
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE DefaultTime=60 State=UP
PartitionName=debug Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
"""
# `config_overrides` lets nodes claim more processors than there are, `MinJobAge` keeps ended jobs visible, and a
# requeued job waits until its old credential has expired.
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=65536\n"

SACCT = """\
#!/bin/sh
# `sacct --jobs=...`: the columns JobID, State and NodeList, whatever is asked for.
header='JobID|State|NodeList' jobs=
while [ $# -gt 0 ]; do
  case $1 in
    -n|--noheader) header= ;;
    -j) jobs=$jobs,$2; shift ;;
    --jobs=*) jobs=$jobs,${1#--jobs=} ;;
  esac
  shift
done
[ -z "$header" ] || echo "$header"
squeue --noheader --all --array --states=all --jobs="${jobs#,}" --format='%i|%T|%N' 2>/dev/null
exit 0
"""


class SlurmCluster:
    """Runs while its `with` block does; `environment` points the SLURM commands at it.

    Partition `debug` preempts partition `low`, whose jobs get SIGTERM and SIGUSR2 and ten seconds, and are requeued.
    """

    def __init__(self, nodes: int = 2, cpus: int = 4) -> None:
        self._names = [f"127.0.0.{2 + index}" for index in range(nodes)]  # names that resolve everywhere
        self._cpus = cpus

    def __enter__(self) -> SlurmCluster:
        install()
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # sockets must have short paths
        self.folder.chmod(0o755)
        self._configure()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cancel_all()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self._processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
            if wait_until(lambda: not self._processes(), STOP_SECONDS):
                break
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use this cluster."""
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"], ADMINISTRATORS])
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def _configure(self) -> None:
        host, port = socket.gethostname().partition(".")[0], free_ports(1 + len(self._names))
        text = CONFIGURATION.format(host=host, port=port, user=getpass.getuser(), folder=self.folder)
        for index, name in enumerate(self._names, start=1):
            text += NODE.format(name=name, host=host, port=port + index, cpus=self._cpus)
            (self.folder / name).mkdir()
        (self.folder / "slurm.conf").write_text(text)
        for name in ("state", "bin"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        sacct = self.folder / "bin" / "sacct"
        sacct.write_text(SACCT)
        sacct.chmod(0o755)

    def _start(self) -> None:
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid"}
        files |= {"seed-file": "munged.seed", "log-file": "munged.log"}
        self._run(["munged", "--force", *(f"--{option}={self.folder / name}" for option, name in files.items())])
        self._run(["slurmctld", "-i"])
        for name in self._names:
            self._run(["slurmd", "-N", name])
        if not wait_until(self._is_up, START_SECONDS):
            logs = "".join(log.read_text()[-2000:] for log in self.folder.glob("*.log"))
            raise RuntimeError(f"SLURM did not start:\n{logs}")

    def _is_up(self) -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            idle = self._run(["sinfo", "--noheader", "--Node", "--partition=debug", "--states=idle", "--format=%N"])
            return len(idle.split()) == len(self._names)
        return False

    def _cancel_all(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired):
            self._run(["scancel", f"--user={getpass.getuser()}"])
            wait_until(lambda: not self._run(["squeue", "--noheader"]), STOP_SECONDS)

    def _run(self, command: Sequence[str]) -> str:
        """What a command prints. Raises CalledProcessError."""
        environment = {**os.environ, **self.environment}
        with (self.folder / "commands.log").open("a") as log:
            return subprocess.check_output(command, text=True, env=environment, stderr=log, timeout=30, cwd="/")

    def _processes(self) -> list[int]:
        """Daemons and job steps: what was started with this cluster's configuration, and is alive."""
        mark = f"SLURM_CONF={self.folder}".encode()
        return [process for process in alive() if process != os.getpid() and mark in environment_of(process)]


def available() -> bool:
    """Whether SLURM is installed, or could be."""
    return not missing() or (os.geteuid() == 0 and shutil.which("apt-get") is not None)


def missing() -> list[str]:
    """Debian packages that are not installed."""
    path = os.pathsep.join([os.environ["PATH"], ADMINISTRATORS])
    return [package for command, package in PACKAGES.items() if shutil.which(command, path=path) is None]


def install() -> None:
    """Install what is missing, as root, without starting the packages' own services."""
    if not missing():
        return
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        apt_get("update")
        apt_get("install", "--yes", "--no-install-recommends", *missing())
    finally:
        if ours:
            policy.unlink()


def apt_get(*words: str) -> None:
    """Run apt-get without questions. Raises CalledProcessError."""
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=120", *words]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def free_ports(number: int) -> int:
    """The first of `number` consecutive ports that nobody listens on."""
    while True:
        first = random.randrange(PORTS.start, PORTS.stop - number)
        with contextlib.ExitStack() as sockets, contextlib.suppress(OSError):
            for port in range(first, first + number):
                sockets.enter_context(socket.socket()).bind(("", port))
            return first


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def alive() -> Iterator[int]:
    """Process ids, without those that have ended and wait to be reaped."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                yield int(folder.name)


def environment_of(process: int) -> bytes:
    """The environment that a process was started with; empty where it cannot be read."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/environ").read_bytes()
    return b""
