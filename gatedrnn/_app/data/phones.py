"""Phones with their formants and noises, and utterances as tracks over time.

A stop is labelled from its closure to the end of its burst. Closures of p, t, k are silent, those
of b, d, g all sound alike, and the murmurs of m and n nearly: which one it is shows in how the
formants of the vowels around it move, and in the burst. The vowels of a long and of a short vocal
tract overlap. So a frame has to be read in its context.

Axes: B utterances, S steps of the tracks, K = 4 formants. Frequencies are in Hz.
"""

from typing import NamedTuple

import numpy as np

RATE = 200  # steps of the tracks per second
VOWELS, NASALS, FRICATIVES = ("a", "e", "i", "o", "u"), ("m", "n"), ("s", "sh")
UNVOICED, VOICED = ("p", "t", "k"), ("b", "d", "g")  # stops
CONSONANTS = (*NASALS, *FRICATIVES, *UNVOICED, *VOICED)
PHONES = ("sil", *VOWELS, *CONSONANTS)  # a label is its place here

FORMANTS: dict[
    str, tuple[float, ...]
] = {  # of a tract of 17.5 cm; of consonants, the locus that the vowels move to and from
    "a": (750, 1250, 2500, 3500),
    "e": (480, 1900, 2550, 3500),
    "i": (290, 2250, 2950, 3600),
    "o": (470, 850, 2500, 3400),
    "u": (310, 750, 2350, 3400),
    "labial": (250, 800, 2200, 3400),
    "alveolar": (250, 1750, 2700, 3500),
    "palatal": (260, 1950, 2550, 3500),
    "velar": (260, 0, 0, 3400),  # second and third meet near where the vowel has its second
}
PLACES = {
    **dict.fromkeys(("m", "p", "b"), "labial"),
    **dict.fromkeys(("n", "s", "t", "d"), "alveolar"),
    **dict.fromkeys(("k", "g"), "velar"),
    "sh": "palatal",
}
NOISES = {  # centre and bandwidth of the noise, its level
    "s": (5600, 1800, 0.35),
    "sh": (2900, 1200, 0.45),
    "p": (900, 2500, 0.25),
    "t": (4300, 2500, 0.5),
    "k": (0, 700, 0.6),  # centred where the formants meet
    "b": (800, 2000, 0.15),
    "d": (3900, 2500, 0.3),
    "g": (0, 700, 0.35),
}


class Tracks(NamedTuple):
    """Controls of the synthesiser over time, for a batch; 0 after the end of an utterance."""

    lengths: np.ndarray  # int32 [B], in steps
    labels: np.ndarray  # int32 [B, S], places in PHONES
    pitch: np.ndarray  # [B, S]
    formants: np.ndarray  # [B, S, K], scaled to the tract of the singer
    voice: np.ndarray  # [B, S], level of the glottal source
    breath: np.ndarray  # [B, S], level of noise that passes through the formants
    noise: np.ndarray  # [B, S, 3], centre, bandwidth and level of noise made in front of them
    nasal: np.ndarray  # [B, S], 0 to 1: the pole and the zero of the nose
    muffle: np.ndarray  # [B, S], 0 to 1: behind closed lips only low frequencies pass


class Segment(NamedTuple):
    """A phone of an utterance."""

    phone: str
    vowel: str  # of its syllable
    steps: int
    note: float  # the pitch that it is sung on


def random_segments(rng: np.random.Generator, syllables: int) -> list[Segment]:
    """Syllables on notes of one key, in silence, with a pause between some of them."""
    base = rng.uniform(110, 260)
    scale = base * 2.0 ** (np.array([0, 2, 4, 5, 7, 9]) / 12)

    def silence() -> Segment:
        return Segment("sil", "a", int(rng.integers(8, 24)), base)

    segments = [silence()]
    for _ in range(syllables):
        vowel, note = str(rng.choice(VOWELS)), float(rng.choice(scale))
        onset = str(rng.choice(CONSONANTS)) if rng.random() < 0.9 else ""
        coda = str(rng.choice((*NASALS, *FRICATIVES))) if rng.random() < 0.25 else ""
        for phone, low, high in ((onset, 12, 24), (vowel, 18, 40), (coda, 12, 22)):
            if phone:
                segments.append(Segment(phone, vowel, int(rng.integers(low, high)), note))
        if rng.random() < 0.15:
            segments.append(silence())
    return [*segments, silence()] if segments[-1].phone != "sil" else segments


def draw(rng: np.random.Generator, utterances: int, syllables: tuple[int, int]) -> Tracks:
    """Random utterances, each of a number of syllables between the two given."""
    songs = [
        random_segments(rng, int(rng.integers(syllables[0], syllables[1] + 1)))
        for _ in range(utterances)
    ]
    lengths = np.array([sum(segment.steps for segment in song) for song in songs], np.int32)
    steps = int(lengths.max())
    columns = np.zeros((utterances, steps, 13))
    for row, song in zip(columns, songs, strict=True):
        written = np.concatenate([_settings(segment) for segment in song])
        row[: len(written)] = written
        frequencies = [1, 2, 3, 4, 5, 8, 9]
        row[len(written) :, frequencies] = written[-1, frequencies]  # stay; the rest is 0

    # the vocal tract moves slowly, levels fast; labels and the edges of bursts are sharp
    tract = _smooth(columns[..., 2:6], 17) * rng.uniform(0.85, 1.25, (utterances, 1, 1))
    time = np.arange(steps) / RATE
    vibrato = rng.uniform(4.5, 6.5, (utterances, 1)), rng.uniform(0.0, 0.025, (utterances, 1))
    phase = rng.uniform(0, 2 * np.pi, (utterances, 1))
    wobble = 1 + vibrato[1] * np.sin(2 * np.pi * vibrato[0] * time + phase)
    return Tracks(
        lengths=lengths,
        labels=columns[..., 0].astype(np.int32),
        pitch=_smooth(columns[..., 1:2], 13)[..., 0] * wobble,
        formants=tract,
        voice=_smooth(columns[..., 6:7], 5)[..., 0],
        breath=_smooth(columns[..., 7:8], 3)[..., 0],
        noise=np.concatenate([columns[..., 8:10], _smooth(columns[..., 10:11], 3)], axis=-1),
        nasal=_smooth(columns[..., 11:12], 5)[..., 0],
        muffle=_smooth(columns[..., 12:13], 3)[..., 0],
    )


def _settings(segment: Segment) -> np.ndarray:
    """The columns of one phone, [steps, 13], in the order in which `draw` reads them."""
    phone, steps = segment.phone, segment.steps
    vowel = FORMANTS[segment.vowel]
    formants = FORMANTS[phone] if phone in VOWELS else vowel
    if phone in PLACES:
        formants = FORMANTS[PLACES[phone]]
        if PLACES[phone] == "velar":
            meet = 0.5 * (vowel[1] + 1700)
            formants = (formants[0], meet, meet + 350, formants[3])
    centre, band, level = NOISES.get(phone, (1000, 1000, 0.0))
    row = np.zeros(13)
    row[0], row[1], row[2:6] = PHONES.index(phone), segment.note, formants
    row[8:10] = centre or formants[1] + 150, band
    written = np.tile(row, (steps, 1))
    if phone in VOWELS:
        written[:, 6], written[:, 7] = 1.0, 0.02
    elif phone in NASALS:
        written[:, 6], written[:, 11] = 0.6, 1.0
    elif phone in FRICATIVES:
        written[:, 10] = level
    elif phone in UNVOICED:  # closure, burst, breath
        written[-6:-4, 10], written[-4:, 7] = level, 0.25
    elif phone in VOICED:
        written[:-2, 6], written[:-2, 12] = 0.3, 1.0
        written[-3:-1, 10], written[-2:, 6] = level, 0.6
    return written


def _smooth(x: np.ndarray, width: int) -> np.ndarray:
    """Average [B, S, K] over time with a Hann window of `width` steps, an odd number."""
    window = np.hanning(width + 2)[1:-1]
    half = width // 2
    padded = np.pad(x, ((0, 0), (half, half), (0, 0)), mode="edge")
    views = np.lib.stride_tricks.sliding_window_view(padded, width, axis=1)
    return views @ (window / window.sum())
