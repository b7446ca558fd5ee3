"""What a router is worth: metrics per class and identity collapse."""

import numpy as np
import pytest

from cola_jax.deploy.router.evaluate import ClassMetrics, Collapse, Routed
from cola_jax.deploy.router.targets import CLASSES


def test_class_metrics_count_by_label_and_prediction():
    labels = np.array([[0, 1, 1, 1], [2, 1, -1, 1]])
    predicted = np.array([[0, 1, 1, 0], [1, 1, 2, 1]])
    metrics = ClassMetrics.of(labels, predicted, CLASSES)
    assert metrics.confusion.tolist() == [[1, 0, 0], [1, 4, 0], [0, 1, 0]]
    np.testing.assert_allclose(metrics.precision, [1 / 2, 4 / 5, 0])
    np.testing.assert_allclose(metrics.recall, [1, 4 / 5, 0])
    np.testing.assert_allclose(metrics.f1, [2 / 3, 4 / 5, 0])
    assert metrics.accuracy == pytest.approx(5 / 7)
    assert metrics.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 3)
    assert metrics.to_json()["classes"]["skip"]["recall"] == 1


def test_macro_f1_leaves_out_classes_that_do_not_occur():
    ones = np.ones((2, 3), int)
    assert ClassMetrics.of(ones, ones, CLASSES).macro_f1 == 1


PLAIN, SHORT, LONG = (0, 1, 2), (0, 2), (0, 1, 1, 2)


@pytest.mark.parametrize(
    ("named", "warning"),
    [
        ([PLAIN] * 20, "identity collapse. The router names the identity path for 20 of 20"),
        ([PLAIN] * 19 + [SHORT], "identity collapse"),
        ([SHORT] * 20, "collapse to one path. The router names the same path for 20 of 20"),
        ([PLAIN] * 18 + [SHORT, LONG], None),
    ],
)
def test_collapse_warns(named, warning):
    collapse = Collapse.of(named, [SHORT] * 20, 3)
    assert (collapse.warning is None) == (warning is None)
    if warning is not None:
        assert collapse.warning.startswith("WARNING: ")
        assert warning in collapse.warning
    assert collapse.to_json()["collapsed"] == (warning is not None)


def test_collapse_compares_with_the_identity_path():
    collapse = Collapse.of([PLAIN, SHORT], [SHORT, LONG], 3)
    assert (collapse.identity, collapse.distinct) == (1, 2)
    assert collapse.accuracy == pytest.approx((2 + 2) / 6)
    assert collapse.identity_accuracy == pytest.approx(4 / 6)


def test_routed_counts_the_first_path_and_names_any_of_k():
    named = np.array([[True, True], [False, True], [False, False], [True, False]])
    plain = np.array([False, True, False, True])
    routed = Routed(plain, named, [[PLAIN, SHORT]] * 4, 1.0)
    assert routed.top.tolist() == [True, False, False, True]
    found = routed.to_json()
    assert (found["W→C"], found["C→W"]) == (1, 1)
    assert found["difference"]["value"] == 0
    assert found["any_of_k_right"] == {"k": 2, "right": 3}
    assert found["mean_layers"] == 3
