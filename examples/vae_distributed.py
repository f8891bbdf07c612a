"""A VAE on handwritten digits by any number of processes, which all train the same model.

    torchrun --standalone --nproc-per-node 2 examples/vae_distributed.py
    make distributed                                 # by 1, 2 and 4 processes, and a table

The batch of a step is 128 images however many processes share it, and an image's latent takes its
noise by its place in that batch: `noise.shard` gives each process the key of its part. So 1, 2 and
4 processes draw the same noise, bit for bit, and their losses differ only by the order in which
sums are rounded. Nothing of noise is sent.

Parameters, gradients and Adam's moments are sharded (`fully_shard`). A checkpoint has them, the
step and the key, and another number of processes may go on from it: the images' order and the noise
are functions of key and step alone. With `--max-restarts 1` torchrun starts anew where a process
died, and the run ends with the same bits as if none had.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from command_line import checked
from digits import Data, load, loss_of
from report import bars
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.fsdp import fully_shard

from fused_reparam import FusedGaussianLatent, noise

BATCH = 128
LATENT_DIM = 12
# A process that waits this long for another one has lost it.
PATIENCE = timedelta(minutes=2)


class VAE(nn.Module):
    """Pixels to a Gaussian in the latent space, a sample of it, and back: the loss of images."""

    def __init__(self, pixels: int, levels: int, hidden: int = 256) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * LATENT_DIM)
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT_DIM, hidden), nn.ReLU(), nn.Linear(hidden, pixels)
        )
        self.latent = FusedGaussianLatent(dim=1)
        self.levels = levels

    def forward(self, x: Tensor, key: Tensor) -> Tensor:
        z, kl = self.latent(self.encoder(x), key=key)
        return loss_of(self.decoder(z), kl, x, self.levels)


class Training:
    """What a checkpoint has, and a step of it."""

    def __init__(self, data: Data, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed)  # the same first weights in all processes
        model = VAE(data.train.shape[1], data.levels).to(device)
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for part in (model.encoder, model.decoder):
            fully_shard(part, mesh=mesh)
        self.model: VAE = fully_shard(model, mesh=mesh)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-3)
        self.images, self.key, self.step = data.train, noise.key(seed), 0

    def batch(self) -> tuple[Tensor, Tensor]:
        """This process's part of the step's batch, and the key of its part of the noise."""
        of_order, of_latents = noise.split(self.key)
        epoch, at = divmod(self.step, len(self.images) // BATCH)
        seed = noise.fold_in(of_order, epoch)[0].item() >> 1  # generators take 63 bits
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
        size = BATCH // dist.get_world_size()
        first = dist.get_rank() * size
        mine = order[at * BATCH + first :][:size]
        key = noise.shard(noise.fold_in(of_latents, self.step), first * LATENT_DIM)
        return self.images[mine], key

    def __call__(self) -> float:
        """One step; the loss of the whole batch."""
        x, key = self.batch()
        loss = self.model(x.to(next(self.model.parameters()).device), key)
        loss.backward()  # the mean over all processes
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        dist.all_reduce(total := loss.detach().clone())
        return total.item() / dist.get_world_size()

    def noise_digest(self) -> str:
        """Of the noise that all processes together draw at the next step."""
        _, key = self.batch()
        mine = noise.normal(key, BATCH // dist.get_world_size() * LATENT_DIM)
        parts: list[Tensor] = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine)
        return digest(parts)

    def _state(self) -> dict[str, object]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        step, key = torch.tensor(self.step), self.key.view(torch.int64)
        return {"model": model, "optimizer": optimizer, "step": step, "key": key}

    def save(self, folder: Path) -> None:
        """Behind it only the checkpoint before is kept."""
        dcp.save(self._state(), checkpoint_id=folder / f"step-{self.step:06}")
        if dist.get_rank() == 0:
            for old in complete(folder)[:-2]:
                shutil.rmtree(old)

    def resume(self, folder: Path) -> None:
        """From the last checkpoint that is whole, by however many processes."""
        found = complete(folder)
        if not found:
            return
        state = self._state()
        dcp.load(state, checkpoint_id=found[-1])
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],  # type: ignore[arg-type]
            optim_state_dict=state["optimizer"],  # type: ignore[arg-type]
        )
        self.step, self.key = int(state["step"]), state["key"].view(torch.uint64)  # type: ignore


def complete(folder: Path) -> list[Path]:
    """Checkpoints, oldest first; the file of metadata is written when all else is."""
    return sorted(path.parent for path in folder.glob("step-*/.metadata"))


def digest(tensors: list[Tensor]) -> str:
    found = hashlib.sha256()
    for t in tensors:
        found.update(t.detach().cpu().numpy().tobytes())
    return found.hexdigest()[:12]


def fail(fault: str | None, step: int) -> None:
    """What `--fault kill:1:20` asks for, once: rank 1 is killed before step 20."""
    how, rank, at = (fault or "none:0:-1").split(":")
    first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if first and (int(rank), int(at)) == (dist.get_rank(), step):
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError(f"rank {rank} was asked to fail before step {at}")


def train(training: Training, options: argparse.Namespace) -> list[float]:
    losses = []
    with bars() as shown:
        shown.disable = dist.get_rank() > 0
        task = shown.add_task(f"{dist.get_world_size()} processes", total=options.steps)
        while training.step < options.steps:
            fail(options.fault, training.step)
            losses.append(training())
            if training.step % options.save_every == 0 or training.step == options.steps:
                training.save(options.checkpoints)
            shown.update(task, completed=training.step)
    return losses


def meeting() -> tuple[dist.Store, int, int]:
    """Where the processes that torchrun has started find each other, this one's rank, their number.

    The store of one machine's torchrun outlives them, and those that it starts anew would read
    there where the dead could be reached: they wait for those, or are refused. So each start has
    keys of its own. Of several machines no count of starts is the same on all: torchrun makes
    another store for each start there if its environment has TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
    """
    store, rank, processes = next(dist.rendezvous("env://", timeout=PATIENCE))
    if os.environ["GROUP_WORLD_SIZE"] == "1":
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    return store, rank, processes


def started() -> torch.device:
    """Join the processes that torchrun has started; alone where it has not."""
    gpu = torch.cuda.is_available()
    store, rank, processes = meeting() if "RANK" in os.environ else (dist.HashStore(), 0, 1)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo",
        store=store,
        rank=rank,
        world_size=processes,
        timeout=PATIENCE,
    )
    if not gpu:
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cuda")


def parse(words: list[str] | None) -> argparse.Namespace:
    made = argparse.ArgumentParser(description="A VAE by any number of processes.")
    made.add_argument("--steps", type=int, default=330, help="of 128 images (default: 30 epochs)")
    made.add_argument("--save-every", type=int, default=55, help="steps (default: 55)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    made.add_argument("--checkpoints", type=Path, default=Path("out/vae_distributed"))
    made.add_argument("--out", type=Path, help="a line of JSON of the run is added to this file")
    made.add_argument("--fault", help="kill:RANK:STEP or raise:RANK:STEP, to see what happens")
    made.add_argument("--table", type=Path, help="print the runs of such a file, and do no more")
    return checked(made, made.parse_args(words), "steps", "save_every")


def table(path: Path) -> str:
    """The runs of a file, side by side with the first."""
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [
        "| processes | loss of the first step | loss of the last step | apart at most | noise |",
        "|---|---|---|---|---|",
    ]
    for run in runs:
        pairs = zip(run["losses"], runs[0]["losses"], strict=True)
        worst = max(abs(a - b) / abs(b) for a, b in pairs)
        lines.append(
            f"| {run['processes']} | {run['losses'][0]:.6f} | {run['losses'][-1]:.6f} "
            f"| {worst:.1e} of the loss | `{run['noise']}` |"
        )
    return "\n".join(lines)


@record  # torchrun then shows the message of the process that failed first
def main(words: list[str] | None = None) -> None:
    options = parse(words)
    if options.table:
        print(table(options.table))
        return
    torch.set_num_threads(options.threads)
    device = started()
    if BATCH % dist.get_world_size():
        sys.exit(f"{dist.get_world_size()} processes can't share batches of {BATCH} images")
    training = Training(load(), options.seed, device)
    training.resume(options.checkpoints)
    begun = training.step
    if begun and dist.get_rank() == 0:
        print(f"going on from step {begun}")
    losses = train(training, options)
    weights = [p.full_tensor() for p in training.model.parameters()]
    of_noise = training.noise_digest()
    if dist.get_rank() == 0:
        run = {
            "processes": dist.get_world_size(),
            "begun": begun,
            "losses": losses,
            "noise": of_noise,
            "weights": digest(weights),
        }
        print(f"loss {losses[-1]:.6f} nats/image, weights {run['weights']}" if losses else "done")
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            with options.out.open("a") as file:
                file.write(json.dumps(run) + "\n")
    dist.barrier()  # nobody leaves while others still read from it
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
