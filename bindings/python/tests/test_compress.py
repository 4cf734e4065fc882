"""Compression of files and state dicts, its reports and its refusals."""

import copy
import json
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import svdo
from conftest import random_chain, read_safetensors, run_chain


def network_of(metadata):
    return json.loads(metadata["svdo"])["network"]


@pytest.mark.parametrize("name", ["lenet300_mnist", "lenet5_mnist"])
def test_a_state_dict_gives_the_bytes_of_its_file(fixtures, name):
    path = fixtures / f"{name}.safetensors"
    tensors, metadata = read_safetensors(path)
    stored = svdo.compress(path)
    memory = svdo.compress(tensors, network=network_of(metadata))
    assert memory.data == stored.data
    assert memory.layers == stored.layers
    assert stored.file_bytes == len(stored.data) > 1000


def test_reports_are_dicts_with_attributes_and_the_files_bytes(fixtures, tmp_path):
    output = tmp_path / "lenet300.svdo"
    report = svdo.compress(str(fixtures / "lenet300_mnist.safetensors"), thresh=2, output=output)
    assert report["file_bytes"] == report.file_bytes == os.path.getsize(output)
    assert output.read_bytes() == report.data
    assert report.output == str(output) and report.threshold == 2
    assert report.size_ratio == report.dense_bytes / report.file_bytes
    layer = report.layers[0]
    assert layer.name == layer["name"] == "fc1" and layer.total == 784 * 300
    assert report.weights_kept == sum(layer.kept for layer in report.layers)
    assert json.loads(report.to_json()) == report and report.report == "compress"
    assert "size ratio" in str(report) and "| fc1 |" in report.to_markdown()
    assert report.validation is None
    for same in [pickle.loads(pickle.dumps(report)), copy.deepcopy(report)]:
        assert same == report and same.data == report.data and str(same) == str(report)
    with pytest.raises(AttributeError, match="no member 'ratio'; there are schema, program, report, input"):
        _ = report.ratio


def test_an_input_is_never_an_output(tmp_path):
    state = {"fc.theta": np.ones((3, 4), np.float32), "fc.log_sigma2": -np.ones((3, 4), np.float32)}
    path = tmp_path / "model.safetensors"
    svdo.save(path, state)
    before = path.read_bytes()
    (tmp_path / "link").symlink_to(path)
    for output in [path, tmp_path / "link", f"{tmp_path}/./model.safetensors"]:
        with pytest.raises(ValueError, match="is the same file as"):
            svdo.compress(path, output=output)
    assert path.read_bytes() == before


def test_thresholds_are_found_and_swept(fixtures, images, labels):
    rng = np.random.default_rng(3)
    theta = rng.normal(0, 1, (40, 50)).astype(np.float32)
    noisy = rng.random(theta.shape) < 0.8
    log_alpha = np.where(noisy, 8.0, -4.0) + rng.normal(0, 0.5, theta.shape)
    state = {
        "fc.theta": theta,
        "fc.log_sigma2": (log_alpha + np.log(theta**2)).astype(np.float32),
        "fc.bias": np.zeros(40, np.float32),
    }
    found = svdo.compress(state, thresh="auto", simplify=False)
    assert -1 < found.threshold < 5 and found.weights_kept == int((~noisy).sum())

    path = fixtures / "lenet300_mnist.safetensors"
    report = svdo.compress(path, sweep=[0, 3, 6], validate=(images, labels))
    assert [point.threshold for point in report.sweep] == [0, 3, 6]
    kept = [point.weights_kept for point in report.sweep]
    assert kept == sorted(kept) and kept[1] == report.weights_kept
    assert report.sweep[1].file_bytes == report.file_bytes
    assert report.sweep[1].error_rate == report.validation.error_rate
    assert svdo.compress(path).sweep == []


def test_settings_reach_the_library(fixtures, images, labels):
    path = fixtures / "lenet300_mnist.safetensors"
    exact = svdo.compress(path, quantize="exact")
    half = svdo.compress(path, quantize="f16")
    few = svdo.compress(path, quantize="uniform", bits=5, strip=True, threads=1)
    assert few.file_bytes < half.file_bytes < exact.file_bytes
    assert few.quantize == "uniform-5" and few.layers[0].quantization_error > 0
    assert svdo.load(few.data).threshold is None and svdo.load(half.data).threshold == 3
    whole = svdo.compress(path, quantize="exact", simplify=False)
    assert whole.weights_stored == whole.weights_kept > exact.weights_stored
    assert svdo.compress(path, thresh=-1e6).weights_kept == 0
    report = svdo.compress(path, validate=(images, labels))
    assert report.validation.samples == 10_000
    assert report.validation.error_rate == pytest.approx(0.017, abs=0.002)


def test_searches_hold_their_bounds(fixtures, images, labels):
    path = fixtures / "lenet300_mnist.safetensors"
    plain = svdo.compress(path, quantize="rd")
    assert plain.quantize == "rd" and plain.search == []
    settings = {"quantize": "rd", "effort": 1, "validate": (images[:1000], labels[:1000])}
    report = svdo.compress(path, **settings, max_error_increase=0.01)
    found = report.validation
    assert found.error_rate <= found.error_rate_pruned + 0.01
    assert report.file_bytes < plain.file_bytes and len(report.search) > 1
    model = svdo.load(report.data)
    logits = model(images[:1000].reshape(-1, *model.input_shape))
    assert (logits.argmax(-1) != labels[:1000]).mean() == pytest.approx(found.error_rate)
    settings["validate"] = images[:200], None
    small = svdo.compress(path, **settings, max_bytes=4000)
    assert small.file_bytes <= 4000 and small.validation is None
    with pytest.raises(ValueError, match="needs labels"):
        svdo.compress(path, **settings, max_error_increase=0.01)


def test_a_search_goes_on_from_its_state(fixtures, images, tmp_path):
    path, state = fixtures / "lenet300_mnist.safetensors", tmp_path / "state"
    settings = {"quantize": "rd", "effort": 1, "validate": (images[:200], None), "max_bytes": 4000}
    whole = svdo.compress(path, **settings)
    first = svdo.compress(path, **settings, search_state=state)
    lines = state.read_bytes().splitlines(keepends=True)
    assert first.data == whole.data and len(lines) == 1 + len(first.search)
    state.write_bytes(b"".join(lines[:9]) + lines[9][:20])
    again = svdo.compress(path, **settings, search_state=str(state))
    assert again.data == whole.data and again.search == whole.search
    assert any("8 configurations from its state" in note for note in again.notes)
    with pytest.raises(svdo.SvdoError, match="--strip"):
        svdo.compress(path, **settings, search_state=state, strip=True)
    with pytest.raises(ValueError, match="search_state: needs a goal"):
        svdo.compress(path, quantize="rd", search_state=state)


def test_calibration_fits_weights_to_the_outputs(fixtures, images):
    path = fixtures / "lenet300_mnist.safetensors"
    samples = images[:1000]
    pruned = svdo.load(svdo.compress(path, quantize="exact").data)

    def change(report):
        x = images[5000:].reshape(-1, *pruned.input_shape)
        return ((svdo.load(report.data)(x) - pruned(x)) ** 2).mean()

    plain = svdo.compress(path, quantize="rd")
    fitted = svdo.compress(path, quantize="rd", calibrate=samples)
    assert change(fitted) < 0.8 * change(plain)
    small = svdo.compress(path, quantize="rd", calibrate=samples, max_bytes=4500, effort=1)
    assert small.file_bytes <= 4500
    distilled = svdo.compress(path, quantize="rd", calibrate=samples, distill=60)
    assert change(distilled) < 0.9 * change(fitted)
    assert any("distill 60" in note for note in distilled.notes)
    with pytest.raises(ValueError, match="samples for calibrate"):
        svdo.compress(path, quantize="rd", distill=60)
    with pytest.raises(ValueError, match="number of steps"):
        svdo.compress(path, quantize="rd", calibrate=samples, distill=-1)
    with pytest.raises(ValueError, match='needs quantize="rd"'):
        svdo.compress(path, quantize="exact", calibrate=samples)
    with pytest.raises(svdo.SvdoError, match="not whole samples"):
        svdo.compress(path, quantize="rd", calibrate=samples.reshape(-1)[:-1])


def test_other_layouts_and_variances_are_read_as_told():
    state = random_chain()
    expected = svdo.compress(state).data
    other = {k: v.T if v.ndim == 2 else v for k, v in state.items()}
    assert svdo.compress(other, layout="io").data == expected
    halves = {k.replace("sigma2", "sigma"): v / 2 if "sigma" in k else v for k, v in state.items()}
    assert svdo.compress(halves, variance="log_sigma").data == expected
    for arguments, message in [
        ({"layout": "xy"}, 'layout="xy": expected oi, io, oihw, hwio'),
        ({"layout": "oi,io"}, "takes one of oi and io"),
        ({"variance": "tau"}, 'variance="tau": expected log_sigma2'),
        ({"flatten": "x"}, "expected channels-first, channels-last"),
        ({"profile": "none"}, 'profile="none": expected'),
    ]:
        with pytest.raises(ValueError, match=message):
            svdo.compress(state, **arguments)


def test_exports_hold_the_weights_that_run(tmp_path):
    state = random_chain()
    report = svdo.compress(
        state, output=tmp_path / "m.svdo", simplify=False, quantize="exact"
    )
    for source in [tmp_path / "m.svdo", report.data, svdo.load(report.data)]:
        svdo.export(source, tmp_path / "m.npz")
        dense = np.load(tmp_path / "m.npz")
        kept = state["0.log_sigma2"] - np.log(state["0.theta"].astype(np.float64) ** 2) <= 3
        assert np.array_equal(dense["0.weight"], np.where(kept, state["0.theta"], 0))
        assert np.array_equal(dense["1.bias"], state["1.bias"])
    svdo.export(report.data, tmp_path / "m.safetensors")
    tensors, metadata = read_safetensors(tmp_path / "m.safetensors")
    assert np.array_equal(tensors["0.weight"], dense["0.weight"]) and "svdo" in metadata
    svdo.export(report.data, tmp_path / "m.onnx", sparse=True)
    assert (tmp_path / "m.onnx").stat().st_size > 100
    with pytest.raises(ValueError, match="expected a name that ends in"):
        svdo.export(report.data, tmp_path / "m.txt")
    with pytest.raises(ValueError, match="sparse is for .onnx"):
        svdo.export(report.data, tmp_path / "m.npz", sparse=True)
    with pytest.raises(svdo.SvdoError, match="none.svdo: No such file"):
        svdo.export(tmp_path / "none.svdo", tmp_path / "m.npz")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_float_in_any_layout(dtype, order):
    state = random_chain()
    stored = {k: np.array(v, dtype=dtype, order=order) for k, v in state.items()}
    exact = {k: v.astype(np.float32) for k, v in stored.items()}
    report = svdo.compress(stored, quantize="exact")
    assert report.data == svdo.compress(exact, quantize="exact").data
    x = np.random.default_rng(1).normal(size=(7, 6))
    assert np.allclose(svdo.load(report.data)(x), run_chain(exact, x), atol=1e-5)
    assert report.input == "state dict" and any("assumed 0 -> 1" in n for n in report.notes)


def test_arrays_that_are_views_or_read_only_are_read_as_they_are():
    state = random_chain()
    views = {k: np.repeat(v, 2, axis=-1)[..., ::2] for k, v in state.items()}
    for view in state.values():
        view.setflags(write=False)
    assert svdo.compress(views).data == svdo.compress(state).data


def test_what_is_no_weight_is_ignored_with_a_note():
    state = {**random_chain(), "steps": np.array(5), "flags": np.zeros(3, bool), "tag": "x"}
    assert any("ignored: steps, flags, tag" in note for note in svdo.compress(state).notes)


def test_networks_are_given_as_dict_or_file(fixtures, lenet5, tmp_path):
    tensors, metadata = lenet5
    network = network_of(metadata)
    path = tmp_path / "network.json"
    path.write_text(json.dumps(network))
    expected = svdo.compress(tensors, network=network).data
    file = fixtures / "lenet5_mnist.safetensors"
    for given in [network, path, str(path)]:
        assert svdo.compress(tensors, network=given).data == expected
        assert svdo.compress(file, network=given).data == expected


def test_saved_checkpoints_carry_tensors_and_network(lenet5, tmp_path):
    tensors, metadata = lenet5
    path = tmp_path / "saved.safetensors"
    svdo.save(path, tensors, network_of(metadata))
    saved, saved_metadata = read_safetensors(path)
    assert saved.keys() == tensors.keys()
    assert all(np.array_equal(saved[k], tensors[k]) for k in tensors)
    assert [n["op"] for n in network_of(saved_metadata)["nodes"]] == [
        n["op"] for n in network_of(metadata)["nodes"]
    ]
    assert svdo.compress(path).data == svdo.compress(tensors, network=network_of(metadata)).data
    first = path.read_bytes()
    svdo.save(path, tensors, network_of(metadata))
    assert path.read_bytes() == first
    assert os.listdir(tmp_path) == ["saved.safetensors"]


def test_a_refused_save_leaves_the_old_file(lenet5, tmp_path):
    path = tmp_path / "saved.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(svdo.SvdoError, match="saved.safetensors: network: .*--network"):
        svdo.save(path, lenet5[0])
    with pytest.raises(svdo.SvdoError, match="tensor steps: type .*; floats, integers and bool"):
        svdo.save(path, {**random_chain(), "steps": np.array(5j)})
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["saved.safetensors"]


def test_bad_checkpoints_raise_one_line(fixtures, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes((fixtures / "lenet300_mnist.safetensors").read_bytes()[:5000])
    state = random_chain()
    infinite = {**state, "0.theta": np.full((5, 6), np.nan, np.float32)}
    cases = [
        (lambda: svdo.compress(tmp_path / "none.safetensors"), "none.safetensors: No such file"),
        (lambda: svdo.compress(broken), "broken.safetensors: not a valid safetensors file"),
        (lambda: svdo.compress({}), "state dict: no layer: looked for"),
        (lambda: svdo.compress(infinite), "tensor 0.theta: element 0 is NaN"),
        (lambda: svdo.compress({**state, "0.bias": np.zeros(4)}), r"0.bias: shape \[4\], expected"),
        (lambda: svdo.compress({"a.theta": np.zeros((2, 2))}), "a.theta: has no variance"),
        (
            lambda: svdo.compress(state, output=tmp_path / "none" / "x.svdo"),
            "x.svdo: No such file",
        ),
        (lambda: svdo.compress(state, network={"version": 1}), "network description.*`input`"),
        (
            lambda: svdo.compress(state, validate=(np.zeros((2, 6)), np.zeros(3, int))),
            "2 samples but 3 labels",
        ),
    ]
    for call, message in cases:
        with pytest.raises(svdo.SvdoError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_bad_arguments_raise_value_or_type_errors(fixtures):
    state = random_chain()
    file = fixtures / "lenet300_mnist.safetensors"
    for arguments, message in [
        ({"thresh": float("nan")}, "thresh=nan"),
        ({"thresh": "valley"}, "thresh='valley': expected a number or \"auto\""),
        ({"sweep": [1, float("inf")]}, "thresh=inf: expected a finite number"),
        ({"thresh": -np.inf}, "thresh=-inf: expected a finite number"),
        ({"quantize": "int3"}, 'quantize="int3": expected "exact", "f16", "uniform", "codebook" or "rd"'),
        ({"bits": 5}, "bits is for"),
        ({"quantize": "uniform", "bits": 17}, "bits=17: expected 2 to 16"),
        ({"threads": 0}, "threads=0"),
        ({"max_bytes": 100, "quantize": "exact"}, 'max_bytes: a search needs quantize="rd"'),
        ({"max_error_increase": 0.1}, "needs labels"),
        ({"max_bytes": 9, "max_output_error": 1}, "max_output_error and max_bytes: one goal"),
        ({"max_output_error": -1, "quantize": "rd"}, "max_output_error=-1.0: expected"),
        ({"max_bytes": 100, "quantize": "rd", "effort": 10}, "effort=10: expected 1 to 9"),
        ({"validate": (np.zeros((2, 6)), [0.5, 1])}, "labels: expected integers"),
        ({"validate": (np.zeros((2, 6)), [-1, 1])}, "labels: expected the numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            svdo.compress(state, **arguments)
    with pytest.raises(ValueError, match="is the same file as"):
        svdo.compress(file, output=str(file))
    with pytest.raises(TypeError, match="found list"):
        svdo.compress([1, 2])
    with pytest.raises(TypeError, match="found the key 3"):
        svdo.compress({3: np.zeros(2)})


def test_a_state_dict_is_not_copied(lenet300):
    tensors, _ = lenet300
    total = sum(tensor.nbytes for tensor in tensors.values())
    strided = {name: np.repeat(t, 2, axis=-1)[..., ::2] for name, t in tensors.items()}

    def peak(state):
        tracemalloc.start()
        svdo.compress(state)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(tensors) < total / 10
    assert peak(strided) > total  # NumPy's memory is counted
