import psutil
import pytest
import torch

from skufp_pipeline.errors import UserError
from skufp_pipeline.training.device import (
    limited_threads,
    mixed_precision,
    multiplies_bfloat16,
    peak_memory_gib,
    pick_device,
)


@pytest.mark.parametrize(
    ("there", "name", "device"), [(True, "auto", "cuda"), (True, "cpu", "cpu"), (False, "auto", "cpu")]
)
def test_a_gpu_is_taken_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, there: bool, name: str, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device(name).type == device


def test_a_gpu_that_is_not_there_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"compute.device is 'cuda' but torch sees no GPU; set it to 'auto'"):
        pick_device("cuda")


def test_threads_are_limited_for_a_while_even_when_it_ends_badly() -> None:
    before, during = torch.get_num_threads(), []

    def fail() -> None:
        with limited_threads(before + 1):
            during.append(torch.get_num_threads())
            raise RuntimeError("bad end")

    with pytest.raises(RuntimeError, match="bad end"):
        fail()
    assert during == [before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("able", "expected"), [("avx512_bf16", True), ("amx_bf16", True), ("avx2", False)])
def test_a_processor_trains_in_bfloat16_where_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, able: str, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {able: True})
    assert multiplies_bfloat16(torch.device("cpu")) is expected
    assert multiplies_bfloat16(torch.device("cuda"))


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory_gib(torch.device("cpu"))
    beside = before - psutil.Process().memory_info().rss / 2**30  # was held by an earlier test
    held = torch.ones(int((beside + 0.5) * 2**28))  # half a GiB more than ever
    assert 0.01 < before < peak_memory_gib(torch.device("cpu")) <= before + 1
    assert held.sum() > 0


@pytest.mark.parametrize(
    ("able", "dtype", "computed"),
    [
        (True, torch.bfloat16, torch.bfloat16),
        (True, torch.float16, torch.bfloat16),  # a CPU has no fast float16
        (True, None, torch.float32),
        (False, torch.bfloat16, torch.float32),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_it_multiplies_it_and_may(
    monkeypatch: pytest.MonkeyPatch, able: bool, dtype: torch.dtype | None, computed: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": able})
    ones = torch.ones(2, 2)
    with mixed_precision(torch.device("cpu"), dtype):
        assert (ones @ ones).dtype is computed
    assert (ones @ ones).dtype is torch.float32
