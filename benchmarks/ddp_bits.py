"""Whether PyTorch DDP gives the same bits on more processes: python benchmarks/ddp_bits.py.

Trains a dense network over gloo, twice on each number of processes, always with the same mini-batches. Writes the
table into docs/comparison.md. Needs the extra `bench`.
"""

import hashlib
import subprocess
import sys

import peers
import results
import torch
import torch.distributed as dist

PROCESSES, TRAININGS, STEPS = (1, 2, 4), 2, 50
CASE = peers.Case((784, 256, 128, 10), "relu", 128)
LEARNING_RATE = 0.1
DIGITS = 16  # of a hash that are shown


def train() -> None:
    """On each process of torch.distributed.run; rank 0 prints the sha256 of the parameters."""
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    model = torch.nn.parallel.DistributedDataParallel(peers.torch_network(CASE))
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    X, y = map(torch.from_numpy, peers.samples())
    part = CASE.batch_size // size
    for step in range(STEPS):
        first = step * CASE.batch_size + rank * part
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(X[first : first + part]), y[first : first + part]).backward()
        optimizer.step()
    if rank == 0:
        vector = torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
        print(hashlib.sha256(vector).hexdigest())
    dist.destroy_process_group()


def hash_of(processes: int) -> str:
    """The sha256 that a training on so many processes ends with."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run([*command, __file__, "--train"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def main() -> None:
    """Train, print, write."""
    lines = [f"| torch {torch.__version__}, processes | a run | another run |", "| ---: | --- | --- |"]
    for processes in PROCESSES:
        hashes = (f"`{hash_of(processes)[:DIGITS]}…`" for _ in range(TRAININGS))
        lines.append(f"| {processes} | {' | '.join(hashes)} |")
    text = "\n".join(lines)
    print(text)
    results.fill(results.RESULTS.parent / "comparison.md", {"ddp": text}, "ddp_bits.py")


if __name__ == "__main__":
    train() if "--train" in sys.argv else main()
