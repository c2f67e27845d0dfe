from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from starlette.datastructures import Headers

from skufp_pipeline.errors import UserError
from skufp_pipeline.serving.keys import Keys, add_key, hash_of, presented_key, read_keys
from skufp_pipeline_tests.graphs import SMALL, skufp, write_preset


def test_a_fresh_key_is_found_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    first, second = add_key(path, "ann", "admin"), add_key(path, "till 2".replace(" ", "-"), "shopper")
    assert len({first, second}) == 2
    keys = Keys(path)
    found = [keys.find(key) for key in (first, second, first[:-1], "")]
    assert [None if key is None else (key.name, key.role) for key in found] == [
        ("ann", "admin"),
        ("till-2", "shopper"),
        None,
        None,
    ]
    text = path.read_text()
    assert first not in text
    assert hash_of(first) in text
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_ends_on_its_day(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    past, future = (
        add_key(path, name, "admin", datetime(year, 1, 1, tzinfo=UTC))
        for name, year in (("old", 2020), ("new", 2999))
    )
    assert Keys(path).find(past) is None
    assert Keys(path).find(future) is not None
    path.write_text(f"- {{name: day, role: admin, sha256: {hash_of('x')}, expires: 2999-01-01}}")
    assert read_keys(path)[0].expires == datetime(2999, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "can't be read: "),
        ("a: b", "is no list of API keys"),
        ("- {name: a, role: root, sha256: x}", "0.role: Input should be 'shopper' or 'admin'"),
        ("- {name: a, role: admin, sha256: secret-key-itself}", "0.sha256: String should match"),
        (f"- {{name: 'a b', role: admin, sha256: {hash_of('x')}}}", "0.name"),
        (f"- &key {{name: a, role: admin, sha256: {hash_of('x')}}}\n- *key", "several keys named a"),
        (f"- {{name: a, role: admin, sha256: {hash_of('x')}, expires: '2030-01-01T00:00:00'}}", "0.expires"),
    ],
)
def test_what_is_no_list_of_keys_is_told_without_its_values(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as error:
        Keys(path)
    assert "secret-key-itself" not in str(error.value)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file of API keys .* `skufp serve-key NAME --role admin`"):
        Keys(tmp_path / "keys.yaml")


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"Authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"X-API-Key": "abc"}, "abc"),
        ({"Authorization": "Basic abc"}, None),
        ({"Authorization": "Bearer"}, None),
        ({}, None),
    ],
)
def test_a_key_is_presented_in_one_of_two_headers(headers: dict[str, str], key: str | None) -> None:
    assert presented_key(Headers(headers)) == key


def test_the_command_prints_a_key_once_and_takes_a_name_once(tmp_path: Path) -> None:
    preset = write_preset(tmp_path, {**SMALL, "serving": {"keys": str(tmp_path / "keys.yaml")}})
    words = ("serve-key", "ann", "--role", "admin", "--expires", "2999-12-31", "--preset", preset)
    done = skufp(*words, cwd=tmp_path)
    found = Keys(tmp_path / "keys.yaml").find(done.stdout.strip())
    assert found is not None
    assert (found.name, found.role, found.expires) == ("ann", "admin", datetime(2999, 12, 31, tzinfo=UTC))
    assert done.stdout.strip() not in (tmp_path / "keys.yaml").read_text()
    again = skufp(*words, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert "has a key named ann already" in again.stderr
    assert len(yaml.safe_load((tmp_path / "keys.yaml").read_text())) == 1
