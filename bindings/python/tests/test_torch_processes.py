"""Training by several processes: the same network with other data and noise in each (DDP), or a part of each of
its tensors (FSDP)."""

import json
import os
import sys
import tempfile

import numpy as np
import pytest
import svdo
from conftest import read_safetensors
from test_torch import small_net, train

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn

st = svdo.torch


@pytest.fixture(scope="module")
def data(images, labels):
    pixels = torch.tensor(images[:500].reshape(-1, 1, 28, 28)) / 255
    return pixels, torch.tensor(labels[:500].astype(np.int64))


def in_two_processes(worker, *arguments):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    # They meet at a file: a port that is free now may be another's before they listen.
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(worker, (os.path.join(folder, "store"), *arguments), nprocs=2)
        assert sorted(os.listdir(folder))[:2] == ["done0", "done1"]


def begin(rank, store):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)


def end(rank, store):
    """Leaves a process whose checks are over. PyTorch's threads may outlive the interpreter and end a process that is
    shutting down by SIGABRT, rarely and on a busy machine: nothing is shut down here but the group."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    open(os.path.join(os.path.dirname(store), f"done{rank}"), "x").close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def ddp_worker(rank, store, folder, images, labels):
    begin(rank, store)
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
    end(rank, store)


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


def skip_without_fully_shard():
    pytest.importorskip("torch.distributed.fsdp", reason="this PyTorch has no FSDP")
    if not hasattr(torch.distributed.fsdp, "fully_shard"):
        pytest.skip("this PyTorch has no fully_shard")


def gathered(model):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)


def fsdp_worker(rank, store, layerwise, folder, images, labels):
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    begin(rank, store)
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
    end(rank, store)


@pytest.mark.parametrize("layerwise", [False, True])
def test_a_part_of_the_network_in_each_process(data, images, tmp_path, layerwise):
    skip_without_fully_shard()
    in_two_processes(fsdp_worker, layerwise, str(tmp_path), *data)
    model = small_net()
    model.load_state_dict(torch.load(tmp_path / "fsdp.pt"))
    compare(model, tmp_path / "fsdp.safetensors", images)


def embedding_worker(rank, store, padding, by_columns, folder):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard

    def network():
        torch.manual_seed(0)
        layers = [st.EmbeddingSVDO(11, 6, padding_idx=padding), nn.Flatten(), st.LinearSVDO(30, 4)]
        model = nn.Sequential(*layers)
        for name, parameter in model.named_parameters():
            if name.endswith("log_sigma2"):
                # Without noise to speak of, but that of padding, which nobody may see.
                parameter.detach().fill_(-40.0)
        with torch.no_grad():
            model[0].log_sigma2[padding] = 3.0
        return model

    begin(rank, store)
    model, alone = network(), network()
    options = {"shard_placement_fn": lambda parameter: Shard(1)} if by_columns else {}
    fully_shard(model[0], **options)
    fully_shard(model)
    tokens = torch.randint(11, (8, 5), generator=torch.Generator().manual_seed(3))
    tokens[:, 1] = padding
    target = torch.arange(8) % 4
    half = slice(4 * rank, 4 * rank + 4)
    steps = [torch.optim.SGD(each.parameters(), lr=1e-3) for each in (model, alone)]
    for _ in range(2):
        found = st.sgvlb_loss(model(tokens[half]), target[half], model, 1000)
        expected = st.sgvlb_loss(alone(tokens), target, alone, 1000)
        assert abs(st.kl(model).item() - st.kl(alone).item()) < 1e-5 * st.kl(alone).item()
        for loss, step in zip((found, expected), steps):
            step.zero_grad()
            loss.backward()
        for (name, mine), whole in zip(model.named_parameters(), alone.parameters()):
            assert (mine.grad.full_tensor() - whole.grad).norm() < 1e-5 * whole.grad.norm(), name
        grads = [parameter.grad.full_tensor() for parameter in model[0].parameters()]
        assert all(not grad[padding].any() and grad.any() for grad in grads)
        for step in steps:
            step.step()

    found, expected = st.stats(model), st.stats(alone)
    for a, b in zip(found, expected):
        assert (a.kept, a.total) == (b.kept, b.total) and abs(a.kl - b.kl) < 1e-4 * b.kl
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(tokens), alone.eval()(tokens), atol=1e-5)
    state = gathered(model)

    # Rows that a process does not hold are cleared by the one that does.
    fresh = st.EmbeddingSVDO(11, 6, padding_idx=padding)
    with torch.no_grad():
        fresh.theta.fill_(1.0)
    fully_shard(fresh, **options)
    fresh._clear_padding()
    theta = fresh.theta.full_tensor()
    if rank == 0:
        assert not theta[padding].any() and theta.sum() == 60
        torch.save(state, os.path.join(folder, "embedding.pt"))
    end(rank, store)


@pytest.mark.parametrize(("padding", "by_columns"), [(2, False), (10, False), (2, True)])
def test_padding_is_left_out_where_its_row_is(padding, by_columns, tmp_path):
    skip_without_fully_shard()
    in_two_processes(embedding_worker, padding, by_columns, str(tmp_path))
    theta = torch.load(tmp_path / "embedding.pt")["0.theta"]
    assert theta.shape == (11, 6) and not theta[padding].any() and theta.any()
