"""The Python client, against the service over a real socket, and against answers that are hard to provoke."""

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from PIL import Image

from skufp_pipeline.artifacts.places import RAW_DATASET
from skufp_pipeline.presets import Preset
from skufp_pipeline.search.bundle import current_index
from skufp_pipeline.serving.client import Asked, Client, SkufpError
from skufp_pipeline.serving.keys import hash_of
from skufp_pipeline.serving.schemas import SearchRequest

from ..graphs import REPOSITORY, Graph, copy_graph, environment
from .running import serving

KEY = "an-operators-key"
PHOTO = {
    "photo_id": "p",
    "width": 4,
    "height": 4,
    "expires_at": "2026-01-01T00:00:00+00:00",
    "items": [],
    "index_version": "v1",
}
ANSWER = {
    "request_id": "1",
    "index": "fingerprints",
    "index_version": "v1",
    "hits": [],
    "items": [],
    "ms": {},
    **dict.fromkeys(("verdict", "confidence", "no_verdict", "facets", "action", "box", "item")),
}
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(scope="module")
def preset(small_graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Preset:
    """The small graph's, over a copy, with an operator's key `KEY` and thumbs."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "keys.yaml").write_text(
        yaml.safe_dump([{"name": "me", "role": "admin", "sha256": hash_of(KEY)}])
    )
    given = copy_graph(small_graph, folder).preset
    changed = {"keys": str(folder / "keys.yaml"), "feedback": True, "rate": "1000/second"}
    return given.model_copy(update={"serving": given.serving.model_copy(update=changed)})


@pytest.fixture(scope="module")
def address(preset: Preset) -> Iterator[str]:
    """A service of the small graph."""
    with serving(preset) as (http, _):
        yield str(http.base_url)


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, key=KEY) as opened:
        yield opened


@pytest.fixture(scope="module")
def photo(small_graph: Graph) -> Path:
    root = Path(small_graph.preset.dataset.root(RAW_DATASET.read(small_graph.store).path))
    return min((root / "validation" / "image").glob("*.jpg"))


def answering(handler: Handler, **options: float) -> Client:
    return Client("http://service", transport=httpx.MockTransport(handler), **options)  # type: ignore[arg-type]


def refusal(status: int, detail: str, headers: dict[str, str] | None = None) -> httpx.Response:
    body = {"title": "x", "status": status, "detail": detail, "request_id": "abc"}
    return httpx.Response(status, json=body, headers=headers)


def test_a_path_bytes_and_a_picture_find_the_same(client: Client, photo: Path) -> None:
    picture = Image.open(photo)
    answers = [client.search(source, top=5) for source in (photo, str(photo), photo.read_bytes(), picture)]
    found = [[hit.sku_id for hit in answer.hits] for answer in answers]
    assert len(found[0]) == 5
    assert found == [found[0]] * 4


def test_words_and_likes_need_no_photo(client: Client, small_graph: Graph) -> None:
    first, second = current_index(small_graph.store)[1].sku_ids[:2]
    assert client.search(text="a red dress", top=3).hits[2].rank == 3
    hits = client.search(like=[first], unlike=[second], top=50).hits
    assert not {first, second} & {hit.sku_id for hit in hits}


def test_a_product_its_picture_its_neighbours_and_the_facets(client: Client, small_graph: Graph) -> None:
    sku_id = current_index(small_graph.store)[1].sku_ids[0]
    assert client.product(sku_id).sku_id == sku_id
    assert Image.open(io.BytesIO(client.picture(sku_id, size=32))).size[0] <= 32
    assert client.similar(sku_id, top=4).hits == client.search(like=[sku_id], top=4).hits
    assert "category_name" in {facet.column for facet in client.facets().facets}


def test_why_an_answer_is_like_a_photo(client: Client, photo: Path) -> None:
    sent = client.upload(photo)
    (hit,) = client.search(sent, top=1, whole=True).hits
    explained = client.explain(sent, hit.sku_id, whole=True)
    assert explained.sku_id == hit.sku_id
    assert explained.photo.width == sent.answer.width


def test_a_forgotten_photo_is_sent_again(client: Client, photo: Path) -> None:
    sent = client.upload(photo)
    expected = client.search(sent, top=3).hits
    sent.answer = sent.answer.model_copy(update={"photo_id": "forgotten"})
    assert client.search(sent, top=3).hits == expected
    assert sent.photo_id != "forgotten"


def test_a_thumb_is_kept(client: Client, photo: Path) -> None:
    answer = client.search(photo, top=2)
    client.feedback(answer, answer.hits[0].sku_id, good=True)
    with pytest.raises(SkufpError, match="search again"):
        client.feedback(answer, "no-such-sku", good=True)


def test_an_operator_hides_a_sku_and_shows_it_again(client: Client) -> None:
    (first,) = client.search(text="a red dress", top=1).hits
    assert [rule.sku_id for rule in client.put_rule(first.sku_id, "hide").rules] == [first.sku_id]
    assert client.search(text="a red dress", top=1).hits[0].sku_id != first.sku_id
    assert client.rules().rules[0].rule == "hide"
    assert client.delete_rule(first.sku_id).rules == []
    assert client.search(text="a red dress", top=1).hits[0].sku_id == first.sku_id


def test_an_operator_sees_and_reloads_the_index_and_is_told_why_it_stays(client: Client) -> None:
    (state,) = client.indexes().indexes
    assert client.reload().indexes[0].version == client.service().indexes[0].version == state.version
    with pytest.raises(SkufpError, match="roll back") as told:
        client.roll_back()
    assert told.value.status == 409
    with pytest.raises(SkufpError, match="is no manifest") as told:
        client.put_product({"sku_id": "A-1"}, [Image.new("RGB", (64, 64), "red")])
    assert told.value.status == 409


def test_an_operators_call_without_a_key_is_refused(address: str) -> None:
    with Client(address) as nobody, pytest.raises(SkufpError, match="API key") as told:
        nobody.rules()
    assert told.value.status == 401


def test_a_refusal_is_the_services_sentence(client: Client) -> None:
    with pytest.raises(SkufpError, match="no-such-sku") as told:
        client.similar("no-such-sku")
    assert told.value.status == 404
    assert told.value.request_id
    with pytest.raises(SkufpError, match="can't be read as an image"):
        client.upload(b"no photo")


def test_a_service_that_is_not_there_is_told() -> None:
    nobody = Client("http://127.0.0.1:9")
    with nobody, pytest.raises(SkufpError, match=r"no answer from .*127\.0\.0\.1:9"):
        nobody.service()


def test_a_photo_that_stays_gone_is_sent_once_more_and_no_more() -> None:
    uploads = 0

    def forgets(request: httpx.Request) -> httpx.Response:
        nonlocal uploads
        if request.url.path == "/v1/photos":
            uploads += 1
            return httpx.Response(201, json=PHOTO)
        return refusal(404, "The photo is not kept any more")

    with answering(forgets) as client, pytest.raises(SkufpError, match="not kept any more"):
        client.search(b"photo")
    assert uploads == 2


def busy(times: int, seconds: str) -> Handler:
    """Refuses the first requests."""
    left = times

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal left
        left -= 1
        if left < 0:
            return httpx.Response(200, json=ANSWER)
        return refusal(429, "busy", {"Retry-After": seconds})

    return answer


def test_a_busy_service_is_asked_again_when_it_says() -> None:
    with answering(busy(2, "0.01")) as client:
        assert client.search(text="a dress").request_id == "1"


def test_a_client_without_the_patience_is_told_at_once() -> None:
    with answering(busy(1, "5"), patience=4) as client, pytest.raises(SkufpError, match="busy") as told:
        client.search(text="a dress")
    assert told.value.status == 429


def test_an_answer_that_is_no_problem_is_told_by_its_status() -> None:
    proxy = answering(lambda _: httpx.Response(502, text="<html>bad gateway"))
    with proxy, pytest.raises(SkufpError, match=r"^GET /v1/facets: 502 Bad Gateway$"):
        proxy.facets()


def test_a_key_is_presented_and_an_odd_id_is_one_part_of_the_path() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"jpeg")

    transport = httpx.MockTransport(answer)
    with Client("http://service/", key="secret", transport=transport) as client:
        assert client.picture("a/b ?é") == client.picture("a/b ?é", index="few") == b"jpeg"
    assert seen[0].headers["Authorization"] == "Bearer secret"
    assert seen[0].url.raw_path == b"/v1/products/a%2Fb%20%3F%C3%A9/image"
    assert seen[1].url.raw_path.endswith(b"/image?index=few")


def test_the_documents_example_runs(
    address: str,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (REPOSITORY / "docs" / "serving.md").read_text()
    (example,) = [
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Client(url" in block
    ]
    shutil.copy(photo, tmp_path / "shirt.jpg")
    monkeypatch.chdir(tmp_path)
    exec(example, {"url": address, "key": KEY})
    *hits, refused = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in hits] == ["1", "2", "3", "4", "5"]
    assert refused.startswith("422 bias")


def test_a_search_can_say_whatever_the_service_understands() -> None:
    photos = {"photo_id", "photo_ids"}
    assert set(Asked.__annotations__) == set(SearchRequest.model_fields) - photos


def test_the_client_imports_no_model_library() -> None:
    program = (
        "import skufp_pipeline.serving.client, sys\n"
        "print([name for name in ('torch', 'numpy', 'polars', 'fastapi', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
