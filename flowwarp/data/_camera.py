"""What a prompt says of the camera, in anyone's words: pans, zooms, and where it follows or rests.

Of cameras people speak in sentences of their own ("while the shot slowly drifts to the left"), and
in words that elsewhere mean something else, such as left. So this is taken out of a prompt before
anything else is read.
"""

from __future__ import annotations

import re

# Who looks at a camera is seen from the front, whatever that one does.
_AT_CAMERA = re.compile(
    r"\b(?:(?:away|backs?|turned) (?:to|from|on)"
    r"|(?P<front>towards?|at|facing|faces?|faced|to|into|nearer|closer to))"
    r" (?:the |our |its )?(?:camera|viewers?|screen|audience|lens|player|spectators?|front)\b"
    r"(?! (?:left|right)\b)"
)
_FILLED = (  # words between those that matter, few of them
    r"(?: (?:a|also|and|begins?|being|bit|camera|direction|does|ever|far|from|gently|gradually|in"
    r"|is|it|just|keeps?|little|more|motion|movement|moving|must|of|off|on|over|position|quickly"
    r"|should|slightly|slow|slowly|smoothly|so|softly|starts?|steadily|the|then|to|towards?"
    r"|very|view|was|way|will|with)){0,6}?"
)
_SUBJECT = "(?:camera|cam|cameraman|steadicam|shot|view|viewpoint|frame|lens|we)"
_LENS = "(?:camera|cam|angle|shot|view|frame|lens)"
_RESTING = (
    "(?:static|fixed|still|stationary|steady|motionless|immobile|locked(?: off| down)?|unmoving"
    "|frozen)"
)
_MOVES = (
    r"(?:pan|tilt|mov|drift|glid|sweep|swept|slid|scroll|track|go|went|shift|swing|travel|ris|cran"
    r"|float|turn|swivel|pull|roll|dolly|dollies|truck|lower|rais|climb|descend|sink|slip|creep"
    r"|crept)\w*"
)
_SIDES = {
    "pan left": "leftwards?|left",
    "pan right": "rightwards?|right",
    "pan up": "upwards?|up",
    "pan down": "downwards?|down",
}
_TO_THE_SIDE = {  # the camera drifts to the left; panning left; a left pan
    move: (
        rf"{_SUBJECT}{_FILLED} {_MOVES}{_FILLED} (?:{side})(?: side)?",
        rf"(?:pan|tilt|cran)\w*{_FILLED} (?:{side})(?: side)?",
        rf"{_MOVES} (?:the |our )?(?:camera|cam){_FILLED} (?:{side})(?: side)?",
        rf"(?:{side}) pan",
    )
    for move, side in _SIDES.items()
}
# In the order they are tried: what rests or zooms may be said to move as well.
_SHOTS = {
    "still": (
        rf"{_RESTING} {_LENS}",
        rf"{_LENS}{_FILLED} (?:(?:dead|perfectly|completely|absolutely|held|holds?|stays?|stands?"
        rf"|kept|remains?) ){{0,2}}{_RESTING}(?: if poss(?:ible)?)?",
        rf"{_LENS}{_FILLED} (?:not|never|no) mov\w+",
        r"(?:camera|cam) (?:stays put|stays where it is|at rest|stays|holds)",
        r"tripod(?: shot)?|no camera (?:movement|motion|moves?)",
        r"(?:not|never) move (?:the )?(?:camera|cam)",
        r"(?:no|without) (?:movement|motion)(?: of(?: the)? camera)?",
        r"no (?:panning|pan|zooming|zoom)",
    ),
    "zoom out": (
        rf"zoom\w*{_FILLED} (?:out|outwards?|back|away|wide)",
        rf"{_SUBJECT}{_FILLED} zoom\w* (?:out|back|wide)",
    ),
    "zoom in": (rf"zoom\w*(?:{_FILLED} (?:into|inwards?|in|on|at))?(?: closer)?",),
    **_TO_THE_SIDE,
    "rise": (rf"{_SUBJECT}{_FILLED} (?:ris|climb|crane|ascend)\w*",),
    "sink": (rf"{_SUBJECT}{_FILLED} (?:lower|descend|sink|drop)\w*",),
    "approach": (
        rf"{_SUBJECT}{_FILLED} (?:push|doll[yi]|com|mov|get|got|go|went|clos|edg|creep|crept|inch"
        rf"|draw|near)\w*{_FILLED} (?:in|closer|nearer|near|close)(?: closer)?",
        r"(?:slow )?(?:push|pushes|pushing|dolly|moving|closing) in(?: closer)?(?: on)?|close ?up",
        rf"{_SUBJECT}{_FILLED} (?:push|clos|near|approach)\w*(?: in)?",
    ),
    "retreat": (
        rf"{_SUBJECT}{_FILLED} (?:pull|draw|drew|back|doll[yi]|mov|go|went|retreat|widen|com)\w*"
        rf"{_FILLED} (?:back|backwards?|out|away|further|farther)",
        r"(?:slow )?(?:pull|pulls|pulled|pulling|dolly) (?:back|out|away)",
        r"(?:camera|cam) (?:retreats?|withdraws?|widens?)",
    ),
    "follow": (
        rf"{_SUBJECT}{_FILLED} (?:(?:follow|track|chas|accompan|trail|shadow)\w*|tags? along"
        r"|(?:goes|go|went|going|moves?|moved|moving|travels?|walks?|stays?|staying|keeps?|keeping)"
        r" (?:along|with|up|pace))(?: (?:along|behind|alongside|with))?",
        rf"{_SUBJECT}{_FILLED} {_MOVES} (?:along|behind)(?: behind)?",
        r"follow\w*(?=(?: \w+){1,8}? with (?:the |your |a )?(?:camera|cam)\b)",
        r"keep\w*(?=(?: \w+){1,4}? in (?:the )?(?:frame|shot|view)\b)|(?:camera|cam) in tow",
        r"(?:tracking|follow|following|trailing) (?:shot|camera|cam|view)",
        r"follow(?:s|ed|ing)?(?: along)? (?:by|with) (?:the |a )?(?:camera|cam)",
        r"(?:camera|cam) on (?:his|her|its) tail",
    ),
}
_SAME = {"rise": "pan up", "sink": "pan down", "approach": "zoom in", "retreat": "zoom out"}
_PATTERNS = {
    move: re.compile(rf"\b(?:{'|'.join(patterns)})\b") for move, patterns in _SHOTS.items()
}


def take_camera(text: str) -> tuple[str, str]:
    """Return a prompt without what it says of the camera, and what that does.

    >>> take_camera("a knight walks while the camera drifts slowly to the left")
    ('a knight walks while the /', 'pan left')

    Args:
        text: in small letters, words with single spaces between.

    Returns:
        The rest, with / where something was, and a move of
        :data:`flowwarp.data.captions.CAMERAS`, ``"still"``, or nothing.
    """
    text = _AT_CAMERA.sub(lambda found: "at us" if found["front"] else "away from us", text)
    taken = ""
    for move, pattern in _PATTERNS.items():
        text, count = pattern.subn("/", text)
        if count and not taken:
            taken = _SAME.get(move, move)
    return re.sub(r"\b(?:camera|cam)\b", "/", text), taken
