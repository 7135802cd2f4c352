import json
import math
import pickle
import socket
from datetime import timedelta

import pytest
import torch
from worlds import run_world

from repa_base.errors import RepaError
from repa_base.processes import (
    Processes,
    all_values,
    at_first,
    attempt,
    check_same,
    joined_processes,
    own_rows,
    together,
)

TALK = """
import json, sys
from torch import distributed
from repa_base.processes import joined_processes

class TensorsOnly(distributed.ProcessGroup):
    "Like nccl without a GPU: it carries no value."
    def getBackendName(self):
        return "tensors"

distributed.Backend.register_backend(
    "tensors", lambda _, rank, size, __: TensorsOnly(rank, size)
)
with joined_processes(sys.argv[1]) as us:
    shared = [us.share({"from": us.rank}), us.share("x" if us.is_first else None)]
    gathered = list(us.gather((us.rank, "y" * us.rank)))
    us.barrier()
    print(json.dumps([us.rank, us.size, us.local_rank, shared, gathered]))
"""

LEFT_ALONE = """
import os, sys
from datetime import timedelta
from repa_base.errors import RepaError
from repa_base.processes import joined_processes
with joined_processes(patience=timedelta(seconds=60)) as us:
    us.barrier()
    if us.rank == int(sys.argv[2]):
        os._exit(7)
    calls = {
        "share": lambda: us.share(1),
        "gather": lambda: list(us.gather(1)),
        "barrier": us.barrier,
    }
    try:
        calls[sys.argv[1]]()
    except RepaError as error:
        print(error)
"""


@pytest.mark.parametrize(("backend", "size"), [("gloo", 1), ("gloo", 3), ("tensors", 2)])
def test_values_travel_whatever_the_backend_of_tensors(backend, size):
    outcomes = run_world(size, "-c", TALK, backend)
    assert [code for code, _, _ in outcomes] == [0] * size, outcomes
    values = [[rank, "y" * rank] for rank in range(size)]
    for rank, (_, out, _) in enumerate(outcomes):
        gathered = values if rank == 0 else []
        assert json.loads(out) == [rank, size, rank, [{"from": 0}, "x"], gathered]


@pytest.mark.parametrize(("call", "dead"), [("share", 0), ("gather", 1), ("barrier", 1)])
def test_waiting_for_a_process_that_has_ended_is_one_line(call, dead):
    outcomes = run_world(2, "-c", LEFT_ALONE, call, dead)
    assert outcomes[dead][0] == 7
    code, out, err = outcomes[1 - dead]
    assert (code, out.count("\n")) == (0, 1), err
    assert out.startswith("another process ended early")


class OtherFirst(Processes):
    """The second of two processes, the first of which has other arguments."""

    def share(self, value):
        return {"rate": 2.0, "steps": 3, "resume": False, "none": None}

    def gather(self, value):
        self.said.append(value)
        return ()


def test_arguments_that_differ_are_named_and_those_that_are_written_alike_are_the_same(monkeypatch):
    check_same(Processes(), {"rate": math.nan, "steps": 3})
    said = []
    monkeypatch.setattr(OtherFirst, "said", said, raising=False)
    monkeypatch.setattr("repa_base.processes.at_first", lambda processes, work: None)
    check_same(OtherFirst(rank=1, size=2), {"rate": 2.0, "steps": 3, "resume": True, "seed": 4})
    assert str(said[0].error) == (
        "process 1 was started with other arguments than the first one (resume True, not False; "
        "seed 4, not unset): give all of them the same."
    )


OTHER_BACKENDS = """
import os
from repa_base.errors import RepaError
from repa_base.processes import joined_processes
try:
    with joined_processes("gloo" if os.environ["RANK"] == "1" else "nccl"):
        pass
except RepaError as error:
    print(error)
"""


def test_processes_that_would_wait_for_each_other_in_two_ways_say_so():
    said = (
        "process 1 shares tensors by gloo, the first one by nccl: give all of them the same device."
    )
    outcomes = run_world(2, "-c", OTHER_BACKENDS)
    assert [(code, out) for code, out, _ in outcomes] == [(0, f"{said}\n")] * 2, outcomes


def test_processes_that_cannot_meet_say_so(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    joined = joined_processes()
    with pytest.raises(RepaError, match=r"cannot connect .*MASTER_ADDR.*torchrun"):
        joined.__enter__()


def test_worker_whose_launcher_has_ended_before_it_looks_does_not_wait_for_days(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in {**world, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("repa_base.processes.CALLING", timedelta(seconds=1))
    with pytest.raises(RepaError, match="cannot connect"):
        joined_processes().__enter__()


@pytest.mark.parametrize("count", [2, 16, 17, 100, 103])
@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_shares_are_contiguous_whole_batches_that_cover_all_images(count, size):
    shares = [own_rows(Processes(rank, size), count, 16) for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(count))
    assert all(share.start % 16 == 0 for share in shares if share)
    batches = [-(-len(share) // 16) for share in shares]
    assert max(batches) - min(batches) <= 1


def test_values_of_attempts_are_all_taken_before_the_first_error_is_raised():
    def fail(message):
        raise RepaError(message)

    taken = []

    def outcomes():
        for number in range(4):
            taken.append(number)
            yield attempt(lambda n=number: fail(str(n)) if n in (1, 2) else n)

    values = all_values(outcomes())
    assert next(values) == 0
    with pytest.raises(RepaError, match=r"^1$"):
        next(values)
    assert taken == [0, 1, 2, 3]


def test_the_first_process_alone_works_and_its_error_is_raised():
    def fail():
        raise RepaError("no")

    assert at_first(Processes(), lambda: 3) == 3
    with pytest.raises(RepaError, match=r"^no$"):
        at_first(Processes(), fail)


class Unsendable(Exception):
    def __init__(self, kind, name):
        super().__init__(f"no {kind} {name}")


def test_any_error_travels_to_other_processes_by_its_text_if_need_be():
    def fail(error):
        raise error

    for error, arrived in (
        (OSError(28, "full", "a"), OSError(28, "full", "a")),
        (Unsendable("x", "y"), RuntimeError("Unsendable: no x y")),
    ):
        failure = attempt(lambda error=error: fail(error))
        assert failure.error is error
        assert repr(pickle.loads(pickle.dumps(failure)).error) == repr(arrived)
        with pytest.raises(type(error)) as caught, together(Processes()):
            fail(error)
        assert caught.value is error


IMPATIENT = """
import sys, time
from datetime import timedelta
from repa_base.errors import RepaError
from repa_base.processes import joined_processes
try:
    with joined_processes(sys.argv[1], patience=timedelta(seconds=2)) as us:
        us.barrier()
        if us.rank:
            time.sleep(9)
        else:
            began = time.monotonic()
            us.share("value")
            us.barrier()
except RepaError:
    print(time.monotonic() - began < 7)
"""


def test_nobody_waits_for_longer_than_asked():
    (code, out, err), _ = run_world(2, "-c", IMPATIENT, "gloo")
    assert (code, out) == (0, "True\n"), err


def test_each_process_gets_a_gpu_of_its_own_unless_one_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    third = Processes(rank=7, size=8, local_rank=3)
    assert [third.device(name) for name in ("auto", "cuda")] == [torch.device("cuda:3")] * 2
    assert third.device("cuda:1") == torch.device("cuda:1")
    assert Processes().device("auto") == torch.device("cuda")
