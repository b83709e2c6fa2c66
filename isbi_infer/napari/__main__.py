"""``python -m isbi_infer.napari [STACK...]``: stacks in napari with their pixel size, the panel beside them."""

from isbi_infer.start import Program


def main() -> None:
    """Open napari."""
    with Program("isbi-infer napari"):
        from isbi_infer.napari.viewer import app

        app(prog_name="python -m isbi_infer.napari")


if __name__ == "__main__":
    main()
