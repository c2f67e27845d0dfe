"""Damaged images, read as catalogue and as query."""

from pathlib import Path

import pytest

from skufp_pipeline.photos import FORMATS, PhotoError

from .programs import load_program

program = load_program("mutate_images")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
def test_catalogue_and_query_agree_on_300_damaged_images(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = [verdict for first in (0, 100, 200) for verdict in program.judge(1, first, 100)]
    assert [verdict.fault for verdict in verdicts if verdict.fault] == []
    assert len({verdict.image for verdict in verdicts}) == 300
    found = [verdict.catalogue for verdict in verdicts]
    assert found == [verdict.query for verdict in verdicts]
    assert set(found) >= {"accepted", "broken_image"}
    assert min(found.count("accepted"), found.count("broken_image")) > 50
    assert program.report(verdicts, 1.0) == 0
    assert "300 images in 1 s" in capsys.readouterr().out


def test_every_format_that_is_read_is_damaged_in_every_way() -> None:
    drawn = [program.mutated(0, number)[0].split(", ") for number in range(3000)]
    kinds, mutations = {name.split()[0] for name, _ in drawn}, {mutation for _, mutation in drawn}
    assert kinds >= {*FORMATS, "MPO", "ICO", "TGA"}
    assert mutations == set(program.MUTATIONS)


def test_the_same_number_is_the_same_image() -> None:
    assert program.mutated(0, 7) == program.mutated(0, 7) != program.mutated(1, 7)


def test_a_disagreement_and_a_crash_are_faults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusing(source: Path | bytes) -> None:
        raise program.UserError("no") from PhotoError("broken_image", "a", "is refused")

    monkeypatch.setattr(program, "read_photo", refusing)
    verdicts = program.judge(1, 0, 20)
    accepted = [verdict for verdict in verdicts if verdict.catalogue == "accepted"]
    assert {verdict.fault for verdict in accepted} == {"the catalogue says accepted, the query broken_image"}

    def stopping(source: Path | bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(program, "read_photo", stopping)
    assert {verdict.query for verdict in program.judge(1, 0, 2)} == {"crash"}
    assert program.report(verdicts, 1.0) == 1
    assert f"crashes and disagreements: {len([v for v in verdicts if v.fault])}" in capsys.readouterr().out
