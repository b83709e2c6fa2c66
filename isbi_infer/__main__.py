"""``isbi-infer``, and ``python -m isbi_infer``."""

from isbi_infer.start import Program


def main() -> None:
    """Run ``isbi-infer``."""
    with Program("isbi-infer"):
        from isbi_infer.cli import main

        main()


if __name__ == "__main__":
    main()
