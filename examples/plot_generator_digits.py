"""
A generator of digits that follows the flow
===========================================

The sliced MMD flow moves training particles onto images; it says nothing about new latents. A sequence of small
networks does: keep the particles' positions, take some steps of the flow, fit a network to the displacement, move the
particles by the network (not by the flow), and go on from there with the next. Sampling applies the networks in order
to fresh latents, so what comes out was never a particle.

Shown are digits drawn this way, each above the training image nearest to it. Three numbers say how good they are: the
energy distance to held-out images, beside that of training images and of noise; how far the drawn digits are from
the training images, beside how far held-out ones are (a generator that memorises is nearer); and the share of distinct
training images that are the nearest of a drawn one (one that collapses has few).

Run: ``python examples/plot_generator_digits.py`` (2 min on two cores; needs PyTorch and scikit-learn), writes
``generator_digits.png``.
"""

import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

import mckean as mk

PARTICLES = 4000
NETWORKS = 20
DIM = 64


def network():
    """A displacement of an image."""
    layers = [
        torch.nn.Linear(DIM, 256),
        torch.nn.SiLU(),
        torch.nn.Linear(256, 256),
        torch.nn.SiLU(),
    ]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(256, DIM))
    torch.nn.init.zeros_(net[-1].weight)
    torch.nn.init.zeros_(net[-1].bias)
    return net


def fit(net, x, displacement, n_steps, generator):
    """Regress the displacement on the position."""
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, n_steps)
    for _ in range(n_steps):
        rows = torch.randint(len(x), (128,), generator=generator)
        loss = ((net(x[rows]) - displacement[rows]) ** 2).sum(dim=1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return loss.item()


def latents(n, seed):
    """Uniform noise in the cube of images."""
    return mk.random.uniform(seed, (n, DIM), dtype="float32", like="torch")


def draw(networks, z):
    """Apply the networks in order."""
    with torch.no_grad():
        for net in networks:
            z = z - net(z)
    return z


def train(data, log=print):
    """Alternate between the flow and the networks."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # layers this small gain nothing from more
    generator = torch.Generator().manual_seed(0)
    networks, x, steps = [], latents(PARTICLES, 1), 8
    for k in range(NETWORKS):
        # decay: a network can only learn where particles go, not how they chatter
        flow = mk.flows.SlicedMMDFlow(
            data, step=1.0, n_slices=64, momentum=min(0.7, 0.1 * k), decay=0.98
        )
        moved = mk.run(flow, x, steps, seed=k, burn_in=steps, progress=False).state.x
        net = network()
        loss = fit(net, x, x - moved, 1000, generator)
        networks.append(net)
        x = draw([net], x)
        if k % 4 == 3 or k == 0:
            distance = mk.energy_distance(x, data)
            log(
                f"network {k + 1:>2}: {steps:>3} steps of the flow, loss {loss:.3f}, particles to data {distance:.4f}"
            )
        steps = min(2 * steps, 128)
    return networks


def nearest(x, data):
    """Distance to the nearest image, and which it is."""
    distance, index = torch.cdist(x, data).min(dim=1)
    return distance.median().item(), index


def main():
    start = time.perf_counter()
    images = torch.tensor(load_digits().data / 16.0, dtype=torch.float32)
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    data, held_out = images[:1400], images[1400:]
    networks = train(data)
    drawn = draw(networks, latents(1400, 99))
    print(f"trained in {time.perf_counter() - start:.0f} s\n")

    print(f"{'':<18}{'energy distance to held-out':>28}{'median distance to training':>29}")
    rows = {"drawn": drawn, "training images": data, "noise": latents(1400, 98)}
    for name, x in rows.items():
        distance = "" if x is data else f"{nearest(x, data)[0]:.2f}"
        print(f"{name:<18}{mk.energy_distance(x, held_out):>28.4f}{distance:>29}")
    print(f"{'held-out images':<18}{'':>28}{nearest(held_out, data)[0]:>29.2f}")
    _, index = nearest(drawn[: len(held_out)], data)
    _, expected = nearest(held_out, data)
    distinct = [len(torch.unique(i)) / len(i) for i in (index, expected)]
    print(
        f"distinct nearest training images: {distinct[0]:.2f} (held-out images: {distinct[1]:.2f})"
    )

    _, index = nearest(drawn[:20], data)
    figure, axes = plt.subplots(4, 10, figsize=(10, 4.4), layout="constrained")
    for i, (image, near) in enumerate(zip(drawn[:20], data[index], strict=True)):
        row, column = 2 * (i // 10), i % 10
        axes[row, column].imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        axes[row + 1, column].imshow(near.reshape(8, 8), cmap="Blues", vmin=0, vmax=1)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle("Drawn digits (gray), each above the nearest training image (blue)")
    figure.savefig("generator_digits.png", dpi=80)


if __name__ == "__main__":
    main()
