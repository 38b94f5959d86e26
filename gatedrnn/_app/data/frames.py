"""Sung syllables as log-mel spectra, with the phone of every frame.

A source-filter synthesiser: pulses of the glottis and noise, the first through the resonances of
the vocal tract. It works in the short-time spectrum: pieces of the source, Hann windows of 10 ms
every 5 ms, which add up to 1, are each filtered by the tract at that time and added up again.

Axes: B utterances, S steps of 5 ms, N samples at 16 kHz, T frames of 10 ms, F = 40 mel bands.
"""

from typing import NamedTuple

import numpy as np

from gatedrnn._app.data import phones
from gatedrnn._app.data.phones import Tracks

SAMPLE_RATE = 16_000
HOP = SAMPLE_RATE // phones.RATE  # samples per step
FFT = 512
BANDS = 40
FRAME, WINDOW = 160, 400  # samples: a frame every 10 ms, of 25 ms
BANDWIDTHS = np.array([70.0, 90.0, 130.0, 200.0])  # Hz, of the formants
SYLLABLE = 9 * 4 * BANDS  # bytes of the frames of the shortest
PORTION = 16  # utterances sung at a time, for memory
FREQUENCIES = np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT  # Hz


class Utterance(NamedTuple):
    """One utterance."""

    bands: np.ndarray  # float32 [T, F], natural logarithm of the energy in each mel band
    labels: np.ndarray  # int32 [T], places in `phones.PHONES`: the phone in the middle of the frame


class Frames(NamedTuple):
    """Utterances of singers that are drawn anew for each."""

    train: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    test: tuple[Utterance, ...]


def make(
    *, seed: int, train: int = 400, held_out: int = 60, syllables: tuple[int, int] = (3, 5)
) -> Frames:
    """`train` utterances to learn from, and `held_out` for validation and for the test each."""
    rng = np.random.default_rng(seed)
    count = train + 2 * held_out
    made: list[Utterance] = []
    while len(made) < count:
        made += sing(rng, min(PORTION, count - len(made)), syllables=syllables)
    parts = made[:train], made[train : train + held_out], made[train + held_out :]
    return Frames(*map(tuple, parts))


def standardisation(utterances: tuple[Utterance, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each band over all frames: float32 [F] each."""
    frames = np.concatenate([utterance.bands for utterance in utterances])
    return frames.mean(axis=0), frames.std(axis=0)


def sing(
    rng: np.random.Generator, utterances: int, *, syllables: tuple[int, int] = (3, 5)
) -> list[Utterance]:
    """Random utterances at random levels, with noise 20 to 35 dB below the loudest step."""
    tracks = phones.draw(rng, utterances, syllables)
    sound = synthesise(rng, tracks)
    power = np.square(sound).reshape(utterances, -1, HOP).mean(axis=-1).max(axis=1)
    noise = np.sqrt(power * 10.0 ** -rng.uniform(2.0, 3.5, utterances))
    sound = sound + noise[:, None] * rng.standard_normal(sound.shape)
    sound *= (10.0 ** rng.uniform(-0.3, 0.3, utterances) / np.sqrt(power))[:, None]
    bands = log_mel(sound).astype(np.float32)
    labels = tracks.labels[:, 1::2]  # step 2 t + 1 begins in the middle of frame t
    counts = tracks.lengths // 2
    return [
        Utterance(*(array[:count].copy() for array in arrays))
        for *arrays, count in zip(bands, labels, counts, strict=True)
    ]


def synthesise(rng: np.random.Generator, tracks: Tracks) -> np.ndarray:
    """The sound of tracks with S steps: [B, N = S · HOP], sample 0 at the start of step 0."""
    pulses = _glottis(np.repeat(tracks.pitch, HOP, axis=1))
    source = _spectra(pulses) * tracks.voice[..., None]
    hiss = _spectra(rng.standard_normal(pulses.shape))
    front = _resonance(tracks.noise[..., 0], tracks.noise[..., 1]) * tracks.noise[..., 2:]
    tract = _tract(tracks)
    spectra = (source + hiss * 0.3 * tracks.breath[..., None]) * tract + hiss * front
    pieces = np.fft.irfft(spectra, FFT)[..., : FFT // HOP * HOP]  # [B, S, 6 HOP]
    utterances, steps = tracks.pitch.shape
    sound = np.zeros((utterances, steps + FFT // HOP, HOP))
    for part, chunk in enumerate(np.split(pieces, FFT // HOP, axis=-1)):
        sound[:, part : part + steps] += chunk
    return sound[:, 1 : steps + 1].reshape(utterances, -1)  # a window is centred on its step


def log_mel(sound: np.ndarray) -> np.ndarray:
    """[B, N] to [B, T, F]: a Hann window around the middle of every frame, 25 ms long."""
    margin = (WINDOW - FRAME) // 2
    padded = np.pad(sound, ((0, 0), (margin, margin)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=1)[:, ::FRAME]
    spectra = np.fft.rfft(windows * np.hanning(WINDOW), FFT)
    return np.log(np.square(np.abs(spectra)) @ mel_filters().T + 1e-8)


def mel_filters(low: float = 60.0, high: float = 7600.0) -> np.ndarray:
    """Triangles of sum 1, evenly spaced in mel = 2595 log₁₀(1 + f / 700): [F, FFT/2 + 1]."""
    ends = 2595 * np.log10(1 + np.array([low, high]) / 700)
    mels = np.linspace(ends[0], ends[1], BANDS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    middle, width = edges[1:-1, None], SAMPLE_RATE / FFT
    # at least as wide as lets every triangle have a frequency of the spectrum in it
    left = np.minimum(edges[:-2, None], middle - width)
    right = np.maximum(edges[2:, None], middle + width)
    rising = (FREQUENCIES - left) / (middle - left)
    falling = (right - FREQUENCIES) / (right - middle)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    return filters / filters.sum(axis=1, keepdims=True)


def _glottis(pitch: np.ndarray) -> np.ndarray:
    """The slope of the air flow, [B, N]: the flow rises and falls smoothly (Rosenberg, 1971)."""
    phase = np.cumsum(pitch / SAMPLE_RATE, axis=1) % 1.0
    opening, closing = 0.4, 0.16  # of a period
    rise = 0.5 * np.pi / opening * np.sin(np.pi * phase / opening)
    angle = 0.5 * np.pi / closing
    fall = -angle * np.sin(angle * (phase - opening))
    slope = np.where(phase < opening, rise, np.where(phase < opening + closing, fall, 0.0))
    return 0.1 * slope


def _spectra(sound: np.ndarray) -> np.ndarray:
    """Hann windows of 2 HOP, one for each step and centred on its start: [B, S, FFT/2 + 1]."""
    padded = np.pad(sound, ((0, 0), (HOP, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * HOP, axis=1)[:, ::HOP]
    hann = 0.5 - 0.5 * np.cos(np.pi * np.arange(2 * HOP) / HOP)
    return np.fft.rfft(windows * hann, FFT)


def _resonance(centre: np.ndarray, band: np.ndarray) -> np.ndarray:
    """The response of two poles, [..., FFT/2 + 1], with gain 1 at the centre."""
    radius = np.exp(-np.pi * band / SAMPLE_RATE)[..., None]
    angle = 2 * np.pi * centre[..., None] / SAMPLE_RATE
    delay = np.exp(-2j * np.pi * FREQUENCIES / SAMPLE_RATE)

    def denominator(z: np.ndarray) -> np.ndarray:
        return 1 - 2 * radius * np.cos(angle) * z + (radius * z) ** 2

    return np.abs(denominator(np.exp(-1j * angle))) / denominator(delay)


def _tract(tracks: Tracks) -> np.ndarray:
    """The response of the vocal tract, [B, S, FFT/2 + 1], gain 1 at frequency 0."""
    # the formants above the fourth lift what is below them
    response = 1 + (FREQUENCIES / 1500.0) ** 2
    for k, band in enumerate(BANDWIDTHS):
        pair = _resonance(tracks.formants[..., k], np.full(tracks.pitch.shape, band))
        response = response * pair / np.abs(pair[..., :1])
    low = 1 / (1 + (FREQUENCIES / 300.0) ** 2)
    nose = low * (1 - 0.8 * np.exp(-(((FREQUENCIES - 900.0) / 250.0) ** 2)))
    nasal, muffle = tracks.nasal[..., None], tracks.muffle[..., None]
    mouth = (1 - nasal) * (1 - muffle)
    # what the nose lets pass keeps a trace of the formants, the closed lips nearly none
    return response * (mouth + nasal * nose) + muffle * low**2
