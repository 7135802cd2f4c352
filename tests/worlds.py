"""Start several processes that find each other, as torchrun does."""

import os
import socket
import subprocess
import sys
import traceback


def new_world(size):
    """Return the environment by which so many processes find each other, all but their ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}


def fork_world(size, work, *arguments):
    """Do the work in so many forks of this process; return their ids.

    This process is to have loaded everything and computed nothing: after a fork, torch waits for
    threads that are not there.
    """
    world, children = new_world(size), []
    for rank in range(size):
        if (child := os.fork()) == 0:
            os.environ |= {**world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            code = 1
            try:
                work(*arguments)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return children


def exit_codes(children):
    """Wait for all; return their exit codes, negative ones for signals."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def start_world(size, *arguments, **environment):
    """Start `python ARGUMENTS` as so many processes, by rank, with pipes for stdout and stderr."""
    world = {**new_world(size), "OMP_NUM_THREADS": "1", **environment}
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
