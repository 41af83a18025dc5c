"""Settings that must stand before anything is imported."""

import os
import tempfile

# huggingface_hub and hf_xet read this at import time; tests must not touch the user's own cache.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="safety-gate-hf-")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Commands ask the model by default; the tests that want that say so.
os.environ["SAFETY_GATE_ASK"] = "none"
