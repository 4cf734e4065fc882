"""What a training loop does beside its steps: schedules, steering, logs, and the loops of other packages."""

import csv
import warnings

import numpy as np
import pytest
import svdo

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn
from torch.nn import functional as F

st = svdo.torch


def toy(seed=0, samples=512):
    """A task of which few inputs say anything."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 20, generator=generator)
    return x, (x[:, 0] * x[:, 1] > 0).long() + 2 * (x[:, 2] > 0).long()


def network():
    torch.manual_seed(3)
    return nn.Sequential(st.LinearSVDO(20, 32), nn.ReLU(), st.LinearSVDO(32, 4))


def test_schedules_are_straight_lines():
    schedule = st.Schedule(ramp=4, delay=2, scale=0.5, rates=((0, 1.0), (2, 4.0), (4, 0.0)))
    assert [schedule.kl_weight(at) for at in (0, 2, 4, 6, 9)] == [0, 0, 0.25, 0.5, 0.5]
    rates = [schedule.log_sigma2_rate(at) for at in (-1, 0, 1, 2, 3.5, 4, 9)]
    assert rates == [1.0, 1.0, 2.5, 4.0, 1.0, 0.0, 0.0]
    for bad in [(), ((1, 1), (0, 1)), ((0, -1),)]:
        with pytest.raises(ValueError, match="rates"):
            st.Schedule(ramp=1, rates=bad)


def test_the_rate_of_log_sigma2_follows_that_of_the_others():
    model = network()
    groups = st.parameter_groups(model, lr=0.1, weight_decay=0.01)
    assert [g["weight_decay"] for g in groups] == [0.01, 0.0]
    assert {id(p) for p in groups[1]["params"]} == {id(m.log_sigma2) for m in (model[0], model[2])}
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    optimizer = torch.optim.AdamW(groups)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    schedule = st.Schedule(ramp=0, rates=((0, 1), (2, 5)))
    for epoch in range(3):
        schedule.set_rates(optimizer, epoch)
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first == pytest.approx(0.1 * 0.5**epoch) and second == first * (1, 3, 5)[epoch]
        optimizer.step()
        decay.step()
    assert len(st.parameter_groups(nn.Linear(2, 2), lr=1.0)) == 1


def run(training, x, target, epochs, optimizer):
    for epoch in range(epochs):
        training.begin(epoch)
        for rows in torch.randperm(len(x)).split(64):
            loss = training.loss(training.model(x[rows]), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        training.end(epoch, loss=loss.item())


@pytest.mark.parametrize("wanted", [0.4, 0.9])
def test_the_weight_of_the_kl_is_steered_to_a_sparsity(wanted):
    x, target = toy()
    model = network()
    optimizer = torch.optim.Adam(st.parameter_groups(model, lr=1e-2))
    schedule = st.Schedule(ramp=10, delay=5)
    training = st.Training(model, len(x), schedule, optimizer=optimizer, target_sparsity=wanted)
    run(training, x, target, 80, optimizer)
    layers = st.stats(model)
    found = 1 - sum(layer.kept for layer in layers) / sum(layer.total for layer in layers)
    assert abs(found - wanted) < 0.05
    model.eval()
    with torch.no_grad():
        assert (model(x).argmax(1) == target).float().mean() > 0.7
    # One that goes on does as this one would.
    other = st.Training(model, len(x), schedule, target_sparsity=wanted)
    other.load_state_dict(training.state_dict())
    assert other.begin(80) == training.begin(80) != schedule.kl_weight(80)


class Writer:
    def __init__(self):
        self.written = []

    def add_scalar(self, name, value, step):
        self.written.append((name, value, step))


def test_epochs_are_logged_and_dead_layers_named_once(tmp_path):
    model, writer, path = network(), Writer(), tmp_path / "log.csv"
    training = st.Training(model, 100, st.Schedule(ramp=2), csv=path, tensorboard=writer)
    assert training.begin(1) == 0.5
    nn.init.constant_(model[0].log_sigma2, 20)
    with pytest.warns(UserWarning, match="layer '0' keeps no weight"):
        training.end(1, error=0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training.end(2, error=0.125)
    # Of one that resumes, lines go on.
    st.Training(model, 100, st.Schedule(ramp=2), csv=path)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["error"] for row in rows] == ["0.25", "0.125"]
    total = 20 * 32 + 32 * 4
    assert float(rows[0]["sparsity"]) == pytest.approx(1 - 32 * 4 / total)
    assert float(rows[0]["sparsity/0"]) == 1 and float(rows[0]["kl_weight"]) == 0.5
    assert ("svdo/error", 0.125, 2) in writer.written
    with pytest.raises(ValueError, match="target_sparsity=1.5"):
        st.Training(model, 100, st.Schedule(ramp=2), target_sparsity=1.5)


def test_a_captured_step_follows_the_schedule():
    """What changes from step to step is changed in place, in the tensors that a CUDA graph has seen."""
    model = nn.Sequential(st.LinearSVDO(4, 3))
    groups = st.parameter_groups(model)
    for group in groups:
        group["lr"] = torch.tensor(0.1)
    optimizer = torch.optim.Adam(groups)
    schedule = st.Schedule(ramp=10, rates=((0, 4.0),))
    captured = st.Training(model, 50, schedule, optimizer=optimizer, capturable=True)
    plain = st.Training(model, 50, schedule)
    seen = captured._factor, optimizer.param_groups[1]["lr"]
    for at in (0, 2.5, 20):
        optimizer.param_groups[0]["lr"].fill_(0.1 / (1 + at))
        captured.begin(at), plain.begin(at)
        assert captured.penalty().item() == pytest.approx(plain.penalty().item(), rel=1e-6)
        assert seen[1].item() == pytest.approx(0.4 / (1 + at))
    assert captured._factor is seen[0] and optimizer.param_groups[1]["lr"] is seen[1]


def test_distillation_is_the_divergence_of_softened_probabilities():
    torch.manual_seed(0)
    output, teacher = torch.randn(6, 5, dtype=torch.double, requires_grad=True), torch.randn(6, 5)
    p, q = (F.softmax(v.double() / 2, 1) for v in (teacher, output))
    expected = 4 * (p * (p.log() - q.log())).sum(1).mean()
    assert st.distillation(output, teacher, 2.0).item() == pytest.approx(expected.item(), rel=1e-5)
    st.distillation(output, teacher, 2.0).backward()
    assert output.grad.abs().sum() > 0
    assert st.distillation(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="temperature"):
        st.distillation(output, teacher, 0.0)


def test_lightning_counts_the_epochs(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")
    x, target = toy()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, target), 64)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()
            schedule = st.Schedule(ramp=2, rates=((0, 2), (2, 3)))
            self.training_of = st.Training(self.net, len(x), schedule, csv=tmp_path / "log.csv")
            self.weights = []

        def training_step(self, batch, index):
            self.weights.append(self.training_of.kl_weight)
            return F.cross_entropy(self.net(batch[0]), batch[1]) + self.training_of.penalty()

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(st.parameter_groups(self.net, lr=1e-3))
            self.training_of.optimizer = optimizer
            return optimizer

    module = Module()
    callback = st.lightning_callback(module.training_of)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "default_root_dir": tmp_path, "accelerator": "cpu"}
    lightning.Trainer(max_epochs=3, callbacks=[callback], **options).fit(module, loader)
    assert module.weights == [0.0] * 8 + [0.5] * 8 + [1.0] * 8
    assert module.training_of.optimizer.param_groups[1]["lr"] == pytest.approx(3e-3)
    with open(tmp_path / "log.csv", newline="") as file:
        assert [row["at"] for row in csv.DictReader(file)] == ["0.0", "1.0", "2.0"]


def test_the_trainer_of_transformers_counts_the_epochs(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")
    x, target = toy(samples=96)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, inputs, labels=None):
            return {"logits": self.net(inputs)}

    model = Model()
    training = st.Training(model, len(x), st.Schedule(ramp=2), csv=tmp_path / "log.csv")
    weights = []
    whole = st.transformers_loss(training)

    def loss(*arguments, **options):
        weights.append(training.kl_weight)
        return whole(*arguments, **options)

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=3, per_device_train_batch_size=32, report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True,
    )
    data = [{"inputs": a, "labels": b} for a, b in zip(x, target)]
    trainer = transformers.Trainer(
        model, arguments, train_dataset=data, compute_loss_func=loss,
        callbacks=[st.transformers_callback(training)],
    )
    trainer.train()
    assert weights == [0.0] * 3 + [0.5] * 3 + [1.0] * 3
    with open(tmp_path / "log.csv", newline="") as file:
        assert [row["at"] for row in csv.DictReader(file)] == ["0.0", "1.0", "2.0"]
    # The KL is part of the loss, in training mode alone.
    model.eval()
    outputs = model(x)
    assert loss(outputs, target).item() == pytest.approx(F.cross_entropy(outputs["logits"], target).item())
    model.train()
    torch.manual_seed(0)
    outputs = model(x)
    expected = F.cross_entropy(outputs["logits"], target) + st.kl(model) / len(x)
    assert loss(outputs, target, len(x)).item() == pytest.approx(expected.item())
    assert np.isfinite(expected.item())
