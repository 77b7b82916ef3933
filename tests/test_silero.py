"""A pretrained voice detector, ported from PyTorch: the example's numbers are the original's."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from examples import silero_vad
from jaxconv.interop import from_state_dict, to_state_dict

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")

TEXT = "aieu   ea   "


@pytest.fixture(autouse=True)
def _settings_of_an_example():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def sounds():
    """One voice, and another that is quieter and begins later."""
    first, second = (silero_vad.synthesize(TEXT, seed) for seed in range(2))
    return np.stack([first, 0.3 * np.roll(second, 3000)])


def test_probabilities_are_those_of_onnxruntime(sounds):
    """Over a hundred windows, of which each goes on from the state that the last one left."""
    probabilities = silero_vad.detect(silero_vad.load_variables(), sounds)
    expected = silero_vad.detect_with_onnx(sounds)
    assert expected.shape[1] > 100
    assert expected.max() - expected.min() > 0.9
    # Both compute in float32, and each window starts from the rounded state of the last one.
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)


def test_the_state_dict_comes_back_but_for_the_sum_of_the_biases():
    state_dict = to_state_dict(silero_vad.load_variables(), rename=silero_vad.TORCH_NAMES)
    expected = {name: tensor.numpy() for name, tensor in silero_vad.torch_state_dict().items()}
    assert set(state_dict) == set(expected)
    biases = [f"_model.decoder.rnn.{name}" for name in ("bias_ih", "bias_hh")]
    sums = [sum(arrays[name] for name in biases) for arrays in (state_dict, expected)]
    np.testing.assert_array_equal(*sums)
    for name in set(expected) - set(biases):
        np.testing.assert_array_equal(state_dict[name], expected[name], strict=True)


def test_the_safetensors_file_needs_no_names_translated(sounds):
    """It holds the same model after another training."""
    path = silero_vad.data_file("silero_vad_16k.safetensors")
    variables = from_state_dict(path, silero_vad.shapes())
    arrays = safetensors.numpy.load_file(path)
    np.testing.assert_array_equal(variables["params"]["conv1"]["weight"], arrays["conv1.weight"])
    kernel = variables["params"]["lstm_cell"]["hf"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["lstm_cell.weight_hh"][128:256].T)
    probabilities = np.asarray(silero_vad.detect(variables, sounds))[0]
    voiced = silero_vad.to_windows(sounds[:1]).std(axis=-1)[:, 0] > 0.05
    assert probabilities[voiced].mean() > 0.8
    assert probabilities[~voiced].mean() < 0.2
