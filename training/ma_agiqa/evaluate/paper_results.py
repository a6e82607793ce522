"""The numbers that the paper reports (Tables 1-5 and Fig. 2), to stand next to ours.

SRCC, PLCC and KRCC are in -1..1, RMSE is in units of MOS (0..5). Every table is by data set,
`AGIQA_3K` or `AIGCQA_20K`. The paper's spelling "CLIPQA" is written CLIPIQA, as its authors do.

The paper has two MANIQA: in Table 1 the published one, trained again; in the first row of Tables 3
and 4 the paper's own network with the quality feature alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

AGIQA_3K = "AGIQA-3k"
AIGCQA_20K = "AIGCQA-20k"
DATASETS = (AGIQA_3K, AIGCQA_20K)

OURS = "MA-AGIQA"
"""The paper's model, as its tables call it."""


@dataclass(frozen=True)
class PaperMetrics:
    """One row of a table; None where it is not given, such as `rmse` in Tables 3 and 4."""

    srcc: float
    plcc: float
    krcc: float | None = None
    rmse: float | None = None


COMPARISON: Mapping[str, Mapping[str, PaperMetrics]] = {
    AGIQA_3K: {
        "BRISQUE": PaperMetrics(0.4726, 0.5612, 0.3227, 0.8299),
        "NIQE": PaperMetrics(0.5236, 0.5668, 0.3637, 0.8260),
        "ILNIQE": PaperMetrics(0.6097, 0.6551, 0.4318, 0.7576),
        "CLIPIQA": PaperMetrics(0.6524, 0.6968, 0.4632, 0.7191),
        "CLIPIQA+": PaperMetrics(0.6933, 0.7493, 0.4957, 0.664),
        "Q-Align": PaperMetrics(0.6728, 0.6910, 0.4728, 0.7204),
        "HyperIQA": PaperMetrics(0.8509, 0.9049, 0.6685, 0.4134),
        "MANIQA": PaperMetrics(0.8618, 0.9115, 0.6839, 0.4111),
        "DBCNN": PaperMetrics(0.8263, 0.8900, 0.6393, 0.4533),
        "StairIQA": PaperMetrics(0.8343, 0.8933, 0.6485, 0.4510),
        "BAID": PaperMetrics(0.1304, 0.2030, 0.0854, 0.9487),
        "MUSIQ": PaperMetrics(0.8261, 0.8657, 0.6400, 0.4907),
        OURS: PaperMetrics(0.8939, 0.9273, 0.7211, 0.3756),
    },
    AIGCQA_20K: {
        "BRISQUE": PaperMetrics(0.1663, 0.3580, 0.1112, 0.6813),
        "NIQE": PaperMetrics(0.2085, 0.3378, 0.1394, 0.6868),
        "ILNIQE": PaperMetrics(0.3359, 0.4551, 0.2290, 0.6497),
        "CLIPIQA": PaperMetrics(0.4147, 0.6459, 0.2861, 0.5570),
        "CLIPIQA+": PaperMetrics(0.4553, 0.6682, 0.3169, 0.5428),
        "Q-Align": PaperMetrics(0.6743, 0.6815, 0.4808, 0.5199),
        "HyperIQA": PaperMetrics(0.8162, 0.8329, 0.6207, 0.3902),
        "MANIQA": PaperMetrics(0.8507, 0.8870, 0.6612, 0.3273),
        "DBCNN": PaperMetrics(0.8054, 0.8483, 0.6121, 0.3726),
        "StairIQA": PaperMetrics(0.7899, 0.8428, 0.6053, 0.3927),
        "BAID": PaperMetrics(0.1652, 0.1483, 0.1279, 0.7297),
        "MUSIQ": PaperMetrics(0.8329, 0.8646, 0.6403, 0.3634),
        OURS: PaperMetrics(0.8644, 0.9050, 0.6804, 0.3104),
    },
}
"""Table 1: every model trained (where it is trained) and tested on the same data set."""

METHODS = tuple(COMPARISON[AGIQA_3K])
"""Methods of Table 1, in its order."""

CROSS: Mapping[tuple[str, str], Mapping[str, PaperMetrics]] = {
    (AIGCQA_20K, AGIQA_3K): {
        OURS: PaperMetrics(0.8053, 0.8430, 0.6083, 0.5399),
        "HyperIQA": PaperMetrics(0.6820, 0.6806, 0.4806, 0.7352),
        "StairIQA": PaperMetrics(0.4335, 0.5234, 0.3294, 0.8549),
    },
    (AGIQA_3K, AIGCQA_20K): {
        OURS: PaperMetrics(0.7722, 0.8314, 0.5777, 0.4055),
        "HyperIQA": PaperMetrics(0.6374, 0.6547, 0.4577, 0.5414),
        "StairIQA": PaperMetrics(0.6495, 0.6895, 0.4644, 0.5285),
    },
}
"""Table 2, by (data set trained on, data set tested on)."""

ABLATION: Mapping[str, Mapping[tuple[str, ...], PaperMetrics]] = {
    AGIQA_3K: {
        ("quality",): PaperMetrics(0.8800, 0.9196, 0.7031),
        ("semantic",): PaperMetrics(0.8662, 0.9082, 0.6823),
        ("coherence",): PaperMetrics(0.8661, 0.9084, 0.6821),
        ("quality", "semantic"): PaperMetrics(0.8685, 0.9108, 0.6853),
        ("coherence", "quality"): PaperMetrics(0.8820, 0.9197, 0.7090),
        ("coherence", "semantic"): PaperMetrics(0.8699, 0.9102, 0.6867),
        ("coherence", "quality", "semantic"): PaperMetrics(0.8939, 0.9273, 0.7211),
    },
    AIGCQA_20K: {
        ("quality",): PaperMetrics(0.8415, 0.8877, 0.6520),
        ("semantic",): PaperMetrics(0.8184, 0.8345, 0.6323),
        ("coherence",): PaperMetrics(0.8181, 0.8343, 0.6320),
        ("quality", "semantic"): PaperMetrics(0.8540, 0.8975, 0.6671),
        ("coherence", "quality"): PaperMetrics(0.8596, 0.9016, 0.6738),
        ("coherence", "semantic"): PaperMetrics(0.8180, 0.8323, 0.6312),
        ("coherence", "quality", "semantic"): PaperMetrics(0.8644, 0.9050, 0.6804),
    },
}
"""Tables 3 and 4, by the scorer's inputs as a sorted tuple."""

FUSION: Mapping[str, Mapping[str, PaperMetrics]] = {
    AGIQA_3K: {
        "concat": PaperMetrics(0.8921, 0.9257, 0.7199, 0.3797),
        "moe": PaperMetrics(0.8939, 0.9273, 0.7211, 0.3756),
    },
    AIGCQA_20K: {
        "concat": PaperMetrics(0.8586, 0.8964, 0.6712, 0.3234),
        "moe": PaperMetrics(0.8644, 0.9050, 0.6804, 0.3104),
    },
}
"""Table 5: the mixture of experts against concatenated features."""

REPORTED_BY_USERS: Mapping[str, Mapping[str, PaperMetrics]] = {
    AGIQA_3K: {
        "authors' checkpoint, measured by a user": PaperMetrics(0.8820, 0.9199),
        "authors' code, trained by a user": PaperMetrics(0.8839, 0.9242),
    },
}
"""What others reached with the authors' repository (its issue 2), on the same split."""

DIGITAL_SUBSET_SRCC: Mapping[str, float] = {"MANIQA": 0.2545, OURS: 0.8364}
"""Fig. 2: SRCC on the AIGCQA-20k images of LCM_Pixart whose prompt contains "digital".

The two numbers are 14/55 and 46/55, rank correlations of 10 (or 11) images. The test part has 19
such images, the data set 101; which of them the paper took is not known.
"""
