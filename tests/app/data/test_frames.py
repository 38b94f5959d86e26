import numpy as np
import pytest

from gatedrnn._app.data import frames, phones

RATE = frames.SAMPLE_RATE


@pytest.fixture(scope="module")
def sung():
    return frames.make(seed=0, train=30, held_out=6)


def tracks(steps, **settings):
    """One held vowel a at 200 Hz, or whatever the settings say."""
    full = np.ones((1, steps))
    defaults = {
        "lengths": np.array([steps], np.int32),
        "labels": np.zeros((1, steps), np.int32),
        "pitch": 200.0 * full,
        "formants": np.tile(np.array(phones.FORMANTS["a"], float), (1, steps, 1)),
        "voice": full,
        "breath": 0 * full,
        "noise": np.tile([1000.0, 500.0, 0.0], (1, steps, 1)),
        "nasal": 0 * full,
        "muffle": 0 * full,
    }
    return phones.Tracks(**(defaults | settings))


def spectrum(sound):
    middle = sound[0, 1600:-1600]
    power = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))) ** 2
    return np.arange(len(power)) * RATE / len(middle), power


def peak(sound, low, high):
    """The frequency with the most power between two."""
    frequency, power = spectrum(sound)
    inside = (frequency > low) & (frequency < high)
    return frequency[inside][power[inside].argmax()]


def test_the_voice_has_its_pitch_and_overtones():
    frequency, power = spectrum(frames.synthesise(np.random.default_rng(0), tracks(120)))
    close = np.abs((frequency + 100) % 200 - 100) < 10
    assert power[close].sum() > 0.99 * power.sum()
    assert abs(peak(frames.synthesise(np.random.default_rng(0), tracks(120)), 150, 250) - 200) < 3


@pytest.mark.parametrize("vowel", phones.VOWELS)
def test_breath_through_the_tract_shows_the_formants(vowel):
    """The response to noise has its greatest power below 1 kHz at the first formant."""
    steps = 2000
    formants = np.tile(np.array(phones.FORMANTS[vowel], float), (1, steps, 1))
    sound = frames.synthesise(
        np.random.default_rng(0),
        tracks(steps, voice=np.zeros((1, steps)), breath=np.ones((1, steps)), formants=formants),
    )
    power = np.square(np.abs(np.fft.rfft(sound.reshape(-1, 1600) * np.hanning(1600)))).mean(axis=0)
    frequency = np.arange(len(power)) * 10.0
    low, high = phones.FORMANTS[vowel][0] * np.array([0.7, 1.35])
    assert low < frequency[100 // 10 + power[100 // 10 : 1000 // 10].argmax()] < high


def test_filtering_by_nothing_gives_the_source_back():
    """The pieces add up to the sound that was cut, each at its place."""
    sound = np.random.default_rng(0).standard_normal((2, 10 * frames.HOP))
    pieces = np.fft.irfft(frames._spectra(sound), frames.FFT)
    total = np.zeros((2, 16 * frames.HOP))
    for step in range(10):
        total[:, step * frames.HOP :][:, : frames.FFT][:, : pieces.shape[-1]] += pieces[:, step][
            :, : total.shape[1] - step * frames.HOP
        ]
    kept = slice(frames.HOP, 10 * frames.HOP)  # the last step is half of a window
    np.testing.assert_allclose(total[:, kept], sound[:, : 9 * frames.HOP], atol=1e-12)


def test_a_click_is_in_the_frame_where_it_is():
    sound = np.zeros((1, 20 * frames.FRAME))
    sound[0, 7 * frames.FRAME + frames.FRAME // 2] = 1.0  # the middle of frame 7
    energy = frames.log_mel(sound)[0].sum(axis=1)
    assert energy.argmax() == 7
    assert energy[6] == pytest.approx(energy[8], rel=0.03)


def test_sound_is_where_its_label_is():
    """Silence before, a vowel from step 100 on: it is heard within one step of that."""
    voice = (np.arange(200) >= 100).astype(float)[None]
    sound = frames.synthesise(np.random.default_rng(0), tracks(200, voice=voice))
    first = np.flatnonzero(np.abs(sound[0]) > 0.05 * np.abs(sound).max())[0]
    assert abs(first - 100 * frames.HOP) <= 2 * frames.HOP


def test_mel_filters_find_a_tone():
    filters = frames.mel_filters()
    assert filters.shape == (frames.BANDS, frames.FFT // 2 + 1)
    np.testing.assert_allclose(filters.sum(axis=1), 1.0)
    time = np.arange(RATE) / RATE
    loudest = [
        frames.log_mel(np.sin(2 * np.pi * f * time)[None])[0].mean(axis=0).argmax()
        for f in (100, 400, 1000, 2000, 4000, 7000)
    ]
    centres = np.array([(frames.FREQUENCIES * row).sum() for row in filters])
    assert np.all(np.diff(centres) > 0)
    np.testing.assert_allclose(centres[loudest], [100, 400, 1000, 2000, 4000, 7000], atol=150)


def test_shapes(sung):
    for part, count in zip(sung, (30, 6, 6), strict=True):
        assert len(part) == count
        for utterance in part:
            assert utterance.bands.shape == (len(utterance.labels), frames.BANDS)
            assert utterance.bands.dtype == np.float32
            assert utterance.labels.dtype == np.int32
            assert np.isfinite(utterance.bands).all()
    lengths = [len(utterance.labels) for utterance in sung.train]
    assert 85 < np.mean(lengths) < 135
    assert len(set(lengths)) > 10


def test_every_phone_is_sung_and_silence_is_quiet(sung):
    labels = np.concatenate([utterance.labels for utterance in sung.train])
    assert set(labels) == set(range(len(phones.PHONES)))
    for utterance in sung.train:
        assert utterance.labels[0] == utterance.labels[-1] == 0
        level = utterance.bands.mean(axis=1)
        vowel = (utterance.labels > 0) & (utterance.labels <= len(phones.VOWELS))
        assert np.median(level[vowel]) > np.median(level[utterance.labels == 0]) + 1


def test_closures_are_alike_in_a_frame():
    """Of stops with the same voicing the closures differ in nothing but what lies around them."""
    for stops in (phones.UNVOICED, phones.VOICED):
        settings = [phones._settings(phones.Segment(stop, "a", 20, 150.0)) for stop in stops]
        for other in settings[1:]:
            levels = [6, 7, 10, 11, 12]
            np.testing.assert_array_equal(settings[0][:12, levels], other[:12, levels])


def test_standardisation(sung):
    mean, deviation = frames.standardisation(sung.train)
    scaled = np.concatenate([(u.bands - mean) / deviation for u in sung.train])
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-4)


def test_the_seed_decides():
    once, again, other = (frames.make(seed=seed, train=1, held_out=1) for seed in (0, 0, 1))
    np.testing.assert_array_equal(once.test[0].bands, again.test[0].bands)
    assert not np.array_equal(once.train[0].labels, other.train[0].labels)
    assert not np.array_equal(once.train[0].labels, once.test[0].labels)
