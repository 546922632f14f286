"""How MLflow carries a model folder: a pyfunc from this very file, which reads the folder and runs nothing.

The file is copied into the registry and loaded there by whoever opens the model, so it needs MLflow only.
"""

from __future__ import annotations

from pathlib import Path

import mlflow
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class FolderModel(PythonModel):
    """Says where the model folder lies and what its config and card say."""

    def load_context(self, context: PythonModelContext) -> None:
        """Remember the folder."""
        self.folder = Path(context.artifacts["model"])

    def predict(self, model_input: list[str]) -> list[dict[str, str]]:  # type: ignore[override]
        """The folder, its config (JSON) and its card (Markdown), once per item of the input."""
        config = (self.folder / "config.json").read_text()
        card = (self.folder / "card.md").read_text()
        return [{"folder": str(self.folder), "config": config, "card": card} for _ in model_input]


mlflow.models.set_model(FolderModel())
