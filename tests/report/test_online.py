"""Gains of an adapted network over the deployed one, worked by hand."""

import pandas as pd
import pytest

from accsim.report import online

SHIFT = "Fog(severity=4)"


def row(seed, margin, deployed, adapted, worst, roll_backs=0):
    """One run whose adapted network gets so much more right everywhere."""
    result = {
        "accuracy": {
            "student": 0.1,
            "teacher": adapted,
            "deployed": deployed,
            "shifted": {SHIFT: {"student": 0.1, "teacher": adapted - 0.2, "deployed": 0.25}},
        },
        "stream": {
            network: {"accuracy": accuracy}
            for network, accuracy in (("deployed", 0.5), ("student", 0.1), ("teacher", 0.75))
        },
        "floor": {"student": {"least_gain": -0.5}, "teacher": {"least_gain": worst}},
        "rejected": {
            "samples": 400,
            "rejected": 100,
            "spared_cycles_share": 0.125,
            "spared_joules_share": 0.0625,
        },
        "guard": {"roll_backs": roll_backs},
    }
    return {"margin": margin, "seed": seed, "teacher_accuracy": adapted, **online.measures(result)}


@pytest.fixture
def rows():
    return [
        row(0, 0.02, 0.50, 0.55, -0.01, 2),
        row(1, 0.02, 0.60, 0.61, 0.01, 1),
        row(0, 1.0, 0.50, 0.40, -0.20),
        row(1, 1.0, 0.60, 0.50, -0.20),
    ]


def test_gains_are_paired_by_seed(rows):
    found = online.gains(["margin"], rows).set_index(["margin", "place"])
    first = found.loc["0.02", "test images"]
    assert first["deployed"] == pytest.approx(0.55)
    assert first["adapted"] == pytest.approx(0.58)
    assert first["gain"] == pytest.approx(0.03)  # of 0.05 and 0.01
    assert first["gain_std"] == pytest.approx(0.02 * 2**0.5)
    # half of the interval: t of 1 degree of freedom, 12.706, times 0.02 sqrt(2) / sqrt(2)
    assert first["gain_high"] - first["gain"] == pytest.approx(12.706 * 0.02, rel=1e-4)
    assert first["least_gain"] == pytest.approx(0.01)
    under = found.loc["0.02", f"test images under {SHIFT}"]
    assert under["gain"] == pytest.approx((0.10 + 0.16) / 2)
    assert found.loc["0.02", "frames of the stream"]["gain"] == pytest.approx(0.25)
    worst = found.loc["0.02", online.WORST]
    assert (worst["gain"], worst["least_gain"]) == (pytest.approx(0.0), -0.01)
    assert pd.isna(worst["deployed"])
    assert (found["seeds"] == 2).all()


def test_they_are_told_with_their_spread(rows):
    told = online.told(["margin"], rows)
    assert told[0] == {
        "margin": "0.02",
        "accuracy on": "test images",
        "deployed": "55.0 +- 7.1 %",
        "adapted": "58.0 +- 4.2 %",
        "gain": "+3.0 +- 2.8 points",
        "95 % confidence": "-22.4 to +28.4",
        "worst seed": "+1.0",
    }
    assert told[3] | {"95 % confidence": ""} == {
        "margin": "0.02",
        "accuracy on": online.WORST,
        "deployed": "",
        "adapted": "",
        "gain": "+0.0 +- 1.4 points",
        "95 % confidence": "",
        "worst seed": "-1.0",
    }
    assert online.spared(["margin"], rows)[0] == {
        "margin": "0.02",
        "samples without backward work": "25.0 +- 0.0 %",
        "cycles spared": "12.5 +- 0.0 %",
        "joules spared": "6.2 +- 0.0 %",
        "roll-backs of the guard": "3",
    }


def test_one_seed_has_no_spread(rows):
    told = online.told(["margin"], rows[:1])
    assert (told[0]["gain"], told[0]["95 % confidence"]) == ("+5.0 points", "")


def test_the_deployed_network_is_one_line_of_the_figure(rows):
    stream = pd.DataFrame(
        [(5, "deployed", 0.5), (5, "student", 0.1), (5, "teacher", 0.75)],
        columns=["step", "network", "accuracy"],
    )
    curves = online.curves(["margin"], rows, [stream, stream.assign(accuracy=0.25)] * 2)
    assert curves.values.tolist() == [
        ["deployed", 5, 0.375, 0.25, 0.5],
        ["adapted, margin 0.02", 5, 0.5, 0.25, 0.75],
        ["adapted, margin 1.0", 5, 0.5, 0.25, 0.75],
    ]


def test_a_run_from_a_random_start_has_none():
    assert online.measures({"accuracy": {}, "stream": None}) == {}
