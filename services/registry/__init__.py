"""Models with a life: tracked, registered, judged, promoted, rolled back. The only room that imports MLflow."""

import os

# Read by MLflow when it is first used, so they must stand before anything here imports it. Nothing pickled is
# ever loaded, nothing is reported to MLflow's makers, a progress bar per file would drown our own, and the
# address that it prints to stdout may hold a password.
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
# MLflow imports GitPython, which raises where there is no git executable unless told to be quiet.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
