"""Predictions under the posterior."""

import numpy as np
import pytest
import svdo


@pytest.fixture(scope="module")
def model(fixtures):
    return svdo.load(svdo.compress(fixtures / "lenet5_mnist.safetensors", variances=True).data)


def test_moments_agree_with_samples_and_say_more_than_means(model, images, labels):
    x = images[:500].reshape(-1, *model.input_shape)
    mean, moments, samples = (
        model.predict(x, uncertainty=how) for how in ["mean", "moments", "mc=200"]
    )
    logits = model(x).astype(np.float64)
    softmax = np.exp(logits - logits.max(-1, keepdims=True))
    softmax /= softmax.sum(-1, keepdims=True)
    assert np.abs(mean.probabilities - softmax).max() < 1e-5
    assert mean.mutual_information.max() < 1e-12 and not mean.std.any()
    assert np.abs(moments.probabilities - samples.probabilities).mean() < 0.01
    for found in (moments, samples):
        assert np.allclose(found.probabilities.sum(-1), 1)
        assert found.entropy.mean() > mean.entropy.mean()
        assert (found.mutual_information <= found.entropy).all()
        assert found.std.max() > 0.05
        assert (found.probabilities.argmax(-1) != labels[:500]).mean() < 0.03


def test_a_sample_is_predicted_the_same_whatever_it_is_with(model, images):
    x = images[:40].reshape(2, 20, *model.input_shape)
    all_ = model.predict(x, uncertainty="mc=9", seed=4)
    assert all_.probabilities.shape == (2, 20, 10) and all_.entropy.shape == (2, 20)
    one = model.predict(x[1, 3], uncertainty="mc=9", seed=4, threads=1)
    assert np.array_equal(one.probabilities, all_.probabilities[1, 3])
    other = model.predict(x, uncertainty="mc=9", seed=5)
    assert not np.array_equal(other.probabilities, all_.probabilities)


def test_numbers_are_the_outputs_and_have_deviations(model, images):
    x = images[:200].reshape(2, 100, *model.input_shape)
    mean, moments, samples = (
        model.predict_numbers(x, uncertainty=how, seed=2) for how in ["mean", "moments", "mc=200"]
    )
    assert mean.mean.shape == mean.std.shape == (2, 100, 10)
    assert np.abs(mean.mean - model(x)).max() < 1e-4 and not mean.std.any()
    assert abs(np.mean(moments.std / samples.std) - 1) < 0.05
    # Samples have a standard error.
    apart = (moments.mean - samples.mean) / samples.std
    assert np.abs(apart).mean() < 0.15
    one = model.predict_numbers(x[1, 3], uncertainty="mc=200", seed=2, threads=1)
    assert np.array_equal(one.mean, samples.mean[1, 3]) and one.std.shape == (10,)


def test_what_cannot_be_predicted_is_refused(model, fixtures, images):
    plain = svdo.load(svdo.compress(fixtures / "lenet5_mnist.safetensors").data)
    x = images[:1].reshape(-1, *model.input_shape)
    with pytest.raises(ValueError, match="variances=True"):
        plain.predict(x)
    with pytest.raises(ValueError, match="variances=True"):
        plain.predict_numbers(x)
    with pytest.raises(ValueError, match="expected mean, moments, or mc=N"):
        model.predict(x, uncertainty="mc=0")
    with pytest.raises(ValueError, match="expected"):
        model.predict(x[:, :, :5])
    with pytest.raises(ValueError, match="no-simplify"):
        svdo.compress(fixtures / "lenet5_mnist.safetensors", variances=True, pruned_variance=True)
