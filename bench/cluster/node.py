"""Where in its SLURM job a process is, and where the job's processes meet."""

from __future__ import annotations

import os

MASTER_PORTS = range(10000, 20000)
"""Below the ports that the kernel hands out itself."""


def node_rank() -> int:
    """Which node of its job this one is, from 0."""
    return int(os.environ.get("SLURM_NODEID", 0))


def node_count() -> int:
    """Nodes of this process's job; 1 outside SLURM."""
    return int(os.environ.get("SLURM_NNODES", 1))


def master_address() -> str:
    """The job's first node, where all its processes meet; this machine for a single node."""
    if node_count() == 1:
        return "127.0.0.1"
    from submitit.slurm.slurm import SlurmJobEnvironment

    return SlurmJobEnvironment().hostnames[0]


def master_port() -> int | None:
    """A port that jobs side by side on a machine do not share; None outside SLURM."""
    job_id = os.environ.get("SLURM_JOB_ID")
    return None if job_id is None else MASTER_PORTS[int(job_id) % len(MASTER_PORTS)]
