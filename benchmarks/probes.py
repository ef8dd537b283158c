"""Logistic probes and their intervals against scikit-learn's, on clips made up like the demo's.

    python benchmarks/probes.py [--clips 550] [--titles 24] [--labels 12]

Clips of 2304 numbers, of which some tell a label; folds by title, and 200 bootstrap samples of titles. scikit-learn is
given the features in the basis that they span, as our probes did before, and fits each label on its own. Processor
seconds, in turns in one run, and how far the results are apart.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from model.probes import BOOTSTRAP, LOGISTIC_C, Ranking, logistic_out_of_fold, resampled

FOLDS = 5


def made_up(clips: int, titles: int, labels: int) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.str_]]:
    """Features (clips, 2304), truth (clips, labels) and the clips' titles."""
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(titles, size=clips)).astype(str)
    hidden = rng.normal(size=(clips, labels))
    features = hidden @ rng.normal(size=(labels, 2304)) + 4 * rng.normal(size=(clips, 2304))
    return features, hidden > 1, groups


def by_label(
    features: NDArray[np.float64], truth: NDArray[np.bool_], groups: NDArray[np.str_], folds: int
) -> NDArray[np.float64]:
    predicted = np.zeros(truth.shape)
    for training, held_out in GroupKFold(folds).split(features, groups=groups):
        scaler = StandardScaler().fit(features[training])
        seen, unseen = scaler.transform(features[training]), scaler.transform(features[held_out])
        values, vectors = np.linalg.eigh(seen @ seen.T)
        kept = values > values[-1] * 1e-10
        axes, scale = vectors[:, kept], np.sqrt(values[kept])
        for label in range(truth.shape[1]):
            model = LogisticRegression(C=LOGISTIC_C, max_iter=100).fit(axes * scale, truth[training, label])
            predicted[held_out, label] = model.predict_proba(unseen @ (seen.T @ (axes / scale)))[:, 1]
    return predicted


def processor_s(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    made = work()
    return time.process_time() - began, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=550)
    parser.add_argument("--titles", type=int, default=24)
    parser.add_argument("--labels", type=int, default=12)
    options = parser.parse_args()
    features, truth, groups = made_up(options.clips, options.titles, options.labels)
    warnings.simplefilter("ignore", ConvergenceWarning)
    with threadpool_limits(limits=1):
        theirs, ours = [], []
        for _turn in range(3):
            peer_s, peer = processor_s(lambda: by_label(features, truth, groups, FOLDS))
            our_s, found = processor_s(lambda: logistic_out_of_fold(features, truth, groups, FOLDS))
            theirs.append(peer_s)
            ours.append(our_s)
        samples = list(resampled(groups, 0, BOOTSTRAP))
        label = truth[:, 0]

        def ranked() -> list[float]:
            ranking = Ranking(label, found[:, 0], np.arange(len(label)))
            return [ranking.average_precision(np.bincount(clips, minlength=len(label))) for clips in samples]

        scored_s, scored = processor_s(lambda: [average_precision_score(label[c], found[c, 0]) for c in samples])
        ranked_s, again = processor_s(ranked)
    print(f"{options.clips} clips of {options.titles} titles, {options.labels} labels")
    print("processor seconds, ours | scikit-learn")
    print(f"fit, out of fold     {min(ours):6.2f} | {min(theirs):6.2f}   {min(theirs) / min(ours):5.1f} x", end="")
    print(f"   probabilities apart by {np.abs(found - peer).max():.1e}")
    print(f"{BOOTSTRAP} x average precision {ranked_s:4.2f} | {scored_s:6.2f}   {scored_s / ranked_s:5.1f} x", end="")
    print(f"   apart by {np.abs(np.array(again) - scored).max():.1e}")


if __name__ == "__main__":
    main()
