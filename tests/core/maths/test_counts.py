import pytest
import torch
from scipy import sparse
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial

from mixvi.core.maths import counts
from mixvi.core.maths.sparse import SparseRows, linear

B, G = 7, 11


def _sparse(x):
    matrix = sparse.csr_matrix(x.numpy())
    parts = (matrix.indptr, matrix.indices, matrix.data)
    return SparseRows(*map(torch.from_numpy, parts), matrix.shape[1])


def _with_stored_zeros(x):
    """Every third entry is stored, whatever its value, and all that are not zero."""
    stored = (x != 0) | (torch.arange(x.numel()).view(x.shape) % 3 == 0)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), stored.sum(1).cumsum(0)])
    return SparseRows(offsets, stored.nonzero()[:, 1], x[stored], x.shape[1])


@pytest.fixture(params=["dense", "sparse", "stored zeros", "all entries"])
def shape_of(request, monkeypatch):
    """The ways in which counts reach a likelihood."""
    if request.param == "sparse":
        return _sparse
    if request.param == "stored zeros":
        return _with_stored_zeros
    if request.param == "all entries":
        monkeypatch.setattr(
            counts.Entries,
            "of",
            classmethod(lambda cls, x: cls(None, x, None, None, tuple(x.shape))),
        )
    return lambda x: x


@pytest.fixture(params=["softmax", "softplus"])
def activation(request):
    """How outputs of the decoder become rates."""
    return request.param


def _problem(dtype, rows=1, seed=0):
    torch.manual_seed(seed)
    x = torch.poisson(torch.full((B, G), 0.6)) * torch.randint(1, 40, (B, G))
    x[2] = 0
    raw = 2 * torch.randn(B, G)
    log_theta = 1.5 * torch.randn(rows, G)
    zi = torch.randn(B, G)
    library = 5.0 + 100 * torch.rand(B, 1)
    return [t.to(dtype) for t in (x, raw, library, log_theta, zi)]


def _reference(name, x, raw, library, log_theta, zi, activation="softmax"):
    scale = torch.softmax(raw, -1) if activation == "softmax" else raw.exp().log1p()
    mean = scale * library
    if name == "poisson":
        return -torch.distributions.Poisson(mean).log_prob(x).sum(-1)
    if name == "nb":
        return -NegativeBinomial(mu=mean, theta=log_theta.exp()).log_prob(x).sum(-1)
    zinb = ZeroInflatedNegativeBinomial(mu=mean, theta=log_theta.exp(), zi_logits=zi)
    return -zinb.log_prob(x).sum(-1)


def _ours(name, x, raw, library, log_theta, zi, activation="softmax"):
    if name == "poisson":
        return counts.poisson_loss(x, raw, library, activation)
    if name == "nb":
        return counts.negative_binomial_loss(x, raw, library, log_theta, activation)
    return counts.zero_inflated_loss(x, raw, library, log_theta, zi, activation)


@pytest.mark.parametrize("rows", [1, B])
@pytest.mark.parametrize("name", ["poisson", "nb", "zinb"])
def test_values_and_gradients_are_those_of_the_distributions(name, rows, shape_of, activation):
    x, *rest = _problem(torch.float64, rows)
    weights = torch.rand(B, dtype=torch.float64)
    results = []
    for loss, data in ((_reference, x), (_ours, shape_of(x))):
        raw, library, log_theta, zi = (t.clone() for t in rest)
        leaves = [t.requires_grad_() for t in (raw, log_theta, zi)]
        value = loss(name, data, raw, library, log_theta, zi, activation)
        used = {"poisson": 1, "nb": 2, "zinb": 3}[name]
        results.append([value, *torch.autograd.grad((weights * value).sum(), leaves[:used])])
    # scvi-tools adds 1e-8 inside its logarithms
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["poisson", "nb", "zinb"])
def test_float32_agrees_to_1e_5(name, shape_of, activation):
    x, *rest = _problem(torch.float32, seed=1)
    exact = _reference(name, x.double(), *(t.double() for t in rest), activation)
    torch.testing.assert_close(
        _ours(name, shape_of(x), *rest, activation).double(), exact, rtol=1e-5, atol=1e-5
    )


def test_gradient_of_the_negative_binomial_against_differences(shape_of, activation):
    x, raw, library, log_theta, _ = _problem(torch.float64)
    raw.requires_grad_()
    log_theta.requires_grad_()
    data = shape_of(x)
    assert torch.autograd.gradcheck(
        lambda r, t: counts.negative_binomial_loss(data, r, library, t, activation),
        (raw, log_theta),
    )


@pytest.mark.parametrize("name", ["poisson", "nb", "zinb"])
def test_a_rate_of_zero_costs_no_nan(name, shape_of, activation):
    """Neither where the gene has no counts nor, in the second row, where it has some."""
    x = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    raw = torch.tensor([[0.0, -200.0], [0.0, -200.0]], requires_grad=True)
    rest = torch.full((2, 1), 3.0), torch.zeros(1, 2), torch.zeros(2, 2)
    loss = _ours(name, shape_of(x), raw, *rest, activation)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(raw.grad).all()
    # the rate of a gene that has counts must rise
    assert raw.grad[1, 1] < 0


@pytest.mark.parametrize("shape", [_sparse, _with_stored_zeros])
@pytest.mark.parametrize("by_column", [False, True])
def test_sparse_product_is_the_dense_one(by_column, shape):
    x = _problem(torch.float32)[0]
    weight = torch.randn(5, G)
    weight = weight.t().contiguous().t() if by_column else weight
    bias = torch.randn(5)
    results = []
    for data in (x, shape(x)):
        w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        out = linear(data, w, b)
        out.square().sum().backward()
        results.append([out, w.grad, b.grad])
    for dense, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, dense)


@pytest.mark.parametrize("shape", [_sparse, _with_stored_zeros])
def test_sparse_rows_are_their_dense_form(shape):
    x = _problem(torch.float32)[0]
    rows = shape(x)
    assert len(rows) == B
    torch.testing.assert_close(rows.dense(), x)
    torch.testing.assert_close(rows.log1p().dense(), x.log1p())
    torch.testing.assert_close(rows.row_sums(), x.sum(1))
    assert not rows.pays() and _sparse(torch.eye(11)).pays()
