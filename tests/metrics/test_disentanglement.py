"""Metrics of disentanglement on codes whose score is known, and beside plain loops."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr, special_ortho_group

from mixvi import metrics

SIZES = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
N = 10_000
FEW = {"n_train": 2_000, "n_test": 1_000}


def factors_of(n: int = N, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({name: rng.integers(0, size, n) for name, size in SIZES.items()})


def codes_of(kind: str, factors: pd.DataFrame) -> np.ndarray:
    rng = np.random.default_rng(1)
    perfect = ((factors - factors.mean()) / factors.std()).to_numpy()
    tiny = rng.normal(0, 1e-3, (len(factors), 5))
    return {
        "perfect": perfect,
        "with dead dimensions": np.hstack([perfect, tiny]),
        "permuted": -np.hstack([perfect, tiny])[:, rng.permutation(10)],
        "rotated": np.hstack([perfect, tiny]) @ special_ortho_group.rvs(10, random_state=2),
        "duplicated": np.hstack([perfect, perfect]),
        "three factors": np.hstack([perfect[:, [1, 3, 4]], tiny, tiny[:, :2]]),
        "random": rng.normal(size=(len(factors), 10)),
    }[kind]


FACTORS = factors_of()

# of complete grids, with the draws of the thesis; None: depends on the rotation
KNOWN = {
    "perfect": (1.0, 1.0, 0.896),
    "with dead dimensions": (1.0, 1.0, 0.896),
    "permuted": (1.0, 1.0, 0.896),
    "rotated": (None, None, None),
    "duplicated": (1.0, 1.0, 0.0),
    "three factors": (0.794, 0.585, 0.536),
    "random": (0.2, 0.2, 0.0),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_scores_that_are_known(kind):
    codes = codes_of(kind, FACTORS)
    beta = float(metrics.beta_vae_score(codes, FACTORS))
    factor = float(metrics.factor_vae_score(codes, FACTORS))
    gap = float(metrics.mig(codes, FACTORS))
    if kind == "rotated":
        # both are high for an entangled code; the gap is not
        assert beta > 0.85 and factor > 0.5 and gap < 0.4
        return
    assert (beta, factor) == pytest.approx(KNOWN[kind][:2], abs=0.02)
    assert gap == pytest.approx(KNOWN[kind][2], abs=0.02)


def test_a_constant_factor_counts_as_in_the_thesis_where_it_is_kept():
    factors = FACTORS.assign(colour=0)
    score = partial(metrics.factor_vae_score, codes_of("perfect", FACTORS), factors, **FEW)
    assert float(score(keep_constant=True)) == pytest.approx(0.837, abs=0.04)
    dead = codes_of("with dead dimensions", FACTORS)
    options = {"keep_constant": True, "prune_threshold": 0.0}
    # spare dimensions take the votes of the constant factor
    found = metrics.factor_vae_score(dead, factors, **options)
    assert float(found) == pytest.approx(0.952, abs=0.02)
    left_out = score()
    assert float(left_out) == pytest.approx(1.0) and "colour: constant, left out" in left_out.notes
    beta = metrics.beta_vae_score(codes_of("perfect", FACTORS), factors, keep_constant=True, **FEW)
    assert float(beta) == pytest.approx(1.0, abs=0.01)


def test_ceilings_of_the_gap_by_its_bins():
    # every combination once: exact, but for the bins
    codes = np.arange(40)[:, None] * [1.0, 0.0]
    for n_bins, ceiling in ((20, 0.812), (40, 1.0)):
        found = metrics.mig(codes, {"orientation": np.arange(40)}, n_bins=n_bins)
        assert float(found) == pytest.approx(ceiling, abs=1e-3)


def test_information_of_draws_is_that_of_a_noisy_channel():
    # signs through noise of their own power carry 0.486 bits
    rng = np.random.default_rng(0)
    sign = rng.integers(0, 2, 2000)
    codes = np.stack([2.0 * sign - 1.0, rng.normal(size=2000) * 1e-3], 1)
    found = metrics.mig(codes, {"sign": sign}, variances=np.ones((2000, 2)), n_draws=4000)
    assert found.table.loc["z0", "sign"] / np.log(2) == pytest.approx(0.486, abs=0.02)
    assert found.table.loc["z1", "sign"] == pytest.approx(0.0, abs=0.001)
    # without noise all of it is there, by either estimate
    sharp = metrics.mig(codes, {"sign": sign}, variances=np.full((2000, 2), 1e-4))
    assert float(sharp) == pytest.approx(float(metrics.mig(codes, {"sign": sign})), abs=0.02)


def test_votes_name_dimensions_among_all():
    codes = codes_of("with dead dimensions", FACTORS)[:, ::-1]
    votes = metrics.factor_vae_score(codes, FACTORS, **FEW).table
    assert list(votes.idxmax()) == ["z9", "z8", "z7", "z6", "z5"]
    assert not votes.loc[["z0", "z1", "z2", "z3", "z4"]].to_numpy().any()


@pytest.mark.parametrize(
    ("kind", "sap", "dci", "completeness", "modularity"),
    [
        ("perfect", 1.0, 1.0, 1.0, 1.0),
        ("permuted", 1.0, 1.0, 1.0, None),
        ("duplicated", 0.0, 1.0, None, 1.0),
        ("random", 0.0, 0.0, 0.0, None),
    ],
)
def test_further_scores_that_are_known(kind, sap, dci, completeness, modularity):
    factors = FACTORS[["scale", "x", "y"]][:4000]
    codes = codes_of(kind, FACTORS[:4000])
    if kind != "random":
        # of the three factors alone
        keep = np.abs(np.corrcoef(codes.T, factors.T)[:-3, -3:]).max(1) > 0.5
        keep |= codes.std(0) < 0.1
        codes = codes[:, keep]
    assert float(metrics.sap(codes, factors)) == pytest.approx(sap, abs=0.03)
    found = metrics.dci(codes, factors)
    assert float(found) == pytest.approx(dci, abs=0.1)
    if completeness is not None:
        assert found.completeness == pytest.approx(completeness, abs=0.1)
    if modularity is not None:
        assert float(metrics.modularity(codes, factors)) == pytest.approx(modularity, abs=0.03)


def test_rotated_codes_score_below_perfect_ones():
    factors = FACTORS[:4000]
    perfect, rotated = (codes_of(kind, factors) for kind in ("with dead dimensions", "rotated"))
    numbers = factors[["scale", "x", "y"]]
    for score in (metrics.sap, metrics.dci):
        assert float(score(rotated, numbers)) < float(score(perfect, numbers)) - 0.3
    assert float(metrics.modularity(rotated, factors)) < 0.9
    assert float(metrics.modularity(perfect[:, :5], factors)) > 0.98


def test_categorical_factors_are_classified():
    factors = pd.DataFrame({"shape": np.array(["heart", "square", "ellipse"])[FACTORS["shape"]]})
    codes = codes_of("perfect", FACTORS)[:, [0, 3]]
    found = metrics.sap(codes, factors)
    # sorted, names have another order than the codes: a linear classifier sees two of three
    assert found.table.loc["z1", "shape"] == pytest.approx(1 / 3, abs=0.03)
    assert found.table.loc["z0", "shape"] > 0.6
    numbers = metrics.sap(codes, FACTORS[["shape"]], categorical=["shape"])
    assert numbers.table.to_numpy() == pytest.approx(found.table.to_numpy(), abs=1e-6)


def test_dci_by_its_importances():
    from mixvi.metrics.factors import read_factors
    from mixvi.metrics.predictability import _dci_of

    of = read_factors(np.random.default_rng(0).normal(size=(50, 2)), FACTORS[["x", "y"]][:50])
    found = _dci_of(of, np.array([[1.0, 0.5], [0.0, 0.5]]), [0.9, 0.7])
    first = 1 + (2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)) / np.log(2)
    assert list(found.per_dimension) == pytest.approx([first, 1.0])
    assert float(found) == pytest.approx(0.75 * first + 0.25)
    assert found.completeness == pytest.approx(0.5)
    assert found.informativeness == pytest.approx(0.8)


def test_the_ranking_finds_models_that_agree():
    rng = np.random.default_rng(0)
    truth = FACTORS[["scale", "x", "y"]][:2000].to_numpy(float)
    truth = (truth - truth.mean(0)) / truth.std(0)
    found = {
        "a": np.hstack([truth, rng.normal(0, 1e-3, (2000, 2))]),
        "b": -(truth[:, [2, 0, 1]] ** 3),
        "rotated": truth @ special_ortho_group.rvs(3, random_state=3),
    }
    kls = {"a": [3.0, 3, 3, 0, 0], "b": [3.0] * 3, "rotated": [3.0] * 3}
    result = metrics.udr(found, kls)
    assert result.pairs.loc["a", "b"] == pytest.approx(0.95, abs=0.05)
    assert result.pairs.loc["a", "rotated"] < 0.7
    assert result.n_active["a"] == 3 and result.best in ("a", "b")
    plain = slow_udr_pair(found["a"][:, :3], found["rotated"])
    assert result.pairs.loc["a", "rotated"] == pytest.approx(plain, abs=1e-9)
    by_lasso = metrics.udr(found, kls, similarity="lasso")
    assert by_lasso.pairs.loc["a", "b"] > by_lasso.pairs.loc["a", "rotated"] + 0.2
    dead = metrics.udr({"a": found["a"], "dead": np.zeros((2000, 3))})
    assert dead.scores.isna().all() and dead.notes == ("dead: no active dimension",)


# plain loops, as the papers say it


def slow_information(codes, factors, n_bins=20) -> tuple[list, list]:
    tables, entropies = [], []
    for name in factors:
        values = list(factors[name])
        known = []
        for z in codes.T.tolist():
            low, high = min(z), max(z)
            joint: dict = {}
            for a, v in zip(z, values, strict=True):
                place = (min(int((a - low) / (high - low) * n_bins), n_bins - 1), v)
                joint[place] = joint.get(place, 0) + 1 / len(z)
            of_bin, of_value = {}, {}
            for (a, v), p in joint.items():
                of_bin[a] = of_bin.get(a, 0) + p
                of_value[v] = of_value.get(v, 0) + p
            known.append(
                sum(p * np.log(p / of_bin[a] / of_value[v]) for (a, v), p in joint.items())
            )
        tables.append(known)
        entropies.append(-sum(p * np.log(p) for p in of_value.values()))
    return tables, entropies


def slow_mig(codes, factors) -> float:
    gaps = []
    for known, entropy in zip(*slow_information(codes, factors), strict=True):
        most = sorted(known)
        gaps.append((most[-1] - most[-2]) / entropy)
    return sum(gaps) / len(gaps)


def slow_modularity(codes, factors) -> float:
    tables, _ = slow_information(codes, factors)
    scores = []
    for d in range(codes.shape[1]):
        squares = sorted(known[d] ** 2 for known in tables)
        scores.append(1 - sum(squares[:-1]) / squares[-1] / (len(squares) - 1))
    return sum(scores) / len(scores)


def slow_udr_pair(a, b) -> float:
    shares = []
    like = [[abs(spearmanr(x, y).statistic) for y in b.T] for x in a.T]
    for row in like:
        shares.append(max(row) ** 2 / sum(row))
    for column in zip(*like, strict=True):
        shares.append(max(column) ** 2 / sum(column))
    return sum(shares) / len(shares)


def slow_votes(codes, factors, n, seed, batch_size=64) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    rows_of = {
        name: {v: [i for i, w in enumerate(factors[name]) if w == v] for v in set(factors[name])}
        for name in factors
    }
    overall = [np.var(z, ddof=1) for z in codes.T]
    votes = []
    for _ in range(n):
        k = int(rng.integers(len(factors.columns)))
        name = factors.columns[k]
        pool = rows_of[name][factors[name].iloc[int(rng.integers(len(codes)))]]
        rows = [pool[int(rng.integers(len(pool)))] for _ in range(batch_size)]
        shares = [
            np.var([codes[i, d] for i in rows], ddof=1) / overall[d] for d in range(codes.shape[1])
        ]
        votes.append((int(np.argmin(shares)), k))
    return votes


def slow_sap(codes, factors) -> float:
    gaps = []
    for name in factors:
        v = [float(value) for value in factors[name]]
        mean_v = sum(v) / len(v)
        scores = []
        for z in codes.T.tolist():
            mean_z = sum(z) / len(z)
            both = sum((a - mean_z) * (b - mean_v) for a, b in zip(z, v, strict=True))
            of_z = sum((a - mean_z) ** 2 for a in z)
            scores.append(both**2 / of_z / sum((b - mean_v) ** 2 for b in v))
        gaps.append(sorted(scores)[-1] - sorted(scores)[-2])
    return sum(gaps) / len(gaps)


def timed(function, *args, **options) -> tuple[float, float]:
    start = time.process_time()
    value = float(function(*args, **options))
    return value, time.process_time() - start


@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        (metrics.mig, slow_mig),
        (metrics.modularity, slow_modularity),
        (metrics.sap, slow_sap),
    ],
)
def test_scores_are_those_of_plain_loops_and_ten_times_as_fast(fast, slow):
    codes = codes_of("rotated", FACTORS)
    found, seconds = min((timed(fast, codes, FACTORS) for _ in range(3)), key=lambda pair: pair[1])
    expected, plain_seconds = timed(slow, codes, FACTORS)
    assert found == pytest.approx(expected, abs=1e-9)
    assert plain_seconds > 10 * seconds


def test_votes_are_those_of_plain_loops_and_ten_times_as_fast():
    codes = codes_of("rotated", FACTORS)
    n = 200
    start = time.process_time()
    votes = slow_votes(codes, FACTORS, n, seed=0)
    plain_seconds = (time.process_time() - start) / n
    counts = np.zeros((10, 5))
    for d, k in votes:
        counts[d, k] += 1
    start = time.process_time()
    found = metrics.factor_vae_score(codes, FACTORS, n_train=2000, n_test=1, prune_threshold=0.0)
    seconds = (time.process_time() - start) / 2000
    # the same draws in another order: frequencies agree
    np.testing.assert_allclose(found.table.to_numpy() / 2000, counts / n, atol=0.12)
    assert plain_seconds > 10 * seconds


@pytest.mark.parametrize(
    "score",
    [
        metrics.beta_vae_score,
        metrics.factor_vae_score,
        metrics.mig,
        metrics.modularity,
        metrics.sap,
        metrics.dci,
    ],
)
class TestBadInput:
    codes = np.random.default_rng(0).normal(size=(100, 3))
    factors = FACTORS[["shape", "scale"]][:100]

    def test_other_lengths(self, score):
        with pytest.raises(ValueError, match="factors have 99 rows, codes 100"):
            score(self.codes, self.factors[:-1])

    def test_codes_that_are_not_finite(self, score):
        codes = self.codes.copy()
        codes[3, 1] = np.nan
        with pytest.raises(ValueError, match=r"NaN or infinite values \(dimensions 1\)"):
            score(codes, self.factors)

    def test_no_factor_varies(self, score):
        with pytest.raises(ValueError, match="No factor varies: 'shape' have one value"):
            score(self.codes, {"shape": np.zeros(100)})

    def test_missing_values(self, score):
        factors = self.factors.assign(scale=np.nan)
        with pytest.raises(ValueError, match="'scale' has missing values"):
            score(self.codes, factors)

    def test_infinite_values(self, score):
        with pytest.raises(ValueError, match="'scale' has infinite values"):
            score(self.codes, self.factors.assign(scale=np.inf))

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_no_active_dimension_is_a_result(self, score):
        found = score(np.zeros((100, 3)), self.factors)
        assert float(found) == 0.0 and "no active dimension" in found.notes

    def test_too_few_rows(self, score):
        with pytest.raises(ValueError, match="too few|are constant|one value"):
            score(self.codes[:1], self.factors[:1])


def test_one_dimension_has_no_gap():
    for score in (metrics.mig, metrics.sap, metrics.dci):
        with pytest.raises(ValueError, match="two"):
            score(np.arange(100.0)[:, None], FACTORS[["shape", "scale"]][:100])


def test_a_vote_needs_rows_that_vary():
    with pytest.raises(ValueError, match="one row has no variance"):
        metrics.factor_vae_score(np.eye(30), FACTORS[:30], batch_size=1)


def test_dependent_factors_are_told():
    factors = FACTORS[["shape", "scale"]].assign(copy=FACTORS["scale"] // 2)
    with pytest.warns(UserWarning, match="depend on each other .scale and copy"):
        metrics.factor_vae_score(codes_of("perfect", FACTORS), factors, **FEW)


def test_continuous_factors_are_binned():
    age = np.random.default_rng(0).normal(size=1000)
    found = metrics.mig(np.stack([age, -(age**2)], 1), {"age": age})
    assert found.notes == ("age: 20 quantile bins",)
    assert float(found) > 0.3


def test_numbers_are_binned_whatever_their_type():
    values = np.random.default_rng(0).integers(0, 500, 2000)
    codes = np.stack([values, np.random.default_rng(1).normal(size=2000)], 1)
    scores = {float(metrics.mig(codes, {"v": values.astype(t)})) for t in (np.uint16, int, float)}
    assert len(scores) == 1
    ids = metrics.mig(codes, {"v": pd.Categorical(values)})
    assert ids.notes == () and float(ids) not in scores
    # edges at 0.70, 0.75, ..., 1: those below are all at the value of 65 % of the rows
    values[:1300] = 0
    found = metrics.mig(codes, {"v": values})
    assert found.notes == ("v: 7 quantile bins",)


@pytest.mark.parametrize(
    ("codes", "kls", "message"),
    [
        ([np.ones((20, 2))], None, "two or more, not 1"),
        ([np.ones((20, 2)), np.ones((19, 2))], None, "codes of 19, 20 rows"),
        ([np.ones((5, 2)), np.ones((5, 2))], None, "5 rows are too few"),
        ([np.ones((20, 2)), np.ones((20, 2))], [[1.0], [1.0]], "one number for each dimension"),
    ],
)
def test_bad_input_of_the_ranking(codes, kls, message):
    with pytest.raises(ValueError, match=message):
        metrics.udr(codes, kls)
