"""The codebooks are those of the gguf package, and the file is what its script makes."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from herd.formats import codebooks

ROOT = Path(__file__).parents[2]


def test_the_file_is_what_the_script_makes_of_the_gguf_package() -> None:
    pytest.importorskip("gguf")
    content = runpy.run_path(str(ROOT / "scripts/make_codebooks.py"))["content"]()
    assert (ROOT / "src/herd/formats/codebooks.bin").read_bytes() == content


@pytest.mark.parametrize("name", codebooks.BOOKS)
def test_entries_are_those_of_the_gguf_package(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    kind = getattr(gguf.quants, "IQ1_S" if name == "iq1" else name.upper())
    kind.init_grid()
    np.testing.assert_array_equal(codebooks.codebook(name), kind.grid.reshape(kind.grid_shape))


def test_eight_signs_from_seven_bits_are_those_of_the_gguf_package() -> None:
    gguf = pytest.importorskip("gguf")
    assert codebooks.SEVEN.tobytes() == gguf.quants.IQ2_XXS.ksigns
