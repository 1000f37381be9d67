"""The paper's evaluation, reproduced and turned round (docs/experiment.md)."""
