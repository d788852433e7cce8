"""What several test files use; a test file imports from here, and never from another test file."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
