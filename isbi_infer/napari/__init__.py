"""The napari plugin: segment, correct, score and fine-tune in the viewer; needs the extra ``napari`` and a Qt."""
