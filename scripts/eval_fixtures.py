#!/usr/bin/env python3
"""Writes the reference results of scikit-learn that mim-eval's probe tests compare with.

    python scripts/eval_fixtures.py

Needs numpy and scikit-learn (made with numpy 2.4.6, scikit-learn 1.9.1). Probes the raw pixels (bytes / 255, 28 x 28) of the excerpt of
Fashion-MNIST in mim-core/data and writes mim-eval/tests/goldens/raw_pixels.json:
linear  StandardScaler, then LogisticRegression(C=0.1): predictions on the test split at the default tolerance (max_iter 300) and
        converged (tol 1e-10), and the converged mean cross entropy + ||W||^2 / (2 C n)
knn     20 neighbours by cosine, votes exp(sim / 0.07): predictions on the test split, and top-1 and top-5 in percent
"""

import gzip
import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).parent.parent
DATA = ROOT / "mim-core" / "data" / "fashion-mnist-mini"
GOLDENS = ROOT / "mim-eval" / "tests" / "goldens"
C, K, TEMPERATURE = 0.1, 20, 0.07


def split(name):
    def read(file, offset):
        return np.frombuffer(gzip.open(DATA / f"{name}-{file}-ubyte.gz").read(), np.uint8)[offset:]

    labels = read("labels-idx1", 8).astype(int)
    return read("images-idx3", 16).reshape(len(labels), -1) / 255.0, labels


def percent(right):
    return round(100 * float(np.mean(right)), 6)


def linear(train, train_labels, test, test_labels):
    scale = StandardScaler().fit(train)
    train, test = scale.transform(train), scale.transform(test)
    default = LogisticRegression(C=C, max_iter=300).fit(train, train_labels)
    converged = LogisticRegression(C=C, max_iter=10_000, tol=1e-10).fit(train, train_labels)
    penalty = (converged.coef_**2).sum() / (2 * C * len(train))
    return {
        "top1": percent(converged.predict(test) == test_labels),
        "default_predictions": default.predict(test).tolist(),
        "predictions": converged.predict(test).tolist(),
        "objective": log_loss(train_labels, converged.predict_proba(train)) + penalty,
    }


def knn(train, train_labels, test, test_labels):
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (test, train)]
    sim = unit[0] @ unit[1].T
    near = np.argsort(-sim, axis=1, kind="stable")[:, :K]
    votes = np.zeros((len(test), 10))
    for row, index in enumerate(near):
        np.add.at(votes[row], train_labels[index], np.exp(sim[row, index] / TEMPERATURE))
    ranked = np.argsort(-votes, axis=1, kind="stable")
    return {
        "top1": percent(ranked[:, 0] == test_labels),
        "top5": percent((ranked[:, :5] == test_labels[:, None]).any(1)),
        "predictions": ranked[:, 0].tolist(),
    }


data = [*split("train"), *split("t10k")]
results = {"linear": linear(*data), "knn": knn(*data)}
GOLDENS.mkdir(parents=True, exist_ok=True)
(GOLDENS / "raw_pixels.json").write_text(json.dumps(results) + "\n")
for name, result in results.items():
    print(name, {key: value for key, value in result.items() if not key.endswith("predictions")})
