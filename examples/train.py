"""Train a U-Net to remove noise from photos or volumes: one script for one device or many.

    python examples/train.py                                  # photos, on all devices
    python examples/train.py --dims 3 --mesh data=2,space=4   # volumes, each over 4 devices
    python examples/train.py --dtype bfloat16 --checkpoint checkpoints

On several hosts, start it on each with `--distributed`, and off a cluster that JAX knows also with
`--coordinator HOST:PORT --num-processes N --process-id I`. If it is killed, start it again with the
same arguments: from its last checkpoint it goes on to the same losses, on whatever mesh.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv

NOISE = 0.1
"""Standard deviation of the noise, for images in [0, 1]."""

Draw = Callable[[np.random.Generator], np.ndarray]


# Model.


class UNet(nn.Module):
    """Predicts the noise in images of any size: a U-Net over two or three axes.

    Its way down and up is that of V-Net (arXiv 1606.04797): convolutions of stride 2 with a kernel
    of 2, and their transposes, which are told the size to come back to.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    num_spatial_dims: int = 2
    data_format: str = "channels_last"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images):
        n, last = self.num_spatial_dims, self.data_format == "channels_last"
        spatial = slice(1, -1) if last else slice(2, None)
        options = {"dtype": self.dtype, "data_format": self.data_format}
        conv = functools.partial(getattr(jaxconv, f"LazyConv{n}d"), **options)
        conv_transpose = functools.partial(getattr(jaxconv, f"LazyConvTranspose{n}d"), **options)
        norm = functools.partial(nn.InstanceNorm, dtype=self.dtype, feature_axes=-1 if last else 1)

        def block(h, channels):
            for _ in range(2):
                h = nn.leaky_relu(norm()(conv(channels, 3, padding=1, bias=False)(h)))
            return h

        h, skips = block(images, self.channels[0]), []
        for channels in self.channels[1:]:
            skips.append(h)
            h = block(conv(channels, 2, stride=2)(h), channels)
        for skip, channels in zip(reversed(skips), reversed(self.channels[:-1]), strict=True):
            h = conv_transpose(channels, 2, stride=2)(h, output_size=skip.shape[spatial])
            h = block(jnp.concatenate([skip, h], axis=-1 if last else 1), channels)
        return conv(images.shape[-1 if last else 1], 1)(h)


# Data: the batch of a step depends on the seed and the step alone.


@functools.cache
def photo_crops(size: int, held_out: bool) -> Draw:
    """Squares `(size, size, 3)` out of two photos: their right two thirds, or the left one."""
    from sklearn.datasets import load_sample_images

    photos = np.stack(load_sample_images().images).astype(np.float32) / 255
    third = photos.shape[2] // 3
    photos = photos[:, :, :third] if held_out else photos[:, :, third:]

    def draw(rng):
        photo = photos[rng.integers(len(photos))]
        top, left = rng.integers(np.array(photo.shape[:2]) - size + 1)
        return photo[top : top + size, left : left + size]

    return draw


def blobs(size: int, held_out: bool) -> Draw:
    """Volumes of eight random blobs, `(size, size, size, 1)`. Each has a seed of its own."""
    del held_out

    def draw(rng):
        center, width = rng.uniform(0, 1, (3, 8, 1)), rng.uniform(0.02, 0.2, (3, 8, 1))
        profiles = np.exp(-(((np.linspace(0, 1, size) - center) / width) ** 2))
        volume = np.einsum("bi,bj,bk->ijk", *profiles, optimize=True).astype(np.float32)
        return np.minimum(volume, 1)[..., None]

    return draw


def make_batch(
    draw: Draw, seed: tuple[int, ...], shape: tuple[int, ...], sharding: NamedSharding, last: bool
) -> jax.Array:
    """A batch of this shape, of which each process draws the rows that its devices hold."""

    @functools.cache
    def row(number):
        image = draw(np.random.default_rng((*seed, number)))
        return image if last else np.moveaxis(image, -1, 0)

    def shard(index):
        rows = range(*index[0].indices(shape[0]))
        return np.stack([row(number)[index[1:]] for number in rows])

    return jax.make_array_from_callback(shape, sharding, shard)


# Devices.


def make_mesh(data: int | None = None, space: int = 1) -> Mesh:
    """A mesh for `data` parts of the batch and `space` parts of the first spatial axis.

    Its axes are explicit: arrays have their sharding in their types, and layers see to halos.
    """
    data = data or jax.device_count() // space
    devices = jax.devices()[: data * space]
    return jax.make_mesh((data, space), ("data", "space"), devices=devices)


def image_sharding(mesh: Mesh, data_format: str) -> NamedSharding:
    spec = P("data", "space") if data_format == "channels_last" else P("data", None, "space")
    return NamedSharding(mesh, spec)


# Training.


def create_state(
    model: nn.Module, image_shape: tuple[int, ...], mesh: Mesh, seed: int, learning_rate: float
) -> TrainState:
    """Parameters and Adam's state, with a copy on every device."""

    def create(key):
        params = model.init(key, jnp.zeros((1, *image_shape)))["params"]
        optimizer = optax.adam(learning_rate)
        return TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)

    return jax.jit(create, out_shardings=NamedSharding(mesh, P()))(jax.random.key(seed))


def denoising_loss(params: Any, apply: Callable, images: jax.Array, key: jax.Array) -> jax.Array:
    sharding = jax.typeof(images).sharding
    noisy = images + NOISE * jax.random.normal(key, images.shape, out_sharding=sharding)
    denoised = noisy - apply({"params": params}, noisy)
    return jnp.mean((denoised - images) ** 2)


def make_train_step(mesh: Mesh, data_format: str, seed: int) -> Any:
    """`(state, images) -> (state, loss)`."""
    replicated = NamedSharding(mesh, P())

    @functools.partial(
        jax.jit,
        in_shardings=(replicated, image_sharding(mesh, data_format)),
        out_shardings=replicated,
        donate_argnums=0,
    )
    def train_step(state, images):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        loss, grads = jax.value_and_grad(denoising_loss)(state.params, state.apply_fn, images, key)
        return state.apply_gradients(grads=grads), loss

    return train_step


class Checkpoints:
    """The last states of a run, kept in a directory; without one, nowhere."""

    def __init__(self, directory: str | None, every: int):
        self.manager = None
        if directory:
            import orbax.checkpoint as ocp

            options = ocp.CheckpointManagerOptions(save_interval_steps=every, max_to_keep=2)
            self.manager = ocp.CheckpointManager(Path(directory).absolute(), options=options)
            self.save_args, self.restore_args = ocp.args.StandardSave, ocp.args.StandardRestore

    def restore(self, state: TrainState) -> Any:
        """The last state saved, sharded as `state`; or `state` itself, if there is none."""
        if self.manager is None or self.manager.latest_step() is None:
            return state
        return self.manager.restore(self.manager.latest_step(), args=self.restore_args(state))

    def save(self, step: int, state: TrainState) -> None:
        """Save in the background, if the step is due."""
        if self.manager:
            self.manager.save(step, args=self.save_args(state))

    def close(self) -> None:
        if self.manager:
            self.manager.close()


def train(args: argparse.Namespace) -> None:
    say = print if jax.process_index() == 0 else lambda *_, **__: None
    draw, channels = (photo_crops, 3) if args.dims == 2 else (blobs, 1)
    last, sizes = args.data_format == "channels_last", (args.size,) * args.dims
    image_shape = (*sizes, channels) if last else (channels, *sizes)
    mesh = make_mesh(**args.mesh)
    sharding = image_sharding(mesh, args.data_format)

    def batch(step, held_out=False):
        seed, shape = (args.seed, held_out, step), (args.batch, *image_shape)
        return make_batch(draw(args.size, held_out), seed, shape, sharding, last)

    model = UNet(args.channels, args.dims, args.data_format, jnp.dtype(args.dtype))
    state = create_state(model, image_shape, mesh, args.seed, args.learning_rate)
    train_step = make_train_step(mesh, args.data_format, args.seed)
    checkpoints = Checkpoints(args.checkpoint, args.save_every)
    state = checkpoints.restore(state)
    first, start = int(state.step), time.perf_counter()
    say(f"{mesh.size} of {jax.device_count()} devices ({mesh}), from step {first}")
    for step in range(first, args.steps):
        state, loss = train_step(state, batch(step))
        checkpoints.save(step + 1, state)
        if (step + 1) % args.log_every == 0:
            seconds = (time.perf_counter() - start) / (step + 1 - first)
            say(f"step {step + 1}: loss {float(loss):.9g} ({seconds:.3f} s a step)", flush=True)
    checkpoints.close()
    _, loss = train_step(state, batch(0, held_out=True))
    say(f"held out: loss {float(loss):.3g}, where the noise is {NOISE**2:.3g}")


def to_mesh(text: str) -> dict[str, int]:
    return {name: int(size) for name, size in (part.split("=") for part in text.split(","))}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a U-Net to remove noise.")
    add = parser.add_argument
    add("--steps", type=int, default=300)
    add("--batch", type=int, default=16, help="images a step, over all devices")
    add("--dims", type=int, default=2, choices=(2, 3), help="2: photos, 3: synthetic volumes")
    add("--size", type=int, default=64, help="length of an image's sides")
    add("--channels", type=lambda text: tuple(map(int, text.split(","))), default=(16, 32, 64))
    add("--data-format", default="channels_last", choices=("channels_last", "channels_first"))
    add("--dtype", default="float32", help="to compute in; parameters are float32")
    add("--learning-rate", type=float, default=1e-3)
    add("--seed", type=int, default=0)
    add("--mesh", type=to_mesh, default={}, help="data=D,space=S: parts of batch and first side")
    add("--checkpoint", metavar="DIR", help="save there, and go on from what is there")
    add("--save-every", type=int, default=100, metavar="STEPS")
    add("--log-every", type=int, default=10, metavar="STEPS")
    add("--distributed", action="store_true", help="join the processes of other hosts")
    add("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    add("--num-processes", type=int)
    add("--process-id", type=int)
    args = parser.parse_args()
    if args.distributed:
        jax.distributed.initialize(args.coordinator, args.num_processes, args.process_id)
    train(args)


if __name__ == "__main__":
    main()
