"""Training and evaluation data: footage, captioned clips, ground truth, tokens.

Imports go down this list, never up:

* ``captioned_survey``: what a source holds, and which layout its training clips get;
* ``sources``: captioned clips by name: ``sprites``, ``digits``, a folder or a tar file;
* ``sprite_world``: clips of sprite characters, see there; ``digits``: clips of moving digits;
  ``captioned``, ``captioned_files``, ``captioned_duplicates``, ``captioned_table``,
  ``captioned_tar``: users' captioned videos; ``clip_layout``: size, length and rate of clips;
* ``recipes``: ground truth of known data sets; ``pairs``: footage as pairs of frames;
  ``synthesis``: pairs with known flow, made of photos; ``augment``: augmentation of pairs;
  ``tokens``: clips and captions as tokens;
* ``stage``: flat pictures that move over a backdrop; ``footage``, ``frame_store``, ``cuts``: files,
  cached frames, and scene cuts;
* ``clip``: the types `Clip` and `Source`; ``media``: names of media; ``choices``: seeded random
  choices; ``resizing``: resizing to uint8; ``sampling``: reading an image at any points.
"""
