import pytest
from pydantic import ValidationError

from skufp_pipeline.datasets.sample import SampleSettings


def test_a_misspelt_setting_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match=r"(?s)number_of_skus.*Extra inputs are not permitted"):
        SampleSettings(number_of_skus=100)


@pytest.mark.parametrize(("num_skus", "bound"), [(49, "greater than or equal to 50"), (1_000_001, "1000000")])
def test_a_size_out_of_range_is_refused_with_the_bound(num_skus: int, bound: str) -> None:
    with pytest.raises(ValidationError, match=rf"(?s)num_skus.*{bound}"):
        SampleSettings(num_skus=num_skus)


def test_splits_that_leave_no_validation_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"below 1.*found 0\.7 \+ 0\.3"):
        SampleSettings(train_fraction=0.7, test_fraction=0.3)
