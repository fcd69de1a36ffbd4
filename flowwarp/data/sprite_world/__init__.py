"""Captioned clips of sprite characters with exact flow, and the words for what they show.

Other modules of ``data`` use ``source`` alone. Imports go down this list:

* ``source``: opens the world as a source of clips;
* ``world``: composes a clip; ``counterparts``: the same clip with the actor in another outfit;
* ``labels``: attributes as one word each, for the judge; ``prompts``: what a prompt asks for, read
  with ``coloring``, ``phrases`` and ``camera``;
* ``captions``: attributes in English, and back;
* ``cast``: draws actors and their outfits; ``grounds``: draws backgrounds;
* ``layers``: reads the layers of sprites, and paints an outfit.
"""
