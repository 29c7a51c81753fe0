"""The objectives. D gives logits, real first and fake second; both players minimise.

E is the mean over the batch and σ the logistic function. A critic's loss sums its
two halves, as in the first GAN paper; ``average=True`` halves it, as some code does
(a factor 2 in every gradient of D).

Shapes: logits of any shape, each half averaged over all its elements; losses are scalars.
"""

from collections.abc import Callable
from typing import NamedTuple

from tinygan.ops import add, mean, multiply, negative, relu, softplus, square, subtract


class Loss(NamedTuple):
    """The two sides of a game: ``critic(real, fake, average=False)`` and ``generator(fake)``."""

    critic: Callable
    generator: Callable


def logistic_critic(real, fake, average=False):
    """The discriminator of the standard GAN: the negative log-likelihood of the labels.

    E softplus(−D(x)) + E softplus(D(G(z))) = −E log σ(D(x)) − E log(1 − σ(D(G(z))))

    Source: Goodfellow et al. (2014), equation 1; P3 equation 1, P4 equation 1.
    """
    return _halves(mean(softplus(negative(real))), mean(softplus(fake)), average)


def minimax_generator(fake):
    """The saturating generator: its gradient vanishes where D is sure that a sample is fake.

    −E softplus(D(G(z))) = E log(1 − σ(D(G(z))))

    Source: Goodfellow et al. (2014), equation 1.
    """
    return negative(mean(softplus(fake)))


def non_saturating_generator(fake):
    """The generator that maximises log σ(D): a strong gradient where D is sure.

    E softplus(−D(G(z))) = −E log σ(D(G(z)))

    Source: Goodfellow et al. (2014), section 3; P1 section 3.1.
    """
    return mean(softplus(negative(fake)))


def wasserstein_critic(real, fake, average=False):
    """The critic whose negative loss estimates the Wasserstein distance, if D is 1-Lipschitz.

    E D(G(z)) − E D(x)

    Source: Arjovsky et al. (2017); P0 equation 2 with its sign mended, P4 algorithm 1.
    """
    return _halves(negative(mean(real)), mean(fake), average)


def wasserstein_generator(fake):
    """The generator against a Wasserstein critic.

    −E D(G(z))
    """
    return negative(mean(fake))


def least_squares_critic(real, fake, average=False):
    """The critic that regresses real to 1 and fake to 0.

    ½E (D(x) − 1)² + ½E D(G(z))²

    Source: Mao et al., Least squares GANs (2017).
    """
    return _halves(
        multiply(mean(square(subtract(real, 1.0))), 0.5), multiply(mean(square(fake)), 0.5), average
    )


def least_squares_generator(fake):
    """The generator that moves D's regression towards real.

    ½E (D(G(z)) − 1)²
    """
    return multiply(mean(square(subtract(fake, 1.0))), 0.5)


def hinge_critic(real, fake, average=False):
    """The critic with a margin: samples beyond it give no gradient.

    E max(0, 1 − D(x)) + E max(0, 1 + D(G(z)))

    Source: Lim & Ye, Geometric GAN (2017); Miyato et al. (2018).
    """
    return _halves(mean(relu(subtract(1.0, real))), mean(relu(add(fake, 1.0))), average)


def hinge_generator(fake):
    """The generator against a hinge critic.

    −E D(G(z))
    """
    return negative(mean(fake))


def label_smoothed(real=0.9, fake=0.0, generator=non_saturating_generator):
    """The standard GAN whose discriminator is told less than it could be: labels short of 1 and 0.

    E [softplus(D(x)) − a·D(x)] + E [softplus(D(G(z))) − b·D(G(z))], a for real and b for fake:
    the cross-entropy −a·log σ − (1 − a)·log(1 − σ), least at σ(D(x)) = a

    One-sided, with b = 0, is the form that is advised: with b above 0 the optimal discriminator
    (a·p_r + b·p_g)/(p_r + p_g) rewards a generator for staying where it is.

    Args:
        real, fake: the labels a and b, 0 ≤ b < a ≤ 1.
        generator: the other side's loss.
    Returns: a :class:`Loss`.
    Raises: ValueError for other labels.
    Source: Salimans et al., Improved techniques for training GANs (2016), section 3.4.
    """
    if not 0 <= fake < real <= 1:
        raise ValueError(
            f"label_smoothed: labels {real} for real and {fake} for fake; expected "
            "0 <= fake < real <= 1, such as 0.9 and 0"
        )

    def critic(on_real, on_fake, average=False):
        halves = [
            subtract(mean(softplus(logits)), multiply(mean(logits), label))
            for logits, label in ((on_real, real), (on_fake, fake))
        ]
        return _halves(*halves, average)

    return Loss(critic, generator)


def _halves(real, fake, average):
    total = add(real, fake)
    return multiply(total, 0.5) if average else total


MINIMAX = Loss(logistic_critic, minimax_generator)
NON_SATURATING = Loss(logistic_critic, non_saturating_generator)
WASSERSTEIN = Loss(wasserstein_critic, wasserstein_generator)
LEAST_SQUARES = Loss(least_squares_critic, least_squares_generator)
HINGE = Loss(hinge_critic, hinge_generator)
