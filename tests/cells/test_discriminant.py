import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import mixvi
from mixvi.cells.discriminant import discriminant_codes
from mixvi.cells.initial import PrincipalAxes

N_GENES = 40
TYPES = 4


def studies(sizes, effect: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expression, type and study of cells, ``sizes[s][t]`` of type t in study s.

    Types 0 and 1 are near each other, as CD4 and CD8 T cells are; the effect of a study is added.
    """
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 1.5, (TYPES, N_GENES))
    means[1] = means[0] + rng.normal(0, 0.7, N_GENES)
    effects = rng.normal(0, effect, (len(sizes), N_GENES))
    types = np.concatenate([np.repeat(np.arange(TYPES), of) for of in sizes])
    study = np.repeat(np.arange(len(sizes)), [sum(of) for of in sizes])
    x = means[types] + effects[study] + rng.normal(0, 1, (len(types), N_GENES))
    return x.astype(np.float32), types, study


def called(x, types, study, labelled: np.ndarray) -> np.ndarray:
    axes = PrincipalAxes(x, is_count=False, seed=0, groups=study)
    return discriminant_codes(axes, np.where(labelled, types, -1), 0)


@pytest.mark.parametrize("effect", [0.0, 0.3, 1.0])
def test_a_study_of_other_shares_is_not_shifted(effect):
    """Centred on its cells, a study of type 0 for the most part is called type 1."""
    x, types, study = studies([[20, 200, 200, 200], [600, 20, 20, 0]], effect)
    codes = called(x, types, study, study == 0)
    assert (codes == types)[study == 1].mean() > 0.97
    for t in range(3):
        assert (codes == types)[(study == 1) & (types == t)].mean() >= 0.9


def test_studies_of_the_same_shares_are_called_as_by_their_cells_means():
    x, types, study = studies([[100, 100, 100, 100]] * 3, effect=3.0)
    codes = called(x, types, study, study == 0)
    assert (codes == types).mean() > 0.99


def test_an_effect_of_the_studies_does_not_matter():
    """It is added to all genes of a study: what is called is the same however large it is."""
    sizes = [[50, 100, 100, 20], [200, 50, 10, 90], [30, 30, 30, 30]]
    small, large = (studies(sizes, effect) for effect in (0.1, 10.0))
    known = small[2] == 0
    np.testing.assert_array_equal(called(*small, known), called(*large, known))


def test_few_cells_and_few_labels_are_called():
    """Studies of 12 and of 3 cells, a type without labels, and a label of a single cell."""
    x, types, study = studies([[60, 60, 60, 0], [8, 2, 1, 1], [1, 1, 1, 0]], effect=0.3)
    labelled = study == 0
    labelled[np.flatnonzero(types == 2)[1:]] = False
    codes = called(x, types, study, labelled)
    assert set(codes) == {0, 1, 2}
    assert (codes == types)[types < 3].mean() > 0.95
    np.testing.assert_array_equal(codes[labelled], types[labelled])


def test_one_label_and_one_cell_of_each():
    x, types, study = studies([[30, 30, 30, 30]], effect=0.0)
    first = np.isin(np.arange(120), [0, 30, 60, 90])
    assert (called(x, types, study, first) == types).mean() > 0.8
    assert (called(x, types, study, first & (types == 2)) == 2).all()


def test_a_model_ends_where_it_starts(fit):
    """Labels of one study do not take the other's cells away from what they were called."""
    x, types, study = studies([[20, 200, 200, 200], [300, 20, 20, 60]], effect=0.5)
    names = np.array(["a", "b", "c", "d"])
    obs = {"label": np.where(study == 0, names[types], "Unknown"), "study": study.astype(str)}
    adata = AnnData(x, obs=pd.DataFrame(obs, index=[f"cell{i}" for i in range(len(x))]))
    setup = {"labels_key": "label", "batch_key": "study"}
    model = fit(mixvi.GMVAE, adata, epochs=20, setup=setup)
    assert (model.predict(level="label") == names[types])[study == 1].mean() > 0.95
