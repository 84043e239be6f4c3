"""What tests do that need more than .venv and a plain machine, where it is not there."""

import conftest
import pytest


@pytest.mark.parametrize(("asked", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_what_is_missing_skips_a_test_or_fails_it_as_the_environment_asks(
    asked: str, outcome: type[BaseException], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(conftest.REQUIRED, asked)
    for missing in ("", "needs the GPU compiler: make gpu"):
        request.node.add_marker(pytest.mark.extras(missing))
    with pytest.raises(outcome, match="needs the GPU compiler: make gpu"):
        conftest.pytest_runtest_setup(request.node)
