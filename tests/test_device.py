"""`device=`: the model runs on it, or is refused by name; nothing computes elsewhere in silence."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import herd  # noqa: E402
from helpers import TINY_TEXT, placed  # noqa: E402
from herd.batch import packed  # noqa: E402
from herd.cli import main  # noqa: E402
from herd.errors import UsageError  # noqa: E402
from herd.model import text  # noqa: E402
from herd.ops.torch import TorchOps  # noqa: E402

MODEL = Path(__file__).parent / "fixtures/gguf/llama4-q4_k.gguf"
CUDA = torch.cuda.is_available()


@pytest.mark.skipif(CUDA, reason="a CUDA card is here")
def test_cuda_without_a_card_is_refused_by_name():
    with pytest.raises(UsageError, match="device cuda: got "):
        herd.load(MODEL, device="cuda")


@pytest.mark.skipif(CUDA, reason="a CUDA card is here")
def test_the_command_line_says_so_in_one_line(capsys):
    assert main(["run", str(MODEL), "hi", "--raw", "--device", "cuda"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("herd: device cuda: got ")
    assert told.count("\n") == 1


def test_native_operations_are_of_the_cpu_alone():
    with pytest.raises(UsageError, match="ops native: got device cuda, expected cpu"):
        herd.load(MODEL, device="cuda", ops="native")


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="no CUDA card")])],
)
def test_the_same_tokens_come_out_of_torch_as_of_native(device):
    ids = list(range(3, 40))
    with (
        herd.load(MODEL, context=256, kv="f32") as native,
        herd.load(MODEL, context=256, ops="torch", device=device) as m,
    ):
        a = native.perplexity(ids, context=64).value
        b = m.perplexity(ids, context=64).value
    assert b == pytest.approx(a, rel=0.02)  # int8 activations on the one side, bfloat16 on the other on a card


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="no CUDA card")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_block_waits_for_the_card(dtype):
    """Experts, packed segments, with the card set to refuse what waits."""
    ops = TorchOps("cuda", dtype)

    def unwaiting(*arguments):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return text.block(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    context = ops.place(packed([30, 1, 17], TINY_TEXT.chunk))
    logits = text.forward(ops, TINY_TEXT, placed(TINY_TEXT, ops), list(range(48)), context, call=unwaiting)
    assert ops.finite(logits)
