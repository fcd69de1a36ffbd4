"""Training and evaluation data: footage, captioned clips, ground truth, tokens.

Imports go down this list, never up:

* ``sources``: captioned clips by name: ``sprites``, ``digits``, a folder or a tar file;
* ``sprite_world``: clips of sprite characters, see there; ``digits``: clips of moving digits;
  ``captioned`` and the modules whose names begin so: users' captioned videos;
* ``recipes``: ground truth of known data sets; ``pairs``: footage as pairs of frames;
  ``synthesis``: pairs with known flow, made of photos; ``augment``: augmentation of pairs;
  ``tokens``: clips and captions as tokens;
* ``stage``: flat pictures that move over a backdrop; ``footage``, ``frame_store``, ``cuts``: files,
  cached frames, and scene cuts;
* ``clip``: the types `Clip` and `Source`; ``media``: names of media; ``choices``: seeded random
  choices; ``resizing``: resizing to uint8; ``sampling``: reading an image at any points.
"""
