"""Silero VAD, a pretrained voice detector: a PyTorch model, ported with its weights.

`notebooks/03_port_a_pytorch_model.ipynb` explains it and runs it. The weights come with the package
silero-vad, and so does the same model as an ONNX file, to compare with.
"""

import importlib.metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from scipy.signal import lfilter

import jaxconv
from jaxconv import Conv1d
from jaxconv.interop import from_state_dict

SAMPLE_RATE = 16_000
WINDOW = 512  # samples for each probability: 32 ms
CONTEXT = 64  # samples before them that the detector sees again


class VoiceDetector(nn.Module):
    """How likely it is that a window of sound has a voice in it.

    Silero's safetensors file has these names; `TORCH_NAMES` holds those of the PyTorch model.
    """

    def setup(self):
        self.stft_conv = Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = Conv1d(129, 128, 3, padding=1)
        self.conv2 = Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.OptimizedLSTMCell(128)
        self.final_conv = Conv1d(128, 1, 1)

    def __call__(self, state, samples):
        """`samples` is `(N, CONTEXT + WINDOW)`, `state` what the call for the last window returned.

        Returns the state to go on with, and probabilities, `(N,)`.
        """
        x = jaxconv.pad(samples[:, None], (0, 64), mode="reflect")
        # The short-time Fourier transform, as a convolution with 129 cosines and 129 sines.
        real, imaginary = jnp.split(self.stft_conv(x), 2, axis=1)
        h = jnp.sqrt(real**2 + imaginary**2)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            h = nn.relu(conv(h))
        state, h = self.lstm_cell(state, h[..., 0])
        logits = self.final_conv(nn.relu(h)[..., None])
        return state, nn.sigmoid(logits[:, 0, 0])


def first_state(batch_size):
    """The LSTM's cell and hidden state before the first window."""
    return jnp.zeros((batch_size, 128)), jnp.zeros((batch_size, 128))


def shapes():
    """The detector's variables, without values."""
    samples = jnp.zeros((1, CONTEXT + WINDOW))
    return jax.eval_shape(VoiceDetector().init, jax.random.key(0), first_state(1), samples)


# Our names, or how they begin, and PyTorch's.
TORCH_NAMES = {
    "stft_conv.weight": "_model.stft.forward_basis_buffer",
    "conv1": "_model.encoder.0.reparam_conv",
    "conv2": "_model.encoder.1.reparam_conv",
    "conv3": "_model.encoder.2.reparam_conv",
    "conv4": "_model.encoder.3.reparam_conv",
    "lstm_cell": "_model.decoder.rnn",
    "final_conv": "_model.decoder.decoder.2",
}


def load_variables():
    """The detector's variables, with PyTorch's weights."""
    return from_state_dict(torch_state_dict(), shapes(), rename=TORCH_NAMES)


def torch_state_dict():
    """The state_dict of the PyTorch model for 16 kHz; the file holds one for 8 kHz too."""
    import torch

    state_dict = torch.jit.load(data_file("silero_vad.jit")).state_dict()
    return {name: tensor for name, tensor in state_dict.items() if name.startswith("_model.")}


def data_file(name):
    """The path of a file that silero-vad ships."""
    package = importlib.metadata.distribution("silero-vad")
    return Path(str(package.locate_file(f"silero_vad/data/{name}")))


def to_windows(sound):
    """`(N, length)` cut into windows with their context, `(number, N, CONTEXT + WINDOW)`."""
    number = -(-sound.shape[-1] // WINDOW)
    sound = jnp.pad(sound, ((0, 0), (CONTEXT, number * WINDOW - sound.shape[-1])))
    starts = jnp.arange(number) * WINDOW
    return jax.vmap(
        lambda start: jax.lax.dynamic_slice_in_dim(sound, start, CONTEXT + WINDOW, axis=-1)
    )(starts)


@jax.jit
def detect(variables, sound):
    """A probability for each window of `sound`, `(N, length)`: `(N, number of windows)`."""

    def step(state, window) -> Any:
        return VoiceDetector().apply(variables, state, window)

    _, probabilities = jax.lax.scan(step, first_state(len(sound)), to_windows(sound))
    return probabilities.T


def detect_with_onnx(sound):
    """What `detect` returns, computed by onnxruntime from Silero's own ONNX file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data_file("silero_vad.onnx"))
    state = np.zeros((2, len(sound), 128), "float32")
    probabilities = []
    for window in np.asarray(to_windows(sound)):
        inputs = {"input": window, "state": state, "sr": np.array(SAMPLE_RATE)}
        output, state = map(np.asarray, session.run(None, inputs))
        probabilities.append(output[:, 0])
    return np.stack(probabilities, axis=1)


# Something to listen to.

# The first four resonances of a vocal tract in Hz, for each vowel (Peterson and Barney, 1952).
FORMANTS = {
    "a": (730, 1090, 2440, 3400),
    "i": (270, 2290, 3010, 3700),
    "u": (300, 870, 2240, 3300),
    "e": (530, 1840, 2480, 3500),
}


def synthesize(text, seed=0):
    """A voice that says the vowels of `text`, with a pause for each space. `(length,)`, in [-1, 1].

    Each vowel is a train of pulses, as of vocal cords, through the resonances of a vocal tract.
    """
    rng = np.random.default_rng(seed)
    pieces = [_vowel(letter, rng) if letter in FORMANTS else _pause() for letter in text]
    sound = np.concatenate(pieces)
    sound = 0.5 * sound / np.abs(sound).max() + 0.002 * rng.normal(size=len(sound))
    return sound.astype("float32")


def _pause(seconds=0.4):
    return np.zeros(int(seconds * SAMPLE_RATE))


def _vowel(letter, rng, seconds=0.25):
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 120 + 15 * np.sin(2 * np.pi * 5 * t) - 60 * t + rng.normal(scale=8)
    phase = np.cumsum(pitch) / SAMPLE_RATE
    sound = np.diff(np.floor(phase), prepend=0) + 0.02 * rng.normal(size=len(t))
    for formant in FORMANTS[letter]:
        radius, angle = np.exp(-np.pi * 90 / SAMPLE_RATE), 2 * np.pi * formant / SAMPLE_RATE
        sound = lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], sound)
    return sound / np.abs(sound).max() * np.sin(np.pi * t / seconds) ** 0.5
