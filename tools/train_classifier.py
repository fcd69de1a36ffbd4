"""Train the network that reads attributes off clips of sprites, which `eval-video` judges with.

    python tools/train_classifier.py --layers FOLDER --run runs/classifier

FOLDER holds the full set of sprite layers. Stop it whenever you like; it goes on where it was. A
pair of frames of each clip teaches fastest; in the end whole clips, as they are judged, teach more:

    python tools/train_classifier.py … --resume changed --steps 9000 --frames 16 --batch-size 16

Then `python tools/ship_weights.py` puts the weights into the package.
"""

from __future__ import annotations

import argparse

import torch

from flowwarp.data.clip import WorldFiles
from flowwarp.data.sources import SPRITES, open_source
from flowwarp.data.sprite_world.labels import label_values, one_actor
from flowwarp.data.sprite_world.layers import load_layers
from flowwarp.legacy.pipelines.evaluate import load_classifier
from flowwarp.models.classifier import ClassifierConfig
from flowwarp.precision import fast_dtype
from flowwarp.train import loop
from flowwarp.train.classifier import ClassifierDataConfig, classifier_task

FRAMES = 16  # of a clip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", required=True, metavar="FOLDER")
    parser.add_argument("--run", default="runs/classifier", metavar="FOLDER")
    parser.add_argument("--start", metavar="WEIGHTS", help="go on from these")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--clips", type=int, default=ClassifierDataConfig.clips)
    parser.add_argument("--frames", type=int, default=ClassifierDataConfig.frames)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3, help="of learning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", choices=("auto", "changed"), default="auto")
    arguments = parser.parse_args()

    values = label_values(load_layers(arguments.layers))
    model = ClassifierConfig(tuple(values.items()))
    half = fast_dtype(torch.device("cpu")) == torch.bfloat16
    training = loop.LoopConfig(
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.rate,
        warmup=50,
        weight_decay=0.02,
        muon=0.35,
        beta2=0.99,
        precision="bf16" if half else "fp32",
        validate_every=400,
        samples_every=0,
        save_seconds=120,
        seed=arguments.seed,
        threads=1,
    )
    source = one_actor(
        open_source(
            SPRITES, model.size, FRAMES, world_files=WorldFiles(arguments.layers), held_out=None
        )
    )
    data = ClassifierDataConfig(clips=arguments.clips, frames=arguments.frames)
    configs = {"loop": training, "model": model, "data": data}
    start = load_classifier(arguments.start) if arguments.start else None
    task = classifier_task(source, FRAMES, configs, start=start)
    result = loop.train(task, training, arguments.run, resume=arguments.resume)
    print(result.weights)


if __name__ == "__main__":
    main()
