from skufp_pipeline.datasets.sample import SampleSettings
from skufp_pipeline.datasets.sample.garments import CATEGORIES, TEXTURES, sku_garment

SETTINGS = SampleSettings(num_skus=2000)


def test_categories_are_those_of_deepfashion2_with_its_294_landmarks() -> None:
    assert list(CATEGORIES) == list(range(1, 14))
    assert CATEGORIES[1].name == "short sleeve top"
    assert CATEGORIES[13].name == "sling dress"
    assert sum(category.landmarks for category in CATEGORIES.values()) == 294


def test_variants_share_a_design_and_differ_all_the_same() -> None:
    family = [sku_garment(SETTINGS, 2 * member) for member in range(SETTINGS.variants)]
    assert len({garment.category_id for garment in family}) == 1
    assert len({garment.texture.kind for garment in family}) == 1
    assert len({garment.silhouette.shoulder for garment in family}) == 1
    assert len(set(family)) == SETTINGS.variants


def test_a_garment_depends_on_seed_and_sku_alone() -> None:
    assert sku_garment(SETTINGS, 7) == sku_garment(SampleSettings(num_skus=50), 7)
    assert sku_garment(SETTINGS, 7) != sku_garment(SampleSettings(num_skus=50, seed=1), 7)


def test_every_category_and_texture_occurs() -> None:
    garments = [sku_garment(SETTINGS, index) for index in range(2000)]
    assert {garment.category_id for garment in garments} == set(CATEGORIES)
    assert {garment.texture.kind for garment in garments} == set(TEXTURES)
