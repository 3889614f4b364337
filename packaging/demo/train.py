"""An ordinary training script: it knows MLflow, and nothing about credentials."""

import os
import sys
import time

import mlflow

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 5

mlflow.set_experiment("demo")
with mlflow.start_run() as run:
    mlflow.log_params({"learning_rate": 0.1, "epochs": epochs})
    for epoch in range(1, epochs + 1):
        loss = 1 / epoch
        mlflow.log_metric("loss", loss, step=epoch)
        print(f"epoch {epoch}/{epochs} loss {loss:.3f}", flush=True)
        time.sleep(0.1)
    mlflow.log_text(f"trained by process {os.getpid()}\n", "report.txt")
    print(f"run {run.info.run_id}", flush=True)
