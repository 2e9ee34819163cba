"""Train the scene judge of the package on drawings that no generator has seen; test it on the generator's.

python scripts/icons/judge.py --downloads DOWNLOADS --out src/bitvar/pretrained/scene_judge

DOWNLOADS keeps the packages of drawings; npm fetches those that are missing. It takes about fifteen minutes on one CPU
core and 2 GB of memory; with `--work FOLDER`, an interrupted run resumes after its last complete step. The same
arguments give the same judge up to rounding.

1. Detector and classifier are trained on free scenes of the judge's artists; only styles are trained on the
   generator's, half of the concepts for judging the other half.
2. Thresholds are chosen on scenes of one of the judge's artists, with a classifier trained without that artist.
3. Error rates are measured on scenes of the generator's artists, drawn as the icon set is, and kept in metrics.json:
   true positive and true negative rates by kind of scene, also on blurred images and on noise.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file

from bitvar.cli.echo import say
from bitvar.files import atomic_path
from bitvar.icons.benchmark.classifier import ObjectClassifier
from bitvar.icons.benchmark.detections import Detections, Thresholds
from bitvar.icons.benchmark.detector import SIDE, Detector
from bitvar.icons.benchmark.judge import WEIGHTS, JudgeConfig, SceneJudge
from bitvar.icons.benchmark.judge_calibration import (
    CalibrationPair,
    detect_in_pairs,
    draw_calibration_pairs,
    measure_accuracy,
)
from bitvar.icons.benchmark.judge_training import (
    JudgeTrainingSet,
    gather_training_set,
    train_classifier,
    train_detector,
)
from bitvar.icons.dataset.concepts import CONCEPTS, Concept
from bitvar.icons.dataset.free_scenes import FreeScene, draw_free_scene
from bitvar.icons.dataset.judge_artists import JUDGE_ARTISTS, render_known_sprites
from bitvar.icons.dataset.render import SpriteAtlas
from bitvar.icons.dataset.sources import ARTISTS, Artist, fetch_package, render_sprites
from bitvar.weights.digests import atomic_folder

CARD = Path(__file__).with_name("judge.md")
VALIDATION_ARTIST = "emojione"
SPRITE_SIDE = 192
Sprites = dict[str, dict[str, Image.Image]]
Drawable = Mapping[str, Sequence[Concept]]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Train and measure the scene judge.")
    parser.add_argument("--downloads", type=Path, required=True, help="folder of npm tarballs, filled as needed")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="folder for the training sets and the detector")
    parser.add_argument("--scenes", type=int, default=3000, help="number of free scenes to train on")
    parser.add_argument(
        "--style-scenes", type=int, default=900, help="number of free scenes of the generator's artists"
    )
    parser.add_argument("--steps", type=int, default=1500, help="training steps of the detector")
    parser.add_argument("--epochs", type=int, default=15, help="training epochs of the classifier")
    parser.add_argument("--pairs", type=int, default=60, help="calibration pairs of each kind to measure errors with")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    options.downloads.mkdir(parents=True, exist_ok=True)
    own, own_drawable = _drawings(JUDGE_ARTISTS, options.downloads, side=SPRITE_SIDE)
    others, others_drawable = _drawings(ARTISTS, options.downloads, side=4 * SIDE)
    streams = [np.random.default_rng([options.seed, stream]) for stream in range(6)]
    generator = torch.Generator().manual_seed(options.seed)

    judge = SceneJudge()
    work = Work(options.work, f"{options.seed}-{options.scenes}-{options.style_scenes}-{options.steps}")
    scenes = _free_scenes(own, own_drawable, options.scenes, streams[0])
    training_set = work.training_set("objects", lambda: gather_training_set(scenes, judge.network, rng=streams[1]))
    say(f"{len(training_set.artists)} objects to train on")
    style_scenes = _free_scenes(others, others_drawable, options.style_scenes, streams[2])
    styles = work.training_set("styles", lambda: gather_training_set(style_scenes, judge.network, rng=streams[3]))
    judge.detector = work.detector(
        lambda: train_detector(scenes, num_steps=options.steps, generator=generator, log=say)
    )

    known = training_set.select(lambda artist: artist != VALIDATION_ARTIST)
    judge.classifier = train_classifier(known, styles, num_epochs=options.epochs, generator=generator)
    drawable = {VALIDATION_ARTIST: own_drawable[VALIDATION_ARTIST]}
    pairs = list(draw_calibration_pairs(own, drawable, num_each=options.pairs, size=SIDE, rng=streams[4]))
    config, validation = choose(judge, pairs)
    say(f"{config.thresholds} and {config.detection} for detection; there: {summary(validation)}")

    judge.classifier = train_classifier(training_set, styles, num_epochs=options.epochs, generator=generator)
    judge = _as_stored(config, judge.detector, judge.classifier)
    keys = tuple(artist.key for artist in ARTISTS)
    tests = list(
        draw_calibration_pairs(others, others_drawable, num_each=options.pairs, size=SIDE, rng=streams[5], styles=keys)
    )
    metrics = {"validation": {"artists": [VALIDATION_ARTIST], "by_kind": validation}, **measure(judge, tests)}
    with atomic_folder(options.out) as folder:
        save_file(judge.tensors(), folder / WEIGHTS)
        (folder / "config.json").write_text(config.dump(), encoding="utf-8")
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(CARD, folder / "README.md")
    for name in ("by_kind", "blurred", "noise"):
        say(f"{name}: {summary(metrics[name])}")


class Work:
    """Steps of a run, kept in a folder if there is one."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self.folder = folder
        self.name = name
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def training_set(self, what: str, make: Callable[[], JudgeTrainingSet]) -> JudgeTrainingSet:
        """Load the training set of an earlier run, or make it and keep it."""
        path = self._path(what)
        if path is not None and path.exists():
            tensors = load_file(path)
            names = [artist.key for artist in (*JUDGE_ARTISTS, *ARTISTS)]
            artists = tuple(names[index] for index in tensors.pop("artists").tolist())
            return JudgeTrainingSet(**tensors, artists=artists)
        made = make()
        if path is not None:
            names = [artist.key for artist in (*JUDGE_ARTISTS, *ARTISTS)]
            artists = torch.tensor([names.index(artist) for artist in made.artists])
            features = {"features": made.features, "paints": made.paints, "textures": made.textures}
            labels = {"concepts": made.concepts.contiguous(), "colours": made.colours.contiguous()}
            with atomic_path(path) as temporary:
                save_file({**features, **labels, "artists": artists}, temporary)
        return made

    def detector(self, make: Callable[[], Detector]) -> Detector:
        """Load the detector of an earlier run, or train it and keep it."""
        path = self._path("detector")
        if path is not None and path.exists():
            kept = Detector().eval()
            kept.load_state_dict(load_file(path))
            return kept
        made = make()
        if path is not None:
            with atomic_path(path) as temporary:
                save_file(made.state_dict(), temporary)
        return made

    def _path(self, what: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{what}-{self.name}.safetensors"


def summary(accuracy: Mapping[str, Mapping[str, float]]) -> str:
    """Write one line of percentages: true positive and true negative rates by kind."""
    rates = ("true_positive_rate", "true_negative_rate")
    return ", ".join(f"{kind} {'/'.join(f'{100 * own[rate]:.1f}' for rate in rates)}" for kind, own in accuracy.items())


def _drawings(artists: Sequence[Artist], downloads: Path, *, side: int) -> tuple[SpriteAtlas, Drawable]:
    sprites: Sprites = {}
    for artist in artists:
        tarball = fetch_package(artist, downloads, log=say)
        render = render_sprites if artist in ARTISTS else render_known_sprites
        sprites[artist.key] = render(artist, tarball, CONCEPTS, side=side)
    drawable = {key: [concept for concept in CONCEPTS if concept.name in known] for key, known in sprites.items()}
    return SpriteAtlas(sprites), drawable


def _free_scenes(atlas: SpriteAtlas, drawable: Drawable, number: int, rng: np.random.Generator) -> list[FreeScene]:
    scenes = [draw_free_scene(atlas, drawable, size=SIDE, rng=rng) for _ in range(number)]
    say(f"drew {number} free scenes of {', '.join(drawable)}")
    return scenes


def choose(judge: SceneJudge, pairs: Sequence[CalibrationPair]) -> tuple[JudgeConfig, dict[str, dict[str, float]]]:
    """Choose the confidence of detection and the threshold of concepts; return them with the accuracy they reach.

    The highest mean of the kinds' balanced accuracies wins; among equals, the least strict.
    """
    best: tuple[float, JudgeConfig, dict[str, dict[str, float]]] | None = None
    for detection in (0.25, 0.35, 0.45):
        judge.config = JudgeConfig(detection=detection)
        all_detections = detect_in_pairs(pairs, judge.detect)
        for concept in (0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3):
            thresholds = Thresholds(concept=concept)
            found = measure_accuracy(pairs, all_detections, thresholds)
            score = float(np.mean([kind["balanced_accuracy"] for kind in found.values()]))
            if best is None or score > best[0] + 1e-9:
                best = score, JudgeConfig(detection=detection, thresholds=thresholds), found
    assert best is not None, "there are settings to try"
    return best[1:]


def _as_stored(config: JudgeConfig, detector: Detector, classifier: ObjectClassifier) -> SceneJudge:
    """Build the judge with its weights rounded to half precision, as loading a folder gives it."""
    judge = SceneJudge(config)
    judge.detector.load_state_dict({name: value.half().float() for name, value in detector.state_dict().items()})
    judge.classifier.load_state_dict({name: value.half().float() for name, value in classifier.state_dict().items()})
    return judge


def measure(judge: SceneJudge, pairs: Sequence[CalibrationPair]) -> dict[str, dict]:
    """Measure accuracy on real scenes, overall and by artist, on the same scenes blurred, and on noise."""
    rng = np.random.default_rng(0)
    all_detections = detect_in_pairs(pairs, judge.detect)
    noise = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    return {
        "by_kind": measure_accuracy(pairs, all_detections),
        "by_artist": {artist.key: _of_artist(artist.key, pairs, all_detections) for artist in ARTISTS},
        "concepts": concept_accuracy(pairs, all_detections),
        "blurred": measure_accuracy(
            pairs,
            detect_in_pairs(pairs, judge.detect, change=lambda image: image.filter(ImageFilter.GaussianBlur(2.0))),
        ),
        "noise": measure_accuracy(pairs, detect_in_pairs(pairs, judge.detect, change=lambda _: noise)),
    }


def _of_artist(
    artist: str, pairs: Sequence[CalibrationPair], all_detections: Sequence[Detections]
) -> dict[str, dict[str, float]]:
    rows = [
        (pair, detections) for pair, detections in zip(pairs, all_detections, strict=True) if pair.true.artist == artist
    ]
    return measure_accuracy([pair for pair, _ in rows], [detections for _, detections in rows])


def concept_accuracy(pairs: Sequence[CalibrationPair], all_detections: Sequence[Detections]) -> dict[str, float]:
    """Measure, by artist, how often the most probable concept is right if one object is drawn and one detected."""
    right: dict[str, list[bool]] = {}
    for pair, detections in zip(pairs, all_detections, strict=True):
        if len(pair.true.objects) == pair.true.count == len(detections.objects) == 1:
            right.setdefault(pair.true.artist, []).append(detections.objects[0].concept == pair.true.objects[0].concept)
    return {artist: float(np.mean(values)) for artist, values in right.items()}


if __name__ == "__main__":
    main()
