from __future__ import annotations

import multiprocessing
import os
import socket
from multiprocessing.queues import Queue
from typing import Any

import pytest
import torch

from xraygpt.common import dist_utils
from xraygpt.common.errors import ConfigError
from xraygpt.common.run_config import RunConfig

SETTINGS = RunConfig(device="cpu")


@pytest.fixture(autouse=True)
def _no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in dist_utils.TORCHRUN_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_world_of_one() -> None:
    info = dist_utils.init_distributed_mode(SETTINGS)
    assert info == dist_utils.DistInfo(0, 1, 0, torch.device("cpu"))
    assert dist_utils.get_dist_info() == (0, 1)
    assert dist_utils.is_main_process()
    assert not dist_utils.is_dist_avail_and_initialized()
    assert dist_utils.all_reduce_mean(2.5) == 2.5
    dist_utils.barrier()
    dist_utils.cleanup()


def test_half_set_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="LOCAL_RANK, WORLD_SIZE"):
        dist_utils.init_distributed_mode(SETTINGS)


def test_several_processes_against_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    settings = RunConfig(device="cpu", distributed=False)
    with pytest.raises(ConfigError, match="torchrun started 2"):
        dist_utils.init_distributed_mode(settings)


def test_main_process_decorator(monkeypatch: pytest.MonkeyPatch) -> None:
    @dist_utils.main_process
    def double(value: int) -> int:
        return 2 * value

    assert double(2) == 4
    monkeypatch.setattr(dist_utils, "is_main_process", lambda: False)
    assert double(2) is None


def _process(rank: int, port: int, results: Queue[Any]) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    info = dist_utils.init_distributed_mode(SETTINGS)
    tensor = torch.tensor([float(rank), 1.0])
    mean = dist_utils.all_reduce_mean(tensor).tolist()
    results.put((info.rank, info.world_size, dist_utils.all_reduce_mean(float(rank)), mean, tensor.tolist()))
    dist_utils.barrier()
    dist_utils.cleanup()


def test_two_processes_share_their_means() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_process, args=(rank, port, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=30)
        assert process.exitcode == 0
    assert found == [(rank, 2, 0.5, [0.5, 1.0], [float(rank), 1.0]) for rank in range(2)]
