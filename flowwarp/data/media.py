"""Names of the media that a transformer reads and writes, and of notes in the cards of weights."""

TEXT, VIDEO, PICTURE = "text", "video", "picture"
FRAME, MOTION, SKETCH = "frame", "motion", "sketch"

# Keys of `Card.notes`: the vocabulary as JSON, the words of the training captions, and the
# fingerprint of the discrete VAE whose codes the network has learned.
VOCABULARY, WORDS, CODES = "vocabulary", "words", "codes"
