"""Networks: shapes, gradients, start values, and the exact size of a known network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vaelab.core.errors import BadInput
from vaelab.distributions.likelihoods import Bernoulli, Decoder
from vaelab.distributions.posteriors import GaussianPosterior
from vaelab.nets.conv import ConvDecoder, ConvEncoder
from vaelab.nets.init import initialise
from vaelab.nets.mlp import ACTIVATIONS, MLP, NORMS

ROWS = 6
NETS = {
    "mlp": (lambda **style: MLP(12, (8, 5), (2, 3), **style), (3, 4)),
    "features": (lambda **style: MLP(12, (8, 5), **style), (3, 4)),
    "linear": (lambda **style: MLP(12, (), 7, **style), (3, 4)),
    "conv encoder": (lambda **style: ConvEncoder((2, 9, 12), (4, 5), 3, **style), (2, 9, 12)),
    "conv features": (lambda **style: ConvEncoder((2, 9, 12), (4, 5), **style), (2, 9, 12)),
    "conv decoder": (lambda **style: ConvDecoder(3, (4, 5), (2, 9, 12), **style), (3,)),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETS)
def test_every_parameter_gets_a_gradient(name, norm):
    build, shape = NETS[name]
    net = build(norm=norm).double()
    out = net(torch.randn(ROWS, *shape, dtype=torch.float64))
    (out * torch.randn_like(out)).sum().backward()
    assert out[0].numel() == net.features
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad.abs().max() > 1e-8, parameter_name


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", NETS)
def test_gradients_agree_with_finite_differences(name, activation):
    build, shape = NETS[name]
    net = build(activation=activation).double()
    x = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, x)


@pytest.mark.parametrize("name", NETS)
def test_rows_do_not_see_each_other(name):
    build, shape = NETS[name]
    net, x = build(norm="layer").double(), torch.randn(ROWS, *shape, dtype=torch.float64)
    torch.testing.assert_close(net(x)[3], net(x[3:4])[0])


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("size", range(8, 66))
def test_convolutions_return_exactly_the_size_they_were_given(size, colours):
    shape = (colours, size, 73 - size)
    encoder, decoder = ConvEncoder(shape, (2, 2, 2)), ConvDecoder(2, (2, 2, 2), shape)
    assert encoder(torch.zeros(2, *shape)).shape == (2, encoder.features)
    assert decoder(torch.zeros(2, 2)).shape == (2, *shape)


def test_every_pixel_reaches_the_features_and_every_latent_reaches_every_pixel():
    x = torch.randn(1, 1, 29, 31, dtype=torch.float64, requires_grad=True)
    ConvEncoder((1, 29, 31), (3, 3, 3)).double()(x).square().sum().backward()
    # Halving rounds down, so that with an odd size the last row or column may fall outside the last window.
    assert (x.grad[..., :28, :28].abs() > 0).all()
    decoder = ConvDecoder(1, (3, 3, 3), (1, 29, 31)).double()
    at = [decoder(torch.full((1, 1), value, dtype=torch.float64)) for value in (-1.0, 2.0)]
    assert (at[0] != at[1]).all()


def test_gray_images_may_come_without_their_colour_dimension():
    net, x = ConvEncoder((1, 8, 8), (2,)), torch.randn(3, 8, 8)
    torch.testing.assert_close(net(x), net(x[:, None]), rtol=0, atol=0)


def test_dropout_acts_in_training_only():
    net, x = MLP(4, (1000,), dropout=0.3), torch.ones(1, 4)
    assert (net(x) == 0).sum().item() == pytest.approx(300, abs=75)
    net.eval()
    assert (net(x) != 0).all()


def test_the_tutorial_network_has_exactly_its_published_size():
    hidden = (512, 256, 128, 64)
    encoder = GaussianPosterior(MLP(784, hidden), 64, 2, scale="softplus")
    decoder = Decoder(MLP(2, hidden[::-1], 784), Bernoulli(), (784,))
    assert sum(parameter.numel() for part in (encoder, decoder) for parameter in part.parameters()) == 1_149_972


@pytest.mark.parametrize(
    ("build", "variance"),
    [
        (lambda: nn.Linear(300, 500), 2 / 800),
        (lambda: nn.Conv2d(32, 64, 4), 2 / (32 * 16)),
        # Four of the sixteen taps reach a pixel.
        (lambda: nn.ConvTranspose2d(64, 32, 4, 2, 1), 2 / (64 * 4)),
    ],
)
def test_fan_sets_the_variance_of_the_rule(build, variance):
    part = initialise(build(), "fan")
    spread = part.weight.std().item() / math.sqrt(variance)
    assert spread == pytest.approx(1, abs=5 / math.sqrt(2 * part.weight.numel()))
    assert not part.bias.any()


def test_he_keeps_the_size_of_a_signal_through_transposed_convolutions():
    layers = [nn.Sequential(nn.ConvTranspose2d(128, 128, 4, 2, 1), nn.ReLU()) for _ in range(3)]
    net = initialise(nn.Sequential(*layers), "fan")
    out = net(torch.randn(4, 128, 4, 4))
    # ReLU halves a mean square, the doubled variance of the weights makes up for it: it stays that of the input, 1.
    assert out[..., 8:-8, 8:-8].square().mean().item() == pytest.approx(1, rel=0.35)


def test_pytorch_leaves_everything_alone():
    net = ConvEncoder((1, 8, 8), (3,), 2)
    before = [parameter.clone() for parameter in net.parameters()]
    assert all(map(torch.equal, before, initialise(net, "pytorch").parameters()))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP(2, (3,), activation="rely"), "activation: got rely; no such name; did you mean relu?"),
        (lambda: MLP(2, (3,), norm="layers"), "norm: got layers; no such name; did you mean layer?"),
        (lambda: initialise(nn.Linear(1, 1), "fen"), "model.init: got fen; no such name; did you mean fan?"),
        (
            lambda: ConvEncoder((1, 28, 9), (8,) * 4),
            "model.channels: got (8, 8, 8, 8); too many blocks for 28 x 9 pixels; "
            "each block halves the image; give at most 3 channels",
        ),
    ],
)
def test_bad_input_is_refused_in_a_sentence(build, message):
    with pytest.raises(BadInput) as refusal:
        build()
    assert str(refusal.value) == message
