"""Two processes that share the batches of a step do what one does that accumulates them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tuning_tools import last_checkpoint
from two_processes import run

HERE = Path(__file__).parent


def started(rank, port, out):
    """One of two processes, as torchrun and `accelerate launch` start them."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    environment = {
        **os.environ,
        **{name: str(value) for name, value in place.items()},
        "MASTER_ADDR": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent))),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(HERE / "two_processes.py"), str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.skipif(sys.platform == "win32", reason="no gloo")
def test_two_processes_give_the_weights_of_one_that_accumulates(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both = [started(rank, port, tmp_path / "two") for rank in (0, 1)]
    try:
        told = [one.communicate(timeout=300)[1] for one in both]
    finally:
        for one in both:
            one.kill()
    assert [one.returncode for one in both] == [0, 0], "\n".join(told)[-3000:]
    run(tmp_path / "one", accumulation=2)
    two, one = last_checkpoint(tmp_path / "two"), last_checkpoint(tmp_path / "one")
    assert two.made_from["number of devices"] == "2"
    assert two.log["losses"] == pytest.approx(one.log["losses"], rel=1e-5)
    for name, weight in one.weights.items():
        torch.testing.assert_close(two.weights[name], weight, rtol=1e-4, atol=1e-5)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"checkpoints", "model", "tuning.lock"}
