"""The scripts that train on CIFAR-10, from nothing to a file, on a few images that were made up."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import svdo

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("onnx", reason="a model's graph is read from an ONNX export")

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def cifar10():
    sys.path.insert(0, str(EXAMPLES))
    try:
        import cifar10
        import networks  # noqa: F401

        yield cifar10
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images whose class is their color, in the files of CIFAR-10's binary version."""
    folder = tmp_path_factory.mktemp("cifar")
    random = np.random.default_rng(0)
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        labels = random.integers(0, 10, 24)
        images = random.normal(128, 20, (24, 3, 32, 32))
        images[:, 0] += ((labels % 5) - 2)[:, None, None] * 30
        images[:, 1] += ((labels // 5) * 2 - 1)[:, None, None] * 40
        pixels = images.clip(0, 255).astype(np.uint8).reshape(24, -1)
        records = np.concatenate([labels[:, None].astype(np.uint8), pixels], 1)
        (folder / name).write_bytes(records.tobytes())
    return folder


@pytest.mark.parametrize("network", ["vgg-like", "resnet18"])
def test_a_training_in_parts_is_that_of_one_piece(network, cifar10, data, tmp_path):
    torch.manual_seed(0)
    options = ["--network", network, "--width", "0.0625", "--epochs", "3", "--finetune", "2"]
    options += ["--batch", "27", "--rate", "5e-3", "--kl-scale", "0.05", "--device", "cpu"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cifar10.main([str(data), str(whole), *options])
    count = 1
    while not cifar10.main([str(data), str(parts), *options, "--seconds", "0"]):
        count += 1
        assert count < 10
    assert count == 5
    for name in ("model.svdo", "result.json"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
    result = json.loads((whole / "result.json").read_text())
    assert 0 < result["kept"] < result["weights"] and 0 <= result["test_error"] <= 1
    assert result["bytes"] == (whole / "model.svdo").stat().st_size
    assert result["threshold"] in [tried[0] for tried in result["tried"]]
    # The file is the network: its error is that of the checkpoint's.
    images, labels = cifar10.read(data, ["test_batch.bin"], "cpu")
    outputs = svdo.load(whole / "model.svdo")(images.numpy().astype(np.float32))
    assert (outputs.argmax(1) != labels.numpy()).mean() == result["test_error"]
    # Other settings do not go on, and the test images are not read again.
    with pytest.raises(SystemExit, match="other settings"):
        cifar10.main([str(data), str(whole), *options, "--seed", "2"])
    before = (whole / "result.json").stat().st_mtime_ns
    assert cifar10.main([str(data), str(whole), *options])
    assert (whole / "result.json").stat().st_mtime_ns == before


def test_the_networks_have_the_sizes_of_their_papers(cifar10):
    from networks import NETWORKS

    def weights(name):
        layers = (torch.nn.Conv2d, torch.nn.Linear)
        return sum(m.weight.numel() for m in NETWORKS[name]().modules() if isinstance(m, layers))

    assert weights("vgg-like") == 14_977_728
    assert weights("resnet18") == 11_164_352
