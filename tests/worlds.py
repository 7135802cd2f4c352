"""Start several processes that find each other, as torchrun does."""

import os
import socket
import subprocess
import sys


def start_world(size, *arguments, **environment):
    """Start `python ARGUMENTS` as so many processes, by rank, with pipes for stdout and stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    world |= {"OMP_NUM_THREADS": "1", **environment}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def run_world(size, *arguments, **environment):
    """Run `python ARGUMENTS` as so many processes; return exit code, stdout and stderr of each."""
    processes = start_world(size, *arguments, **environment)
    outputs = [process.communicate(timeout=300) for process in processes]
    return [(p.returncode, *output) for p, output in zip(processes, outputs, strict=True)]
