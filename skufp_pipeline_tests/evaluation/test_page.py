from html.parser import HTMLParser

from skufp_pipeline.evaluation.page import headline, render_page
from skufp_pipeline.evaluation.protocol import Model, QuerySet, evaluate
from skufp_pipeline.evaluation.report import Gain, source_results

from .examples import DIRECTIONS, gallery, queries, report_of

SCRIPT = "<script>alert(1)</script>"
PNG = b"\x89PNG made up"


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_well_formed_and_holds_every_part(report):
    page = Page(
        render_page(
            report.model_copy(update={"skipped_items": {"style_zero": 12}}),
            PNG,
            PNG,
            PNG,
            provenance={"inputs": {"fingerprints": "3f2a"}},
        )
    )
    assert page.open == []
    assert page.tags.count("img") == 3
    for part in (
        "right finds the right product first for 100.0% of 6 photos",
        "Table 1: Image-to-SKU retrieval",
        "Table 2: Text-to-SKU retrieval",
        "+0.500 [+0.500, +0.500]*",
        "Latency per query (Example CPU, 1 thread)",
        "search, 64 at once",
        "style_zero",
        '"fingerprints": "3f2a"',
    ):
        assert part in page.text, part
    assert page.text.index("Settings and inputs") > page.text.index("style_zero")


def test_the_page_needs_no_network_and_runs_no_script(report):
    html = render_page(report, PNG, PNG, PNG)
    page = Page(html)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(value.startswith("data:image/png;base64,") for name, value in page.attributes if name == "src")
    assert not any(name == "href" or name.startswith("on") for name, _ in page.attributes)
    assert "url(" not in html
    assert "http" not in html


def test_the_page_suits_phones_and_dark_screens(report):
    html = render_page(report, PNG)
    assert ("content", "width=device-width, initial-scale=1") in Page(html).attributes
    assert "prefers-color-scheme: dark" in html
    assert html.count('<div class="scroll">') == html.count("<table>") + html.count("<img")


def test_a_script_in_a_sku_id_or_a_name_is_shown_as_text():
    missing = QuerySet(["q0"], [SCRIPT], ["train"], queries("a").embeddings)
    evaluation = evaluate([Model(f"m{SCRIPT}", {"image": missing}, gallery())], [], resamples=50)
    report = report_of(evaluation, f"demo{SCRIPT}", skipped_items={SCRIPT: 1})
    html = render_page(report, PNG, provenance={"sku": SCRIPT})
    page = Page(html)
    assert "script" not in page.tags
    assert "<script" not in html
    # Title, heading, two captions, headline, six rows of the tables, the missing SKU of two settings,
    # the skipped reason, the provenance.
    assert page.text.count(SCRIPT) >= 10
    assert f"1 of 1 Seen-SKU queries ({SCRIPT})" in page.text


def test_parts_that_are_not_there_leave_no_gap(evaluation):
    page = Page(render_page(report_of(evaluation), PNG))
    assert page.tags.count("img") == 1
    assert "Latency" not in page.text
    assert "What the search returned" not in page.text
    assert "Nothing was skipped." in page.text


def test_the_sources_of_text_queries_have_a_table_where_there_are_some(report, evaluation):
    model = Model("fingerprint", {"text": queries()}, gallery())
    judged = {
        "metadata": evaluate([model], [], resamples=50),
        "attributes": evaluate([model], [], resamples=50),
    }
    page = Page(render_page(report.model_copy(update={"text_sources": source_results(judged)}), PNG))
    assert page.open == []
    assert "by what the words are made of" in page.text
    assert "over metadata prompts: 1.0 times (Seen-SKU)" in page.text
    assert "by what the words are made of" not in Page(render_page(report, PNG)).text


def test_the_papers_own_protocol_carries_a_warning(report):
    assert "not comparable" in Page(render_page(report.model_copy(update={"protocol": "paper"}), PNG)).text
    assert "not comparable" not in Page(render_page(report, PNG)).text


def test_the_headline_claims_an_improvement_only_where_the_interval_shows_one(report):
    def differing(delta, low, high):
        report.settings["seen+zero"]["image"].differences["right-swapped"]["recall@1"] = Gain(
            delta=delta, low=low, high=high
        )

    differing(0.05, 0.01, 0.09)
    assert headline(report).endswith("That is 5.0 points more than swapped (95% interval +1.0 to +9.0).")
    differing(0.05, -0.01, 0.09)
    assert headline(report).endswith("(95% interval -1.0 to +9.0): no difference is shown.")
    differing(-0.05, -0.09, -0.01)
    assert headline(report).endswith("5.0 points fewer than swapped (95% interval -9.0 to -1.0).")


def test_the_headline_names_the_best_model_where_nothing_is_compared():
    worse = {**DIRECTIONS, "a": (0, 1)}
    models = [
        Model(n, {"image": queries()}, gallery(vectors=v)) for n, v in (("m", worse), ("n", DIRECTIONS))
    ]
    report = report_of(evaluate(models, [], resamples=50))
    assert headline(report).startswith("n finds the right product first for 100.0% of 6 photos")


def test_the_headline_of_an_empty_evaluation_says_so():
    report = report_of(evaluate([Model("m", {}, gallery())], []))
    assert headline(report) == "There were no evaluation photos: nothing was scored."
