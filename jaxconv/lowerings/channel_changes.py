"""Changes of variables that leave space as it is: where channels lie, how many, and groups."""

import dataclasses

import jax.numpy as jnp
from jax import lax

from jaxconv.geometry import Geometry
from jaxconv.lowerings.changes import Change, fit, same
from jaxconv.lowerings.copies import as_arithmetic, moved_in_memory


def fill_channels(g: Geometry, role: str, channels: int) -> Change:
    """The channels of y or x, without groups, filled up to `channels` by zeros."""

    def image_map(image):
        return [fit(image, g.channel_axis, 0, channels)]

    if role == "output":
        return Change([g], same, lambda w: [fit(w, 0, 0, channels)], image_map)
    return Change([g], image_map, lambda w: [fit(w, 1, 0, channels)], same)


def repeat_channels(g: Geometry, multiplier: int) -> Change:
    """One channel of x to a group and several of y: a depthwise form, of x with its channels
    repeated."""

    def x_map(x):
        return [jnp.repeat(as_arithmetic(x, reads=multiplier), multiplier, g.channel_axis)]

    return Change([dataclasses.replace(g, groups=g.groups * multiplier)], x_map, same, same)


def each_group(g: Geometry) -> Change:
    """One part for each group."""
    part = dataclasses.replace(g, groups=1)

    def image_map(image):
        channels = image.shape[g.channel_axis] // g.groups
        return list(lax.split(image, (channels,) * g.groups, axis=g.channel_axis))

    def w_map(w):
        return list(lax.split(w, (w.shape[0] // g.groups,) * g.groups, axis=0))

    return Change([part] * g.groups, image_map, w_map, image_map)


def first(g: Geometry) -> Change:
    """Channels first."""
    part = dataclasses.replace(g, channels_last=False)

    def image_map(image):
        return [jnp.moveaxis(image, -1, 1)]

    return Change([part], image_map, same, image_map)


def first_in_memory(g: Geometry) -> Change:
    """Channels first, in memory too."""

    def image_map(image):
        return [moved_in_memory(jnp.moveaxis(image, -1, 1))]

    return first(g)._replace(x=image_map, y=image_map)


def last(g: Geometry) -> Change:
    """Channels last."""
    part = dataclasses.replace(g, channels_last=True)

    def image_map(image):
        return [jnp.moveaxis(image, 1, -1)]

    return Change([part], image_map, same, image_map)


def last_in_memory(g: Geometry) -> Change:
    """Channels last, in memory too. All of space is moved as one axis, which takes XLA:CPU less
    time than two or three."""

    def image_map(image):
        batch, channels, *size = image.shape
        rows = image.reshape(batch, channels, -1).swapaxes(1, 2)
        rows = moved_in_memory(as_arithmetic(rows))
        return [rows.reshape(batch, *size, channels)]

    return last(g)._replace(x=image_map, y=image_map)


def y_last_in_memory(g: Geometry) -> Change:
    """Channels last, in memory too those of y."""
    return last(g)._replace(y=last_in_memory(g).y)
