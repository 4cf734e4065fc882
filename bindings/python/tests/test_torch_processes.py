"""Training by several processes: the same network with other data and noise in each (DDP), or a part of each of
its tensors (FSDP)."""

import json
import os
import socket

import numpy as np
import pytest
import svdo
from conftest import read_safetensors
from test_torch import small_net, train

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn
from torch.nn import functional as F

st = svdo.torch


@pytest.fixture(scope="module")
def data(images, labels):
    pixels = torch.tensor(images[:500].reshape(-1, 1, 28, 28)) / 255
    return pixels, torch.tensor(labels[:500].astype(np.int64))


def in_two_processes(worker, *arguments):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, *arguments), nprocs=2)


def begin(rank, port):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )


def end():
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def ddp_worker(rank, port, folder, images, labels):
    begin(rank, port)
    model = small_net()
    wrapped = nn.parallel.DistributedDataParallel(model)
    torch.manual_seed(100 + rank)
    losses = train(model, images, labels, steps=20, wrapped=wrapped, seed=rank)
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    np.save(os.path.join(folder, f"rank{rank}.npy"), flat.numpy())
    with open(os.path.join(folder, f"rank{rank}.json"), "w") as file:
        json.dump(losses, file)
    if rank == 0:
        path = os.path.join(folder, "ddp.safetensors")
        st.save(wrapped, path, example_input=(1, 28, 28), scale=1 / 255)
    end()


def test_the_same_network_in_two_processes(data, images, tmp_path):
    in_two_processes(ddp_worker, str(tmp_path), *data)

    first, second = (np.load(tmp_path / f"rank{rank}.npy") for rank in range(2))
    assert np.array_equal(first, second)
    losses = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert losses[0] != losses[1] and all(run[-1] < run[0] for run in losses)

    tensors, _ = read_safetensors(tmp_path / "ddp.safetensors")
    model = small_net().eval()
    model.load_state_dict({name: torch.tensor(t) for name, t in tensors.items()})
    assert np.array_equal(
        np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]), first
    )
    compare(model, tmp_path / "ddp.safetensors", images)


def compare(model, path, images):
    """A checkpoint's file against the model, on raw pixels."""
    raw = images[:100].reshape(-1, 1, 28, 28)
    with torch.no_grad():
        expected = model.eval()(torch.tensor(raw) / 255).numpy()
    compressed = svdo.compress(path, quantize="exact")
    found = svdo.load(compressed.data)(raw)
    assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())


def gathered(model):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)


def fsdp_worker(rank, port, layerwise, folder, images, labels):
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    begin(rank, port)
    model = small_net()
    if layerwise:
        for layer in model:
            if isinstance(layer, st.LinearSVDO):
                fully_shard(layer)
    fully_shard(model)

    # Two halves of a batch have the gradients of the whole, without noise; the KL's and the data's count.
    alone = small_net()
    for layer in alone:
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    model[6].p = 0.0
    batch, target = images[:64], labels[:64]
    half = slice(32 * rank, 32 * rank + 32)
    for network in (model, alone):
        for name, parameter in network.named_parameters():
            if name.endswith("log_sigma2"):
                parameter.detach().fill_(-40.0)
    st.sgvlb_loss(model(batch[half]), target[half], model, 1_000_000).backward()
    st.sgvlb_loss(alone(batch), target, alone, 1_000_000).backward()
    assert abs(st.kl(model).item() - st.kl(alone).item()) < 1e-5 * st.kl(alone).item()
    for (name, mine), whole in zip(model.named_parameters(), alone.parameters()):
        difference = (mine.grad.full_tensor() - whole.grad).norm()
        assert difference < 1e-5 * whole.grad.norm(), name
    model.zero_grad()
    for name, parameter in model.named_parameters():
        if name.endswith("log_sigma2"):
            parameter.detach().fill_(-6.0)

    # A training, each process with its own data and noise; then pruned for good and tuned.
    torch.manual_seed(100 + rank)
    optimizer = torch.optim.Adam(st.parameter_groups(model, lr=1e-2))
    training = st.Training(model, 2000, st.Schedule(ramp=0), optimizer=optimizer)
    generator = torch.Generator().manual_seed(rank)
    losses = []

    def steps(count, optimizer):
        for _ in range(count):
            rows = torch.randint(len(images), (64,), generator=generator)
            loss = training.loss(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    steps(20, optimizer)
    assert losses[-1] < losses[0]
    layers = training.end(20)
    model.eval()
    with torch.no_grad():
        # Whole parameters stay behind this; pruning has to reach the parts.
        model(images[:4])
    st.prune_(model)
    model.train()
    steps(3, torch.optim.Adam(st.parameter_groups(model, lr=1e-2)))
    with pytest.raises(ValueError, match="get_model_state_dict"):
        st.save(model, os.path.join(folder, "no.safetensors"), example_input=(1, 28, 28))
    with pytest.raises(ValueError, match="use torch.distributed.fsdp.fully_shard"):
        st.kl(FullyShardedDataParallel(small_net(), device_id=torch.device("cpu")))

    state = gathered(model)
    tuned = st.stats(model)
    if rank == 0:
        whole = small_net()
        whole.load_state_dict(state)
        # What was pruned is zero still, what was kept has moved.
        found = [int((layer.theta != 0).sum()) for layer in whole if hasattr(layer, "theta")]
        assert found == [layer.kept for layer in layers]
        for a, b in zip(st.stats(whole), tuned):
            assert (a.kept, a.total) == (b.kept, b.total) and abs(a.kl - b.kl) < 1e-4 * a.kl
        assert 0 < sum(layer.kept for layer in layers) < sum(layer.total for layer in layers)
        st.save(whole, os.path.join(folder, "fsdp.safetensors"), example_input=(1, 28, 28), scale=1 / 255)
        torch.save(whole.state_dict(), os.path.join(folder, "fsdp.pt"))
    end()


@pytest.mark.parametrize("layerwise", [False, True])
def test_a_part_of_the_network_in_each_process(data, images, tmp_path, layerwise):
    pytest.importorskip("torch.distributed.fsdp", reason="this PyTorch has no FSDP")
    if not hasattr(torch.distributed.fsdp, "fully_shard"):
        pytest.skip("this PyTorch has no fully_shard")
    in_two_processes(fsdp_worker, layerwise, str(tmp_path), *data)
    model = small_net()
    model.load_state_dict(torch.load(tmp_path / "fsdp.pt"))
    compare(model, tmp_path / "fsdp.safetensors", images)
