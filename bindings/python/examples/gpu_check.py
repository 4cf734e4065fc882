#!/usr/bin/env python3
"""What only a GPU can tell, in less than 8 minutes: gpu_check.py [--out FILE.json]

- the fused arithmetic of a step against the plain one in f64: values and gradients of the KL, and of noise;
- variances in bf16 (``use_bf16_variances``) against those in f32: gradients of a convolution;
- under autocast to bf16 and f16, and with such variances, channels last: finite gradients, inputs of 0 to 255 included;
- the step against that of the same network without posteriors, VGG-like and ResNet-18, batch 256, by turns, eager, and
  as a CUDA graph: in bf16, and in f32 (products in TF32) with variances in bf16.

Exits with 1 if a check fails or a step takes more than 1.9 times the dense one."""

import argparse
import itertools
import json
import statistics
import sys

import svdo.torch as st
import torch
from graphed import Graphed
from networks import NETWORKS
from svdo.torch import functional, noise
from torch.nn import functional as F


def arithmetic():
    """Largest relative differences of what is fused from f64."""
    torch.manual_seed(0)
    found = {}
    for size in (1000, 1_048_577):
        theta = torch.randn(size, device="cuda") * 0.1
        theta[::7] = 0
        log_sigma2 = torch.empty(size, device="cuda").uniform_(-12, 4)
        results = []
        for fused, kind in ((False, torch.float64), (True, torch.float32)):
            st.use_fused(fused)
            parameters = [p.to(kind).requires_grad_() for p in (theta, log_sigma2)]
            value = functional.kl([parameters[0]], [parameters[1]])
            value.backward()
            results.append([value.double(), *(p.grad.double() for p in parameters)])
        st.use_fused(None)
        for name, a, b in zip(("kl", "by theta", "by log_sigma2"), *results):
            found[f"{name} {size}"] = ((a - b).norm() / a.norm()).item()
        mean, variance = torch.randn(size, device="cuda"), torch.rand(size, device="cuda")
        variance[::5] = 0
        results = []
        for fused, kind in ((False, torch.float64), (True, torch.float32)):
            st.use_fused(fused)
            parameters = [p.to(kind).requires_grad_() for p in (mean, variance)]
            torch.manual_seed(1)
            unit = torch.randn(size, device="cuda").to(kind)
            out = noise._Sample.apply(*parameters, unit)
            (out * out).sum().backward()
            results.append([out.double(), *(p.grad.double() for p in parameters)])
        st.use_fused(None)
        for name, a, b in zip(("sample", "by mean", "by variance"), *results):
            found[f"{name} {size}"] = ((a - b).norm() / a.norm()).item()
    return found


def narrow_variances():
    """How far the gradients of a convolution are from those with variances in f32, of their norm."""
    torch.manual_seed(0)
    layer = st.Conv2dSVDO(64, 64, 3, padding=1, init_log_sigma2=-4.0, device="cuda")
    x = torch.rand(16, 64, 16, 16, device="cuda", requires_grad=True)
    results = []
    for narrow in (False, True):
        st.use_bf16_variances(narrow)
        torch.manual_seed(1)
        results.append(torch.autograd.grad(layer(x).square().mean(), [x, *layer.parameters()]))
    st.use_bf16_variances(False)
    return max(((a - b).norm() / a.norm()).item() for a, b in zip(*results))


def finite(kind):
    """Whether gradients are; ``kind`` is that of autocast, None for f32 with variances in bf16."""
    model = st.convert(NETWORKS["resnet18"](0.25)).cuda().to(memory_format=torch.channels_last)
    x = torch.randint(256, (32, 3, 32, 32), device="cuda").float()
    x[0] = 0
    st.use_bf16_variances(kind is None)
    with torch.autocast("cuda", kind, enabled=kind is not None):
        output = model(x.contiguous(memory_format=torch.channels_last))
    st.sgvlb_loss(output.float(), torch.zeros(32, dtype=torch.long, device="cuda"), model, 1000).backward()
    st.use_bf16_variances(False)
    return all(p.grad.isfinite().all().item() for p in model.parameters())


class Step:
    """A step of training on one batch; in f32, variances are in bf16."""

    def __init__(self, name, posterior, graphed, half):
        torch.manual_seed(0)
        model = NETWORKS[name]()
        model = (st.convert(model) if posterior else model).cuda().to(memory_format=torch.channels_last)
        self.model, self.posterior, self.half = model.train(), posterior, half
        self.x = torch.randn(256, 3, 32, 32, device="cuda").contiguous(memory_format=torch.channels_last)
        self.target = torch.randint(10, (256,), device="cuda")
        groups = st.parameter_groups(model, lr=1e-3)
        self.optimizer = torch.optim.Adam(groups, fused=True, capturable=graphed)
        self.step = Graphed(self.eager, enabled=graphed)
        self.step()
        if graphed and self.step.graph is None:
            raise RuntimeError("the step was not captured")

    def eager(self):
        self.optimizer.zero_grad(set_to_none=True)
        st.use_bf16_variances(not self.half)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.half, cache_enabled=False):
            output = self.model(self.x)
        loss = F.cross_entropy(output.float(), self.target)
        if self.posterior:
            loss = loss + st.kl(self.model) * (0.1 / 45_000)
        loss.backward()
        self.optimizer.step()
        return loss

    def __call__(self):
        self.step()


def milliseconds(step, count=20):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / count


def speed(name, graphed, half, rounds=5):
    steps = [Step(name, posterior, graphed, half) for posterior in (False, True)]
    for step in steps:
        milliseconds(step, 10)
    times = [[milliseconds(step) for step in steps] for _ in range(rounds)]
    dense, posterior = (statistics.median(of) for of in zip(*times))
    return {"dense_ms": dense, "svdo_ms": posterior, "ratio": statistics.median(b / a for a, b in times)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "failed": []}
    result["arithmetic"] = arithmetic()
    result["failed"] += [name for name, error in result["arithmetic"].items() if not error < 1e-4]
    result["variances in bf16"] = narrow_variances()
    if not result["variances in bf16"] < 0.02:
        result["failed"].append("variances in bf16")
    for kind in (torch.bfloat16, torch.float16, None):
        if not finite(kind):
            result["failed"].append(f"gradients under {kind or 'variances in bf16'} are not finite")
    for name, half, graphed in itertools.product(NETWORKS, (True, False), (False, True)):
        key = f"{name} {'bf16' if half else 'f32'} {'graph' if graphed else 'eager'}"
        try:
            result[key] = speed(name, graphed, half)
        except Exception as error:  # noqa: BLE001 the other figures are worth having
            result["failed"].append(f"{key}: {error}")
            continue
        print(key, result[key], flush=True)
        if result[key]["ratio"] > 1.9:
            result["failed"].append(f"{key} takes {result[key]['ratio']:.2f} times the dense step")
    print(json.dumps(result, indent=1))
    if options.out:
        with open(options.out, "w") as file:
            json.dump(result, file, indent=1)
    return bool(result["failed"])


if __name__ == "__main__":
    sys.exit(main())
