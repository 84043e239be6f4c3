"""The paper's probes as pure functions of arrays, so that they apply to any model's outputs."""
