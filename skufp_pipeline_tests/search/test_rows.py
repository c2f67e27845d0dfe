import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skufp_pipeline.errors import UserError
from skufp_pipeline.search.rows import Rows, words_of

masks = st.lists(st.integers(0, 130), min_size=1, max_size=3).flatmap(
    lambda sizes: st.tuples(*[st.tuples(*[st.booleans()] * size) for size in sizes])
)


def rows_of(flags: tuple[tuple[bool, ...], ...]) -> Rows:
    return Rows.of_masks(np.array(mask, dtype=bool) for mask in flags)


def test_bit_i_of_word_b_is_row_64_b_plus_i() -> None:
    mask = np.zeros(130, dtype=bool)
    mask[[0, 3, 64, 129]] = True
    assert words_of(mask).tolist() == [0b1001, 1, 0b10]
    assert words_of(mask).dtype == np.uint64


@given(masks, st.data())
def test_rows_are_joined_as_sets_are(one: tuple[tuple[bool, ...], ...], data: st.DataObject) -> None:
    other = data.draw(st.tuples(*[st.tuples(*[st.booleans()] * len(mask)) for mask in one]))
    first, second = rows_of(one), rows_of(other)
    left, right = ({n for n, kept in enumerate(sum(flags, ())) if kept} for flags in (one, other))
    everything = set(range(sum(map(len, one))))
    for joined, expected in (
        (first, left),
        (first & second, left & right),
        (first | second, left | right),
        (~first, everything - left),
        (Rows.everything([len(mask) for mask in one]), everything),
    ):
        assert joined.numbers().tolist() == sorted(expected)
        assert joined.count == len(expected)
        assert joined.counts == tuple(len(part) for part in joined.of_segments())


def test_rows_of_another_index_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"rows are of an index with segments of \[3\] rows, not \[3, 1\]; ask"
    ):
        Rows.everything([3]) & Rows.everything([3, 1])
