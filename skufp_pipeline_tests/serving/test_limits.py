import pytest
from pydantic import ValidationError

from skufp_pipeline.serving.limits import MovingWindow, caller_of, network_of
from skufp_pipeline.serving.settings import ServingSettings


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_window_moves_with_each_request() -> None:
    clock = Clock()
    window = MovingWindow("2/10 seconds", clock=clock)
    waits = []
    for now in (100, 104, 105, 109, 110, 111, 114):
        clock.now = now
        waits.append(window.seconds_to_wait("a"))
    # Those of 100 and 104 count until 110 and 114; refused ones do not count.
    assert waits == [0, 0, 5, 1, 0, 3, 0]


def test_callers_have_windows_of_their_own_and_only_so_many_are_kept() -> None:
    clock = Clock()
    window = MovingWindow("1/hour", callers=3, clock=clock)
    assert [window.seconds_to_wait(name) for name in "abcab"] == [0, 0, 0, 3600, 3600]
    assert window.seconds_to_wait("d") == 0  # c was asked for longest ago
    assert len(window) == 3
    assert [window.seconds_to_wait(name) for name in "ac"] == [3600, 0]


def test_a_customers_network_is_one_caller() -> None:
    assert caller_of(None, "2001:db8:1:2::5") == caller_of(None, "2001:db8:1:2:ffff::9")
    assert caller_of(None, "::ffff:10.0.0.1") == caller_of(None, "10.0.0.1")
    assert caller_of(None, "10.0.0.1") != caller_of(None, "10.0.0.2")
    assert caller_of(None, None) == caller_of(None, "testclient") == "unknown"
    assert network_of("fe80::1%eth0", 32, 64) == "fe80::/64"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rate": "fast"}, "'fast' is no rate; expected one such as 50/second"),
        ({"upload_rate": "5/lightyear"}, "is no rate"),
        ({"rate": "0/second"}, "allows 0 requests; expected 1 to 10,000"),
        ({"rate": "20000/day"}, "allows 20,000 requests"),
        ({"proxies": ["nginx"]}, "'nginx' is no address or network"),
        ({"proxies": ["10.0.0.1/8"]}, "is no address or network"),
        ({"origins": ["*"]}, "is no origin; expected one such as https://shop.example"),
        ({"origins": ["https://shop.example/"]}, "is no origin"),
        ({"open": False}, "open: false lets nobody in without keys"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ServingSettings.model_validate(settings)


def test_settings_that_make_sense_are_taken() -> None:
    settings = ServingSettings(
        rate="600/minute", proxies=["10.0.0.0/8", "::1"], origins=["https://a.example:8443"], keys="k"
    )
    assert MovingWindow(settings.rate).seconds == 60
