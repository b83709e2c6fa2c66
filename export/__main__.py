"""``python -m isbi_export``."""

from isbi_export.cli import main

if __name__ == "__main__":
    main()
