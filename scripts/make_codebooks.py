"""Write src/herd/formats/codebooks.bin: the codebooks of GGUF's iq1, iq2 and iq3 types, as the `gguf` package has them.

    python scripts/make_codebooks.py [OUT]

Needs gguf; the committed file was made with gguf 0.19.0. Its layout stands in src/herd/formats/codebooks.py.
"""

import sys
from pathlib import Path

import numpy as np

ORDER = (0, 2, 1, 3)
CLASSES = ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
"""In the order of the file; IQ1_M has the codebook of IQ1_S."""


def entries(name: str) -> np.ndarray:
    """The codebook of one type as uint16, one for each entry."""
    from gguf import quants

    kind = getattr(quants, name)
    kind.init_grid()
    count, values = kind.grid_shape
    levels = np.searchsorted(np.array(kind.grid_map, np.float32), kind.grid.reshape(count, values)).astype(np.uint16)
    four = levels if values == 4 else levels[:, :4] | levels[:, 4:] << 2
    return np.bitwise_or.reduce([four[:, k] << 4 * place for place, k in enumerate(ORDER)]).astype("<u2")


def content() -> bytes:
    """The whole file."""
    return b"".join(entries(name).tobytes() for name in CLASSES)


if __name__ == "__main__":
    out = Path(__file__).parent.parent / "src/herd/formats/codebooks.bin"
    Path(sys.argv[1] if len(sys.argv) > 1 else out).write_bytes(content())
