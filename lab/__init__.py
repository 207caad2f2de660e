"""How the embedded weights are made: scenes, training, checks. It uses the package; the package never uses it."""

import os

# Trainings run for days beside other work: a thread that waits for another one sleeps instead of spinning. OpenMP reads
# this when PyTorch is imported, so it has to stand here.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
