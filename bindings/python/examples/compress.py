"""A checkpoint, the smallest file of it that holds a bound, and predictions of that file:

    python compress.py fixtures/lenet300_mnist.safetensors images.npy labels.npy model.svdo

Images are raw pixels [n, 1, 28, 28] that the network was not trained on; those of the test set only to report."""

import sys

import numpy as np

import svdo


def main(checkpoint, images, labels, output):
    images, labels = np.load(images), np.load(labels)
    tuning, rest = slice(0, len(images) // 2), slice(len(images) // 2, None)
    # As it is, near-lossless.
    plain = svdo.compress(checkpoint)
    # The smallest file that makes at most 0.2 % more errors, on half of the images.
    report = svdo.compress(
        checkpoint,
        validate=(images[tuning], labels[tuning]),
        max_error_increase=0.002,
        effort=1,
        output=output,
    )
    print(report)
    print(f"{plain.file_bytes} bytes near-lossless, {report.file_bytes} within the bound")
    # On the other half, the file alone.
    model = svdo.load(output)
    wrong = (model(images[rest]).argmax(1) != labels[rest]).mean()
    print(f"{wrong:.2%} errors on images that chose nothing")
    return report


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
