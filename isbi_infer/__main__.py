"""``python -m isbi_infer``."""

from isbi_infer.cli import main

if __name__ == "__main__":
    main()
