"""``python -m isbi_train``, which is what torchrun starts."""

from isbi_train.cli import main

if __name__ == "__main__":
    main()
