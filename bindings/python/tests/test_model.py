"""Loading and running compressed models."""

import copy
import multiprocessing
import os
import pickle
import threading
import time
import tracemalloc

import numpy as np
import pytest
import svdo
from conftest import random_chain, read_safetensors, run_chain


@pytest.fixture(scope="module")
def model(fixtures):
    return svdo.load(svdo.compress(fixtures / "lenet300_mnist.safetensors").data)


@pytest.fixture(scope="module")
def chain():
    state = random_chain()
    return state, svdo.load(svdo.compress(state, quantize="exact").data)


@pytest.mark.parametrize("name", ["lenet300_mnist", "lenet5_mnist"])
def test_logits_of_the_real_networks(fixtures, images, labels, name):
    model = svdo.load(svdo.compress(fixtures / f"{name}.safetensors", quantize="exact").data)
    pixels = images.reshape(-1, *model.input_shape)
    logits = model(pixels)
    reference, _ = read_safetensors(fixtures / f"{name}_reference.safetensors")
    assert logits.dtype == np.float32 and logits.shape == (10_000, 10)
    assert np.abs(logits - reference["logits"]).max() < 1e-3
    expected = {"lenet300_mnist": 0.017, "lenet5_mnist": 0.0074}[name]
    assert (logits.argmax(-1) != labels).mean() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["lenet300_mnist", "lenet5_mnist"])
def test_int8_is_near_f32_and_needs_ranges(fixtures, images, labels, name):
    source = fixtures / f"{name}.safetensors"
    plain = svdo.compress(source, quantize="uniform").data
    shape = svdo.load(plain).input_shape
    pixels = images[:2000].reshape(-1, *shape)
    data = svdo.compress(source, quantize="uniform", int8=pixels[:500]).data
    f32, int8 = svdo.load(data), svdo.load(data, precision="int8")
    assert (f32.precision, int8.precision) == ("f32", "int8")
    wrong = [(model(pixels).argmax(-1) != labels[:2000]).mean() for model in (f32, int8)]
    assert wrong[1] <= wrong[0] + 0.0015
    again = pickle.loads(pickle.dumps(int8))
    assert again.precision == "int8" and (again(pixels[:9]) == int8(pixels[:9])).all()
    with pytest.raises(svdo.SvdoError, match="--int8"):
        svdo.load(plain, precision="int8")
    with pytest.raises(ValueError, match="precision"):
        svdo.load(data, precision="int4")


def test_any_leading_batch_gives_the_same_numbers(chain):
    state, model = chain
    assert (model.input_shape, model.output_shape) == ((6,), (3,))
    x = np.random.default_rng(2).normal(size=(2, 3, 4, 6)).astype(np.float32)
    y = model(x)
    assert y.shape == (2, 3, 4, 3)
    assert np.allclose(y, run_chain(state, x.reshape(-1, 6)).reshape(y.shape), atol=1e-5)
    assert model(x[0, 0, 0]).shape == (3,)
    assert np.allclose(model(x[0, 0, 0]), y[0, 0, 0], atol=1e-6)
    assert model(x[:0]).shape == (0, 3, 4, 3)
    for threads in [1, 2, 7]:
        assert np.array_equal(model(x, threads=threads), y)


@pytest.mark.parametrize("threads", [None, 3])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named_and_no_class(chain, odd, threads):
    _, model = chain
    x = np.ones((2, 40, 6), np.float32)
    x[1, 3, 4] = odd
    with pytest.raises(svdo.SvdoError, match=r"element 4 of sample 43 is -?(NaN|inf), not a finite"):
        model(x, threads=threads)


@pytest.mark.parametrize("threads", [None, 3])
def test_sums_that_overflow_are_named_and_no_class(chain, threads):
    _, model = chain
    x = np.ones((50, 6), np.float32)
    assert np.isfinite(model(x, threads=threads)).all()
    x[30] = [3e38, -3e38, 3e38, 3e38, -3e38, 3e38]
    with pytest.raises(svdo.SvdoError, match=r"output \d of sample 30 is -?(inf|NaN), not a finite"):
        model(x, threads=threads)


def test_whatever_holds_numbers_is_converted(chain):
    _, model = chain
    x = np.arange(12).reshape(2, 6)
    y = model(x.astype(np.float32))
    for same in [x, x.tolist(), x.astype(">f8"), x.astype(np.uint8), np.asfortranarray(x, "f4")]:
        assert np.array_equal(model(same), y)
    strided = np.zeros((2, 12), np.float32)
    strided[:, ::2] = x
    assert np.array_equal(model(strided[:, ::2]), y)
    read_only = x.astype(np.float32)
    read_only.setflags(write=False)
    assert np.array_equal(model(read_only), y)


def test_outputs_go_where_they_are_wanted(chain):
    _, model = chain
    x = np.ones((4, 6), np.float32)
    whole = np.full((5, 3), 7, np.float32)
    out = whole[:4]
    assert model(x, out=out) is out
    assert np.array_equal(out, model(x)) and (whole[4] == 7).all()
    read_only = np.zeros((4, 3), np.float32)
    read_only.setflags(write=False)
    for bad in [np.zeros((4, 3)), np.zeros((4, 2), "f4"), np.zeros((3, 4), "f4").T, [0], read_only]:
        with pytest.raises((ValueError, TypeError)):
            model(x, out=bad)
    shared = np.zeros(24, np.float32)
    with pytest.raises((ValueError, TypeError)):
        model(shared.reshape(4, 6), out=shared[:12].reshape(4, 3))


def test_inputs_that_do_not_fit(chain):
    _, model = chain
    for bad, expected in [
        (np.zeros((2, 5)), r"input shape \(2, 5\), expected \(6,\) after any batch dimensions"),
        (np.float32(1), r"input shape \(\), expected \(6,\)"),
    ]:
        with pytest.raises(ValueError, match=expected):
            model(bad)
    for bad in [np.zeros((2, 6), complex), np.array(["a"] * 6), None]:
        with pytest.raises(TypeError, match="expected numbers"):
            model(bad)
    with pytest.raises(ValueError, match="threads=0"):
        model(np.zeros(6), threads=0)


def test_loading(fixtures, tmp_path, model):
    path = tmp_path / "model.svdo"
    report = svdo.compress(fixtures / "lenet300_mnist.safetensors", output=path)
    x = np.full(model.input_shape, 100, np.float32)
    for same in [
        svdo.load(path),
        svdo.load(str(path)),
        svdo.load(report.data),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
    ]:
        assert np.array_equal(same(x), model(x)) and same.to_bytes() == report.data
    assert model.threshold == 3 and model.cpu
    assert [n["op"] for n in model.network["nodes"]][-1] == "linear"
    assert repr(model).startswith("<svdo.Model (")
    with pytest.raises(svdo.SvdoError, match="none.svdo: No such file"):
        svdo.load(tmp_path / "none.svdo")
    damaged = bytearray(report.data)
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(svdo.SvdoError, match="damaged .svdo file: .*its checksum"):
        svdo.load(bytes(damaged))
    path.write_bytes(report.data[:-3])
    with pytest.raises(svdo.SvdoError, match="model.svdo: damaged .svdo file"):
        svdo.load(path)
    with pytest.raises(svdo.SvdoError, match="not a valid .svdo file"):
        svdo.load(b"PK")


def test_the_lock_is_released_while_a_model_runs(fixtures, images):
    model = svdo.load(svdo.compress(fixtures / "lenet5_mnist.safetensors").data)
    pixels = np.ascontiguousarray(images.reshape(-1, *model.input_shape), np.float32)
    spans = []

    def run():
        start = time.perf_counter()
        model(pixels, threads=1)
        spans.append((start, time.perf_counter()))

    worker = threading.Thread(target=run)
    ticks = []
    worker.start()
    while worker.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.0005)
    ((start, end),) = spans
    # With the lock held, at most the ticks at the very ends would fall into the run.
    inside = sum(start + 0.1 * (end - start) < tick < end - 0.1 * (end - start) for tick in ticks)
    assert end - start > 0.02 and inside >= 5


def test_one_model_serves_many_threads(chain):
    _, model = chain
    x = np.random.default_rng(3).normal(size=(64, 6)).astype(np.float32)
    expected = model(x)
    results = [None] * 8

    def run(index):
        for _ in range(20):
            results[index] = model(x)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    [w.start() for w in workers]
    [w.join() for w in workers]
    assert all(np.array_equal(r, expected) for r in results)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_the_model_without_its_threads(model, images):
    x = np.ascontiguousarray(images[:2000].reshape(-1, *model.input_shape), np.float32)
    expected = model(x)

    def run():
        other = pickle.loads(pickle.dumps(model))
        same = np.array_equal(model(x), expected) and np.array_equal(other(x), expected)
        del other
        os._exit(0 if same else 1)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(30)
    ended = child.exitcode
    child.kill()
    assert ended == 0


def test_arrays_are_not_copied(model, images):
    x = np.ascontiguousarray(images[:2000].reshape(-1, *model.input_shape), np.float32)

    def peak(argument):
        tracemalloc.start()
        model(argument)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(x) < x.nbytes / 10
    assert peak(x.astype(np.float64)) > x.nbytes  # NumPy's memory is counted


def test_sequences_have_any_length(fixtures):
    model = svdo.load(fixtures / "golden" / "lengths.svdo")
    assert (model.max_time, model.input_shape, model.output_shape) == (6, (2, 1, 6), (3,))
    random = np.random.default_rng(1)
    sequences = [random.standard_normal((2, 1, t)).astype(np.float32) for t in (1, 6, 3, 3)]
    alone = [model(x) for x in sequences]
    assert all(y.shape == (3,) for y in alone) and not np.array_equal(alone[2], alone[3])
    for together in (model(sequences), model([x.tolist() for x in sequences])):
        assert isinstance(together, list)
        for a, b in zip(together, alone):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_allclose(model(np.stack(sequences[2:])), np.stack(alone[2:]), rtol=1e-6)
    # Of a sequence the last step counts, and its position.
    changed = sequences[2].copy()
    changed[..., :2] += 1
    np.testing.assert_array_equal(model(changed), alone[2])
    assert not np.array_equal(model(sequences[2][..., 2:]), alone[2])
    with pytest.raises(svdo.SvdoError, match="7 steps, the network takes 6 at most"):
        model(np.zeros((2, 1, 7)))
    with pytest.raises(svdo.SvdoError, match="no steps"):
        model(np.zeros((2, 1, 0)))
    with pytest.raises(ValueError, match="expected a sequence"):
        model(np.zeros((3, 1, 4)))
    with pytest.raises(ValueError, match="takes no out"):
        model(sequences, threads=1)
