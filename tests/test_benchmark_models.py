"""The networks of the benchmark are the same in torch and in Flax, and so is their training.

`python -m benchmarks.models --check` trains all nine in every form; here are three that hold each
kind of layer between them, since compilation takes its time.
"""

import jax
import jax.numpy as jnp
import pytest
import torch

from benchmarks import architectures, models, models_jax, models_torch

TINY = {model.name: model for model in architectures.models("tiny")}


@pytest.fixture(autouse=True)
def _promotion():
    """Flax's batch norms and optax rely on both."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_networks_have_as_many_parameters_as_those_of_torch():
    for model in architectures.models("gpu"):
        with torch.device("meta"):
            module = models_torch.build(model.network, model.num_spatial_dims)
        network = models_jax.Network(
            model.network, model.num_spatial_dims, "jaxconv", "channels_first", None, jnp.float32
        )
        x = jax.ShapeDtypeStruct(model.input, jnp.float32)
        params = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        assert count == sum(p.numel() for p in module.parameters()), model.name


@pytest.mark.parametrize(
    ("name", "contestants"),
    [
        ("ResNeXt blocks", ["jaxconv first"]),
        ("DCGAN generator", ["jaxconv last"]),
        ("WaveNet", ["jaxconv first", "linen"]),
    ],
)
def test_training_gives_the_losses_of_torch(name, contestants):
    models.check(TINY[name], contestants)


def test_a_wrong_weight_is_noticed(monkeypatch):
    """That is, the comparison can fail."""
    right = models_torch.weights

    def wrong(module):
        first, *others = right(module)
        return [{name: 1.001 * value for name, value in first.items()}, *others]

    monkeypatch.setattr(models_torch, "weights", wrong)
    with pytest.raises(AssertionError, match="Conformer convolutions: jaxconv first"):
        models.check(TINY["Conformer convolutions"], ["jaxconv first"], steps=1)
