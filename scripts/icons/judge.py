"""The scene judge of the package: trained on drawings that no generator has seen, tested on those of the generator.

python scripts/icons/judge.py --downloads DOWNLOADS --out src/bitvar/pretrained/scene_judge

DOWNLOADS keeps the packages of drawings; npm fetches those that are missing. Costs about fifteen
minutes of one processor core and 2 GB of memory; with `--work FOLDER`, a run that is cut goes on after its last
whole step. The same arguments give the same judge up to rounding.

1. Detector and heads learn from free scenes of the judge's artists; styles alone from the generator's, half of
   the concepts for judging the other half.
2. Thresholds are chosen with heads that were trained without one of the judge's artists, on scenes of that artist.
3. Errors are measured on scenes of the generator's artists, drawn as the set's, and kept in figures.json: for each
   kind of claim the share of true and of false ones judged rightly, also of blurred images and of noise.
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

from bitvar.files import atomic_path
from bitvar.icons.benchmark.classifier import Reader
from bitvar.icons.benchmark.detections import Sight, Thresholds
from bitvar.icons.benchmark.detector import SIDE, Detector
from bitvar.icons.benchmark.judge import WEIGHTS, JudgeConfig, SceneJudge
from bitvar.icons.benchmark.judge_calibration import Claim, draw_claims, look_at_claims, measure_claims
from bitvar.icons.benchmark.judge_training import Lessons, gather_lessons, train_detector, train_reader
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
    parser.add_argument("--work", type=Path, help="folder for the objects learnt from and the detector")
    parser.add_argument("--scenes", type=int, default=3000, help="free scenes to learn from")
    parser.add_argument("--style-scenes", type=int, default=900, help="free scenes of the generator's artists")
    parser.add_argument("--steps", type=int, default=1500, help="of the detector")
    parser.add_argument("--epochs", type=int, default=15, help="of the heads")
    parser.add_argument("--claims", type=int, default=60, help="images of each kind to measure errors with")
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
    lessons = work.lessons("lessons", lambda: gather_lessons(scenes, judge.network, rng=streams[1]))
    say(f"{len(lessons.artists)} objects to learn from")
    style_scenes = _free_scenes(others, others_drawable, options.style_scenes, streams[2])
    styles = work.lessons("styles", lambda: gather_lessons(style_scenes, judge.network, rng=streams[3]))
    judge.detector = work.detector(
        lambda: train_detector(scenes, num_steps=options.steps, generator=generator, progress=say)
    )

    known = lessons.select(lambda artist: artist != VALIDATION_ARTIST)
    judge.reader = train_reader(known, styles, num_epochs=options.epochs, generator=generator)
    drawable = {VALIDATION_ARTIST: own_drawable[VALIDATION_ARTIST]}
    claims = list(draw_claims(own, drawable, num_each=options.claims, size=SIDE, rng=streams[4]))
    config, validation = choose(judge, claims)
    say(f"{config.thresholds} and {config.detection} for detection; there: {summary(validation)}")

    judge.reader = train_reader(lessons, styles, num_epochs=options.epochs, generator=generator)
    judge = _as_stored(config, judge.detector, judge.reader)
    keys = tuple(artist.key for artist in ARTISTS)
    tests = list(draw_claims(others, others_drawable, num_each=options.claims, size=SIDE, rng=streams[5], styles=keys))
    figures = {"validation": {"artists": [VALIDATION_ARTIST], "claims": validation}, **measure(judge, tests)}
    with atomic_folder(options.out) as folder:
        save_file(judge.tensors(), folder / WEIGHTS)
        (folder / "config.json").write_text(config.dump(), encoding="utf-8")
        (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(CARD, folder / "README.md")
    for name in ("claims", "blurred", "noise"):
        say(f"{name}: {summary(figures[name])}")


class Work:
    """Steps of a run in a folder, or made anew each time where there is none."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self.folder = folder
        self.name = name
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def lessons(self, what: str, make: Callable[[], Lessons]) -> Lessons:
        """Those of an earlier run, or made and kept."""
        path = self._path(what)
        if path is not None and path.exists():
            tensors = load_file(path)
            names = [artist.key for artist in (*JUDGE_ARTISTS, *ARTISTS)]
            artists = tuple(names[index] for index in tensors.pop("artists").tolist())
            return Lessons(**tensors, artists=artists)
        made = make()
        if path is not None:
            names = [artist.key for artist in (*JUDGE_ARTISTS, *ARTISTS)]
            artists = torch.tensor([names.index(artist) for artist in made.artists])
            parts = {"features": made.features, "paints": made.paints, "textures": made.textures}
            labels = {"concepts": made.concepts.contiguous(), "colours": made.colours.contiguous()}
            with atomic_path(path) as temporary:
                save_file({**parts, **labels, "artists": artists}, temporary)
        return made

    def detector(self, make: Callable[[], Detector]) -> Detector:
        """That of an earlier run, or trained and kept."""
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


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)  # noqa: T201


def summary(claims: Mapping[str, Mapping[str, float]]) -> str:
    """One line of percentages: true claims and false claims judged rightly, by kind."""
    return ", ".join(
        f"{kind} {100 * found['true_claims']:.1f}/{100 * found['false_claims']:.1f}" for kind, found in claims.items()
    )


def _drawings(artists: Sequence[Artist], downloads: Path, *, side: int) -> tuple[SpriteAtlas, Drawable]:
    sprites: Sprites = {}
    for artist in artists:
        tarball = fetch_package(artist, downloads, progress=say)
        render = render_sprites if artist in ARTISTS else render_known_sprites
        sprites[artist.key] = render(artist, tarball, CONCEPTS, side=side)
    drawable = {key: [concept for concept in CONCEPTS if concept.name in known] for key, known in sprites.items()}
    return SpriteAtlas(sprites), drawable


def _free_scenes(atlas: SpriteAtlas, drawable: Drawable, number: int, rng: np.random.Generator) -> list[FreeScene]:
    scenes = [draw_free_scene(atlas, drawable, size=SIDE, rng=rng) for _ in range(number)]
    say(f"drew {number} free scenes of {', '.join(drawable)}")
    return scenes


def choose(judge: SceneJudge, claims: Sequence[Claim]) -> tuple[JudgeConfig, dict[str, dict[str, float]]]:
    """The confidence of detection and the threshold of concepts that are judged best, and what they reach.

    Best is the highest mean of the kinds' balanced accuracies; of equals, the least strict.
    """
    best: tuple[float, JudgeConfig, dict[str, dict[str, float]]] | None = None
    for detection in (0.25, 0.35, 0.45):
        judge.config = JudgeConfig(detection=detection)
        sights = look_at_claims(claims, judge.look)
        for concept in (0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3):
            thresholds = Thresholds(concept=concept)
            found = measure_claims(claims, sights, thresholds)
            score = float(np.mean([kind["balanced"] for kind in found.values()]))
            if best is None or score > best[0] + 1e-9:
                best = score, JudgeConfig(detection=detection, thresholds=thresholds), found
    assert best is not None, "there are settings to try"
    return best[1:]


def _as_stored(config: JudgeConfig, detector: Detector, reader: Reader) -> SceneJudge:
    """The judge with its weights rounded to half precision, as a folder gives it."""
    judge = SceneJudge(config)
    judge.detector.load_state_dict({name: value.half().float() for name, value in detector.state_dict().items()})
    judge.reader.load_state_dict({name: value.half().float() for name, value in reader.state_dict().items()})
    return judge


def measure(judge: SceneJudge, claims: Sequence[Claim]) -> dict[str, dict]:
    """Errors on real scenes, in all and by artist, on the same blurred, and how much is seen right on noise."""
    rng = np.random.default_rng(0)
    sights = look_at_claims(claims, judge.look)
    noise = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    return {
        "claims": measure_claims(claims, sights),
        "by_artist": {artist.key: _of_artist(artist.key, claims, sights) for artist in ARTISTS},
        "concepts": concept_accuracy(claims, sights),
        "blurred": measure_claims(
            claims,
            look_at_claims(claims, judge.look, change=lambda image: image.filter(ImageFilter.GaussianBlur(2.0))),
        ),
        "noise": measure_claims(claims, look_at_claims(claims, judge.look, change=lambda _: noise)),
    }


def _of_artist(artist: str, claims: Sequence[Claim], sights: Sequence[Sight]) -> dict[str, dict[str, float]]:
    rows = [(claim, sight) for claim, sight in zip(claims, sights, strict=True) if claim.true.artist == artist]
    return measure_claims([claim for claim, _ in rows], [sight for _, sight in rows])


def concept_accuracy(claims: Sequence[Claim], sights: Sequence[Sight]) -> dict[str, float]:
    """By artist: how often the likeliest concept is right, where one object is drawn and one is seen."""
    right: dict[str, list[bool]] = {}
    for claim, sight in zip(claims, sights, strict=True):
        if len(claim.true.things) == claim.true.count == len(sight.objects) == 1:
            right.setdefault(claim.true.artist, []).append(sight.objects[0].concept == claim.true.things[0].concept)
    return {artist: float(np.mean(values)) for artist, values in right.items()}


if __name__ == "__main__":
    main()
