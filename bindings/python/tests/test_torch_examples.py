"""The scripts that train on CIFAR-10 and on a text, from nothing to a file, on a few images and words that were
made up."""

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
def examples():
    sys.path.insert(0, str(EXAMPLES))
    try:
        import cifar10
        import networks  # noqa: F401
        import text

        yield cifar10, text
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture
def cifar10(examples):
    return examples[0]


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
    options = ["--network", network, "--width", "0.0625", "--dense", "2", "--epochs", "2", "--finetune", "1"]
    options += ["--batch", "27", "--rate", "5e-3", "--kl-scale", "0.05", "--device", "cpu"]
    options += ["--ratios", "4", "--magnitude", "8"]
    whole, parts, apart = tmp_path / "whole", tmp_path / "parts", tmp_path / "apart"
    assert cifar10.main([str(data), str(whole), *options])
    count = 1
    while not cifar10.main([str(data), str(parts), *options, "--seconds", "0", "--no-file"]):
        count += 1
        assert count < 10
    assert count == 6
    # The files are made elsewhere, of what is left alone.
    apart.mkdir()
    for name in ("pruned-4.npz", "magnitude-8.npz"):
        (apart / name).write_bytes((parts / name).read_bytes())
    assert cifar10.main([str(data), str(apart), *options])
    for name in ("pruned-4.svdo", "magnitude-8.svdo", "result.json"):
        assert (whole / name).read_bytes() == (apart / name).read_bytes(), name
    results = json.loads((whole / "result.json").read_text())
    assert [result["network"] for result in results] == ["pruned-4", "magnitude-8"]
    images, labels = cifar10.read(data, ["test_batch.bin"], "cpu")
    for result, ratio in zip(results, (4, 8)):
        # Fine-tuning keeps zeros at zero, and may make one more of a weight.
        assert 0.98 * ratio < result["weight_ratio"] < 1.05 * ratio
        # The file is the network: its error is that of the checkpoint's.
        file = whole / f"{result['network']}.svdo"
        assert result["bytes"] == file.stat().st_size
        outputs = svdo.load(file)(images.numpy().astype(np.float32))
        assert (outputs.argmax(1) != labels.numpy()).mean() == result["test_error"]
    # The test images are not read again, and other settings do not go on.
    before = (whole / "result.json").stat().st_mtime_ns
    assert cifar10.main([str(data), str(whole), *options])
    assert (whole / "result.json").stat().st_mtime_ns == before
    (whole / "pruned-4.npz").unlink()
    with pytest.raises(SystemExit, match="other settings"):
        cifar10.main([str(data), str(whole), *options, "--seed", "2"])


def test_a_language_model_goes_from_a_text_to_a_file(examples, tmp_path):
    _, text = examples
    words = "in the beginning was the word and the word was with all of them".split()
    random = np.random.default_rng(0)
    file, out = tmp_path / "text.txt", tmp_path / "out"
    file.write_text(" ".join(random.choice(words, 12_000)))
    options = ["--units", "24", "--dense", "2", "--epochs", "2", "--finetune", "1", "--ratio", "4", "--batch", "16"]
    options += ["--window", "32", "--kl-scale", "0.02", "--rate", "1e-2", "--device", "cpu"]
    text.main([str(file), str(out), *options, "--no-file"])
    assert not (out / "result.json").exists()
    text.main([str(file), str(out), *options])
    result = json.loads((out / "result.json").read_text())
    assert 3.9 < result["weight_ratio"] < 4.3
    assert result["bytes"] == (out / "model.svdo").stat().st_size
    for part in ("held_out", "test"):
        found = result[part]
        assert found["dense"] < 4 and found["pruned"] < result["characters"] / 2
        assert found["file"] == pytest.approx(found["pruned"], rel=0.02)


def test_the_networks_have_the_sizes_of_their_papers(cifar10):
    from networks import NETWORKS

    def weights(name):
        layers = (torch.nn.Conv2d, torch.nn.Linear)
        return sum(m.weight.numel() for m in NETWORKS[name]().modules() if isinstance(m, layers))

    assert weights("vgg-like") == 14_977_728
    assert weights("resnet18") == 11_164_352
