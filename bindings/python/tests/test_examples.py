"""The examples that need nothing but NumPy."""

import importlib.util
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import svdo

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_smallest_file_within_a_bound(tmp_path, fixtures, images, labels):
    np.save(tmp_path / "x.npy", images[:2000, None])
    np.save(tmp_path / "y.npy", labels[:2000])
    names = [str(tmp_path / name) for name in ("x.npy", "y.npy", "m.svdo")]
    report = example("compress").main(str(fixtures / "lenet300_mnist.safetensors"), *names)
    assert report.file_bytes == (tmp_path / "m.svdo").stat().st_size < 5000
    assert report.validation.error_increase <= 0.002


def test_a_network_answers_over_http(tmp_path, fixtures, images, labels):
    names = [f"digit {number}" for number in range(10)]
    path = tmp_path / "m.svdo"
    svdo.compress(fixtures / "lenet300_mnist.safetensors", classes=names, output=path)
    server = example("serve").server(str(path), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def ask(body):
        return urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/", data=body)

    try:
        answer = json.load(ask(images[:100].astype("<f4").tobytes()))
        wrong = sum(a["class"] != names[label] for a, label in zip(answer, labels))
        assert len(answer) == 100 and wrong <= 4
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(b"12345")
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(np.full(784, np.nan, "<f4").tobytes())
    finally:
        server.shutdown()


def test_names_of_classes(fixtures):
    names = [f"digit {number}" for number in range(10)]
    source = fixtures / "lenet300_mnist.safetensors"
    report = svdo.compress(source, classes=names)
    assert report.schema == "report.schema.json" and report.program == f"svdo {svdo.__version__}"
    model = svdo.load(report.data)
    assert model.classes == model.network["classes"] == names
    assert svdo.load(svdo.compress(source).data).classes == []
    with pytest.raises(svdo.SvdoError, match="2 names of classes, the network has 10 outputs"):
        svdo.compress(source, classes=["a", "b"])
