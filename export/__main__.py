"""``isbi-export``, and ``python -m isbi_export``."""

from isbi_infer.start import Program


def main() -> None:
    """Run ``isbi-export``."""
    with Program("isbi-export"):
        from isbi_export.cli import main

        main()


if __name__ == "__main__":
    main()
