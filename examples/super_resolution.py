"""Super-resolution: double the size of a photo, and put back some of the detail it had.

A small network looks at a photo of half the size and predicts what bicubic interpolation misses.
It learns from the right-hand two thirds of two photos and is judged on their left-hand thirds.

    python examples/super_resolution.py
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import linen as nn
from jax.nn.initializers import zeros
from sklearn.datasets import load_sample_images
from tqdm import trange

import jaxconv
from jaxconv import Conv2d, ConvTranspose2d

SCALE = 2
CHANNELS = 32
CROP_SIZE = 63
BATCH_SIZE = 8
LEARNING_RATE = 2e-3

# What the picture shows of the held-out part: a storey of the pagoda.
SHOWN_PHOTO, SHOWN_TOP, SHOWN_LEFT, SHOWN_SIZE = 0, 152, 84, 88


class ResidualBlock(nn.Module):
    @nn.compact
    def __call__(self, h):
        conv = partial(Conv2d, CHANNELS, CHANNELS, 3, padding=1, padding_mode="reflect")
        return h + conv()(nn.relu(conv()(h)))


class Upscaler(nn.Module):
    num_blocks: int = 4

    @nn.compact
    def __call__(self, low, size):
        """Enlarge `low`, `(N, 3, H, W)`, to `size`: spatial sizes of up to twice H and W."""
        h = Conv2d(3, CHANNELS, 3, padding=1, padding_mode="reflect")(low - 0.5)
        for _ in range(self.num_blocks):
            h = ResidualBlock()(h)
        # 427 rows and 428 both shrink to 214, so the way back has to be told which to make. Zeros
        # as the first weights make training start from the bicubic picture.
        to_detail = ConvTranspose2d(
            CHANNELS, 3, 5, stride=SCALE, padding=2, bias=False, weight_init=zeros
        )
        return enlarge(low, size) + to_detail(nn.relu(h), output_size=size)


def shrink(images):
    """Low resolution: antialiased bicubic, in 256 steps as in a file. Half a pixel counts whole."""
    *_, height, width = images.shape
    images = jaxconv.pad(images, (0, -width % SCALE, 0, -height % SCALE), mode="replicate")
    *batch, height, width = images.shape
    low = jax.image.resize(images, (*batch, height // SCALE, width // SCALE), "bicubic")
    return jnp.round(jnp.clip(low, 0, 1) * 255) / 255


def enlarge(low, size):
    """Bicubic interpolation: what the network adds to, and has to beat."""
    *batch, height, width = low.shape
    images = jax.image.resize(low, (*batch, height * SCALE, width * SCALE), "bicubic")
    return images[..., : size[0], : size[1]]


def load_photos():
    """The training part and the held-out part of both photos, `(N, 3, H, W)` in [0, 1]."""
    photos = jnp.stack([jnp.asarray(photo) for photo in load_sample_images().images])
    photos = photos.transpose(0, 3, 1, 2) / 255
    third = photos.shape[-1] // 3
    return photos[..., third:], photos[..., :third]


def random_crop(key, photos):
    """A square out of a random photo, at random mirrored and turned on its side."""
    place, mirror, turn = jax.random.split(key, 3)
    shape = (1, 3, CROP_SIZE, CROP_SIZE)
    choices = jnp.array(photos.shape) - jnp.array(shape) + 1
    crop = jax.lax.dynamic_slice(photos, jax.random.randint(place, (4,), 0, choices), shape)[0]
    crop = jnp.where(jax.random.bernoulli(mirror), crop[..., ::-1], crop)
    return jnp.where(jax.random.bernoulli(turn), crop.swapaxes(-1, -2), crop)


def train(model, photos, steps, seed):
    """Fit `model` to random crops of `photos`; returns its variables."""
    init_key, crop_key = jax.random.split(jax.random.key(seed))
    variables = model.init(init_key, shrink(photos[:, :, :32, :32]), (32, 32))
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))

    def loss_fn(variables, crops):
        output = model.apply(variables, shrink(crops), crops.shape[2:])
        return jnp.mean((output - crops) ** 2)

    @jax.jit
    def train_step(variables, state, key):
        crops = jax.vmap(random_crop, (0, None))(jax.random.split(key, BATCH_SIZE), photos)
        loss, grads = jax.value_and_grad(loss_fn)(variables, crops)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(variables, updates), state, loss

    state = optimizer.init(variables)
    progress = trange(steps, desc="training", unit="step")
    for step in progress:
        key = jax.random.fold_in(crop_key, step)
        variables, state, loss = train_step(variables, state, key)
        progress.set_postfix(loss=f"{loss:.4f}", refresh=False)
    return variables


def psnr(images, originals):
    """Peak signal-to-noise ratio of each image, in dB: higher is better."""
    error = jnp.mean((images.clip(0, 1) - originals) ** 2, axis=(-3, -2, -1))
    return -10 * jnp.log10(error)


def print_scores(bicubic, ours, originals):
    before, after = psnr(bicubic, originals), psnr(ours, originals)
    rows = [*zip(("pagoda", "flower"), before, after, strict=True)]
    print("\nPSNR on the held-out thirds, in dB\n\n          bicubic     ours     gain")
    for name, old, new in [*rows, ("mean", before.mean(), after.mean())]:
        print(f"{name:8} {old:8.2f} {new:8.2f} {new - old:+8.2f}")


def save_picture(path, low, bicubic, ours, originals):
    def shown(images, scale=1):
        top, left, size = SHOWN_TOP // scale, SHOWN_LEFT // scale, SHOWN_SIZE // scale
        return images[SHOWN_PHOTO, :, top : top + size, left : left + size].clip(0, 1)

    original = shown(originals)
    panels = {
        "Low resolution": shown(low, SCALE),
        f"Bicubic: {psnr(shown(bicubic), original):.1f} dB": shown(bicubic),
        f"Ours: {psnr(shown(ours), original):.1f} dB": shown(ours),
        "Original": original,
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(13, 3.6), layout="constrained")
    for axis, (title, image) in zip(axes, panels.items(), strict=True):
        axis.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        axis.set_title(title, fontsize=14)
        axis.set_axis_off()
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description="Train a small super-resolution network.")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="demo.png", help="where to save the picture")
    args = parser.parse_args()

    start = time.perf_counter()
    training, originals = load_photos()
    model = Upscaler()
    variables = train(model, training, args.steps, args.seed)

    low, size = shrink(originals), originals.shape[2:]
    bicubic = enlarge(low, size)
    ours = jax.jit(model.apply, static_argnums=2)(variables, low, size)
    print_scores(bicubic, ours, originals)
    save_picture(args.output, low, bicubic, ours, originals)
    print(f"\nSaved {args.output}; {time.perf_counter() - start:.0f} s in all.")


if __name__ == "__main__":
    main()
