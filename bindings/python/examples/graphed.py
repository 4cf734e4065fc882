"""A step of training that runs as one CUDA graph: most of the time of a small network's step is launches."""

import sys

import torch


class Graphed:
    """``step(*inputs)``, from tensors to a loss, captured at its first call on a GPU and replayed from then on.

    All that changes from step to step must be in tensors: inputs of one shape, rates and weights of losses
    (optimizers with ``capturable`` or tensors as rates, ``svdo.torch.Training(capturable=True)``). On a CPU, or
    where the capture fails, which is said, the step runs as it stands.
    """

    # Runs before the capture: libraries choose their algorithms, optimizers make their states.
    WARM_UPS = 3

    def __init__(self, step, enabled):
        self.step, self.enabled = step, enabled
        self.graph, self.inputs, self.loss = None, None, None

    def __call__(self, *inputs):
        if self.enabled and self.graph is None:
            self.capture(inputs)
        if self.graph is None:
            return self.step(*inputs).detach()
        for held, given in zip(self.inputs, inputs):
            held.copy_(given)
        self.graph.replay()
        return self.loss.clone()

    def capture(self, inputs):
        self.inputs = [given.clone() for given in inputs]
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(self.WARM_UPS):
                    self.step(*self.inputs)
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.loss = self.step(*self.inputs).detach()
            self.graph = graph
        except RuntimeError as error:
            torch.cuda.synchronize()
            print(f"no CUDA graph: {str(error)[:500]}", file=sys.stderr, flush=True)
            self.enabled = False
