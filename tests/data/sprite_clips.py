"""Attributes of many clips, and checks of flow and captions independent of the code under test."""

import re

import numpy as np

from flowwarp.data.sprite_world import grounds
from flowwarp.data.sprite_world.cast import draw_actor
from flowwarp.ops.warping import warp

FIELDS = ("video", "flow_12", "flow_21", "valid_12", "valid_21", "visible_12", "visible_21")


def draw_many(layers, count, seed=0):
    """Draw attributes of clips without drawing the clips."""
    random = np.random.default_rng(seed)
    for number in range(count):
        actors = [draw_actor(layers, random).attributes for _ in range(1 + (number % 7 == 0))]
        names = (*grounds.ground_names(), "photo")
        camera = ("still", "follow", "pan left", "zoom in", "pan up", "zoom out")[number % 6]
        yield {"actors": actors, "ground": names[number % len(names)], "camera": camera}


def errors_and_shares(clip, scale=1.0):
    """Yield mean error of warping where it must hold, and the share of such pixels, both ways."""
    frames = clip.video.float() / 255
    for here, there, flow, valid, visible in (
        (frames[:-1], frames[1:], clip.flow_12, clip.valid_12, clip.visible_12),
        (frames[1:], frames[:-1], clip.flow_21, clip.valid_21, clip.visible_21),
    ):
        known = valid & visible
        error = (warp(there, scale * flow) - here).abs().mean(1, keepdim=True)
        yield (error * known).sum().item() / known.sum().item(), known.float().mean().item()


ACTIONS = {
    "walk": "walks walking strides striding strolls strolling",
    "stand": "stands standing waits waiting",
    "slash": "slashes slashing strikes striking swings swinging",
    "spellcast": "casts casting conjures conjuring works working",
    "thrust": "thrusts thrusting stabs stabbing lunges lunging",
    "shoot": "shoots shooting archer",
    "fall": "falls falling collapses collapsing",
}


WALKS = ACTIONS["walk"].split()


WAYS = {
    "left": "left leftwards",
    "right": "right rightwards",
    "up": "up away behind",
    "down": "down towards facing-the-camera us front",
}


GROUNDS = {
    "grass": "grass meadow",
    "sand": "sand sandy",
    "snow": "snow snowy",
    "stone floor": "stone",
    "water": "water",
    "wood planks": "wood wooden",
    "brick wall": "brick",
    "night sky": "night stars",
    "photo": "photo photograph",
}


CAMERAS = {
    "pan left": ("pans left", "moves left"),
    "pan right": ("pans right", "moves right"),
    "pan up": ("pans up", "moves up"),
    "pan down": ("pans down", "moves down"),
    "zoom in": ("zooms in", "comes closer"),
    "zoom out": ("zooms out", "draws back"),
    "follow": ("follows", "goes along"),
    "still": ("stands still",),
}


def parse(caption, layers):
    """Read a caption by tables of its own; return what it says as sets of values."""
    said = {"camera": set(), "things": set()}
    for name, forms in CAMERAS.items():
        if any(f"the camera {form}" in caption for form in forms):
            said["camera"].add(name)
            for form in forms:
                caption = caption.replace(f"the camera {form}", "")
    # What has a meaning of its own elsewhere.
    caption = re.sub(r"on the (left|right) |in front of", "", caption)
    caption = re.sub(r"facing the camera", "facing-the-camera", caption)
    caption = re.sub(r"(from|towards) the camera", r"\1", caption)
    caption = re.sub(r"falls down|falling down", "falls", caption)
    things = sorted(
        {
            text
            for layer in layers.layers
            for key, text in layer.words.items()
            if key in ("with", "in")
        },
        key=len,
        reverse=True,
    )
    for thing in things:
        if re.search(rf"\b{re.escape(thing)}\b", caption):
            said["things"].add(thing)
            caption = caption.replace(thing, "")
    said["hair_color"] = set(re.findall(r"(\S+)-haired", caption))
    words = set(re.findall(r"[\w-]+", caption))
    for key, table in (("action", ACTIONS), ("direction", WAYS), ("ground", GROUNDS)):
        said[key] = {value for value, forms in table.items() if words & set(forms.split())}
    for noun in ("woman", "man", "skeleton", "orc"):
        if noun in words:
            said.setdefault("body", set()).add(noun)
    return said


def check_truth(attributes, caption, layers):
    said = parse(caption, layers)
    actors = attributes["actors"]
    assert said["camera"] <= {attributes["camera"]}
    assert said["ground"] <= {attributes["ground"]}
    for key in ("action", "direction"):
        assert said[key] <= {actor[key] for actor in actors}, key
    worn = {value for actor in actors for value in actor.values()}
    assert said["things"] <= worn
    assert said["hair_color"] <= {actor["hair_color"].replace(" ", "-") for actor in actors}
    for noun in said.get("body", ()):
        assert any(noun in actor["body"].split() for actor in actors)
    return said
