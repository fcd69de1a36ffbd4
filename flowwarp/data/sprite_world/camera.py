"""Reads camera motion from a prompt: pans, zooms, a camera that follows or stands still.

Prompts describe the camera in clauses of its own ("while the shot slowly drifts to the left"), with
words that have other meanings elsewhere, such as left. Such clauses are therefore cut out of a
prompt before anything else is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator


def forms(phrase: str) -> Iterator[str]:
    """Yield a phrase that begins with a verb in all regular forms of the verb.

    >>> sorted(forms("stab with"))
    ['stab with', 'stabbed with', 'stabbing with', 'stabs with']
    """
    verb, *rest = phrase.split()
    stem = verb
    if re.search(r"[^eoy]e$", verb):
        stem = verb[:-1]
    elif re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", verb):
        stem = verb + verb[-1]
    third = f"{verb}es" if re.search(r"(?:s|x|sh|ch|o)$", verb) else f"{verb}s"
    past = f"{stem}d" if stem.endswith("e") else f"{stem}ed"
    if re.search(r"[^aeiou]y$", verb):
        third, past = f"{verb[:-1]}ies", f"{verb[:-1]}ied"
    continuous = "dying" if verb == "die" else f"{stem}ing"
    for form in dict.fromkeys((verb, third, past, continuous)):
        yield " ".join((form, *rest))


def _any(verbs: str, *others: str) -> str:
    """Return a pattern of verbs in all forms, and of other words."""
    return "|".join([*(form for verb in verbs.split() for form in forms(verb)), *others])


# Patterns are compiled when a prompt is read: at import, compiling would take longest of all.
# An actor that looks at the camera is seen from the front; this is no camera motion.
_AT_CAMERA = (
    r"\b(?:(?:away|backs?|turned) (?:from|on)|away to"
    r"|backs?(?: is| was)?(?: turned| facing)?(?: to| on| towards?)?"
    rf"|(?P<front>(?:{_any('turn')}) to"
    r"|towards?|at|facing|faces?|faced|to|into|nearer|closer to))"
    r" (?:the |our |its )?(?:camera|viewers?|screen|audience|lens|player|spectators?|front)\b"
    r"(?! (?:left|right)\b)"
)
_FILLED = (  # up to six words without meaning between those that matter
    r"(?: (?:also|and|being|bit|camera|direction|does|ever|far|gently|gradually|in|is|it"
    r"|just|little|more|motion|movement|moving|must|off|on|position|quickly|should"
    r"|slightly|slow|slowly|smoothly|so|softly|steadily|the|then|to|towards?|very"
    r"|view|was|way|will|with"
    rf"|{_any('begin keep start')})){{0,6}}?"
)
_SHOT = "".join(f"(?<!{word} )" for word in ("take a", "takes a", "fires a", "s", "his", "her"))
_SUBJECT = f"(?:camera|cam|cameraman|steadicam|{_SHOT}shot|view|viewpoint|frame|lens|we)"
_LENS = "(?:camera|cam|angle|shot|view|frame|lens)"
_RESTING = (
    "(?:static|fixed|still|stationary|steady|motionless|immobile|locked(?: off| down)?|unmoving"
    "|frozen)"
)
_PANS = f"(?:{_any('pan')}|tilt|crane)"
_MOVES = (
    "(?:"
    + _any(
        "pan tilt move drift glide sweep slide scroll track go shift swing travel float turn swivel"
        " pull roll dolly truck lower raise climb descend sink slip creep crane rise",
        *("swept", "slid", "went", "swung", "sank", "crept", "rose"),
    )
    + ")"
)
_FROM_SIDE = {  # the side where a pan begins
    "left": "(?: from (?:the )?right)?",
    "right": "(?: from (?:the )?left)?",
    "up": "",
    "down": "",
}
_TO_THE_SIDE = {  # the camera drifts to the left; panning left; a left pan
    f"pan {way}": (
        rf"{_SUBJECT}{_FILLED} {_MOVES}{_FILLED}{start}{_FILLED} {way}(?:wards?)?(?: side)?",
        rf"{_PANS}{_FILLED}{start}{_FILLED} {way}(?:wards?)?(?: side)?",
        rf"{_MOVES} (?:the |our )?(?:camera|cam){_FILLED} {way}(?:wards?)?(?: side)?",
        rf"{way}(?:wards?)? pan",
    )
    for way, start in _FROM_SIDE.items()
}
# In the order in which they are tried: a still or zooming camera may be clause to move as well.
_SHOTS = {
    "still": (
        rf"{_RESTING} {_LENS}",
        rf"{_LENS}{_FILLED} (?:(?:dead|perfectly|completely|absolutely|held|holds?|stays?|stands?"
        rf"|kept|remains?) ){{0,2}}{_RESTING}(?: if poss(?:ible)?)?",
        rf"{_LENS}{_FILLED} (?:not|never|no) (?:{_any('move zoom pan')})",
        r"(?:not|never) move (?:the )?(?:camera|cam)",
        r"(?:camera|cam) (?:stays put|stays where it is|at rest|stays|holds)",
        r"tripod(?: shot)?|(?:no|without)(?: any)? camera (?:movement|motion|moves?)",
        r"(?:no|without)(?: any)? (?:movement|motion)(?: of(?: the)? camera)?",
        r"(?:no|not|never|without) (?:panning|pan|zooming|zoom)",
    ),
    "zoom out": (
        rf"(?:{_any('zoom')}){_FILLED} (?:out|outwards?|back|away|wide)",
        rf"{_SUBJECT}{_FILLED} (?:{_any('zoom')}) (?:out|back|wide)",
    ),
    "zoom in": (rf"(?:{_any('zoom')})(?:{_FILLED} (?:into|inwards?|in|on|at))?(?: closer)?",),
    **_TO_THE_SIDE,
    "rise": (rf"{_SUBJECT}{_FILLED} (?:{_any('rise climb crane ascend', 'rose')})",),
    "sink": (rf"{_SUBJECT}{_FILLED} (?:{_any('lower descend sink drop', 'sank')})",),
    "approach": (
        rf"{_SUBJECT}{_FILLED} (?:{_any('push dolly come move get go close edge creep inch draw')}"
        rf"|near|got|went|crept){_FILLED} (?:in|closer|nearer|near|close)(?: closer)?"
        r"(?! (?:a )?circles?)",
        r"(?:slow )?(?:push|pushes|pushing|dolly|moving|closing) in(?: closer)?(?: on)?|close ?up",
        rf"{_SUBJECT}{_FILLED} (?:{_any('push close approach')})(?: in)?",
    ),
    "retreat": (
        rf"{_SUBJECT}{_FILLED} (?:{_any('pull draw back dolly move go retreat widen come')}|drew"
        rf"|went){_FILLED} (?:back|backwards?|out|away|further|farther)",
        r"(?:slow )?(?:pull|pulls|pulled|pulling|dolly) (?:back|out|away)",
        rf"(?:camera|cam) (?:{_any('retreat withdraw widen')})",
    ),
    "follow": (
        rf"{_SUBJECT}{_FILLED} (?:{_any('follow track chase accompany trail shadow')}"
        rf"|(?:{_any('go move travel walk stay keep tag', 'went')}) (?:along|with|up|pace))"
        r"(?: (?:along|behind|alongside|with))?",
        rf"{_SUBJECT}{_FILLED} {_MOVES} (?:along|behind|to follow)(?: behind)?",
        r"(?:tracking|follow|following|trailing) (?:shot|camera|cam|view)",
        rf"(?:{_any('follow')})(?: along)? (?:by|with) (?:the |a )?(?:camera|cam)",
        rf"(?:{_any('follow')})(?=(?: \w+){{1,8}}? with (?:the |your |a )?(?:camera|cam)\b)",
        r"(?:^|(?<=[/,] ))follow(?= (?:him|her|it|them|the|an?)\b)",
        rf"(?:{_any('keep')})(?=(?: \w+){{1,4}}? in (?:the )?(?:frame|shot|view)\b)",
        r"(?:camera|cam) (?:on (?:his|her|its) tail|in tow)",
    ),
}
_SAME = {"rise": "pan up", "sink": "pan down", "approach": "zoom in", "retreat": "zoom out"}
_PATTERNS = {move: rf"\b(?:{'|'.join(patterns)})\b" for move, patterns in _SHOTS.items()}
_UNKNOWN_MOTION = (  # other motions of a camera, not to be read as actions of the actor
    rf"\b(?:camera|cam)\b(?:{_FILLED} (?:{_MOVES}|{_any('face look watch show focus stop')})\b)?"
    r"(?: (?:left|right|up|down))?"
)

_UNLIKE = r"\b(?:no|not|never|without)\b.* (?:pan|zoom)"  # no zoom, and yet it pans


def take_camera(text: str) -> tuple[str, str, tuple[str, ...]]:
    """Cut the clauses about the camera out of a prompt; return the rest and the camera motion.

    >>> take_camera("a knight walks while the camera drifts slowly to the left")
    ('a knight walks while the /', 'pan left', ())
    >>> take_camera("an orc falls as the camera follows and zooms in")
    ('an orc falls as the / and /', 'zoom in', ('camera follows',))

    Args:
        text: in lower case, with single spaces between words.

    Returns:
        The rest, with / in place of each clause; a motion of ``captions.CAMERAS``, ``"still"``, or
        ``""``; and the texts about further motions.
    """
    text = re.sub(_AT_CAMERA, lambda at: "at us" if at["front"] else "away from us", text)
    moves: dict[str, str] = {}
    for move, pattern in _PATTERNS.items():
        if found := re.search(pattern, text):
            moves.setdefault(_SAME.get(move, move), found.group())
            text = re.sub(pattern, "/", text)
    rest = moves.pop("still", "")
    (taken, _), *others = moves.items() or [("still" if rest else "", "")]
    left_out = [clause for _, clause in others]
    if moves and rest and not re.search(_UNLIKE, rest):
        left_out.append(rest)
    return re.sub(_UNKNOWN_MOTION, "/", text), taken, tuple(left_out)
