"""Records what PyTorch's DCGANs compute, so that the tests can import their weights without it.

    python tests/record_dcgan_activations.py

writes tests/recorded/dcgan_activations.npz: for each model below its state dict (float32, with
running statistics of a few forward passes), an input, and the outputs after eval() and, where there
is batch norm, in training, in float32 and float64; and of the first sample, in float64, the result
of every layer that has parameters but the last. Made with PyTorch 2.13.0 on a CPU; the file names
the version that made it. Arrays have PyTorch's layouts.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "recorded" / "dcgan_activations.npz"
BATCH = 3
LATENT, CHANNELS = 7, 2
UP, DOWN = (5, 4), (4, 5)  # hidden channels of the 16×16 generator and discriminator
A, B, C = 2, 4, 8  # those of the 28×28 pair: 64, 128 and 256 at a width of 1/32

# name: the shape of one input there
MODELS = {
    "generator, kernel 4": (LATENT, 1, 1),
    "generator, kernel 5": (LATENT, 1, 1),
    "discriminator, kernel 4": (CHANNELS, 16, 16),
    "discriminator, kernel 5": (CHANNELS, 16, 16),
    "generator of 28×28": (LATENT,),
    "discriminator of 28×28": (1, 28, 28),
    "rows with batch norm": (CHANNELS, 6, 10),
}


def build(nn, name):
    """The PyTorch model of this name."""

    def example(*layers):
        """PyTorch's DCGAN example keeps its layers in ``main``."""

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.main = nn.Sequential(*layers)

            def forward(self, x):
                return self.main(x)

        return Model()

    def up(inputs, outputs):
        return nn.ConvTranspose2d(inputs, outputs, *doubling, bias=False)

    def down(inputs, outputs):
        return nn.Conv2d(inputs, outputs, *doubling[:3], bias=False)

    doubling = (4, 2, 1) if name.endswith("4") else (5, 2, 2, 1)
    if name.startswith("generator, "):
        return example(
            nn.ConvTranspose2d(LATENT, UP[0], 4, 1, 0, bias=False),
            nn.BatchNorm2d(UP[0]),
            nn.ReLU(True),
            up(UP[0], UP[1]),
            nn.BatchNorm2d(UP[1]),
            nn.ReLU(True),
            up(UP[1], CHANNELS),
            nn.Tanh(),
        )
    if name.startswith("discriminator, "):
        return example(
            down(CHANNELS, DOWN[0]),
            nn.LeakyReLU(0.2, inplace=True),
            down(DOWN[0], DOWN[1]),
            nn.BatchNorm2d(DOWN[1]),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(DOWN[1], 1, 4, 1, 0, bias=False),
            nn.Sigmoid(),
        )
    if name == "generator of 28×28":
        return nn.Sequential(
            nn.Linear(LATENT, C * 4 * 4),
            nn.Unflatten(1, (C, 4, 4)),
            nn.ReLU(),
            nn.ConvTranspose2d(C, B, 5, 2, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(B, A, 5, 2, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(A, 1, 5, 2, 2, 1),
            nn.Sigmoid(),
        )
    if name == "discriminator of 28×28":
        return nn.Sequential(
            nn.Conv2d(1, A, 5, 2, 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(A, B, 5, 2, 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(B, C, 5, 2, 2),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(C * 4 * 4, 1),
        )
    return nn.Sequential(  # images that are not square, kernels that are not, rows with a norm
        nn.Conv2d(CHANNELS, 4, (3, 5), (1, 2), (1, 2)),
        nn.Flatten(),
        nn.BatchNorm1d(4 * 6 * 5),
        nn.LeakyReLU(0.2),
        nn.Linear(4 * 6 * 5, 3 * 2 * 5),
        nn.BatchNorm1d(3 * 2 * 5),
        nn.ReLU(),
        nn.Unflatten(1, (3, 2, 5)),
        nn.ConvTranspose2d(3, 2, (2, 3), (2, 1), (0, 1)),
    )


def fill(torch, model, source):
    """Weights for outputs of size one; scales, shifts and biases that are not one and zero."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            drawn = 0.3 * torch.randn(parameter.shape, generator=source)
        else:
            fan = parameter[0].numel()
            drawn = (2 / fan) ** 0.5 * torch.randn(parameter.shape, generator=source)
        parameter.data.copy_(drawn)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.weight.data.add_(1.0)


def record(torch, name, source):
    """{entry: array} of one model."""
    model = build(torch.nn, name)
    fill(torch, model, source)

    def draw():
        return torch.randn((BATCH, *MODELS[name]), generator=source)

    for _ in range(5):
        model(1.5 * draw() + 0.3)
    x, state = draw(), {key: value.clone() for key, value in model.state_dict().items()}
    found = {f"{name}/state/{key}": value.numpy() for key, value in state.items()}
    found[f"{name}/input"] = x.numpy()
    for mode in ("eval", "train") if any("running" in key for key in state) else ("eval",):
        for dtype in (torch.float32, torch.float64):
            model.float().load_state_dict(state)  # training moved the running statistics
            model.to(dtype).train(mode == "train")
            hidden = []
            hooks = [
                module.register_forward_hook(
                    lambda module, x, y, hidden=hidden: hidden.append(y[0].detach().clone())
                )
                for module in model.modules()
                if any(True for _ in module.parameters(recurse=False))
            ]
            y = model(x.to(dtype))
            found[f"{name}/{mode}/{str(dtype).removeprefix('torch.')}"] = y.detach().numpy()
            if dtype == torch.float64:
                for i, a in enumerate(hidden[:-1]):
                    found[f"{name}/{mode}/hidden{i}"] = a.numpy()
            for hook in hooks:
                hook.remove()
    return found


def main():
    import torch

    torch.set_num_threads(1)
    source = torch.Generator().manual_seed(28)
    found = {"torch": np.array(torch.__version__)}
    for name in MODELS:
        found |= record(torch, name, source)
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **found)
    print(f"{FILE}: {FILE.stat().st_size} bytes, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
