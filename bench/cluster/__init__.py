"""Runs as jobs of a SLURM cluster: how they are submitted and watched, what a job does, and where in it a process is.

submitit pickles the jobs, writes the batch script and carries tracebacks back. States come from SLURM itself, since a
job that is cancelled or killed leaves nothing behind.
"""
