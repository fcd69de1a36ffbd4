import pytest

from flowwarp.errors import InputError
from flowwarp.io import limits


def test_expansion_limits():
    limits.check_expansion("a", 1000, 1_032_000)
    with pytest.raises(InputError, match="holds 1000 bytes"):
        limits.check_expansion("a", 1000, 1_032_001)
    limits.check_expansion("a", 2**22, 100 * 2**22)
    with pytest.raises(InputError, match="decompression bomb"):
        limits.check_expansion("a", 2**22, 100 * 2**22 + 1)


@pytest.mark.parametrize(
    ("width", "height", "size", "fits"),
    [
        (1, 1, None, True),
        (0, 1, None, False),
        (1, -1, None, False),
        (2**14, 2**13, None, True),
        (2**14, 2**13 + 1, None, False),
        (2**31 - 1, 2**31 - 1, None, False),
        (3840, 2160, 1, True),
        (4096, 2048, 1, True),
        (4096, 2049, 512, False),
        (4096, 2049, 513, True),
        (2**14, 5461, 2**15, True),
        (2**14, 5462, 2**15, False),
        (2**14, 5462, 2_700_000, True),
    ],
)
def test_pixel_limits(width, height, size, fits):
    if fits:
        limits.check_pixels("a", width, height, size)
    else:
        wanted = f"{width}x{height} pixels|to {3 * width * height} bytes; .*bomb"
        with pytest.raises(InputError, match=wanted):
            limits.check_pixels("a", width, height, size)
