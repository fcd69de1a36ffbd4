"""Pages of one file."""

import base64
import re
from html.parser import HTMLParser

import pytest
import torch

from flowwarp.io.video_reader import read_video
from flowwarp.train.html_page import embedded, figure, heading, row, table, text, write_page

HOSTILE = "<script>alert(1)</script>\" onload='x' &amp; \x1b[31m \ud800"


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.content = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.content += data


def test_a_page_loads_nothing_and_shows_what_is_given_as_text(tmp_path):
    path = tmp_path / "page.html"
    video = torch.rand(4, 3, 16, 16)
    parts = [heading(HOSTILE, HOSTILE), table([("a", "b"), (HOSTILE, 3)])]
    parts += [row([figure(video, 8, HOSTILE)])]
    write_page(path, HOSTILE, parts)
    page = Tags(path.read_text("utf-8"))
    names = {name for name, _ in page.tags}
    assert names <= {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "table",
                     "tr", "th", "td", "div", "figure", "img", "figcaption"}  # fmt: skip
    for _, attributes in page.tags:
        assert not {"href", "onload", "srcset"} & attributes.keys()
        assert attributes.get("src", "data:").startswith("data:")
    assert page.content.count("<script>alert(1)</script>\" onload='x' &amp; ") == 6
    assert "\x1b" not in page.content
    policy = [a["content"] for _, a in page.tags if a.get("http-equiv")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_text_keeps_lines():
    assert text("a < b\nc") == "a &lt; b\nc"


def test_videos_are_embedded_whole(tmp_path):
    video = torch.zeros(4, 3, 16, 16)
    video[2:, 0] = 1.0
    data = re.search(r'src="data:image/webp;base64,([^"]+)"', figure(video, 8, "red"))[1]
    (tmp_path / "clip.webp").write_bytes(base64.b64decode(data))
    frames = list(read_video(tmp_path / "clip.webp"))
    assert [float(frame[0].mean()) > 0.5 for frame in frames] in (
        [False, False, True, True],
        [False, True],  # equal frames are one that lasts
    )


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_pictures_are_embedded(kind):
    assert embedded(b"abc", kind) == f'<img alt="" src="data:image/{kind};base64,YWJj">'
