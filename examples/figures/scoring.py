"""What generated digits are worth: the same scores, on the same real digits, for every figure."""

from functools import cache

import numpy as np
from train import as_digits

import tinygan as tg
from tinygan import image_scores
from tinygan.data import digits

JUDGED = 1000  # images


def shown(run, step, n):
    """n images of a run as grey 28×28 digits, whatever they were padded to for its networks.

    Shapes: uint8 (n, 28, 28, 1).
    """
    return as_digits(run.images(step, n))


def scores(run, step, n=JUDGED):
    """What n images of a run are worth to our own classifier of digits: a dict of numbers.

    As :func:`tinygan.image_scores.image_report` names them, but for its duplicates, which take
    longest; and ``effective_classes`` = exp(entropy of the classes), of 10.
    """
    return of_images(shown(run, step, n))


def of_images(images):
    """The same of images. Shapes: uint8 (n, 28, 28, 1)."""
    real, p_real = reference()
    features, p = image_scores.digit_classifier()(images)
    found = image_scores.precision_recall(real, features)
    share = np.bincount(p.argmax(axis=1), minlength=10) / len(p)
    some = share[share > 0]
    return {
        "frechet_distance": image_scores.frechet_distance(real, features),
        "kernel_distance": image_scores.kernel_distance(real, features),
        "inception_style_score": image_scores.inception_style_score(p),
        "precision": found.precision,
        "recall": found.recall,
        "classes": int(np.sum(share > 0)),
        "effective_classes": float(np.exp(-np.sum(some * np.log(some)))),
    }


def distance(run, step, n):
    """The kernel distance alone, which has no bias: fewer images will do."""
    features, _ = image_scores.digit_classifier()(shown(run, step, n))
    return image_scores.kernel_distance(reference()[0], features)


@cache
def floor():
    """The scores of other real digits."""
    return of_images(_real(slice(JUDGED, 2 * JUDGED)))


@cache
def reference():
    """What the classifier says of the real digits: features and probabilities."""
    return image_scores.digit_classifier()(_real(slice(JUDGED)))


def _real(part):
    every = digits()
    return every.take(tg.Stream(1).permutation(len(every))[part]).pixels
