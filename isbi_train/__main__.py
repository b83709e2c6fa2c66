"""``isbi-train``, and ``python -m isbi_train``, which is what torchrun starts."""

from isbi_infer.start import Program


def main() -> None:
    """Run ``isbi-train``."""
    with Program("isbi-train"):
        from isbi_train.cli import main

        main()


if __name__ == "__main__":
    main()
