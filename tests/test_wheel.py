"""The wheel carries all that the program reads."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_carries_data_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        *(f"safety_gate/templates/{p.name}" for p in (ROOT / "templates").iterdir()),
        *(
            f"safety_gate/{p.relative_to(ROOT / 'safety_gate')}"
            for folder in ("policies", "schemas")
            for p in (ROOT / "safety_gate" / folder).iterdir()
            if p.is_file()
        ),
        *(
            f"safety_gate/{p.relative_to(ROOT)}"
            for p in (ROOT / "examples" / "tiny").rglob("*")
            if p.is_file()
        ),
        "safety_gate/py.typed",
    }
    assert wanted <= names, sorted(wanted - names)
    assert len(wanted) > 30
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
