"""What a run's record says of its machine: also what it went on under, and the variables that change rounding."""

import pytest

from kronecker.runtime import machine


def test_a_record_that_goes_on_has_what_differs_and_stays_when_nothing_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    now = {name: machine.environment()[name] for name in machine.CHANGING}
    assert now["versions"]["NVIDIA_TF32_OVERRIDE"] == "0"
    assert machine.after(now, now) == now
    before = now | {"commit": "0123", "devices": ["abacus"], "versions": {"jax": "0.1"}}
    after = machine.after(before, now)
    assert after["commit"] == f"0123, then {now['commit']}"
    assert after["devices"] == ["abacus", *now["devices"]]
    assert after["versions"]["jax"] == f"0.1, then {now['versions']['jax']}"
    assert after["versions"]["NVIDIA_TF32_OVERRIDE"] == "none, then 0"
    assert machine.after(after, now) == after
    assert machine.after({"jax": {}, "flax": ["0.1"]}, {"jax": "0.2", "flax": "0.2"}) == {  # edited by hand
        "jax": "{}, then 0.2",
        "flax": "['0.1'], then 0.2",
    }
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    assert machine.after(after["versions"], machine.environment()["versions"])["NVIDIA_TF32_OVERRIDE"].endswith(
        "0, then none"
    )
